"""What a paired difference says: its interval, its verdict, how many seeds are missing, and what is left of
it among many others.

A verdict needs an interval that decides and enough seeds: `ENOUGH`, or `FEW` if the interval also keeps a
distance from the limit (`Bar.clear`). What the interval leaves open is `NO_EFFECT` if it is narrower than
the effect that the paper claims, and so would have shown it, and does not reach it; otherwise `TOO_FEW`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import mean, stdev

from scipy.stats import t

HOLDS, REVERSED = "holds", "reversed"
NO_EFFECT, TOO_FEW = "no effect seen", "too few seeds to tell"
NOT_TESTABLE, NOT_RUN = "not testable here", "not run"
VERDICTS = (HOLDS, REVERSED, NO_EFFECT, TOO_FEW, NOT_TESTABLE, NOT_RUN)
ENOUGH, FEW = 5, 3  # seeds
LEVEL = 0.05
MOST_MORE = 100  # seeds that anybody would add


@dataclass(frozen=True)
class Bar:
    """What a difference is held against: `left - right` is to be `greater` than `margin`, say."""

    relation: str = "greater"  # greater | less | equivalent | best_among
    margin: float = 0.0
    effect: float = 2.0  # size of the effect that the paper claims, in the unit of the difference
    clear: float = 1.0  # distance of the interval from the limit with which `FEW` seeds are enough


@dataclass(frozen=True)
class Difference:
    """left - right over the seeds of both sides; `half_width` of the 95 % t-interval, None for one seed."""

    left: float
    right: float
    n: int
    mean: float
    half_width: float | None

    @property
    def error(self) -> float:
        """The standard error of the mean; 0 for one seed, which has no interval."""
        return self.half_width / _quantile(self.n) if self.half_width is not None else 0.0

    def verdict(self, bar: Bar) -> str:
        """Returns holds, reversed (the whole interval contradicts the relation), or one of the open ones."""
        if self.half_width is None:
            return TOO_FEW
        for word, distance in zip((HOLDS, REVERSED), self._distances(bar)):
            if distance > 0:
                decided = self.n >= ENOUGH or (self.n >= FEW and distance >= bar.clear)
                return word if decided else TOO_FEW
        narrow = self.half_width <= bar.effect and self.n >= FEW
        reach = self.half_width + (-self.mean if bar.relation == "less" else self.mean)
        seen = narrow and reach < bar.effect and bar.relation != "equivalent"
        return NO_EFFECT if seen else TOO_FEW

    def _distances(self, bar: Bar) -> tuple[float, float]:
        """Returns by how much the interval clears the limit, in favour of the claim and against it.

        The opposite of "greater by more than margin" is "less by more than margin"; that of "within the
        margin" is "wholly outside it".
        """
        half_width = self.half_width or 0.0
        low, high = self.mean - half_width, self.mean + half_width
        if bar.relation == "less":
            low, high = -high, -low
        holds, fails = low - bar.margin, -bar.margin - high
        if bar.relation == "equivalent":
            holds, fails = min(bar.margin + low, bar.margin - high), max(holds, fails)
        return holds, fails

    def seeds_missing(self, bar: Bar) -> int | None:
        """Returns how many more seeds would decide, if mean and spread stay as they are; 0 if none, None for
        one seed and for more than `MOST_MORE`.
        """
        if self.verdict(bar) != TOO_FEW:
            return 0
        if self.half_width is None:
            return None
        spread = self.error * self.n**0.5
        for more in range(1, MOST_MORE + 1):
            n = self.n + more
            if replace(self, n=n, half_width=_quantile(n) * spread / n**0.5).verdict(bar) != TOO_FEW:
                return more
        return None

    def p_value(self, bar: Bar) -> float | None:
        """Returns twice the level at which the interval would just decide; None for one seed.

        It is the two-sided p of a t-test against the margin; of an equivalence, twice the larger one-sided
        one.
        """
        if self.half_width is None:
            return None
        point = replace(self, half_width=0.0)
        distance = max(point._distances(bar))
        if not self.error:
            return 0.0 if distance > 0 else 1.0
        return min(1.0, 2 * float(t.sf(distance / self.error, self.n - 1)))


def difference(left: Sequence[float], right: Sequence[float]) -> Difference:
    """Computes the mean paired difference and the t-interval of its sample standard deviation."""
    gaps = [a - b for a, b in zip(left, right)]
    n = len(gaps)
    half_width = _quantile(n) * stdev(gaps) / n**0.5 if n > 1 else None
    return Difference(mean(left), mean(right), n, mean(gaps), half_width)


@lru_cache
def _quantile(n: int) -> float:
    """Returns Student's t of a 95 % interval over `n` values."""
    return float(t.ppf(1 - LEVEL / 2, n - 1))


# ---------------------------------------------------------------- many verdicts at once


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted by Holm (1979): below 0.05, all rejections are right, 19 times in 20."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted by Benjamini and Hochberg (1995): of the rejections below 0.05, one in twenty
    is expected to be wrong.
    """
    order = sorted(range(len(p_values)), key=lambda i: -p_values[i])
    adjusted, lowest = [0.0] * len(p_values), 1.0
    for rank, i in enumerate(order):
        lowest = min(lowest, p_values[i] * len(p_values) / (len(p_values) - rank))
        adjusted[i] = lowest
    return adjusted
