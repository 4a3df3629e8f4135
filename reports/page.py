"""The static page `reports/index.html`: what the template shows, gathered from claims, tables, figures and
records.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from math import prod
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from common.published import STANDS_FOR, Published, published, published_file
from common.records import PAPERS, Record
from reports.claims import LEGEND, Claim, Difference, all_claims, claimed, measured, verdict
from reports.collect import read_results
from reports.coverage import Item, read_coverage
from reports.experiments import REPORTS, built_papers
from reports.figures import figure_data, figure_specs, keys_of, papers_of
from reports.markdown import difference_text, number_text, published_number
from reports.rows import (
    TITLES,
    Row,
    Table,
    entries_of,
    is_planned,
    pair_text,
    planned_pairs,
    planned_photographs,
    row_of,
    tables,
)
from reports.svg import STYLE, draw_panel

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PHOTOGRAPHS = "photographs"  # the section of claims.toml about real ones
# a key that its paper does not list yet
MISSING = {"title": "", "alias_of": None, "score": "last", "config_hash": ""}
RANK_COLUMNS = ("R-1", "R-5", "R-10", "R-20", "mAP")
VERDICTS = {"holds": "claims hold", "undecided": "undecided", "reversed": "reversed", "not run": "not run"}


def page(reports: Path = REPORTS) -> str:
    """The whole page as HTML; it depends on the committed files alone, so that two builds are equal."""
    loader = jinja2.FileSystemLoader(REPORTS / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    records = {paper: read_results(paper, reports) for paper in PAPERS}
    claims = [claim_view(claim, records) for claim in all_claims(reports)]
    figures = [figure_view(spec, claims, reports) for spec in figure_specs(reports)]
    context = {
        "plot_style": Markup(STYLE),
        "claims": claims,
        "titles": TITLES | {PHOTOGRAPHS: "photographs"},
        "verdicts": VERDICTS,
        "counts": Counter(claim["verdict"] for claim in claims),
        "records": sum(len(found) for found in records.values()),
        "dirty": sum(
            record.code_version.endswith("-dirty") for found in records.values() for record in found
        ),
        "legend": LEGEND,
        "intervals": sum(claim["said"] in ("holds", "undecided", "reversed") for claim in claims),
        "baselines": baselines(records),
        "overview": next(figure for figure in figures if figure["name"] == "overview"),
        "questions": [figure for figure in figures if figure["question"]],
        "papers": [paper_view(paper, claims, figures, records[paper], reports) for paper in PAPERS],
        "across": [claim for claim in claims if claim["paper"] not in (*PAPERS, PHOTOGRAPHS)],
        "coverage": coverage_view(records, reports),
        "photographs": photographs(claims, reports),
    }
    return environment.get_template("index.html.j2").render(context)


def baselines(records: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """The networks without adaptation of `baselines.toml`: head, batch norm, learning rate and epochs, and
    their scores on the main pair.
    """
    views = []
    for entry in tomllib.loads((REPORTS / "baselines.toml").read_text())["baseline"]:
        paper = entry["key"].split("/")[0]
        source, target = planned_pairs(paper)[0]
        row = row_of(
            paper,
            entry["key"],
            entries_of(paper).get(entry["key"], MISSING),
            source,
            target,
            "demo",
            records[paper],
        )
        rate, epochs = (
            (prod(_fields(row, entry["rate"])), sum(_fields(row, entry["epochs"])))
            if row.records
            else (None, None)
        )
        views.append(
            {
                "paper": paper,
                "title": TITLES[paper],
                "pair": pair_text(source, target),
                "head": entry["head"],
                "batch_norm": entry["batch_norm"],
                "rate": f"{rate:g}" if row.records else "",
                "epochs": f"{epochs:g}" if row.records else "",
                "measured": [number_text(row.value("R-1", suffix)) for suffix in ("", "+adabn")]
                if row.records
                else [],
                "anchor": anchor(row.runs_as, source, target, "demo"),
            }
        )
    return views


def _fields(row: Row, names: Sequence[str]) -> list[float]:
    """Fields of the configuration that a row was measured with."""
    return [
        reduce(lambda config, part: config[part], name.split("."), row.records[0].config) for name in names
    ]


# ---------------------------------------------------------------- claims


def claim_view(claim: Claim, records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """One line of a claim table."""
    found = measured(claim, [record for paper in claim.papers for record in records.get(paper, ())])
    said = verdict(claim, found)
    source, target = claim.measured_on.split("->")
    return {
        "paper": claim.paper,
        "text": claim.text,
        "where": claim.where,
        "origin": claim.origin,
        "headline": claim.headline,
        "answers": claim.answers,
        "against": claim.against,
        "note": claim.note,
        "printed": claim.printed,
        "keys": claim.keys,
        "pair": pair_text(*claim.pair.split("->")),
        "published": versus(claimed(claim), claim),
        "measured": versus((found.left, found.right), claim) if found else "",
        "difference": difference_view(claim, found),
        "verdict": said.split(" (")[0],
        "said": said,
        "anchor": anchor(_runs_as(claim.keys[0]), source, target, claim.preset),
        "link": published_file(claim.paper).get("link", "")
        if claim.paper in PAPERS
        else f"published/{claim.papers[0]}.toml",
    }


def versus(sides: tuple[float | None, float | None], claim: Claim) -> str:
    """`62.2 v 44.6`; a question mark for a side that is not printed, nothing if neither is."""
    if sides == (None, None):
        return ""
    return " v ".join(
        "?" if side is None else f"{side:.1f}" if claim.unit == "points" else f"{side:.3g}" for side in sides
    )


def difference_view(claim: Claim, found: Difference | None) -> str:
    if found is None:
        return ""
    form = ".1f" if claim.unit == "points" else ".3g"
    interval = "" if found.half_width is None else f" ± {found.half_width:{form}}"
    return f"{found.mean:+{form}}{interval} ({found.n} seed{'s' * (found.n > 1)})"


def _runs_as(key: str) -> str:
    entry = entries_of(key.split("/")[0]).get(key, {})
    return entry.get("alias_of") or key


# ---------------------------------------------------------------- the blog post


def coverage_view(records: Mapping[str, Sequence[Record]], reports: Path) -> list[dict[str, Any]]:
    """The sections of the blog post that this project follows, and where each of their things is here."""
    groups = {
        (record.key, record.source, record.target, record.preset): None
        for found in records.values()
        for record in found
    }
    # of the first group with this key
    anchors = {key: anchor(key, *rest) for key, *rest in reversed(groups)}
    sections: dict[tuple[str, str], list[dict]] = {}
    for item in read_coverage(reports):
        sections.setdefault((item.section, item.title), []).append(_covered(item, anchors))
    return [{"number": number, "title": title, "items": items} for (number, title), items in sections.items()]


def _covered(item: Item, anchors: Mapping[str, str]) -> dict[str, Any]:
    keys = [
        {"key": key, "anchor": anchors.get(_runs_as(key), "")}
        for key in item.keys
        if key.split("/")[0] in PAPERS
    ]
    return {
        "kind": item.kind,
        "place": item.place,
        "what": item.what,
        "keys": keys,
        "measured": sum(bool(key["anchor"]) for key in keys),
        "functions": item.functions,
        "fields": [name.split(": ")[1] for name in item.fields],
        "printed": len(item.keys) - len(keys),
        "not_run": item.not_run,
        "remark": item.remark,
    }


# ---------------------------------------------------------------- tables and figures


def table_view(table: Table, columns: Sequence[str] = ()) -> dict[str, Any]:
    """A table with its caption; `columns`: more than rank-1 and mAP."""
    columns = columns or table.columns
    return {
        "title": table.title,
        "pair": pair_text(table.source, table.target),
        "preset": table.preset,
        "columns": columns,
        "published_on": table.published_on,
        "printed": table.printed,
        "measured": table.measured,
        "adapted": table.adapted,
        "comparable": table.comparable,
        "needs": needs(table),
        "idle": [row.title for row in table.idle],
        "rows": [row_view(table, row, columns) for row in table.rows],
    }


def row_view(table: Table, row: Row, columns: Sequence[str]) -> dict[str, Any]:
    theirs = row.published
    return {
        "title": row.title,
        "key": row.key,
        "published": [published_number(theirs, column) for column in columns],
        "status": theirs.status if theirs else "",
        "source": source_text(theirs) if theirs else "",
        "stale": row.stale,
        "seeds": len(row.records),
        "measured": [number_text(row.value(column)) for column in columns] if row.records else [],
        "adapted": [number_text(row.value(column, "+adabn")) for column in columns] if row.records else [],
        "difference": difference_text(row),
        "anchor": anchor(row.runs_as, table.source, table.target, table.preset),
    }


def source_text(theirs: Published) -> str:
    """Where a number stands and how it was read."""
    error = f", ± {theirs.error:g}" if theirs.error else ""
    ap = f"; mAP by the {theirs.ap} rule" if "mAP" in theirs.values and theirs.ap != "unknown" else ""
    return f"{theirs.where}; {theirs.how}{error}{ap}; {theirs.status}"


def needs(table: Table) -> str:
    """What it takes to measure a table that is not measured; empty where each of its rows is another table's,
    and measured there.
    """
    missing = [row.key for row in (*table.rows, *table.idle) if not row.records]
    if table.measured or not missing:
        return ""
    if table.paper not in built_papers():
        return f"{TITLES[table.paper]} is not built yet"
    if table.scratch:
        return photographs_needed(table)
    if any(is_planned(table.paper, key, table.source, table.target) for key in missing):
        return f"python -m reports sweep --paper {table.paper} --table {table.name} --pairs '{table.source}->{table.target}'"
    preset, data = (
        (table.preset, "")
        if {table.source, table.target} <= set(STANDS_FOR)
        else ("released", " --data-root DIR")
    )
    place = f"--source {table.source} --target {table.target}{data}"
    return f"cd {table.paper} && python train.py --preset {preset} {place} --experiment {shlex.join(missing)}"


def photographs_needed(table: Table) -> str:
    """The command that measures it."""
    place = (table.source, table.target, table.preset)
    gpu = any(planned_photographs(table.paper, row.key).get(place) for row in table.rows)
    return (
        f"python -m reports sweep --paper {table.paper} --pairs '{table.source}->{table.target}' --data-root DIR"
        + " --gpu" * gpu
    )


def figure_view(spec: Mapping[str, Any], claims: Sequence[dict], reports: Path) -> dict[str, Any]:
    """A figure's panels as SVG, with the claims that answer its question."""
    data, keys = figure_data(spec, reports), set(keys_of(spec))
    return {
        "name": spec["name"],
        "title": spec["title"],
        "question": spec.get("question", ""),
        "papers": papers_of(spec),
        "kind": spec["kind"],
        "tables": {key.split("/")[1] for key in keys},
        "panels": [Markup(draw_panel(data["kind"], panel)) for panel in data["panels"]],
        "claims": [claim for claim in claims if spec["name"] in claim["answers"]],
    }


def paper_view(
    paper: str, claims: Sequence[dict], figures: Sequence[dict], records: Sequence[Record], reports: Path
) -> dict[str, Any]:
    """A paper's section: claims, tables, figures, pictures, what others measured, where it contradicts
    itself, its records.
    """
    own = [figure for figure in figures if figure["papers"] == [paper] and not figure["question"]]
    drawn = {name for figure in own if figure["kind"] in ("curve", "heatmap") for name in figure["tables"]}
    first = planned_pairs(paper)[0]
    found = [table for table in tables(paper, reports) if not table.scratch]
    shown = [
        table
        for table in found
        if table.name not in drawn
        and (table.measured or (table.printed and (table.source, table.target) == first))
    ]
    about = published_file(paper)
    return {
        "name": paper,
        "title": TITLES[paper],
        "cited": about.get("title", ""),
        "link": about.get("link", ""),
        "built": paper in built_papers(),
        "claims": [claim for claim in claims if claim["paper"] == paper],
        "figures": own,
        "tables": [table_view(table) for table in shown],
        "ranks": [table_view(table, RANK_COLUMNS) for table in shown if table.columns == ("R-1", "mAP")],
        "more": [table_view(table) for table in found if table not in shown],
        "others": others(paper),
        "known": about.get("known", []),
        "pictures": pictures(paper, reports),
        "records": record_groups(paper, records),
    }


def others(paper: str) -> list[dict[str, Any]]:
    """Printed numbers that we do not measure: other methods, reprints, what is out of scope; a table for each
    place where they stand.
    """
    groups: dict[tuple, list[Published]] = {}
    for row in published(paper).values():
        if row.kind != "ours":
            groups.setdefault(
                (row.where, row.source, row.target, tuple(row.values) if row.unit != "%" else ()), []
            ).append(row)
    views = []
    for (where, source, target, _), rows in groups.items():
        columns = list(dict.fromkeys(column for row in rows for column in row.values))
        views.append(
            {
                "where": where,
                "pair": pair_text(source, target),
                "columns": columns,
                "rows": [_other(row, columns) for row in rows],
            }
        )
    return views


def _other(row: Published, columns: Sequence[str]) -> dict[str, Any]:
    return {
        "title": row.key.split("/", 2)[2].replace("_", " "),
        "status": row.status,
        "source": source_text(row),
        "kind": row.kind.replace("_", " "),
        "cells": [published_number(row, column) for column in columns],
    }


# ---------------------------------------------------------------- real photographs, pictures, records


def photographs(claims: Sequence[dict], reports: Path) -> dict[str, Any]:
    """What was, or is to be, measured on real photographs with networks that start at random: tables of all
    papers, claims.
    """
    found = [table for paper in PAPERS for table in tables(paper, reports) if table.scratch]
    views = [{**table_view(table), "title": f"{TITLES[table.paper]}, {table.title}"} for table in found]
    return {
        "tables": [view for view in views if view["measured"]],
        "idle": [view for view in views if not view["measured"]],
        "claims": [claim for claim in claims if claim["paper"] == PHOTOGRAPHS],
    }


def pictures(paper: str, reports: Path) -> list[dict[str, Any]]:
    """The picture sheets that `collect` has kept: of people that a program has drawn."""
    return [
        {
            "path": path.relative_to(reports).as_posix(),
            "size": Image.open(path).size,
            "title": path.stem.replace("_", " ").capitalize(),
            "of": path.parent.parent.name.replace("+", "/", 2),
        }
        for path in sorted((reports / "pictures").glob(f"{paper}+*/*/*.png"))
    ]


def record_groups(paper: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """The records by experiment, pair and preset, each with its line in `results/<paper>.jsonl`."""
    groups: dict[tuple, list[dict]] = {}
    for line, record in enumerate(records, start=1):
        scores = [
            {"name": name, "values": [f"{100 * score[metric]:.1f}" for metric in (*RANK_COLUMNS, "mAP_step")]}
            for name, score in record.scores.items()
        ]
        groups.setdefault((record.key, record.source, record.target, record.preset), []).append(
            {
                "seed": record.seed,
                "scores": scores,
                "measures": {name: f"{value:.4g}" for name, value in record.measures.items()},
                "config": record.config_hash,
                "code": record.code_version,
                "minutes": f"{record.seconds / 60:.1f}",
                "created": record.created[:10],
                "line": line,
                "file": f"results/{paper}.jsonl",
            }
        )
    return [
        {
            "anchor": anchor(*group),
            "key": group[0],
            "pair": pair_text(*group[1:3]),
            "preset": group[3],
            "records": sorted(found, key=lambda entry: (entry["seed"], entry["line"])),
        }
        for group, found in groups.items()
    ]


def anchor(key: str, source: str, target: str, preset: str) -> str:
    """The name of a group of records on the page."""
    return "r-" + re.sub(r"[^A-Za-z0-9_.-]", "-", f"{key}-{source}-{target}-{preset}")
