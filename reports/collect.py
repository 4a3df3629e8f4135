"""Takes finished runs into `reports/results/<paper>.jsonl`, and the pictures that a page shows into
`reports/pictures/`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from common.datasets.synthetic import DOMAINS
from common.errors import InputError
from common.files import write_atomic
from common.records import Record, read_record
from reports.claims import read_claims
from reports.experiments import REPORTS, experiments


def read_results(paper: str, reports: Path = REPORTS) -> list[Record]:
    """The collected records of a paper. Raises `InputError` with file and line for one that is malformed, a
    duplicate, or of other data.
    """
    path = reports / "results" / f"{paper}.jsonl"
    if not path.is_file():
        return []
    state = path.stat()
    return list(_read(path, state.st_mtime_ns, state.st_size))


@lru_cache
def _read(path: Path, changed: int, size: int) -> tuple[Record, ...]:
    """The records of a file, read again when it has changed."""
    origins = [
        f"{path.name}, line {number}" for number, _ in enumerate(path.read_text().splitlines(), start=1)
    ]
    records = [read_record(line, origin) for line, origin in zip(path.read_text().splitlines(), origins)]
    check_together(records, origins)
    return tuple(records)


def check_together(records: Sequence[Record], origins: Sequence[str]) -> None:
    """Raises `InputError` for two records of one run, and for two of one pair that a program drew whose data
    differ.
    """
    seen: dict[tuple, str] = {}
    manifests: dict[tuple, tuple[str, str]] = {}
    for record, origin in zip(records, origins):
        first = seen.setdefault(record.identity, origin)
        if first != origin:
            raise InputError(
                f"{origin}: {_name(record)} with config {record.config_hash} is there already, {first}: remove one of the two"
            )
        for role, name, mark in _drawn(record):
            known, first = manifests.setdefault(
                (record.source, record.target, record.preset, role, name), (mark, origin)
            )
            if mark != known:
                raise InputError(
                    f"{origin}: its {role} {name} has the manifest {mark}, that of {first} is {known}: "
                    "run it again on the present data, or collect with --replace"
                )


def _drawn(record: Record) -> list[tuple[str, str, str]]:
    """Role, name and manifest hash of the record's synthetic datasets."""
    return [
        (role, manifest["name"], manifest.get("hash", ""))
        for role, manifest in record.data.items()
        if manifest.get("name") in DOMAINS
    ]


def collect(folders: Sequence[Path], reports: Path = REPORTS, *, replace: bool = False) -> list[str]:
    """Takes every `record.json` below the folders; returns a line for each that was added, known or dropped.

    One that is there with the same numbers is left out. With `replace`, the newest record of a key, pair,
    seed and preset takes the place of those with another config hash or other numbers, and older ones of its
    pair and preset that were made on other data go. Raises `InputError`, and changes nothing, if a record is
    malformed, has a key that its paper does not list, was made on other data than the collected ones, or
    (without `replace`) is already there with other numbers.
    """
    results: dict[str, list[Record]] = {}
    new: list[tuple[Record, Path]] = []
    lines: list[str] = []
    origins: dict[int, str] = {}
    for path in _record_files(folders):
        record = read_record(path.read_text(), str(path))
        if record.key not in experiments(record.paper):
            raise InputError(f"{path}: {record.key} is not in {record.paper}'s --list-experiments")
        known = results.setdefault(record.paper, read_results(record.paper, reports))
        rivals = _rivals(record, known, path, replace)
        if record in rivals or any(rival.created > record.created for rival in rivals):
            lines.append(f"known: {_name(record)}")
            continue
        for rival in rivals:
            known.remove(rival)
            lines.append(f"dropped: {_name(rival)}, config {rival.config_hash} of {rival.created}")
        known.append(record)
        new.append((record, path))
        lines.append(f"added: {_name(record)}")
        origins[id(record)] = str(path)
    for paper, records in results.items():
        check_together(records, [origins.get(id(record), f"{paper}.jsonl") for record in records])
    for paper in {record.paper for record, _ in new}:
        write_atomic(
            reports / "results" / f"{paper}.jsonl",
            "".join(record.to_json() + "\n" for record in results[paper]),
        )
    for record, path in new:
        _copy_pictures(record, path, reports)
    return lines


def _rivals(record: Record, known: Sequence[Record], path: Path, replace: bool) -> list[Record]:
    """The records whose place a new one takes; the record itself stands for one with its numbers."""
    same = [r for r in known if r.identity == record.identity]
    if any((r.scores, r.measures) == (record.scores, record.measures) for r in same):
        return [record]
    if same and not replace:
        raise InputError(
            f"{path}: a record of {_name(record)} is there with other numbers: remove one of the two, or give --replace"
        )
    return (
        [
            r
            for r in known
            if _cell(r) == _cell(record) or (r.created < record.created and _other_data(r, record))
        ]
        if replace
        else []
    )


def _other_data(old: Record, new: Record) -> bool:
    same = (old.source, old.target, old.preset) == (new.source, new.target, new.preset)
    return same and any(
        role == role_ and name == name_ and mark != mark_
        for role, name, mark in _drawn(old)
        for role_, name_, mark_ in _drawn(new)
    )


def _cell(record: Record) -> tuple:
    return (record.key, record.source, record.target, record.seed, record.preset)


def _name(record: Record) -> str:
    return f"{record.key} {record.source} -> {record.target} seed {record.seed}"


def _record_files(folders: Sequence[Path]) -> list[Path]:
    found = []
    for folder in folders:
        files = sorted(path for path in Path(folder).rglob("record.json") if "stages" not in path.parts)
        if not files:
            raise InputError(f"{folder}: no record.json below it; give the --out folder of a finished run")
        found += files
    return found


def _copy_pictures(record: Record, path: Path, reports: Path) -> None:
    """Pictures of what the claims are about, seed 0, and only of people that a program has drawn."""
    shown = {(claim.left, claim.measured_on) for claim in read_claims()}
    if (
        record.seed != 0
        or not {record.source, record.target} <= set(DOMAINS)
        or (record.key, f"{record.source}->{record.target}") not in shown
    ):
        return
    target = reports / "pictures" / record.key.replace("/", "+") / f"{record.source}+{record.target}"
    for picture in record.pictures:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.parent / Path(picture).name, target / Path(picture).name)
