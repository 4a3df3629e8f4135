"""Compares the papers' claims with the records: paired over seeds, with a 95 % t-interval and a verdict.

A claim compares two sides, each a key or a signed sum of keys (`["hhl/table2/L_C",
"-hhl/table2/baseline_source"]` is a gain). The relations:

    greater      left - right > margin
    less         left - right < -margin
    equivalent   |left - right| < margin
    best_among   the best key of `left` beats the best key of `right` by more than margin; the best key of a
                 side has the highest mean over the seeds, so that its interval, computed on the same seeds,
                 is slightly too narrow
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import mean
from typing import Any, TypedDict

from common.content import check_fields_of, check_shape, shown
from common.errors import InputError
from common.published import published, read_toml, split_pair
from common.records import METRICS, Record, newest_configuration
from common.tables import BAND
from reports.experiments import REPORTS, experiment, of_one_kind, run_of
from reports.verdicts import Bar, Difference, difference

RELATIONS = ("greater", "less", "equivalent", "best_among")
ORIGINS = ("paper", "blog", "ours")
LEGEND = (
    "A difference pairs only the seeds that both sides have. ± is the sample standard deviation in tables, "
    "the 95 % interval in claims. "
    "AdaBN: batch-norm statistics re-estimated on the target's images, without labels."
)
# fields with a value for each side; in the file one string is the value of both
PAIRED = ("score", "measure", "column")

Side = str | tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """`left` relation `right`, in points of `metric`, or in the unit of `measure` where one is named."""

    paper: str
    text: str
    left: Side
    right: Side
    metric: str
    pair: str  # of the paper's numbers
    measured_on: str  # pair of our records
    margin: float = 0.0
    relation: str = "greater"
    # named score of each side; "": the experiment's own; "+adabn": that one's with AdaBN
    score: tuple[str, str] = ("", "")
    measure: tuple[str, str] = ("", "")  # named measure of each side's records, instead of a score
    # column of the published rows, where its name differs from the measure or the metric
    column: tuple[str, str] = ("", "")
    # who makes the claim: paper | blog | ours (a question that nobody published)
    origin: str = "paper"
    where: str = ""  # "Table 2"
    answers: tuple[str, ...] = ()  # names of the question figures under which it is shown
    preset: str = "demo"  # of our records
    headline: bool = False  # shown in the README's first table; one per paper
    # False: a reading that the paper may not have used; nobody is known to have printed this comparison
    printed: bool = True
    note: str = ""  # the reason for this outcome, where it is known
    against: str = ""  # why the published numbers themselves contradict the claim
    later: str = ""  # which seeds were added after a look at the others
    gated: bool = True  # False: about the mechanism's failure itself, so that its gate does not apply

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key of both sides, once, without signs."""
        members = (*_members(self.left), *_members(self.right))
        return tuple(dict.fromkeys(key.removeprefix("-") for key in members))

    @property
    def papers(self) -> tuple[str, ...]:
        """The papers whose records decide the claim."""
        return tuple(dict.fromkeys(key.split("/")[0] for key in self.keys))

    @property
    def unit(self) -> str:
        """`points`, or the names of the measures."""
        return " and ".join(dict.fromkeys(name or "points" for name in self.measure))


# ---------------------------------------------------------------- the file


class Section(TypedDict):
    """One section of `claims.toml`: the claims of a paper, with the pairs on which most of them are made."""

    pair: str
    measured_on: str
    claim: list[dict[str, Any]]


def all_claims(reports: Path = REPORTS) -> list[Claim]:
    """Reads `claims.toml` in its order; `both_ways` adds a claim with source and target exchanged.

    Raises `InputError` for a malformed claim.
    """
    claims: list[Claim] = []
    for paper, section in read_toml(reports / "claims.toml", dict[str, dict[str, Any]]).items():
        foreign = set(section) - {"pair", "measured_on", "claim"}
        if foreign:
            raise InputError(
                f"claims.toml: [{paper}]: {', '.join(sorted(foreign))}: no such field of a section; "
                "of a claim, perhaps?"
            )
        check_shape(section, Section, f"claims.toml: [{paper}]")
        for entry in section["claim"]:
            claims += _expand(paper, section, entry)
    return claims


def read_claims(reports: Path = REPORTS) -> list[Claim]:
    """Returns the headline claims, one per paper, which the README's first table shows."""
    return [claim for claim in all_claims(reports) if claim.headline]


def _expand(paper: str, section: Mapping[str, Any], entry: Mapping[str, Any]) -> Iterator[Claim]:
    values = {"metric": "R-1", "pair": section["pair"], "measured_on": section["measured_on"], **entry}
    both_ways = values.pop("both_ways", False)
    unknown, absent = set(values) - {f.name for f in fields(Claim)}, {"text", "left", "right"} - set(values)
    if unknown or absent:
        names, problem = ", ".join(sorted(unknown | absent)), "no such field" if unknown else "missing"
        raise InputError(f"claims.toml: {shown(values.get('text'))}: {names}: {problem}")
    for name in set(values) & {"left", "right", "answers", *PAIRED}:
        if isinstance(values[name], list):
            values[name] = tuple(values[name])
        elif name == "answers":
            values[name] = (values[name],)
        elif name in PAIRED:
            values[name] = (values[name],) * 2
    origin = f"claims.toml: {shown(values['text'])}"
    check_shape(both_ways, bool, f"{origin}: both_ways")
    check_fields_of(values, Claim, origin)
    claim = Claim(paper, **values)
    _check(claim, origin)
    yield claim
    if both_ways:
        pair, measured_on = _reversed(claim.pair, origin), _reversed(claim.measured_on, origin)
        yield replace(claim, pair=pair, measured_on=measured_on, headline=False)


def _check(claim: Claim, origin: str) -> None:
    known_metric = claim.metric in METRICS or all(claim.measure)
    if claim.relation not in RELATIONS or claim.origin not in ORIGINS or not known_metric:
        raise InputError(
            f"{origin}: {claim.relation!r}, {claim.origin!r}, {claim.metric!r}: "
            f"expected a relation of {', '.join(RELATIONS)}, "
            f"an origin of {', '.join(ORIGINS)} and a metric of {', '.join(METRICS)}"
        )
    if claim.margin < 0 or (claim.relation == "equivalent" and not claim.margin):
        raise InputError(
            f"{origin}: margin {claim.margin}: expected 0 or more, and more than 0 for an equivalence"
        )
    signed = any(key.startswith("-") for key in (*_members(claim.left), *_members(claim.right)))
    if claim.relation == "best_among" and signed:
        raise InputError(f"{origin}: best_among takes keys without signs")
    if not claim.left or not claim.right:
        raise InputError(f"{origin}: left and right: expected at least one key each")
    for pair in (claim.pair, claim.measured_on):
        split_pair(pair, origin)


def _members(side: Side) -> tuple[str, ...]:
    return (side,) if isinstance(side, str) else side


def _reversed(pair: str, origin: str) -> str:
    source, target = split_pair(pair, origin)
    return f"{target}->{source}"


# ---------------------------------------------------------------- against the records


@dataclass(frozen=True)
class Comparison:
    """A claim against records: the paired difference, and the records of both sides that it is made of."""

    difference: Difference
    records: tuple[Record, ...]

    @property
    def drawings(self) -> bool:
        """Whether the interval is over drawings of the data, each with a training seed of its own."""
        return any(record.data_seed for record in self.records)


def compare(claim: Claim, records: Sequence[Record]) -> Comparison | None:
    """Returns the paired difference over the seeds that every key of the claim has; None if there is none."""
    place = (claim.preset, claim.measured_on)
    runs = {run_of(key) for key in claim.keys}
    own = [r for r in records if r.key in runs and (r.preset, f"{r.source}->{r.target}") == place]
    by_run = {key: newest_configuration([r for r in own if r.key == key]) for key in runs}
    paired = of_one_kind([record for group in by_run.values() for record in group])
    sides = [
        {key: _by_seed(key.removeprefix("-"), claim, side, paired) for key in _members(keys)}
        for side, keys in enumerate((claim.left, claim.right))
    ]
    seeds = sorted(set.intersection(*(set(values) for side in sides for values in side.values())))
    if not seeds:
        return None
    left, right = (
        _combined(claim, {key: [values[seed] for seed in seeds] for key, values in side.items()})
        for side in sides
    )
    return Comparison(difference(left, right), tuple(r for r in paired if r.seed in seeds))


def measured(claim: Claim, records: Sequence[Record]) -> Difference | None:
    """Returns the paired difference of `compare`; None if no seed has every key."""
    comparison = compare(claim, records)
    return comparison.difference if comparison else None


def _by_seed(key: str, claim: Claim, side: int, records: Sequence[Record]) -> dict[int, float]:
    runs = [r for r in records if r.key == run_of(key)]
    measure, score = claim.measure[side], score_name(claim, side, key)
    if measure:
        return {r.seed: r.measures[measure] for r in runs if measure in r.measures}
    return {r.seed: 100 * r.scores[score][claim.metric] for r in runs if score in r.scores}


def score_name(claim: Claim, side: int, key: str) -> str:
    """Returns the named score that a side of the claim reads from the records of a key."""
    score = claim.score[side]
    if not score or score.startswith("+"):
        return experiment(key)["score"] + score
    return score


def matched(claim: Claim) -> bool:
    """Returns whether both sides have the same pooling and the same AdaBN, or are the same runs (a claim
    about pooling or AdaBN itself), or gains or measures.
    """
    sides = [_members(claim.left), _members(claim.right)]
    if any(claim.measure) or any(key.startswith("-") for side in sides for key in side):
        return True
    names = {score_name(claim, number, key) for number, side in enumerate(sides) for key in side}
    return len(names) == 1 or {run_of(key) for key in sides[0]} == {run_of(key) for key in sides[1]}


def _combined(claim: Claim, side: Mapping[str, Sequence[float]]) -> Sequence[float]:
    """Returns the numbers of the best key, or the sum over the keys with their signs."""
    if claim.relation == "best_among":
        return max(side.values(), key=mean)
    signs = [-1 if key.startswith("-") else 1 for key in side]
    return [sum(sign * value for sign, value in zip(signs, column)) for column in zip(*side.values())]


# ---------------------------------------------------------------- against the papers' own numbers


def claimed(claim: Claim) -> tuple[float | None, float | None]:
    """Returns the published numbers of the two sides; None for one that is unpublished or unverified."""
    return _printed(claim, 0, claim.left), _printed(claim, 1, claim.right)


def bar(claim: Claim, result: Difference | None = None) -> Bar:
    """Returns what the claim's difference is held against.

    The effect that the paper claims is the gap of its own numbers for these keys, whatever score of ours is
    compared; without such numbers it is `BAND` points of a score. A measure has units of its own: a tenth of
    the larger side counts as an effect, and a fiftieth as a clear distance.
    """
    left, right = (_number(claim, side, keys) for side, keys in enumerate((claim.left, claim.right)))
    size = max(abs(result.left), abs(result.right)) if result else 1.0
    in_points = claim.unit == "points"
    effect, clear = (BAND.get(claim.metric, 2.0), 1.0) if in_points else (0.1 * size, 0.02 * size)
    if left is not None and right is not None and abs(left - right) > 1e-9:
        effect = abs(left - right)
    return Bar(claim.relation, claim.margin, effect, clear)


def borne_out(claim: Claim) -> bool | None:
    """Returns whether the published numbers, taken as exact, satisfy the claim; None if one is missing."""
    left, right = claimed(claim)
    if left is None or right is None:
        return None
    gap = left - right
    if claim.relation == "equivalent":
        return abs(gap) < claim.margin
    return (-gap if claim.relation == "less" else gap) > claim.margin


def _printed(claim: Claim, side: int, keys: Side) -> float | None:
    """Returns the published number of a side; no paper prints our controls."""
    return None if claim.score[side] or not claim.printed else _number(claim, side, keys)


def _number(claim: Claim, side: int, keys: Side) -> float | None:
    """Returns the published number of a side's keys, whether or not the claim compares just that."""
    column = claim.column[side] or claim.measure[side] or claim.metric
    source, target = claim.pair.split("->")
    numbers = {}
    for key in _members(keys):
        name = key.removeprefix("-")
        row = published(name.split("/")[0]).get((name, source, target))
        if row is None or row.status == "unverified" or column not in row.values:
            return None
        numbers[key] = [row.values[column]]
    return _combined(claim, numbers)[0]
