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
from statistics import mean, stdev
from typing import Any, TypedDict

from scipy.stats import t

from common.content import check_fields_of, check_shape, shown
from common.errors import InputError
from common.published import published, read_toml, split_pair
from common.records import METRICS, Record, newest_configuration
from reports.experiments import REPORTS, experiment, run_of

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


@dataclass(frozen=True)
class Difference:
    """left - right over the seeds of both sides; `half_width` of the 95 % t-interval, None for one seed."""

    left: float
    right: float
    n: int
    mean: float
    half_width: float | None

    def verdict(self, margin: float, relation: str = "greater") -> str:
        """Returns holds, reversed (the whole interval contradicts the relation), or undecided.

        The opposite of "greater by more than margin" is "less by more than margin"; that of "within the
        margin" is "wholly outside it".
        """
        if self.half_width is None:
            return "undecided (one seed)"
        low, high = self.mean - self.half_width, self.mean + self.half_width
        if relation == "less":
            low, high = -high, -low
        holds, fails = low > margin, high < -margin
        if relation == "equivalent":
            holds, fails = -margin < low and high < margin, holds or fails
        return "holds" if holds else "reversed" if fails else "undecided"


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


def measured(claim: Claim, records: Sequence[Record]) -> Difference | None:
    """Returns the paired difference over the seeds that every key of the claim has; None if there is none."""
    place = (claim.preset, claim.measured_on)
    records = [r for r in records if (r.preset, f"{r.source}->{r.target}") == place]
    sides = [
        {key: _by_seed(key.removeprefix("-"), claim, side, records) for key in _members(keys)}
        for side, keys in enumerate((claim.left, claim.right))
    ]
    seeds = sorted(set.intersection(*(set(values) for side in sides for values in side.values())))
    if not seeds:
        return None
    left, right = (
        _combined(claim, {key: [values[seed] for seed in seeds] for key, values in side.items()})
        for side in sides
    )
    return difference(left, right)


def verdict(claim: Claim, result: Difference | None) -> str:
    """Returns holds | undecided | undecided (one seed) | reversed | not run."""
    return "not run" if result is None else result.verdict(claim.margin, claim.relation)


def difference(left: Sequence[float], right: Sequence[float]) -> Difference:
    """Computes the mean paired difference and the t-interval of its sample standard deviation."""
    gaps = [a - b for a, b in zip(left, right)]
    n = len(gaps)
    half_width = float(t.ppf(0.975, n - 1)) * stdev(gaps) / n**0.5 if n > 1 else None
    return Difference(mean(left), mean(right), n, mean(gaps), half_width)


def _by_seed(key: str, claim: Claim, side: int, records: Sequence[Record]) -> dict[int, float]:
    runs = newest_configuration([r for r in records if r.key == run_of(key)])
    score, measure = claim.score[side], claim.measure[side]
    if measure:
        return {r.seed: r.measures[measure] for r in runs if measure in r.measures}
    if not score or score.startswith("+"):
        score = experiment(key)["score"] + score
    return {r.seed: 100 * r.scores[score][claim.metric] for r in runs if score in r.scores}


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
    column = claim.column[side] or claim.measure[side] or claim.metric
    if claim.score[side] or not claim.printed:
        return None  # no paper prints our controls
    source, target = claim.pair.split("->")
    numbers = {}
    for key in _members(keys):
        name = key.removeprefix("-")
        row = published(name.split("/")[0]).get((name, source, target))
        if row is None or row.status == "unverified" or column not in row.values:
            return None
        numbers[key] = [row.values[column]]
    return _combined(claim, numbers)[0]
