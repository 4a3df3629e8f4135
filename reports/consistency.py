"""Do the published files agree with themselves? Ranges, rising CMC curves, rows that the papers print twice,
gains that they quote.

What must agree stands in the files beside the numbers (`same`, `rising`, `gain`), and so do the papers' own
contradictions (`known`, each with its reason): one that is not listed is a problem, and so is a listed one
that the numbers do not show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.published import FOLDER, Published, published, published_file
from common.records import PAPERS, RANKS
from reports.experiments import built_papers, experiments

FILES = (*PAPERS, "leaderboard")
RANGES = {"%": (0.0, 100.0), "distance": (0.0, 2.0), "rms": (0.0, 2.0)}
ROUNDING = 1e-9

Rows = Mapping[tuple[str, str, str], Published]


@dataclass(frozen=True)
class Contradiction:
    """`key` and `against` should agree on `pair` in `metric`, and do not."""

    key: str
    against: str
    pair: str
    metric: str
    text: str


def check_published(folder: Path = FOLDER) -> None:
    """Raises `InputError` with everything that `problems` finds."""
    found = problems(folder)
    if found:
        raise InputError(
            f"{folder}: {'; '.join(found)}; correct the number, or list the papers' own contradiction under [[known]]"
        )


def problems(folder: Path = FOLDER) -> list[str]:
    """One sentence a problem; empty if the files are sound."""
    rows = {identity: row for name in FILES for identity, row in published(name, folder).items()}
    files = [published_file(name, folder) for name in FILES]
    found = [sentence for row in rows.values() for sentence in _row_problems(row)]
    found += [f"{key}: no such row" for key in sorted(_named(files) - {row.key for row in rows.values()})]
    found += _unprinted(rows, files)
    known = [entry for file in files for entry in file.get("known", ())]
    shown = [known_as(contradiction, known) for contradiction in contradictions(rows, files)]
    found += [item.text for item in shown if isinstance(item, Contradiction)]
    return found + [
        f"{entry['key']} is listed as contradicting {entry['against']}, and does not"
        for entry in known
        if not any(entry is item for item in shown)
    ]


def known_as(contradiction: Contradiction, known: list[dict[str, Any]]) -> dict[str, Any] | Contradiction:
    """The entry of `known` that explains the contradiction, or the contradiction itself."""
    for entry in known:
        if all(
            entry.get(name, getattr(contradiction, name)) == getattr(contradiction, name)
            for name in ("key", "against", "pair", "metric")
        ):
            return entry
    return contradiction


def contradictions(rows: Rows, files: list[dict[str, Any]]) -> Iterator[Contradiction]:
    """Every number that breaks a `same`, `rising` or `gain` rule. Unverified rows are never compared."""
    for file in files:
        for rule in file.get("same", ()):
            reference, *others = rule["keys"]
            for other in others:
                yield from _compare(rows, reference, other, rule.get("by", "pair"), rises=False)
        for rule in file.get("rising", ()):
            for before, after in zip(rule["keys"], rule["keys"][1:]):
                yield from _compare(rows, before, after, "pair", rises=True)
        for rule in file.get("gain", ()):
            yield from _gains(rows, rule)


def missing_experiments(paper: str, folder: Path = FOLDER) -> list[str]:
    """Keys of kind `ours` that a built paper does not list; empty for one that is not built."""
    if paper not in built_papers():
        return []
    return sorted(
        {row.key for row in published(paper, folder).values() if row.kind == "ours"} - set(experiments(paper))
    )


def other_printings(row: Published, folder: Path = FOLDER) -> list[Published]:
    """Rows that should print the same numbers on the same pair and print others, as the second version of
    SPGAN+LMP does.
    """
    rows = {identity: other for name in FILES for identity, other in published(name, folder).items()}
    groups = [
        rule["keys"]
        for name in FILES
        for rule in published_file(name, folder).get("same", ())
        if row.key in rule["keys"]
    ]
    keys = dict.fromkeys(key for keys in groups for key in keys if key != row.key)
    twins = [rows[key, row.source, row.target] for key in keys if (key, row.source, row.target) in rows]
    return [
        twin
        for twin in twins
        if any(
            abs(twin.values[metric] - row.values[metric]) > twin.error + row.error + ROUNDING
            for metric in set(twin.values) & set(row.values)
        )
    ]


def _row_problems(row: Published) -> Iterator[str]:
    low, high = RANGES[row.unit]
    for metric, value in row.values.items():
        if not low < value <= high:
            yield f"{row.key} on {row.source}->{row.target}: {metric} is {value}, expected a number in {low:g}..{high:g}"
    for prefix in ("", "MQ "):
        curve = [row.values[prefix + rank] for rank in RANKS if prefix + rank in row.values]
        if curve != sorted(curve):
            yield f"{row.key} on {row.source}->{row.target}: the CMC curve falls: {curve}"


def _compare(rows: Rows, first: str, second: str, by: str, rises: bool) -> Iterator[Contradiction]:
    for left in (row for row in rows.values() if row.key == first and row.status != "unverified"):
        for right in (row for row in rows.values() if row.key == second and row.status != "unverified"):
            if left.target != right.target or (by == "pair" and left.source != right.source):
                continue
            for metric in sorted(set(left.values) & set(right.values)):
                gap = right.values[metric] - left.values[metric]
                if (-gap if rises else abs(gap)) > max(left.error, right.error) + ROUNDING:
                    text = (
                        f"{second} ({right.where}) gives {metric} {right.values[metric]} on {right.source}->{right.target}, "
                        f"{first} ({left.where}) {left.values[metric]}"
                    )
                    yield Contradiction(second, first, f"{right.source}->{right.target}", metric, text)


def _gains(rows: Rows, rule: Mapping[str, Any]) -> Iterator[Contradiction]:
    pair = tuple(rule["pair"].split("->"))
    left, right = rows[(rule["left"], *pair)], rows[(rule["right"], *pair)]
    for metric, quoted in rule["values"].items():
        gain = left.values[metric] - right.values[metric]
        if abs(gain - quoted) > 1e-6:
            yield Contradiction(
                left.key,
                right.key,
                rule["pair"],
                metric,
                f"{left.key} gains {gain:.2f} {metric} over {right.key}, the text quotes {quoted}",
            )


def _unprinted(rows: Rows, files: list[dict[str, Any]]) -> list[str]:
    """A reprint must say of which row."""
    grouped = {key for file in files for rule in file.get("same", ()) for key in rule["keys"]}
    return [
        f"{key}: a reprint of which row? name both in a [[same]] list"
        for key in sorted({row.key for row in rows.values() if row.kind == "reprint"} - grouped)
    ]


def _named(files: list[dict[str, Any]]) -> set[str]:
    named = {
        key
        for file in files
        for rule in (*file.get("same", ()), *file.get("rising", ()))
        for key in rule["keys"]
    }
    named |= {rule[side] for file in files for rule in file.get("gain", ()) for side in ("left", "right")}
    return named | {
        entry[side] for file in files for entry in file.get("known", ()) for side in ("key", "against")
    }
