"""What the papers claim, held against the records: paired over seeds, with a 95 % t-interval and a verdict.

A claim compares two sides, each a key or a signed sum of keys (`["hhl/table2/L_C",
"-hhl/table2/baseline_source"]` is a gain). The relations:

    greater      left - right > margin
    less         left - right < -margin
    equivalent   |left - right| < margin
    best_among   the best key of `left` beats the best key of `right` by more than margin; the best of a side
    has the highest mean over
                 the seeds, so that its interval, computed on the same seeds, is a little too narrow
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t

from common.errors import InputError
from common.published import published, read_toml
from common.records import METRICS, Record, newest_configuration
from reports.experiments import REPORTS, built_papers, experiments

RELATIONS = ("greater", "less", "equivalent", "best_among")
ORIGINS = ("paper", "blog", "ours")
LEGEND = (
    "A difference pairs only the seeds that both sides have. ± is the sample standard deviation in tables, the 95 % interval in claims. "
    "AdaBN: batch-norm statistics re-estimated on the target's images, without labels."
)
# fields with a value for each side; in the file one string stands for both
PAIRED = ("score", "measure", "column")

Side = str | tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """`left` relation `right`, in points of `metric` or, where `measure` names one for each side, in that
    measure's own unit.
    """

    paper: str
    text: str
    left: Side
    right: Side
    metric: str
    pair: str  # where the paper says so
    measured_on: str  # where our records are
    margin: float = 0.0
    relation: str = "greater"
    # named score of each side; "": the experiment's own; "+adabn": that one's with AdaBN
    score: tuple[str, str] = ("", "")
    measure: tuple[str, str] = ("", "")  # named measure of each side's records, instead of a score
    # column of the published rows, where it is not called like the measure or the metric
    column: tuple[str, str] = ("", "")
    # who says so: paper | blog | ours (a question that nobody published)
    origin: str = "paper"
    where: str = ""  # "Table 2"
    answers: tuple[str, ...] = ()  # names of the question figures under which it is shown
    preset: str = "demo"  # that our records were made under
    headline: bool = False  # shown in the README's first table; one a paper
    # False: a reading that the paper may not have used; nobody is known to have printed this comparison
    printed: bool = True
    note: str = ""  # why it comes out as it does here, where we know
    against: str = ""  # why the published numbers themselves do not bear the claim out

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key of both sides, once, without signs."""
        return tuple(
            dict.fromkeys(key.removeprefix("-") for key in (*_members(self.left), *_members(self.right)))
        )

    @property
    def papers(self) -> tuple[str, ...]:
        """The papers whose records decide it."""
        return tuple(dict.fromkeys(key.split("/")[0] for key in self.keys))

    @property
    def unit(self) -> str:
        """points, or the names of the measures."""
        return " and ".join(dict.fromkeys(name or "points" for name in self.measure))


@dataclass(frozen=True)
class Difference:
    """left - right over the seeds that have both; `half_width` of the 95 % t-interval, None for fewer than
    two seeds.
    """

    left: float
    right: float
    n: int
    mean: float
    half_width: float | None

    def verdict(self, margin: float, relation: str = "greater") -> str:
        """holds, reversed (the whole interval says the opposite), or undecided.

        The opposite of "greater by more than margin" is "less by more than margin"; that of "within the
        margin" is "wholly outside it".
        """
        if self.half_width is None:
            return "undecided (one seed)"
        low, high = self.mean - self.half_width, self.mean + self.half_width
        if relation == "equivalent":
            outside = low > margin or high < -margin
            return "holds" if -margin < low and high < margin else "reversed" if outside else "undecided"
        if relation == "less":
            low, high = -high, -low
        return "holds" if low > margin else "reversed" if high < -margin else "undecided"


# ---------------------------------------------------------------- the file


def all_claims(reports: Path = REPORTS) -> list[Claim]:
    """`claims.toml` in its order; `both_ways` gives a second claim with source and target exchanged. Raises
    `InputError` for a malformed one.
    """
    sections = read_toml(reports / "claims.toml")
    for paper, section in sections.items():
        foreign = set(section) - {"pair", "measured_on", "claim"}
        if foreign:
            raise InputError(
                f"claims.toml: [{paper}]: {', '.join(sorted(foreign))}: no such field of a section; of a claim, perhaps?"
            )
    return [
        claim
        for paper, section in sections.items()
        for entry in section["claim"]
        for claim in _expand(paper, section, entry)
    ]


def read_claims(reports: Path = REPORTS) -> list[Claim]:
    """The headline claims, one a paper: what the README's first table shows."""
    return [claim for claim in all_claims(reports) if claim.headline]


def _expand(paper: str, section: Mapping[str, Any], entry: Mapping[str, Any]) -> Iterator[Claim]:
    entry = {"metric": "R-1", "pair": section["pair"], "measured_on": section["measured_on"], **entry}
    both_ways = entry.pop("both_ways", False)
    unknown, absent = set(entry) - {f.name for f in fields(Claim)}, {"text", "left", "right"} - set(entry)
    if unknown or absent:
        raise InputError(
            f"claims.toml: {entry.get('text')!r}: {', '.join(sorted(unknown | absent))}: {'no such field' if unknown else 'missing'}"
        )
    entry.update(
        {
            side: entry[side] if isinstance(entry[side], str) else tuple(entry[side])
            for side in ("left", "right")
        }
    )
    entry.update(
        {
            name: (entry[name],) * 2 if isinstance(entry[name], str) else tuple(entry[name])
            for name in PAIRED
            if name in entry
        }
    )
    if "answers" in entry:
        entry["answers"] = (
            (entry["answers"],) if isinstance(entry["answers"], str) else tuple(entry["answers"])
        )
    claim = Claim(paper, **entry)
    _check(claim)
    yield claim
    if both_ways:
        yield replace(
            claim, pair=_reversed(claim.pair), measured_on=_reversed(claim.measured_on), headline=False
        )


def _check(claim: Claim) -> None:
    origin = f"claims.toml: {claim.text!r}"
    if (
        claim.relation not in RELATIONS
        or claim.origin not in ORIGINS
        or (claim.metric not in METRICS and not any(claim.measure))
    ):
        raise InputError(
            f"{origin}: {claim.relation}, {claim.origin}, {claim.metric}: expected a relation of {', '.join(RELATIONS)}, "
            f"an origin of {', '.join(ORIGINS)} and a metric of {', '.join(METRICS)}"
        )
    if claim.margin < 0 or (claim.relation == "equivalent" and not claim.margin):
        raise InputError(
            f"{origin}: margin {claim.margin}: expected 0 or more, and more than 0 for an equivalence"
        )
    if claim.relation == "best_among" and any(
        key.startswith("-") for key in (*_members(claim.left), *_members(claim.right))
    ):
        raise InputError(f"{origin}: best_among takes keys without signs")


def _members(side: Side) -> tuple[str, ...]:
    return (side,) if isinstance(side, str) else side


def _reversed(pair: str) -> str:
    source, target = pair.split("->")
    return f"{target}->{source}"


# ---------------------------------------------------------------- against the records


def measured(claim: Claim, records: Sequence[Record]) -> Difference | None:
    """The paired difference, over the seeds that every key of the claim has; None if there is none."""
    mine = [
        record
        for record in records
        if (record.preset, f"{record.source}->{record.target}") == (claim.preset, claim.measured_on)
    ]
    sides = [
        {key: _by_seed(key.removeprefix("-"), claim, side, mine) for key in _members(keys)}
        for side, keys in enumerate((claim.left, claim.right))
    ]
    seeds = sorted(set.intersection(*(set(values) for side in sides for values in side.values())))
    if not seeds:
        return None
    combine = _best if claim.relation == "best_among" else _sum
    return difference(
        *(combine({key: [values[seed] for seed in seeds] for key, values in side.items()}) for side in sides)
    )


def verdict(claim: Claim, found: Difference | None) -> str:
    """holds | undecided | undecided (one seed) | reversed | not run."""
    return "not run" if found is None else found.verdict(claim.margin, claim.relation)


def difference(left: Sequence[float], right: Sequence[float]) -> Difference:
    """Mean paired difference with the t-interval of its sample standard deviation."""
    gaps = [a - b for a, b in zip(left, right)]
    n = len(gaps)
    half_width = float(t.ppf(0.975, n - 1)) * stdev(gaps) / n**0.5 if n > 1 else None
    return Difference(mean(left), mean(right), n, mean(gaps), half_width)


def _by_seed(key: str, claim: Claim, side: int, records: Sequence[Record]) -> dict[int, float]:
    runs_as, own_score = _run_of(key)
    score = (
        own_score + claim.score[side] if claim.score[side].startswith("+") else claim.score[side] or own_score
    )
    measure, own = (
        claim.measure[side],
        newest_configuration([record for record in records if record.key == runs_as]),
    )
    if measure:
        return {record.seed: record.measures[measure] for record in own if measure in record.measures}
    return {record.seed: 100 * record.scores[score][claim.metric] for record in own if score in record.scores}


def _run_of(key: str) -> tuple[str, str]:
    """The key under which the record of `key` is kept, and the score of it that belongs to `key`."""
    paper = key.split("/")[0]
    entry = experiments(paper).get(key) if paper in built_papers() else None
    return (entry["alias_of"] or key, entry["score"]) if entry else (key, "last")


def _sum(side: Mapping[str, Sequence[float]]) -> list[float]:
    return [
        sum(-value if key.startswith("-") else value for key, value in zip(side, column))
        for column in zip(*side.values())
    ]


def _best(side: Mapping[str, Sequence[float]]) -> list[float]:
    return list(max(side.values(), key=mean))


# ---------------------------------------------------------------- against the papers' own numbers


def claimed(claim: Claim) -> tuple[float | None, float | None]:
    """The published numbers of the two sides; None for one that is not published, or only from memory."""
    left, right = (_printed(claim, side, keys) for side, keys in enumerate((claim.left, claim.right)))
    return left, right


def borne_out(claim: Claim) -> bool | None:
    """Whether the published numbers, taken as exact, satisfy the claim; None if one is missing."""
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
    numbers = {}
    for key in _members(keys):
        name = key.removeprefix("-")
        row = published(name.split("/")[0]).get((name, *claim.pair.split("->")))
        if row is None or row.status == "unverified" or column not in row.values:
            return None
        numbers[key] = [row.values[column]]
    return (_best if claim.relation == "best_among" else _sum)(numbers)[0]
