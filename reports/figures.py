"""Collects the data of every figure in `figures.toml`: published and measured points, kept as JSON beside the
drawing that `reports.svg` makes of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from pathlib import Path
from typing import Any, TypedDict

from common.errors import InputError
from common.published import read_toml
from common.records import RANKS
from reports.collect import read_results
from reports.experiments import REPORTS, experiments
from reports.rows import TITLES, Row, order, pair_text, planned_places, printed_pair, row_of
from reports.svg import y_range

KINDS = ("curve", "bars", "heatmap", "measures", "cmc")
SIDES = ("published", "measured")
# the drawing of a kind that has no drawing under its own name
DRAWN_AS = {"measures": "bars", "cmc": "curve"}

Spec = Mapping[str, Any]  # an entry of figures.toml
Series = tuple[str, list[dict[str, Any]]]  # label and points


class _Figure(TypedDict):
    name: str
    title: str
    kind: str


class FigureEntry(_Figure, total=False):
    """One `[[figure]]`, with either `keys` or `series`."""

    keys: list[str]
    series: dict[str, str]
    metrics: list[str]
    names: dict[str, str]
    x: str
    unit: str
    adabn: bool
    question: str


class FiguresFile(TypedDict):
    """The whole of `figures.toml`."""

    figure: list[FigureEntry]


@dataclass(frozen=True)
class Line:
    """The rows that match one pattern of a figure; the label is empty unless the figure names its series."""

    label: str
    pattern: str
    rows: list[Row]


def figure_specs(reports: Path = REPORTS) -> list[dict[str, Any]]:
    """Reads the entries of `figures.toml`. Raises `InputError` for a malformed one."""
    specs = read_toml(reports / "figures.toml", FiguresFile)["figure"]
    for spec in specs:
        _check(spec, f"figures.toml: {spec['name']}")
    return specs


def _check(spec: Spec, origin: str) -> None:
    if spec["kind"] not in KINDS:
        raise InputError(f"{origin}: kind {spec['kind']!r}: expected one of {', '.join(KINDS)}")
    if not re.fullmatch(r"\w[\w.-]*", spec["name"]):
        raise InputError(f"{origin!r}: expected a name of letters, digits, '_', '.' and '-'")
    patterns = [pattern for _, pattern in _patterns(spec)] if {"keys", "series"} & set(spec) else []
    stars = {"heatmap": 2, "curve": 1}.get(spec["kind"], 0)
    if not patterns or any(pattern.count("*") < stars for pattern in patterns):
        raise InputError(f"{origin}: expected keys or series, with {stars} stars in each pattern")
    if spec["kind"] == "measures" and not spec.get("metrics"):
        raise InputError(f"{origin}: expected metrics")


def without_experiment(spec: Spec) -> list[str]:
    """Returns the patterns of a figure that match no experiment."""
    return [pattern for _, pattern in _patterns(spec) if not _matching(pattern)]


def papers_of(spec: Spec) -> list[str]:
    return list(dict.fromkeys(pattern.split("/")[0] for _, pattern in _patterns(spec)))


def keys_of(spec: Spec) -> list[str]:
    """Returns every experiment that a figure shows."""
    return list(dict.fromkeys(key for _, pattern in _patterns(spec) for key in _matching(pattern)))


def figure_data(spec: Spec, reports: Path = REPORTS) -> dict[str, Any]:
    """Returns what is drawn: panels of series of rounded points; an empty panel has a note instead."""
    lines = [
        Line(label, pattern, [_row(key, reports) for key in _matching(pattern)])
        for label, pattern in _patterns(spec)
    ]
    panels = [_panel(spec, side, lines) for side in (SIDES if "question" not in spec else SIDES[1:])]
    kind = DRAWN_AS.get(spec["kind"], spec["kind"])
    if kind == "curve":  # both panels share one scale of x, and all kinds one of y
        xs = [point["x"] for panel in panels for series in panel["series"] for point in series["points"]]
        panels = [{**panel, "x_range": [min(xs), max(xs)]} for panel in panels] if xs else panels
    shared = [y_range(panel) for panel in panels if panel["series"]]
    if shared:
        both = [min(low for low, _ in shared), max(high for _, high in shared)]
        panels = [{**panel, "y_range": [round(limit, 4) for limit in both]} for panel in panels]
    return {
        "name": spec["name"],
        "title": spec["title"],
        "kind": kind,
        "order": "" if "question" in spec else _order(spec, lines),
        "panels": panels,
    }


def _order(spec: Spec, lines: Sequence[Line]) -> str:
    """Returns the share of pairs of rows in the published order; empty for fewer than two pairs."""
    if spec["kind"] in ("cmc", "measures") or len(papers_of(spec)) > 1:
        return ""
    same, pairs = order([row for line in lines for row in line.rows], spec.get("metrics", ["R-1"])[0])
    return f"{same} of {pairs} pairs in the published order" if pairs > 1 else ""


def _row(key: str, reports: Path) -> Row:
    paper = key.split("/")[0]
    return row_of(key, planned_places(paper)[0], read_results(paper, reports))


def _panel(spec: Spec, side: str, lines: Sequence[Line]) -> dict[str, Any]:
    rows = [row for line in lines for row in line.rows]
    series = [{"label": label, "points": points} for label, points in _series(spec, side, lines) if points]
    panel = {
        "title": "Published" if side == "published" else "Measured here",
        "subtitle": _subtitle(spec, side, rows),
        "x": "rank" if spec["kind"] == "cmc" else spec.get("x", ""),
        "rows": _bar_names(spec, rows),
        "series": series,
        "absent": "not printed" if side == "published" else "not run",
    }
    return panel if series else {**panel, "note": _note(spec, side)}


def _subtitle(spec: Spec, side: str, rows: Sequence[Row]) -> str:
    metric = f"{' and '.join(spec.get('metrics', ['R-1']))}, %"
    metric = spec.get("unit") or {"cmc": "matching rate, %", "measures": "distance"}.get(spec["kind"], metric)
    pairs = {planned_places(paper)[0][:2] for paper in papers_of(spec)}
    if len(pairs) > 1:
        return f"{'synthetic domains' if side == 'measured' else 'each on its main pair'} · {metric}"
    pair = pairs.pop()
    words = printed_pair(rows, *pair) if side == "published" else pair_text(*pair)
    return f"{words} · {metric}"


def _note(spec: Spec, side: str) -> str:
    if side == "published":
        return "The paper gives no numbers here."
    _, pattern = _patterns(spec)[0]
    return f"Not run. It needs: python -m reports sweep --paper {papers_of(spec)[0]} --table '{pattern}'"


def _bar_names(spec: Spec, rows: Sequence[Row]) -> list[str]:
    if spec["kind"] == "measures":
        return [_measure_name(spec, metric) for metric in spec["metrics"]]
    return list({row.key: _row_name(spec, row) for row in rows}.values()) if spec["kind"] == "bars" else []


# ---------------------------------------------------------------- points


def _series(spec: Spec, side: str, lines: Sequence[Line]) -> Iterator[Series]:
    if spec["kind"] == "measures":
        return _measures(spec, side, [row for line in lines for row in line.rows])
    if spec["kind"] == "bars":
        return _bars(spec, side, [row for line in lines for row in line.rows])
    return _ranks(side, lines) if spec["kind"] == "cmc" else _curves(spec, side, lines)


def _measures(spec: Spec, side: str, rows: Sequence[Row]) -> Iterator[Series]:
    """Yields a series for each row, with a bar for each measure."""
    for row in rows:
        points = [
            point
            for metric in spec["metrics"]
            for point in _point(row, side, metric, x=_measure_name(spec, metric))
        ]
        yield row.title if len(rows) > 1 else "", points


def _bars(spec: Spec, side: str, rows: Sequence[Row]) -> Iterator[Series]:
    """Yields a series for each metric, and another with AdaBN, with a bar for each row."""
    metrics = spec.get("metrics", ["R-1"])
    for metric in metrics:
        for suffix in ("", "+adabn") if spec.get("adabn") and side == "measured" else ("",):
            label = "with AdaBN" if suffix else _measure_name(spec, metric) if len(metrics) > 1 else ""
            points = [p for row in rows for p in _point(row, side, metric, suffix, x=_row_name(spec, row))]
            yield label, points


def _ranks(side: str, lines: Sequence[Line]) -> Iterator[Series]:
    """Yields a CMC curve for each pattern."""
    for line in lines:
        points = [p for row in line.rows for rank in RANKS for p in _point(row, side, rank, x=int(rank[2:]))]
        yield line.label or line.pattern, points


def _curves(spec: Spec, side: str, lines: Sequence[Line]) -> Iterator[Series]:
    """Yields a series for each pattern and metric, with a point for each row; also those of a heat map."""
    metrics = spec.get("metrics", ["R-1"])
    for line in lines:
        for metric in metrics:
            points = [
                point | _axes(spec, line.pattern, row.key)
                for row in line.rows
                for point in _point(row, side, metric)
            ]
            yield line.label or (metric if len(metrics) > 1 else ""), points


def _point(row: Row, side: str, metric: str, suffix: str = "", **where: Any) -> list[dict[str, Any]]:
    """Returns no point or one: `y`, and if measured its `spread` (sample standard deviation) and `n`."""
    if side == "published":
        printed = row.published.values if row.published and row.published.status != "unverified" else {}
        return [{**where, "y": printed[metric]}] if metric in printed else []
    value = row.value(metric, suffix)
    if value is None:
        return []
    return [{**where, "y": round(value.mean, 4), "spread": round(value.spread or 0, 4), "n": value.n}]


def _axes(spec: Spec, pattern: str, key: str) -> dict[str, Any]:
    parts = _capture(pattern, key)
    if spec["kind"] == "heatmap":
        return {"x": parts[0], "x2": parts[1]}
    try:
        return {"x": float(parts[0])}
    except ValueError:
        raise InputError(
            f"figures.toml: {spec['name']}: {key}: expected a number for * of {pattern}"
        ) from None


def _measure_name(spec: Spec, metric: str) -> str:
    return spec.get("names", {}).get(metric, metric)


def _row_name(spec: Spec, row: Row) -> str:
    return row.title if len(papers_of(spec)) == 1 else f"{TITLES[row.key.split('/')[0]]}: {row.title}"


# ---------------------------------------------------------------- keys


def _patterns(spec: Spec) -> list[tuple[str, str]]:
    """Returns labels and patterns of keys; the labels are empty unless the figure names its series."""
    return list(spec["series"].items()) if "series" in spec else [("", pattern) for pattern in spec["keys"]]


def _matching(pattern: str) -> list[str]:
    """Returns the keys that match a pattern, in the paper's order; in `=*` the star matches a number only."""
    keys = [key for key in experiments(pattern.split("/")[0]) if fnmatchcase(key, pattern)]
    if pattern.endswith("=*"):
        keys = [key for key in keys if re.fullmatch(r"[\d.]+", _capture(pattern, key)[0])]
    return keys


def _capture(pattern: str, key: str) -> tuple[str, ...]:
    """Returns the parts of a matching key that the stars of the pattern represent."""
    expression = translate(pattern.replace("*", "\0")).replace("\0", "(.*)")
    match = re.match(expression, key)
    return match.groups() if match else ()
