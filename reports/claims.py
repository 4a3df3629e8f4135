"""The papers' claims held against the records: paired over seeds, with a 95 % t-interval and a verdict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t

from common.published import published
from common.records import Record
from reports.experiments import REPORTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Claim:
    """`left` beats `right` by more than `margin` points of `metric`."""

    paper: str
    text: str
    left: str
    right: str
    metric: str
    pair: str           # where the paper says so
    measured_on: str    # where our records are
    margin: float


@dataclass(frozen=True)
class Difference:
    """left - right in points over the seeds that have both; `half_width` of the 95 % t-interval, None for fewer than two seeds."""

    left: float
    right: float
    n: int
    mean: float
    half_width: float | None

    def verdict(self, margin: float) -> str:
        """holds, reversed (the interval lies wholly on the other side of -margin), or undecided."""
        if self.half_width is None:
            return "undecided (one seed)"
        if self.mean - self.half_width > margin:
            return "holds"
        return "reversed" if self.mean + self.half_width < -margin else "undecided"


def read_claims(reports: Path = REPORTS) -> list[Claim]:
    return [Claim(**entry) for entry in tomllib.loads((reports / "claims.toml").read_text())["claim"]]


def measured(claim: Claim, records: Sequence[Record], *, preset: str = "demo", score: str = "last") -> Difference | None:
    """The paired difference in points, or None if no seed has both sides."""
    sides = []
    for key in (claim.left, claim.right):
        sides.append({r.seed: 100 * r.scores[score][claim.metric] for r in records
                      if (r.key, r.preset, f"{r.source}->{r.target}") == (key, preset, claim.measured_on) and score in r.scores})
    seeds = sorted(set(sides[0]) & set(sides[1]))
    return difference([sides[0][s] for s in seeds], [sides[1][s] for s in seeds]) if seeds else None


def difference(left: Sequence[float], right: Sequence[float]) -> Difference:
    """Mean paired difference with the t-interval of its sample standard deviation."""
    gaps = [a - b for a, b in zip(left, right)]
    n = len(gaps)
    half_width = t.ppf(0.975, n - 1) * stdev(gaps) / n**0.5 if n > 1 else None
    return Difference(mean(left), mean(right), n, mean(gaps), half_width)


def claimed(claim: Claim) -> tuple[float | None, float | None]:
    """The paper's two numbers; None for one that is not published."""
    source, target = claim.pair.split("->")
    rows = [published(claim.paper).get((key, source, target)) for key in (claim.left, claim.right)]
    left, right = (row.values.get(claim.metric) if row else None for row in rows)
    return left, right
