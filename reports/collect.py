"""Takes finished runs into `reports/results/<paper>.jsonl`, and the pictures that a page shows into `reports/pictures/`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from common.datasets.synthetic import DOMAINS
from common.errors import InputError
from common.files import write_atomic
from common.records import Record, read_record
from reports.claims import read_claims
from reports.experiments import REPORTS, experiments


def read_results(paper: str, reports: Path = REPORTS) -> list[Record]:
    """The collected records of a paper, checked."""
    path = reports / "results" / f"{paper}.jsonl"
    if not path.is_file():
        return []
    return [read_record(line, f"{path.name}, line {number}") for number, line in enumerate(path.read_text().splitlines(), start=1)]


def collect(folders: Sequence[Path], reports: Path = REPORTS) -> list[str]:
    """Appends every `record.json` below the folders; returns a line a record.

    Raises `InputError`, and changes nothing, if a record is malformed, has a key that its paper does not list, or is already there with
    other scores. One that is there with the same scores is left out.
    """
    new: dict[str, list[Record]] = {}
    lines: list[str] = []
    origin: dict[tuple, Path] = {}
    for path in _record_files(folders):
        record = read_record(path.read_text(), str(path))
        if record.key not in experiments(record.paper):
            raise InputError(f"{path}: {record.key} is not in {record.paper}'s --list-experiments")
        known = {r.identity: r for r in [*read_results(record.paper, reports), *new.get(record.paper, [])]}
        same = known.get(record.identity)
        if same is not None and same.scores != record.scores:
            raise InputError(f"{path}: a record of {record.key}, {record.source} -> {record.target}, seed {record.seed} is there with other scores: "
                             "remove one of the two")
        lines.append(f"{'known' if same else 'added'}: {record.key} {record.source} -> {record.target} seed {record.seed}")
        if same is None:
            new.setdefault(record.paper, []).append(record)
            origin[record.identity] = path
    for paper, records in new.items():
        _append(reports / "results" / f"{paper}.jsonl", records)
        for record in records:
            _copy_pictures(record, origin[record.identity], reports)
    return lines


def _record_files(folders: Sequence[Path]) -> list[Path]:
    found = []
    for folder in folders:
        files = sorted(path for path in Path(folder).rglob("record.json") if "stages" not in path.parts)
        if not files:
            raise InputError(f"{folder}: no record.json below it; give the --out folder of a finished run")
        found += files
    return found


def _append(path: Path, records: Sequence[Record]) -> None:
    before = path.read_text() if path.is_file() else ""
    write_atomic(path, before + "".join(record.to_json() + "\n" for record in records))


def _copy_pictures(record: Record, path: Path, reports: Path) -> None:
    """Pictures of what the claims are about, seed 0, and only of people that a program has drawn."""
    shown = {(claim.left, claim.measured_on) for claim in read_claims()}
    if record.seed != 0 or not {record.source, record.target} <= set(DOMAINS) or (record.key, f"{record.source}->{record.target}") not in shown:
        return
    target = reports / "pictures" / record.key.replace("/", "+") / f"{record.source}+{record.target}"
    for picture in record.pictures:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.parent / Path(picture).name, target / Path(picture).name)
