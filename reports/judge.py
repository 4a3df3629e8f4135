"""Judges every claim: comparison, gate, verdict, what is left of it among all claims, and what a reader must
know about the records behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.records import PAPERS, Record
from reports.claims import Claim, Comparison, Difference, all_claims, bar, claimed, compare, matched
from reports.collect import read_results
from reports.experiments import REPORTS, ask_all, run_of
from reports.gates import Outcome, outcomes, read_gates
from reports.verdicts import (
    FEW,
    HOLDS,
    LEVEL,
    NOT_RUN,
    NOT_TESTABLE,
    REVERSED,
    VERDICTS,
    benjamini_hochberg,
    holm,
)

STUDY = "study"  # the preset with more training of the mechanisms; its records stand beside the demo's
FAR = 5.0  # a difference that is so many times the paper's, and so many points, has another shape
LIBRARIES = ("torch", "torchvision", "tensorflow", "numpy")  # that a measured number may depend on


@dataclass(frozen=True)
class Judged:
    """A claim under one preset with its verdict; `interval` is what the interval alone says."""

    claim: Claim
    comparison: Comparison | None
    interval: str
    verdict: str
    gates: tuple[Outcome, ...] = ()
    holm: float | None = None  # adjusted p-values, of claims that have an interval
    bh: float | None = None
    superseded: bool = False  # the same claim counts under the other preset, `study` or `demo`

    @property
    def difference(self) -> Difference | None:
        return self.comparison.difference if self.comparison else None

    @property
    def missed(self) -> list[Outcome]:
        """The checks that were measured and missed."""
        return [outcome for outcome in self.gates if outcome.measured and not outcome.passed]

    @property
    def mechanism(self) -> str:
        """Empty (no gate, or not run), `passes`, `misses` or `not measured`."""
        if not self.gates or self.comparison is None:
            return ""
        if self.missed:
            return "misses"
        return "passes" if all(outcome.measured for outcome in self.gates) else "not measured"

    @property
    def more_seeds(self) -> int | None:
        """How many more seeds would decide the claim, if mean and spread stay as they are."""
        return self.difference.seeds_missing(bar(self.claim, self.difference)) if self.difference else None

    @property
    def survives(self) -> str:
        """What is left of a decided verdict among all claims: `Holm`, `BH`, `neither`; else empty."""
        if self.interval not in (HOLDS, REVERSED) or self.holm is None or self.bh is None:
            return ""
        return "Holm" if self.holm < LEVEL else "BH" if self.bh < LEVEL else "neither"

    @property
    def over(self) -> str:
        """What the interval is over: `seeds`, or `drawings` of the data, each with its own seed."""
        return "drawings" if self.comparison and self.comparison.drawings else "seeds"

    @property
    def matched(self) -> bool:
        return matched(self.claim)

    @property
    def size(self) -> str:
        """A sentence where the sign agrees with the paper and the size does not, by a factor of `FAR`: the
        curve has another shape.
        """
        left, right = claimed(self.claim)
        if self.difference is None or left is None or right is None or self.claim.relation == "equivalent":
            return ""
        here, there = self.difference.mean, left - right
        same_sign = here * there > 0 and self.claim.unit == "points"
        if not same_sign or FAR * abs(there) > abs(here) or abs(here) < FAR:
            return ""
        return f"Same sign, another size: {here:+.1f} here, {there:+.1f} in the paper."

    @property
    def remarks(self) -> list[str]:
        """Sentences about the records: seeds added after a look, versions that differ within a comparison."""
        sentences = [f"{self.claim.later}."] if self.claim.later else []
        if self.comparison is None:
            return sentences
        sentences += [self.size] if self.size else []
        records = self.comparison.records
        for library in LIBRARIES:
            versions = {r.libraries[library] for r in records if library in r.libraries}
            if len(versions) > 1:
                sentences.append(f"Records of {library} {' and '.join(sorted(versions))}.")
        codes = {r.code_version for r in records}
        if len(codes) > 1:
            sentences.append(f"Records of {len(codes)} versions of the code.")
        return sentences


def judge_all(reports: Path = REPORTS) -> list[Judged]:
    """Judges the claims of `claims.toml` by the collected records."""
    ask_all()
    return judge({paper: read_results(paper, reports) for paper in PAPERS}, reports)


def judge(
    records: Mapping[str, Sequence[Record]], reports: Path = REPORTS, papers: Sequence[str] = PAPERS
) -> list[Judged]:
    """Judges the claims of `claims.toml` that are about these papers alone, in its order.

    A claim that has records under the preset `study` is judged there too, first; with at least `FEW` seeds it
    supersedes the demo's.
    """
    gates = read_gates(reports)
    judged: list[Judged] = []
    for claim in all_claims(reports):
        if not set(claim.papers) <= set(papers):
            continue
        own = [record for paper in claim.papers for record in records.get(paper, ())]
        study = _judged(replace(claim, preset=STUDY), own, gates) if claim.preset == "demo" else None
        demo = _judged(claim, own, gates)
        if study is None or study.difference is None:
            judged.append(demo)
        else:
            counts = study.difference.n >= FEW or demo.difference is None
            judged += [replace(study, superseded=not counts), replace(demo, superseded=counts)]
    return _among_all(judged)


def _judged(claim: Claim, records: Sequence[Record], gates: Sequence[dict]) -> Judged:
    comparison = compare(claim, records)
    if comparison is None:
        return Judged(claim, None, NOT_RUN, NOT_RUN)
    result = comparison.difference
    interval = result.verdict(bar(claim, result))
    judged = Judged(claim, comparison, interval, interval, tuple(outcomes(claim, records, gates)))
    return replace(judged, verdict=NOT_TESTABLE) if judged.missed else judged


def _among_all(judged: Sequence[Judged]) -> list[Judged]:
    """Adds the p-values adjusted over all claims that have an interval and are not superseded."""
    family = {}
    for number, item in enumerate(judged):
        p = item.difference.p_value(bar(item.claim, item.difference)) if item.difference else None
        if p is not None and not item.superseded:
            family[number] = p
    strict, lenient = holm(list(family.values())), benjamini_hochberg(list(family.values()))
    adjusted = dict(zip(family, zip(strict, lenient)))
    return [
        replace(item, holm=adjusted[number][0], bh=adjusted[number][1]) if number in adjusted else item
        for number, item in enumerate(judged)
    ]


def tally(judged: Sequence[Judged]) -> dict[str, Counter[str]]:
    """Counts the verdicts for each origin (paper, blog, ours), the same comparison of the same runs once.

    Scores of the same runs (rank-1 and mAP, with AdaBN and without) count as one, by the first in the file.
    """
    seen, counts = (
        set(),
        {origin: Counter(dict.fromkeys(VERDICTS, 0)) for origin in ("paper", "blog", "ours")},
    )
    for item in judged:
        claim = item.claim
        sides = [_runs(side) for side in (claim.left, claim.right)]
        # poolings and measures of one run are no scores of the same comparison
        named = (claim.measure, claim.left, claim.right) if sides[0] == sides[1] else claim.measure
        same = (*sides, named, claim.relation, claim.measured_on, claim.preset)
        if item.superseded or same in seen:
            continue
        seen.add(same)
        counts[claim.origin][item.verdict] += 1
    return counts


def _runs(side: str | tuple[str, ...]) -> tuple[str, ...]:
    members = (side,) if isinstance(side, str) else side
    return tuple(("-" if key.startswith("-") else "") + run_of(key.removeprefix("-")) for key in members)
