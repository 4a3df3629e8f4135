"""Papers, their experiments, and the record of a run: one JSON object."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError

PAPERS = ("arn", "hhl", "spgan", "ptgan", "dcgan_lsro")
SCHEMA = 1
KEY = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9_.,=+-]+){2,}")
RANKS = ("R-1", "R-5", "R-10", "R-20")
METRICS = (*RANKS, "mAP", "mAP_step")


@dataclass(frozen=True)
class Experiment:
    """One row or point of a paper: `key` is `<paper>/<table or figure>/<row or value>`.

    `overrides` change fields of the preset (dotted names). A key with `alias_of` is the other key's run;
    `score` says which of the record's named scores belongs to this row.
    """

    key: str
    title: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    alias_of: str | None = None
    score: str = "last"

    @property
    def runs_as(self) -> str:
        return self.alias_of or self.key


@dataclass(frozen=True)
class Paper:
    """What a paper's folder declares for the command line."""

    name: str
    folder: Path
    presets: Mapping[str, Any]  # name -> config; "demo" is the default
    experiments: Sequence[Experiment]
    demo: Sequence[str]  # keys that run without --experiment in the preset demo
    headline: Sequence[str]  # ... in every other preset
    source: str = "synthetic-duke"  # default of --source
    target: str = "synthetic-market"  # default of --target; the source itself for a supervised paper


def check_experiments(paper: str, experiments: list[Experiment]) -> dict[str, Experiment]:
    """key -> experiment. Raises `ValueError` for a malformed or repeated key and for an alias that leads
    nowhere.
    """
    table: dict[str, Experiment] = {}
    for experiment in experiments:
        if not KEY.fullmatch(experiment.key) or not experiment.key.startswith(f"{paper}/"):
            raise ValueError(
                f"{experiment.key!r} is not a key of the form {paper}/<table or figure>/<row or value>"
            )
        if experiment.key in table:
            raise ValueError(f"{experiment.key} is defined twice")
        table[experiment.key] = experiment
    for experiment in experiments:
        origin = table.get(experiment.runs_as)
        if origin is None or origin.alias_of is not None:
            raise ValueError(
                f"{experiment.key} is an alias of {experiment.alias_of}, which is no experiment of its own"
            )
    return table


@dataclass(frozen=True)
class Record:
    """What one experiment on one pair with one seed gave. Scores are fractions in 0..1."""

    paper: str
    key: str
    preset: str
    source: str
    target: str
    seed: int
    config: dict[str, Any]
    config_hash: str
    data: dict[str, dict]  # role -> manifest of the dataset
    # name ("last", "last+adabn", ...) -> R-1, R-5, R-10, R-20, mAP, mAP_step
    scores: dict[str, dict[str, float]]
    # other numbers of the run, named with their unit where they have one
    measures: dict[str, float]
    # name -> hash, reused, seconds; of a training also images_per_second, waiting
    stages: dict[str, dict]
    selection: str
    code_version: str
    libraries: dict[str, str]
    hardware: dict[str, Any]
    seconds: float
    curves: list[str]  # curve files, relative to the output folder
    pictures: list[str]  # picture files, relative to the output folder
    created: str
    schema: int = SCHEMA

    @property
    def identity(self) -> tuple:
        """Two records with the same identity are duplicates."""
        return (self.key, self.source, self.target, self.seed, self.config_hash)

    def measure(self, name: str) -> float | None:
        """The measure that a paper's column of this name holds: of that name, or with `_l2` where the paper
        names no norm.
        """
        return self.measures.get(name, self.measures.get(f"{name}_l2"))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)


def newest_configuration(records: Sequence[Record]) -> list[Record]:
    """Of records of one experiment, pair and preset those of the newest configuration."""
    latest = max(((r.created, r.config_hash) for r in records), default=("", ""))[1]
    return [r for r in records if r.config_hash == latest]


def read_record(text: str, origin: str = "record") -> Record:
    """Parses and checks one record. Raises `InputError` that names the field which is wrong."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{origin}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise InputError(f"{origin}: expected one JSON object")
    names = {f.name for f in dataclasses.fields(Record)}
    if set(data) != names:
        raise InputError(
            f"{origin}: missing fields {sorted(names - set(data))}, "
            f"unknown fields {sorted(set(data) - names)}"
        )
    record = Record(**data)
    _check(record, origin)
    return record


def _check(record: Record, origin: str) -> None:
    texts = (
        "paper",
        "key",
        "preset",
        "source",
        "target",
        "config_hash",
        "selection",
        "code_version",
        "created",
    )
    bad = [name for name in texts if not isinstance(getattr(record, name), str) or not getattr(record, name)]
    dicts = ("config", "data", "scores", "measures", "stages", "libraries", "hardware")
    bad += [name for name in dicts if not isinstance(getattr(record, name), dict)]
    bad += [name for name in ("curves", "pictures") if not isinstance(getattr(record, name), list)]
    if (
        not isinstance(record.seed, int)
        or record.schema != SCHEMA
        or not isinstance(record.seconds, (int, float))
    ):
        bad.append("seed, schema or seconds")
    if bad:
        raise InputError(f"{origin}: wrong type in {', '.join(bad)} (schema {SCHEMA})")
    if not KEY.fullmatch(record.key) or not record.key.startswith(f"{record.paper}/"):
        raise InputError(f"{origin}: {record.key!r} is not a key of paper {record.paper!r}")
    if not record.scores:
        raise InputError(f"{origin}: no scores")
    for name, score in record.scores.items():
        _check_score(score, f"{origin}: score {name!r}")
    for name, value in record.measures.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(f"{origin}: measure {name!r} is {value!r}, expected a finite number")


def _check_score(score: Mapping[str, float], origin: str) -> None:
    if set(score) != set(METRICS):
        raise InputError(f"{origin}: expected {', '.join(METRICS)}, found {', '.join(sorted(score))}")
    values = [score[name] for name in METRICS]
    if not all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in values):
        raise InputError(f"{origin}: expected fractions in 0..1, found {values}")
    ranks = [score[name] for name in RANKS]
    if ranks != sorted(ranks):
        raise InputError(f"{origin}: the CMC curve falls: {ranks}")
