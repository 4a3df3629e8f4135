"""Builds the static page `reports/index.html` from claims, tables, figures and records."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from math import prod
from pathlib import Path
from typing import Any, TypedDict

import jinja2
from markupsafe import Markup

from common.errors import InputError
from common.published import STANDS_FOR, Published, published, published_file, read_toml
from common.records import PAPERS, Record
from reports.claims import LEGEND, Claim, Difference, all_claims, claimed, measured, verdict
from reports.collect import read_picture, read_results
from reports.coverage import Item, read_coverage
from reports.experiments import REPORTS, run_of
from reports.figures import figure_data, figure_specs, keys_of, papers_of
from reports.markdown import difference_text, number_text, published_number
from reports.rows import (
    TITLES,
    Place,
    Row,
    Table,
    is_planned,
    pair_text,
    place_of,
    planned_photographs,
    planned_places,
    row_of,
    tables,
)
from reports.svg import STYLE, draw_panel

PHOTOGRAPHS = "photographs"  # the section of claims.toml about real ones
RANK_COLUMNS = ("R-1", "R-5", "R-10", "R-20", "mAP")
VERDICTS = {"holds": "claims hold", "undecided": "undecided", "reversed": "reversed", "not run": "not run"}


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


def page(reports: Path = REPORTS) -> str:
    """Returns the whole page as HTML; it depends on committed files only, so that two builds are equal."""
    records = {paper: read_results(paper, reports) for paper in PAPERS}
    everything = [record for own in records.values() for record in own]
    claims = [claim_view(claim, records) for claim in all_claims(reports)]
    figures = [figure_view(spec, claims, reports) for spec in figure_specs(reports)]
    context = {
        "plot_style": Markup(STYLE),
        "claims": claims,
        "titles": TITLES | {PHOTOGRAPHS: "photographs"},
        "verdicts": VERDICTS,
        "counts": Counter(claim["verdict"] for claim in claims),
        "records": len(everything),
        "dirty": sum(record.code_version.endswith("-dirty") for record in everything),
        "legend": LEGEND,
        "intervals": sum(claim["said"] in ("holds", "undecided", "reversed") for claim in claims),
        "baselines": baselines(records),
        "overview": _overview(figures),
        "questions": [figure for figure in figures if figure["question"]],
        "papers": [paper_view(paper, claims, figures, reports) for paper in PAPERS],
        "across": [claim for claim in claims if claim["paper"] not in (*PAPERS, PHOTOGRAPHS)],
        "coverage": coverage_view(everything, reports),
        "photographs": photographs(claims, reports),
    }
    return _environment().get_template("index.html.j2").render(context)


def _overview(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    for figure in figures:
        if figure["name"] == "overview":
            return figure
    raise InputError("figures.toml: expected a figure named overview, found none")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(REPORTS / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    functions = (anchor, difference_text, needs, number_text, pair_text, published_number, source_text)
    environment.globals.update({function.__name__: function for function in functions})
    environment.globals["rank_columns"] = RANK_COLUMNS
    return environment


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


# ---------------------------------------------------------------- claims


def claim_view(claim: Claim, records: Records) -> dict[str, Any]:
    """Returns the fields of a claim, and the texts of its line in a table."""
    result = measured(claim, [record for paper in claim.papers for record in records.get(paper, ())])
    said = verdict(claim, result)
    source, target = claim.measured_on.split("->")
    link = f"published/{claim.papers[0]}.toml"
    return {
        **vars(claim),
        "pair": pair_text(*claim.pair.split("->")),
        "published": versus(claimed(claim), claim),
        "measured": versus((result.left, result.right), claim) if result else "",
        "difference": difference_view(claim, result),
        "verdict": said.split(" (")[0],
        "said": said,
        "anchor": anchor(run_of(claim.keys[0]), source, target, claim.preset),
        "link": published_file(claim.paper).get("link", "") if claim.paper in PAPERS else link,
    }


def versus(sides: tuple[float | None, float | None], claim: Claim) -> str:
    """Returns `62.2 v 44.6`; a question mark for an unpublished side, an empty text if both are."""
    if sides == (None, None):
        return ""
    form = ".1f" if claim.unit == "points" else ".3g"
    return " v ".join("?" if side is None else f"{side:{form}}" for side in sides)


def difference_view(claim: Claim, result: Difference | None) -> str:
    if result is None:
        return ""
    form = ".1f" if claim.unit == "points" else ".3g"
    interval = "" if result.half_width is None else f" ± {result.half_width:{form}}"
    return f"{result.mean:+{form}}{interval} ({result.n} seed{'s' * (result.n > 1)})"


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
    place = Place(table.source, table.target, table.preset)
    sweep = f"python -m reports sweep --paper {table.paper}"
    pairs = f"--pairs '{table.source}->{table.target}'"
    if table.scratch:
        gpu = any(planned_photographs(table.paper, row.key).get(place) for row in table.rows)
        return f"{sweep} {pairs} --data-root DIR{' --gpu' if gpu else ''}"
    if any(is_planned(key, Place(table.source, table.target)) for key in missing):
        return f"{sweep} --table {table.name} {pairs}"
    drawn = {table.source, table.target} <= set(STANDS_FOR)
    preset, data = (table.preset, "") if drawn else ("released", " --data-root DIR")
    flags = f"--preset {preset} --source {table.source} --target {table.target}{data}"
    return f"cd {table.paper} && python train.py {flags} --experiment {shlex.join(missing)}"


def figure_view(spec: Mapping[str, Any], claims: Sequence[dict], reports: Path) -> dict[str, Any]:
    """Returns a figure's panels as SVG, with the claims that answer its question."""
    data = figure_data(spec, reports)
    return {
        "name": spec["name"],
        "title": spec["title"],
        "question": spec.get("question", ""),
        "papers": papers_of(spec),
        "kind": spec["kind"],
        "tables": {key.split("/")[1] for key in keys_of(spec)},
        "panels": [Markup(draw_panel(data["kind"], panel)) for panel in data["panels"]],
        "claims": [claim for claim in claims if spec["name"] in claim["answers"]],
    }


def paper_view(paper: str, claims: Sequence[dict], figures: Sequence[dict], reports: Path) -> dict[str, Any]:
    """Returns a paper's section: claims, tables, figures, pictures, numbers of others, records."""
    own = [figure for figure in figures if figure["papers"] == [paper] and not figure["question"]]
    drawn = {name for figure in own if figure["kind"] in ("curve", "heatmap") for name in figure["tables"]}
    main = planned_places(paper)[0]
    everything = [table for table in tables(paper, reports) if not table.scratch]
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
        "claims": [claim for claim in claims if claim["paper"] == paper],
        "figures": own,
        "tables": shown,
        "ranks": [table for table in shown if table.columns == ("R-1", "mAP")],
        "more": [table for table in everything if table not in shown],
        "others": others(paper),
        "known": about.get("known", []),
        "pictures": pictures(paper, reports),
        "records": record_groups(paper, reports),
    }


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
    """Returns tables and claims of randomly initialised networks on real photographs, for all papers."""
    scratch = [table for paper in PAPERS for table in tables(paper, reports) if table.scratch]
    return {
        "tables": [table for table in scratch if table.measured],
        "idle": [table for table in scratch if not table.measured],
        "claims": [claim for claim in claims if claim["paper"] == PHOTOGRAPHS],
    }


def pictures(paper: str, reports: Path) -> list[dict[str, Any]]:
    """Returns the picture sheets of synthetic people that `collect` has kept."""
    return [
        {
            "path": path.relative_to(reports).as_posix(),
            "size": read_picture(path)[1],
            "title": path.stem.replace("_", " ").capitalize(),
            "of": path.parent.parent.name.replace("+", "/", 2),
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


def anchor(key: str, source: str, target: str, preset: str) -> str:
    """Returns the name of a group of records on the page."""
    return "r-" + re.sub(r"[^A-Za-z0-9_.-]", "-", f"{key}-{source}-{target}-{preset}")
