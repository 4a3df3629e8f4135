"""Checks that the published files are consistent: ranges, rising CMC curves, repeated rows, quoted gains.

The rules are in the files beside the numbers (`same`, `rising`, `gain`), and so are the papers' own
contradictions (`known`, each with its reason). A contradiction that is not listed is a problem, and so is a
listed one that the numbers do not show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.published import FOLDER, Published, published, published_file, split_pair
from common.records import PAPERS, RANKS
from reports.experiments import experiments

FILES = (*PAPERS, "leaderboard")
RANGES = {"%": (0.0, 100.0), "distance": (0.0, 2.0), "rms": (0.0, 2.0)}
ROUNDING = 1e-9

Rows = Mapping[tuple[str, str, str], Published]
Rule = Mapping[str, Any]


@dataclass(frozen=True)
class Contradiction:
    """`key` and `against` should agree on `pair` in `metric`, and do not."""

    key: str
    against: str
    pair: str
    metric: str
    text: str

    def is_listed_as(self, known: Rule) -> bool:
        """Returns whether an entry of `known` covers it; fields that the entry omits match anything."""
        names = ("key", "against", "pair", "metric")
        return all(known.get(name, getattr(self, name)) == getattr(self, name) for name in names)


def check_published(folder: Path = FOLDER) -> None:
    """Raises `InputError` with everything that `problems` returns."""
    sentences = problems(folder)
    if sentences:
        raise InputError(
            f"{folder}: {'; '.join(sentences)}; "
            "correct the number, or list the papers' own contradiction under [[known]]"
        )


def problems(folder: Path = FOLDER) -> list[str]:
    """Returns one sentence for each problem; none if the files are consistent."""
    rows = {identity: row for name in FILES for identity, row in published(name, folder).items()}
    rules = {
        kind: [rule for name in FILES for rule in published_file(name, folder).get(kind, ())]
        for kind in ("same", "rising", "gain", "known")
    }
    known, contradictory = rules["known"], list(contradictions(rows, rules))
    listed = [next(filter(item.is_listed_as, known), None) for item in contradictory]
    return [
        *(sentence for row in rows.values() for sentence in _row_problems(row)),
        *(f"{key}: no such row" for key in sorted(_named(rules) - {row.key for row in rows.values()})),
        *_unnamed_reprints(rows, rules["same"]),
        *(item.text for item, entry in zip(contradictory, listed) if entry is None),
        *(
            f"{entry['key']} is listed as contradicting {entry['against']}, and does not"
            for entry in known
            if not any(entry is shown for shown in listed)
        ),
    ]


def contradictions(rows: Rows, rules: Mapping[str, Sequence[Rule]]) -> Iterator[Contradiction]:
    """Yields every number that breaks a `same`, `rising` or `gain` rule, comparing verified rows only."""
    for rule in rules["same"]:
        for other in rule["keys"][1:]:
            yield from _compare(rows, rule["keys"][0], other, by=rule.get("by", "pair"))
    for rule in rules["rising"]:
        for before, after in zip(rule["keys"], rule["keys"][1:]):
            yield from _compare(rows, before, after, rises=True)
    for rule in rules["gain"]:
        yield from _gains(rows, rule)


def missing_experiments(paper: str, folder: Path = FOLDER) -> list[str]:
    """Returns the keys of kind `ours` that the paper does not list as experiments."""
    ours = {row.key for row in published(paper, folder).values() if row.kind == "ours"}
    return sorted(ours - set(experiments(paper)))


def _row_problems(row: Published) -> Iterator[str]:
    name = f"{row.key} on {row.source}->{row.target}"
    low, high = RANGES[row.unit]
    for metric, value in row.values.items():
        if not low < value <= high:
            yield f"{name}: {metric} is {value}, expected a number in {low:g}..{high:g}"
    for prefix in ("", "MQ "):
        curve = [row.values[prefix + rank] for rank in RANKS if prefix + rank in row.values]
        if curve != sorted(curve):
            yield f"{name}: the CMC curve falls: {curve}"


def _compare(
    rows: Rows, first: str, second: str, *, by: str = "pair", rises: bool = False
) -> Iterator[Contradiction]:
    """Compares two keys pair by pair, or target by target, within the error of reading the numbers."""
    verified = [row for row in rows.values() if row.status != "unverified"]
    for left in (row for row in verified if row.key == first):
        for right in (row for row in verified if row.key == second):
            if left.target != right.target or (by == "pair" and left.source != right.source):
                continue
            for metric in sorted(set(left.values) & set(right.values)):
                gap = right.values[metric] - left.values[metric]
                if (-gap if rises else abs(gap)) > max(left.error, right.error) + ROUNDING:
                    pair = f"{right.source}->{right.target}"
                    text = (
                        f"{second} ({right.where}) gives {metric} {right.values[metric]} on {pair}, "
                        f"{first} ({left.where}) {left.values[metric]}"
                    )
                    yield Contradiction(second, first, pair, metric, text)


def _gains(rows: Rows, rule: Rule) -> Iterator[Contradiction]:
    origin = f"gain of {rule['left']} over {rule['right']}"
    source, target = split_pair(rule["pair"], origin)
    left, right = (rows.get((rule[side], source, target)) for side in ("left", "right"))
    if left is None or right is None or not set(rule["values"]) <= set(left.values) & set(right.values):
        raise InputError(f"{origin} on {rule['pair']}: expected two rows with {', '.join(rule['values'])}")
    for metric, quoted in rule["values"].items():
        gain = left.values[metric] - right.values[metric]
        if abs(gain - quoted) > 1e-6:
            text = f"{left.key} gains {gain:.2f} {metric} over {right.key}, the text quotes {quoted}"
            yield Contradiction(left.key, right.key, rule["pair"], metric, text)


def _unnamed_reprints(rows: Rows, same: Sequence[Rule]) -> Iterator[str]:
    """Yields a sentence for each reprint that no `same` rule links to its first printing."""
    reprints = {row.key for row in rows.values() if row.kind == "reprint"}
    for key in sorted(reprints - {key for rule in same for key in rule["keys"]}):
        yield f"{key}: a reprint of which row? name both in a [[same]] list"


def _named(rules: Mapping[str, Sequence[Rule]]) -> set[str]:
    """Returns every key that a rule names."""
    lists = [rule["keys"] for rule in (*rules["same"], *rules["rising"])]
    lists += [(rule["left"], rule["right"]) for rule in rules["gain"]]
    lists += [(entry["key"], entry["against"]) for entry in rules["known"]]
    return {key for keys in lists for key in keys}
