"""Gates: whether the mechanism that a claim is about does its job in the very runs that the claim compares.

`gates.toml` names, for a group of experiments, the measures that must pass. A claim that compares such a run
says "not testable here" where a measure misses, whatever its interval. Records without the measures leave the
mechanism unmeasured, and the claim says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean
from typing import Any, TypedDict

from common.errors import InputError
from common.published import read_toml
from common.records import METRICS, Record, newest_configuration
from reports.claims import Claim
from reports.experiments import REPORTS, experiment, of_one_kind, run_of

PHOTOS = "photos_cpu"  # preset on photographs, whose gates are its own
SIGNS = {"at least": "≥", "at most": "≤", "within": "within", "more by": "≥"}
OF_TWO = ("within", "more by")  # comparisons of two experiments


class _Check(TypedDict):
    measure: str
    words: str
    comparison: str
    threshold: float


class CheckEntry(_Check, total=False):
    """One measure of a gate, against `threshold`, or against `threshold` times a reference."""

    of: str  # experiment that is measured in place of the compared run
    reference: str  # measure, of the same records unless `reference_of` names an experiment
    reference_of: str


class _Gate(TypedDict):
    name: str
    keys: list[str]
    check: list[CheckEntry]


class GateEntry(_Gate, total=False):
    """One `[[gate]]`: the experiments that it is about, as patterns, and its checks."""

    but: list[str]  # patterns of experiments that it is not about
    presets: list[str]  # that it is about; without: all but those of photographs


class GatesFile(TypedDict):
    """The whole of `gates.toml`."""

    gate: list[GateEntry]


@dataclass(frozen=True)
class Outcome:
    """One check of a gate for one claim: means over the records; `None` where a record lacks the measure."""

    gate: str
    words: str
    run: str
    value: float | None
    limit: float | None
    comparison: str
    rule: str  # the limit in words, for where it was not measured

    @property
    def measured(self) -> bool:
        return self.value is not None and self.limit is not None

    @property
    def passed(self) -> bool:
        """Whether it was measured and met."""
        if self.value is None or self.limit is None:
            return False
        low = self.comparison in ("at least", "more by")
        return self.value >= self.limit if low else self.value <= self.limit

    @property
    def measured_text(self) -> str:
        return "not measured" if self.value is None else _short(self.value)

    @property
    def needed_text(self) -> str:
        return f"{SIGNS[self.comparison]} {self.rule if self.limit is None else _short(self.limit)}"

    @property
    def text(self) -> str:
        """`D_C's error 0.90, needs ≤ 0.41`."""
        return f"{self.words} {self.measured_text}, needs {self.needed_text}"


def read_gates(reports: Path = REPORTS) -> list[dict[str, Any]]:
    """Reads the gates; none without a file. Raises `InputError` for a malformed one."""
    path = reports / "gates.toml"
    if not path.is_file():
        return []
    gates = read_toml(path, GatesFile)["gate"]
    for gate in gates:
        for check in gate["check"]:
            beside = "of" in check and "reference_of" in check
            if check["comparison"] not in SIGNS or (check["comparison"] in OF_TWO and not beside):
                raise InputError(
                    f"gates.toml: {gate['name']}: comparison {check['comparison']!r}: expected "
                    "'at least' or 'at most', or 'within' or 'more by' with `of` and `reference_of`"
                )
    return gates


def outcomes(claim: Claim, records: Sequence[Record], gates: Sequence[dict[str, Any]]) -> list[Outcome]:
    """Returns every check of every gate that a claim's runs stand behind; of one run the first, if several
    runs are alike. `records` are all of the claim's papers.
    """
    if not claim.gated:
        return []
    place = (claim.preset, claim.measured_on)
    here = [r for r in records if (r.preset, f"{r.source}->{r.target}") == place]
    runs = dict.fromkeys(run_of(key) for key in claim.keys)
    own = [gate for gate in gates if about(gate, claim.preset)]
    found = [outcome for run in runs for gate in own for outcome in _of_run(run, gate, here)]
    return list(dict.fromkeys(found))


def about(gate: dict[str, Any], preset: str) -> bool:
    """Returns whether a gate is about a preset."""
    return preset in gate["presets"] if "presets" in gate else preset != PHOTOS


def concerns(gate: dict[str, Any], run: str) -> bool:
    """Returns whether a gate is about a run, under its own key or as one of its aliases."""
    names = [pattern for pattern in gate["keys"] if fnmatchcase(run, pattern)]
    return bool(names) and not any(fnmatchcase(run, pattern) for pattern in gate.get("but", ()))


def _of_run(run: str, gate: dict[str, Any], records: Sequence[Record]) -> Iterator[Outcome]:
    if not concerns(gate, run):
        return
    for check in gate["check"]:
        measured = check.get("of", run)
        value = _mean(measured, check["measure"], records)
        limit: float | None = check["threshold"]
        if check["comparison"] in OF_TWO:
            reference = _mean(check["reference_of"], check.get("reference", check["measure"]), records)
            more = None if value is None or reference is None else value - reference
            value = abs(more) if more is not None and check["comparison"] == "within" else more
        elif "reference" in check:
            reference = _mean(check.get("reference_of", measured), check["reference"], records)
            limit = None if reference is None else check["threshold"] * reference
        rule = f"{check['threshold']:g} × {check['reference']}" if "reference" in check else ""
        yield Outcome(gate["name"], check["words"], measured, value, limit, check["comparison"], rule)


def _mean(key: str, name: str, records: Sequence[Record]) -> float | None:
    """Returns the mean over the records of a run; None if there is none, or one lacks the number."""
    run = run_of(key)
    runs = of_one_kind(newest_configuration([r for r in records if r.key == run]))
    score = experiment(key)["score"] if runs else ""
    numbers = [
        100 * r.scores[score][name] if name in METRICS and score in r.scores else r.measures.get(name)
        for r in runs
    ]
    known = [number for number in numbers if number is not None]
    return mean(known) if known and len(known) == len(numbers) else None


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 2 else f"{value:.2f}"
