"""Formats the tables that every command prints last: published beside measured."""

from __future__ import annotations

from collections.abc import Sequence

from common.published import STANDS_FOR, published_for
from common.records import Experiment, Record

SHOWN = ("R-1", "mAP")
BAND = {"R-1": 2.0, "mAP": 1.5}  # points between single runs, from the scatter of the papers' curves


def results_table(paper: str, results: Sequence[tuple[Experiment, Record]]) -> str:
    """Formats one row per experiment: the paper's rank-1 and mAP, ours, and ours with AdaBN, in percent.

    On the paper's datasets with a preset other than the demo, also the difference and whether it is within
    `BAND`.
    """
    if not results:
        return ""
    first = results[0][1]
    pair = f"{STANDS_FOR.get(first.source, first.source)} -> {STANDS_FOR.get(first.target, first.target)}"
    adapted = any(f"{experiment.score}+adabn" in record.scores for experiment, record in results)
    comparable = first.preset != "demo" and not {first.source, first.target} & set(STANDS_FOR)
    head = [
        "",
        f"published ({pair})",
        "measured",
        *(["measured + AdaBN"] if adapted else []),
        *(["difference"] if comparable else []),
    ]
    under = ["", *(["R-1    mAP"] * (len(head) - 1))]
    body = [
        _row(paper, experiment, record, adapted)
        + ([_difference(paper, experiment, record)] if comparable else [])
        for experiment, record in results
    ]
    lines = [
        f"{paper} | {first.source} -> {first.target} | preset {first.preset} | seed {first.seed} | "
        "mAP by trapezoid, in percent",
        *aligned([head, under, *body]),
    ]
    if first.source in STANDS_FOR or first.target in STANDS_FOR:
        lines.append(
            "The domains here are drawn by a program: "
            "compare the order of the rows with the paper's, not the numbers."
        )
    return "\n".join(["", *lines, ""])


def measures_table(paper: str, results: Sequence[tuple[Experiment, Record]]) -> str:
    """Formats what a paper prints in other units than percent (distances, changes of an image) beside our
    measures; "" if nothing.
    """
    rows = [
        (experiment.title, theirs.values, record)
        for experiment, record in results
        if (theirs := published_for(paper, experiment.key, record.source, record.target))
        and theirs.unit != "%"
    ]
    lines: list[str] = []
    for columns in dict.fromkeys(tuple(values) for _, values, _ in rows):
        head = ["", *(f"published {name}" for name in columns), *(f"measured {name}" for name in columns)]
        body = [
            [title, *(f"{values[name]:g}" for name in columns), *(_measure(record, name) for name in columns)]
            for title, values, record in rows
            if tuple(values) == columns
        ]
        lines += aligned([head, *body])
    return "\n".join([*lines, ""]) if lines else ""


def _measure(record: Record, name: str) -> str:
    value = record.measure(name)
    return "-" if value is None else f"{value:.3f}"


def _row(paper: str, experiment: Experiment, record: Record, adapted: bool) -> list[str]:
    theirs = published_for(paper, experiment.key, record.source, record.target)
    cells = [experiment.title, "-"]
    if theirs:
        numbers = (f"{theirs.values[name]:5.1f}" if name in theirs.values else "    -" for name in SHOWN)
        cells[1] = " ".join(numbers)
    for score in (experiment.score, f"{experiment.score}+adabn")[: 2 if adapted else 1]:
        values = record.scores.get(score)
        cells.append(" ".join(f"{100 * values[name]:5.1f}" for name in SHOWN) if values else "-")
    return cells


def _difference(paper: str, experiment: Experiment, record: Record) -> str:
    theirs = published_for(paper, experiment.key, record.source, record.target)
    if theirs is None or experiment.score not in record.scores or not set(SHOWN) <= set(theirs.values):
        return "-"
    gaps = {name: 100 * record.scores[experiment.score][name] - theirs.values[name] for name in SHOWN}
    within = all(abs(gaps[name]) <= BAND[name] for name in SHOWN)
    return f"{' '.join(f'{gap:+5.1f}' for gap in gaps.values())} {'in band' if within else 'outside'}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pads the cells of each column to one width; aligns the first column left, the others right."""
    first, *others = [max(map(len, column)) for column in zip(*rows)]
    return ["   ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in rows]
