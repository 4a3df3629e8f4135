"""Papers, their experiments, and the record of a run: one JSON object."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.checks import LARGEST
from common.content import check_fields_of, check_shape, hints_of, parse_json, read_text, shown
from common.errors import InputError

PAPERS = ("arn", "hhl", "spgan", "ptgan", "dcgan_lsro")
SCHEMA = 1
KEY = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9_.,=+-]+){2,}")
RANKS = ("R-1", "R-5", "R-10", "R-20")
METRICS = (*RANKS, "mAP", "mAP_step")
LARGEST_RECORD = 10_000_000  # bytes of a record.json
# texts of a record that tables show in one line
NUMERICS = {"precision": "fp32", "pack": False, "processes": 1}  # of a plain run
ONE_LINE = (
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


def numerics_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of `values` that set a trained network apart from that of a plain run; see `NUMERICS`."""
    return {name: values[name] for name, plain in NUMERICS.items() if values.get(name, plain) != plain}


def numerics_text(values: Mapping[str, Any]) -> str:
    """Returns `numerics_of` as a part of a file name: `precision=bf16,pack=True`; empty for a plain run."""
    return ",".join(f"{name}={value}" for name, value in numerics_of(values).items())


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
    """Returns key -> experiment. Raises `ValueError` for a malformed or repeated key and for an alias that
    leads nowhere.
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
    data: dict[str, dict[str, Any]]  # role -> manifest of the dataset
    # name ("last", "last+adabn", ...) -> R-1, R-5, R-10, R-20, mAP, mAP_step
    scores: dict[str, dict[str, float]]
    # other numbers of the run, named with their unit where they have one
    measures: dict[str, float]
    # name -> hash, reused, seconds; of a training also images_per_second, waiting
    stages: dict[str, dict[str, str | float | bool]]
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
        return (self.key, self.source, self.target, self.seed, self.data_seed, *self.setting)

    @property
    def setting(self) -> tuple[str, str]:
        """Returns the hash of the configuration, and the numerics as text."""
        return self.config_hash, numerics_text(self.hardware)

    @property
    def data_seed(self) -> int:
        """The drawing of the synthetic domains; 0 for real datasets too."""
        options = self.data.get("target", {}).get("options") or self.data.get("source", {}).get("options")
        return options.get("data_seed", 0) if isinstance(options, dict) else 0

    def measure(self, name: str) -> float | None:
        """Returns the measure of a paper's column: the one of its name, or, where the paper names no norm,
        `<name>_l2`.
        """
        return self.measures.get(name, self.measures.get(f"{name}_l2"))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)


def newest_configuration(records: Sequence[Record]) -> list[Record]:
    """Returns, of records of one experiment, pair and preset, those of the newest configuration, precision,
    and other numerics.
    """
    latest = max(((r.created, r.setting) for r in records), default=("", None))[1]
    return [r for r in records if r.setting == latest]


def read_record(text: str, origin: str = "record") -> Record:
    """Parses and checks one record. Raises `InputError` that names the field which is wrong."""
    data = parse_json(text, origin)
    if not isinstance(data, dict):
        raise InputError(f"{origin}: expected one JSON object")
    hints = hints_of(Record)
    if set(data) != set(hints):
        raise InputError(
            f"{origin}: missing fields {sorted(set(hints) - set(data))}, "
            f"unknown fields {sorted(set(data) - set(hints))}"
        )
    if data["schema"] != SCHEMA:
        raise InputError(f"{origin}: schema: expected {SCHEMA}, found {shown(data['schema'])}")
    check_fields_of(data, Record, origin)
    record = Record(**data)
    _check(record, origin)
    return record


def read_record_file(path: Path) -> Record:
    """Reads a `record.json`. Raises `InputError` as `read_record` does, and for anything but a small file."""
    return read_record(read_text(path, LARGEST_RECORD), str(path))


def check_clock(record: Record, origin: str) -> None:
    """Raises `InputError` for a record from the future: later ones could never replace it."""
    tomorrow = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    if record.created > tomorrow.isoformat(timespec="seconds"):
        raise InputError(f"{origin}: created {record.created}, later than now: is a clock wrong?")


def _check(record: Record, origin: str) -> None:
    """Raises `InputError` for a record whose types are right and whose values are not."""
    for name in ONE_LINE:
        text = getattr(record, name)
        if not text or not text.isprintable() or len(text) > 1000:
            raise InputError(f"{origin}: {name}: expected one line of text, found {shown(text)}")
    if not KEY.fullmatch(record.key) or not record.key.startswith(f"{record.paper}/"):
        raise InputError(f"{origin}: {record.key!r} is not a key of paper {record.paper!r}")
    if not 0 <= record.seed <= LARGEST or record.seconds < 0:
        raise InputError(f"{origin}: seed {record.seed}, seconds {record.seconds}: expected 0 or more")
    if not _is_utc(record.created):
        raise InputError(f"{origin}: created: expected a date or time in UTC, found {shown(record.created)}")
    for path in (*record.curves, *record.pictures):
        if not _is_inside(path):
            raise InputError(f"{origin}: {shown(path)}: expected a path below the output folder")
    if not record.scores:
        raise InputError(f"{origin}: no scores")
    for name, score in record.scores.items():
        _check_score(score, f"{origin}: score {name!r}")
    for role, manifest in record.data.items():
        names = {name: manifest[name] for name in ("name", "hash") if name in manifest}
        check_shape(names, dict[str, str], f"{origin}: data of {role}")


def _is_utc(text: str) -> bool:
    """Returns whether a text is a date or time in UTC, as `isoformat` writes it: such texts sort by time."""
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return bool(re.fullmatch(r"[0-9-]{10}(T[0-9:]{8}\+00:00)?", text))


def _is_inside(path: str) -> bool:
    """Returns whether a path stays below the folder that it is relative to."""
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and not {"", ".", ".."} & set(parts)


def _check_score(score: Mapping[str, float], origin: str) -> None:
    if set(score) != set(METRICS):
        raise InputError(f"{origin}: expected {', '.join(METRICS)}, found {', '.join(sorted(score))}")
    values = [score[name] for name in METRICS]
    if not all(0 <= v <= 1 for v in values):
        raise InputError(f"{origin}: expected fractions in 0..1, found {values}")
    ranks = [score[name] for name in RANKS]
    if ranks != sorted(ranks):
        raise InputError(f"{origin}: the CMC curve falls: {ranks}")
