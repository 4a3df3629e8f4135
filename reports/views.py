"""Prepares what the pages show, from claims, tables, figures and records: plain values for the templates."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from math import prod
from pathlib import Path
from typing import Any, TypedDict

from markupsafe import Markup

from common.content import read_text
from common.errors import InputError
from common.provenance import ROOT
from common.published import STANDS_FOR, Published, published, published_file, read_toml
from common.records import PAPERS, Record
from reports.collect import read_picture, read_results
from reports.coverage import Item, read_coverage
from reports.experiments import REPORTS, run_of
from reports.figures import figure_data, keys_of, papers_of
from reports.markdown import number_text
from reports.parity import parity
from reports.rows import (
    TITLES,
    Place,
    Row,
    Table,
    anchor,
    is_planned,
    pair_text,
    place_of,
    planned_photographs,
    planned_places,
    row_of,
    tables,
)
from reports.svg import draw_panel

PHOTOGRAPHS = "photographs"  # the section of claims.toml about real ones
# what each kind of picture shows, for those who cannot see it
SEEN = {
    "camera_styles": "Rows of drawn people of synthetic-market: the image itself at the left, then the same "
    "person in the style of each camera, as StarGAN makes it",
    "codes": "A column of drawn people, and beside each, as heat maps, what D_C rebuilds and its change "
    "when a code is left out",
    "curves": "Training losses, and accuracies where there are any, against steps",
    "feature_spaces": "Two scatter plots of the features' first two principal components: by domain, "
    "and the target's by camera",
    "ranked_lists": "Six queries, a row each, with the ten gallery images ranked first; green frames mark "
    "the same person, red ones another",
    "sianet": "SiaNet against steps: the cosine of an image and its translation, and the distance of two "
    "real images within and across the domains",
    "transfer": "Eight drawn people in columns: the source image, its mask, CycleGAN's translation and "
    "PTGAN's",
    "translations": "Drawn people of synthetic-duke in rows: the source image, its translations by CycleGAN, "
    "CycleGAN + L_ide and SPGAN, and an image of the target",
    "unlabelled": "Three rows of people that the DCGAN generated, and a row of real, labelled ones below",
}
DIAGNOSTICS = ("codes", "curves", "feature_spaces", "ranked_lists", "sianet")  # pictures that fold away


class Baseline(TypedDict):
    """One `[[baseline]]`: words, and names of configuration fields to be multiplied or added."""

    key: str
    head: str
    batch_norm: str
    rate: list[str]
    epochs: list[str]


class BaselinesFile(TypedDict):
    """The whole of `baselines.toml`."""

    baseline: list[Baseline]


Records = Mapping[str, Sequence[Record]]  # of each paper


def baselines(records: Records) -> list[dict[str, Any]]:
    """Returns the networks without adaptation of `baselines.toml`: recipe, and scores on the main pair."""
    views = []
    for entry in read_toml(REPORTS / "baselines.toml", BaselinesFile)["baseline"]:
        paper = entry["key"].split("/")[0]
        place = planned_places(paper)[0]
        row = row_of(entry["key"], place, records[paper])
        view = {
            **entry,
            "paper": paper,
            "title": TITLES[paper],
            "pair": pair_text(place.source, place.target),
            "measured": [],
            "anchor": anchor(row.runs_as, *place),
        }
        if row.records:
            view["rate"] = f"{prod(_fields(row, entry['rate'])):g}"
            view["epochs"] = f"{sum(_fields(row, entry['epochs'])):g}"
            view["measured"] = [number_text(row.value("R-1", suffix)) for suffix in ("", "+adabn")]
        views.append(view)
    return views


def _fields(row: Row, names: Sequence[str]) -> list[float]:
    """Returns fields of the configuration that a row was measured with."""
    config: Any = row.records[0].config
    try:
        return [float(reduce(lambda part, name: part[name], dotted.split("."), config)) for dotted in names]
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"baselines.toml: {row.key}: {', '.join(names)}: expected numbers of its config"
        ) from None


# ---------------------------------------------------------------- the blog post


def coverage_view(records: Sequence[Record], reports: Path) -> list[dict[str, Any]]:
    """Returns the sections of the blog post, and where their parts are found in this project."""
    anchors: dict[str, str] = {}  # the first group of records of each key
    for record in records:
        anchors.setdefault(record.key, anchor(record.key, *place_of(record)))
    sections: dict[tuple[str, str], list[dict]] = {}
    for item in read_coverage(reports):
        sections.setdefault((item.section, item.title), []).append(_covered(item, anchors))
    return [{"number": number, "title": title, "items": items} for (number, title), items in sections.items()]


def _covered(item: Item, anchors: Mapping[str, str]) -> dict[str, Any]:
    ours = [key for key in item.keys if key.split("/")[0] in PAPERS]
    keys = [{"key": key, "anchor": anchors.get(run_of(key), "")} for key in ours]
    return {
        **vars(item),
        "keys": keys,
        "measured": sum(bool(key["anchor"]) for key in keys),
        "fields": [name.split(": ")[1] for name in item.fields],
        "printed": len(item.keys) - len(keys),
    }


# ---------------------------------------------------------------- tables and figures


def source_text(theirs: Published) -> str:
    """Returns where a number is printed and how it was read."""
    error = f", ± {theirs.error:g}" if theirs.error else ""
    ap = f"; mAP by the {theirs.ap} rule" if "mAP" in theirs.values and theirs.ap != "unknown" else ""
    return f"{theirs.where}; {theirs.how}{error}{ap}; {theirs.status}"


def needs(table: Table) -> str:
    """Returns the command that measures a table; empty if it is measured, or if each of its rows is another
    table's and is measured there.
    """
    missing = [row.key for row in (*table.rows, *table.idle) if not row.records]
    if table.measured or not missing:
        return ""
    sweep = f"python -m reports sweep --paper {table.paper}"
    pairs = f"--pairs '{table.source}->{table.target}'"
    if table.photographs:
        gpu = any(entry.get("gpu") for entry in _entries(table))
        return f"{sweep} {pairs} --data-root DIR{' --gpu' if gpu else ''}"
    if any(is_planned(key, Place(table.source, table.target)) for key in missing):
        return f"{sweep} --table {table.name} {pairs}"
    drawn = {table.source, table.target} <= set(STANDS_FOR)
    preset, data = (table.preset, "") if drawn else ("released", " --data-root DIR")
    flags = f"--preset {preset} --source {table.source} --target {table.target}{data}"
    return f"cd {table.paper} && python train.py {flags} --experiment {shlex.join(missing)}"


def estimated_minutes(table: Table) -> int:
    """Returns the minutes of a row with one seed that `sweeps.toml` estimates; 0 without an estimate."""
    return max((entry.get("minutes", 0) for entry in _entries(table)), default=0)


def _entries(table: Table) -> list[Mapping[str, Any]]:
    """Returns the entries of `sweeps.toml` that plan rows of a table of real photographs."""
    place = Place(table.source, table.target, table.preset)
    planned = (planned_photographs(table.paper, row.key).get(place) for row in table.rows)
    return [entry for entry in planned if entry]


def figure_view(spec: Mapping[str, Any], claims: Sequence[dict], reports: Path) -> dict[str, Any]:
    """Returns a figure's panels as SVG, with the claims that answer its question."""
    data = figure_data(spec, reports)
    return {
        "name": spec["name"],
        "title": spec["title"],
        "question": spec.get("question", ""),
        "papers": papers_of(spec),
        "kind": spec["kind"],
        "order": data.get("order", ""),
        "tables": {key.split("/")[1] for key in keys_of(spec)},
        "panels": [Markup(draw_panel(data["kind"], panel)) for panel in data["panels"]],
        "claims": [claim for claim in claims if spec["name"] in claim["answers"]],
    }


def paper_view(paper: str, claims: Sequence[dict], figures: Sequence[dict], reports: Path) -> dict[str, Any]:
    """Returns what a paper's page shows but its records: claims, tables, figures, pictures, others'
    numbers, parity with the released code.
    """
    own = [figure for figure in figures if figure["papers"] == [paper] and not figure["question"]]
    drawn = {name for figure in own if figure["kind"] in ("curve", "heatmap") for name in figure["tables"]}
    main = planned_places(paper)[0]
    everything = [table for table in tables(paper, reports) if not table.photographs]
    shown = [
        table
        for table in everything
        if table.name not in drawn
        and (table.measured or (table.printed and (table.source, table.target) == main[:2]))
    ]
    about = published_file(paper)
    return {
        "name": paper,
        "title": TITLES[paper],
        "cited": about.get("title", ""),
        "link": about.get("link", ""),
        "drawing": drawing(paper),
        "claims": [claim for claim in claims if claim["paper"] == paper],
        "figures": own,
        "tables": shown,
        "made": [view for table in everything for view in made(table)],
        "ranks": [table for table in shown if table.columns == ("R-1", "mAP")],
        "more": [table for table in everything if table not in shown],
        "others": others(paper),
        "known": about.get("known", []),
        "pictures": pictures(paper, reports),
        "parity": parity(paper),
    }


def drawing(paper: str) -> str:
    """Returns the alternative text of the method's drawing, which the paper's README states."""
    readme = read_text(ROOT / paper / "README.md", 10_000_000, links=True)
    found = re.search(r"!\[([^]]+)\]\(method\.svg\)", readme)
    if not found:
        raise InputError(f"{paper}/README.md: expected ![what is seen](method.svg)")
    return found[1]


def made(table: Table) -> Iterator[dict[str, Any]]:
    """Yields, for each row with records of its own, how it was made: network, pretraining, data, seeds,
    minutes, command and records.
    """
    for row in table.rows:
        if not row.records or row.runs_as != row.key:
            continue
        first = row.records[0]
        net, data = first.config.get("net", {}), first.data.get("source", first.data.get("target", {}))
        size = f"{net['height']}x{net['width']}" if {"height", "width"} <= set(net) else "size not recorded"
        people = f"{data['train_ids']} people, " if "train_ids" in data else ""
        weights = str(net.get("weights", "not recorded")).replace("none", "no")
        yield {
            "key": row.key,
            "title": row.title,
            "preset": table.preset,
            "backbone": net.get("backbone", "not recorded"),
            "pretraining": f"{weights} weights from elsewhere" if weights == "no" else weights,
            "data": f"{pair_text(table.source, table.target)}, {people}{size}",
            "seeds": len(row.records),
            "over": "drawings" if row.drawings else "seeds",
            "minutes": f"{sum(record.seconds for record in row.records) / len(row.records) / 60:.1f}",
            "command": command(row, table),
            "anchor": anchor(row.key, table.source, table.target, table.preset),
        }


def command(row: Row, table: Table) -> str:
    """Returns the command that makes the row's first record."""
    first = row.records[0]
    flags = [] if table.preset == "demo" else ["--preset", table.preset]
    flags += ["--source", table.source, "--target", table.target, "--experiment", row.key]
    flags += ["--seed", str(first.seed)]
    flags += ["--data-seed", str(first.data_seed)] if first.data_seed else []
    flags += [] if {table.source, table.target} <= set(STANDS_FOR) else ["--data-root", "DIR"]
    return f"cd {table.paper} && python train.py {shlex.join(flags)}"


def others(paper: str) -> list[dict[str, Any]]:
    """Returns the printed numbers that are not measured here, in one table for each place in the paper.

    These are other methods, reprints, and what is out of scope.
    """
    groups: dict[tuple, list[Published]] = {}
    for row in published(paper).values():
        if row.kind != "ours":
            columns = tuple(row.values) if row.unit != "%" else ()
            groups.setdefault((row.where, row.source, row.target, columns), []).append(row)
    return [
        {
            "where": where,
            "pair": pair_text(source, target),
            "columns": list(dict.fromkeys(column for row in rows for column in row.values)),
            "rows": rows,
        }
        for (where, source, target, _), rows in groups.items()
    ]


# ---------------------------------------------------------------- real photographs, pictures, records


def photographs(claims: Sequence[dict], reports: Path) -> dict[str, Any]:
    """Returns the tables and claims of the presets for real photographs, for all papers."""
    shown = [table for paper in PAPERS for table in tables(paper, reports) if table.photographs]
    return {
        "tables": [table for table in shown if table.measured],
        "made": [view for table in shown for view in made(table)],
        "idle": [table for table in shown if not table.measured],
        "claims": [claim for claim in claims if claim["paper"] == PHOTOGRAPHS],
    }


def preset_text(folder: str) -> str:
    """Returns `, preset study` for a folder SOURCE+TARGET+study of pictures, and nothing for the demo's."""
    return "".join(f", preset {preset}" for preset in folder.split("+")[2:])


def pictures(paper: str, reports: Path) -> list[dict[str, Any]]:
    """Returns the picture sheets of synthetic people that `collect` has kept."""
    return [
        {
            "path": path.relative_to(reports).as_posix(),
            "size": read_picture(path)[1],
            "title": path.stem.replace("_", " ").capitalize(),
            "seen": SEEN.get(path.stem, f"{path.stem.replace('_', ' ')} of drawn people"),
            "of": path.parent.parent.name.replace("+", "/", 2) + preset_text(path.parent.name),
            "diagnostic": path.stem in DIAGNOSTICS,
        }
        for path in sorted((reports / "pictures").glob(f"{paper}+*/*/*.png"))
    ]


def record_groups(paper: str, reports: Path) -> list[dict[str, Any]]:
    """Returns the records by experiment, pair and preset, each with its line in `results/<paper>.jsonl`."""
    groups: dict[tuple[str, Place], list[tuple[int, Record]]] = {}
    for line, record in enumerate(read_results(paper, reports), start=1):
        groups.setdefault((record.key, place_of(record)), []).append((line, record))
    return [
        {
            "anchor": anchor(key, *place),
            "key": key,
            "pair": pair_text(place.source, place.target),
            "preset": place.preset,
            "records": sorted(own, key=lambda entry: (entry[1].seed, entry[0])),
        }
        for (key, place), own in groups.items()
    ]
