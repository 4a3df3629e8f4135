"""The data of every figure in `figures.toml`, from published numbers and records; drawn by `reports.svg`,
kept beside the drawing as JSON.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase, translate
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.records import RANKS, Record
from reports.collect import read_results
from reports.experiments import REPORTS, built_papers
from reports.rows import TITLES, Row, entries_of, pair_text, planned_pairs, printed_pair, row_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("curve", "bars", "heatmap", "measures", "cmc")
SIDES = ("published", "measured")


def figure_specs(reports: Path = REPORTS) -> list[dict[str, Any]]:
    """The entries of `figures.toml`. Raises `InputError` for an unknown kind."""
    specs = tomllib.loads((reports / "figures.toml").read_text())["figure"]
    for spec in specs:
        if spec["kind"] not in KINDS:
            raise InputError(
                f"figures.toml: {spec['name']}: kind {spec['kind']!r}: expected one of {', '.join(KINDS)}"
            )
    return specs


def without_experiment(spec: Mapping[str, Any]) -> list[str]:
    """The patterns of a figure that match nothing in a paper that is built."""
    return [
        pattern
        for pattern in _patterns(spec).values()
        if pattern.split("/")[0] in built_papers() and not _matching(pattern)
    ]


def papers_of(spec: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(pattern.split("/")[0] for pattern in _patterns(spec).values()))


def keys_of(spec: Mapping[str, Any]) -> list[str]:
    """Every experiment that a figure shows."""
    return list(dict.fromkeys(key for pattern in _patterns(spec).values() for key in _matching(pattern)))


def figure_data(spec: Mapping[str, Any], reports: Path = REPORTS) -> dict[str, Any]:
    """What is drawn: panels of series of points, rounded; a panel without series has a note in their place."""
    records = {paper: read_results(paper, reports) for paper in papers_of(spec)}
    panels = [_panel(spec, side, records) for side in (SIDES if "question" not in spec else SIDES[1:])]
    kind = {"measures": "bars", "cmc": "curve"}.get(spec["kind"], spec["kind"])
    if kind == "curve":  # one scale of x for both panels, each its own of y
        xs = [point["x"] for panel in panels for series in panel["series"] for point in series["points"]]
        panels = [{**panel, "x_range": [min(xs), max(xs)]} for panel in panels] if xs else panels
    return {"name": spec["name"], "title": spec["title"], "kind": kind, "panels": panels}


def _panel(spec: Mapping[str, Any], side: str, records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    series = [{"label": label, "points": points} for label, points in _series(spec, side, records) if points]
    panel = {
        "title": "Published" if side == "published" else "Measured here",
        "subtitle": _subtitle(spec, side, records),
        "x": "rank" if spec["kind"] == "cmc" else spec.get("x", ""),
        "rows": _bar_rows(spec),
        "series": series,
        "absent": "not printed" if side == "published" else "not run",
    }
    return panel if series else {**panel, "note": _note(spec, side)}


def _subtitle(spec: Mapping[str, Any], side: str, records: Mapping[str, Sequence[Record]]) -> str:
    metric = f"{' and '.join(spec.get('metrics', ['R-1']))}, %"
    metric = spec.get("unit") or {"cmc": "matching rate, %", "measures": "distance"}.get(spec["kind"], metric)
    pairs = {planned_pairs(paper)[0] for paper in papers_of(spec)}
    if len(pairs) > 1:
        return f"{'synthetic domains' if side == 'measured' else 'each on its main pair'} · {metric}"
    pair = pairs.pop()
    words = (
        printed_pair([_row(key, records) for key in keys_of(spec)], *pair)
        if side == "published"
        else pair_text(*pair)
    )
    return f"{words} · {metric}"


def _note(spec: Mapping[str, Any], side: str) -> str:
    if side == "published":
        return "The paper gives no numbers here."
    missing = [TITLES[paper] for paper in papers_of(spec) if paper not in built_papers()]
    if missing:
        return f"Not run: {', '.join(missing)} is not built yet."
    return f"Not run. It needs: python -m reports sweep --paper {papers_of(spec)[0]} --table '{next(iter(_patterns(spec).values()))}'"


def _bar_rows(spec: Mapping[str, Any]) -> list[str]:
    if spec["kind"] == "measures":
        return [_measure_name(spec, metric) for metric in spec["metrics"]]
    return [_name(spec, key) for key in keys_of(spec)] if spec["kind"] == "bars" else []


# ---------------------------------------------------------------- points


def _series(
    spec: Mapping[str, Any], side: str, records: Mapping[str, Sequence[Record]]
) -> Iterator[tuple[str, list[dict]]]:
    rows = {
        pattern: [_row(key, records) for key in _matching(pattern)] for pattern in _patterns(spec).values()
    }
    metrics = spec.get("metrics", ["R-1"])
    if spec["kind"] == "measures":
        for pattern_rows in rows.values():
            for row in pattern_rows:
                yield (
                    (row.title if len(keys_of(spec)) > 1 else ""),
                    [
                        p
                        for metric in metrics
                        for p in _point(row, side, metric, x=_measure_name(spec, metric))
                    ],
                )
    elif spec["kind"] == "cmc":
        for label, pattern in _patterns(spec).items():
            yield (
                label,
                [
                    p
                    for row in rows[pattern]
                    for rank in RANKS
                    for p in _point(row, side, rank, x=int(rank[2:]))
                ],
            )
    elif spec["kind"] == "bars":
        joined = [row for pattern_rows in rows.values() for row in pattern_rows]
        for metric in metrics:
            for suffix in ("", "+adabn") if spec.get("adabn") and side == "measured" else ("",):
                label = "with AdaBN" if suffix else _measure_name(spec, metric) if len(metrics) > 1 else ""
                yield (
                    label,
                    [p for row in joined for p in _point(row, side, metric, suffix, x=_name(spec, row.key))],
                )
    else:
        several = "series" in spec
        for label, pattern in (
            _patterns(spec).items() if several else [("", p) for p in _patterns(spec).values()]
        ):
            for metric in metrics:
                points = [
                    {**p, **_axes(spec, pattern, row.key)}
                    for row in rows[pattern]
                    for p in _point(row, side, metric)
                ]
                yield label or (metric if len(metrics) > 1 else ""), points


def _point(row: Row, side: str, metric: str, suffix: str = "", **where: Any) -> list[dict]:
    """No point or one: `y`, and for measured ones `spread` (sample standard deviation) and `n`."""
    if side == "published":
        known = row.published and row.published.status != "unverified" and metric in row.published.values
        return [{**where, "y": row.published.values[metric]}] if known else []
    value = row.value(metric, suffix)
    return (
        [{**where, "y": round(value.mean, 4), "spread": round(value.spread or 0, 4), "n": value.n}]
        if value
        else []
    )


def _axes(spec: Mapping[str, Any], pattern: str, key: str) -> dict[str, Any]:
    found = _capture(pattern, key)
    return {"x": found[0], "x2": found[1]} if spec["kind"] == "heatmap" else {"x": float(found[0])}


def _row(key: str, records: Mapping[str, Sequence[Record]]) -> Row:
    paper = key.split("/")[0]
    return row_of(paper, key, entries_of(paper)[key], *planned_pairs(paper)[0], "demo", records[paper])


def _measure_name(spec: Mapping[str, Any], metric: str) -> str:
    return spec.get("names", {}).get(metric, metric)


def _name(spec: Mapping[str, Any], key: str) -> str:
    paper = key.split("/")[0]
    title = entries_of(paper)[key]["title"]
    return title if len(papers_of(spec)) == 1 else f"{TITLES[paper]}: {title}"


# ---------------------------------------------------------------- keys


def _patterns(spec: Mapping[str, Any]) -> dict[str, str]:
    """Label -> pattern of keys; without labels the patterns stand for themselves."""
    return spec["series"] if "series" in spec else {pattern: pattern for pattern in spec["keys"]}


def _matching(pattern: str) -> list[str]:
    """The paper's keys of this pattern, in its order; where * stands for a number, only keys with a number
    there.
    """
    keys = [key for key in entries_of(pattern.split("/")[0]) if fnmatchcase(key, pattern)]
    return [
        key
        for key in keys
        if not pattern.endswith("=*") or re.fullmatch(r"[\d.]+", _capture(pattern, key)[0])
    ]


def _capture(pattern: str, key: str) -> tuple[str, ...]:
    expression = translate(pattern.replace("*", "\0")).replace("\0", "(.*)").replace("\\\0", "(.*)")
    return re.match(expression, key).groups()
