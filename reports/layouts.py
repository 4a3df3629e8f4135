"""Lays tables out as the blog and the papers do: `layouts.toml` names rows, pairs and columns; published
numbers stand above measured ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from common.errors import InputError
from common.published import Published, published, read_toml, split_pair
from common.records import Record
from reports.experiments import REPORTS
from reports.markdown import number_text, published_number
from reports.rows import DRAWN, Place, Row, anchor, measured_preset, pair_text, row_of


class _Labelled(TypedDict):
    label: str


class LayoutRow(_Labelled, total=False):
    """One row: an experiment, or a published number that is not measured here."""

    key: str
    published: str
    score: str
    pair: str


class _Layout(TypedDict):
    name: str
    title: str
    page: str
    pairs: list[str]
    columns: list[str]
    rows: list[LayoutRow]


class Layout(_Layout, total=False):
    """One `[[layout]]`."""

    adabn: bool
    preset: str


class LayoutsFile(TypedDict):
    """The whole of `layouts.toml`."""

    layout: list[Layout]


def layouts(page: str, records: Mapping[str, Sequence[Record]], reports: Path = REPORTS) -> list[dict]:
    """Returns the tables of one page: heads of the blocks, and rows of lines of cells."""
    path = reports / "layouts.toml"
    entries = read_toml(path, LayoutsFile)["layout"] if path.is_file() else []
    return [_view(entry, records) for entry in entries if entry["page"] == page]


def _view(entry: Mapping[str, Any], records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    for row in entry["rows"]:
        if not {"key", "published"} & set(row) or not (entry["pairs"] or "pair" in row):
            raise InputError(f"layouts.toml: {entry['name']}: {row['label']}: expected a key and a pair")
    rows = [_row(entry, row, records) for row in entry["rows"]]
    sides = {line["side"] for row in rows for line in row["lines"]}
    return {
        "name": entry["name"],
        "title": entry["title"],
        "blocks": [pair_text(*split_pair(pair, "layouts.toml")) for pair in entry["pairs"]],
        "columns": entry["columns"],
        "rows": rows,
        "printed": "published" in sides,
    }


def _row(entry: Mapping[str, Any], row: Mapping[str, Any], records: Mapping[str, Sequence[Record]]) -> dict:
    pairs = [split_pair(pair, "layouts.toml") for pair in entry["pairs"] or [row["pair"]]]
    lines: list[tuple[str, Sequence[Published | Row | None]]] = [
        ("published", [_printed(row, pair) for pair in pairs])
    ]
    if "key" in row:
        runs = [_measured(entry, row, pair, records) for pair in pairs]
        lines.append(("measured", runs))
        if entry.get("adabn"):
            lines.append(("with AdaBN", runs))
    views = []
    for side, cells in lines:
        suffix = "+adabn" if side == "with AdaBN" else ""
        texts = [cell for found in cells for cell in _cells(found, entry["columns"], suffix)]
        if any(cell["text"] != "–" for cell in texts) or side == "measured":
            views.append({"side": side, "cells": texts})
    return {"label": row["label"], "lines": views}


def _printed(row: Mapping[str, Any], pair: tuple[str, str]) -> Published | None:
    """Returns the published row on a pair: under its own key there, else the experiment's."""
    for key in filter(None, (row.get("published"), "score" not in row and row.get("key"))):
        found = published(str(key).split("/")[0]).get((str(key), *pair))
        if found and found.status != "unverified":
            return found
    return None


def _measured(
    entry: Mapping[str, Any],
    row: Mapping[str, Any],
    pair: tuple[str, str],
    records: Mapping[str, Sequence[Record]],
) -> Row:
    source, target = (DRAWN.get(name, name) for name in pair)
    keys = [one["key"] for one in entry["rows"] if "key" in one]
    preset = entry.get("preset") or _common_preset(keys, source, target, records)
    own = records.get(row["key"].split("/")[0], ())
    found = row_of(row["key"], Place(source, target, preset), own)
    return replace(found, score=row["score"]) if "score" in row else found


def _common_preset(
    keys: Sequence[str], source: str, target: str, records: Mapping[str, Sequence[Record]]
) -> str:
    """Returns the preset of a table: `study` if all rows have enough such records on a pair, else `demo`."""
    found = {
        measured_preset(key, source, target, records.get(key.split("/")[0], ()))
        for key in dict.fromkeys(keys)
    }
    return "study" if found == {"study"} else "demo"


def _cells(found: Published | Row | None, columns: Sequence[str], suffix: str) -> Iterator[dict[str, str]]:
    for column in columns:
        link = ""
        if isinstance(found, Row):
            value = found.value(column, suffix)
            text = "–" if value is None else number_text(value)
            if value is not None:
                first = found.records[0]
                link = anchor(found.runs_as, first.source, first.target, first.preset)
        else:
            text = published_number(found, column).replace("-", "–")
        yield {"text": text, "record": link}
