"""Adds finished runs to `reports/results/<paper>.jsonl`, and their pictures to `reports/pictures/`."""

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
    """Returns the collected records of a paper.

    Raises `InputError` with file and line for a record that is malformed, a duplicate, or of other data.
    """
    path = reports / "results" / f"{paper}.jsonl"
    if not path.is_file():
        return []
    state = path.stat()
    return list(_read(path, state.st_mtime_ns, state.st_size))


@lru_cache
def _read(path: Path, changed: int, size: int) -> tuple[Record, ...]:
    """Reads the records of a file; time and size of its last change make a changed file be read again."""
    lines = path.read_text().splitlines()
    origins = [f"{path.name}, line {number}" for number, _ in enumerate(lines, start=1)]
    records = [read_record(line, origin) for line, origin in zip(lines, origins)]
    check_together(records, origins)
    return tuple(records)


def check_together(records: Sequence[Record], origins: Sequence[str]) -> None:
    """Raises `InputError` for two records of one run, and for two of one synthetic pair whose data differ."""
    seen: dict[tuple, str] = {}
    manifests: dict[tuple, tuple[str, str]] = {}
    for record, origin in zip(records, origins):
        first = seen.setdefault(record.identity, origin)
        if first != origin:
            raise InputError(
                f"{origin}: {_name(record)} with config {record.config_hash} is there already, {first}: "
                "remove one of the two"
            )
        place = (record.source, record.target, record.preset)
        for (role, name), manifest in _drawn(record).items():
            known, first = manifests.setdefault((*place, role, name), (manifest, origin))
            if manifest != known:
                raise InputError(
                    f"{origin}: its {role} {name} has the manifest {manifest}, that of {first} is {known}: "
                    "run it again on the present data, or collect with --replace"
                )


def _drawn(record: Record) -> dict[tuple[str, str], str]:
    """Maps role and name of the record's synthetic datasets to the hash of their manifests."""
    return {
        (role, manifest["name"]): manifest.get("hash", "")
        for role, manifest in record.data.items()
        if manifest.get("name") in DOMAINS
    }


def collect(folders: Sequence[Path], reports: Path = REPORTS, *, replace: bool = False) -> list[str]:
    """Adds every `record.json` below the folders; returns a line for each that was added, known or dropped.

    A record that is already there with the same numbers is omitted. With `replace`, the newest record of a
    key, pair, seed and preset replaces those with another config hash or other numbers, and older records of
    its pair and preset that were made on other data are dropped. Raises `InputError`, and changes nothing, if
    a record is malformed, has a key that its paper does not list, was made on other data than the collected
    ones, or (without `replace`) is already there with other numbers.
    """
    results: dict[str, list[Record]] = {}
    new: list[tuple[Record, Path]] = []
    lines: list[str] = []
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
    origins = {id(record): str(path) for record, path in new}
    for paper, records in results.items():
        check_together(records, [origins.get(id(record), f"{paper}.jsonl") for record in records])
    for paper in {record.paper for record, _ in new}:
        text = "".join(record.to_json() + "\n" for record in results[paper])
        write_atomic(reports / "results" / f"{paper}.jsonl", text)
    for record, path in new:
        _copy_pictures(record, path, reports)
    return lines


def _rivals(record: Record, known: Sequence[Record], path: Path, replace: bool) -> list[Record]:
    """Returns the records that a new one replaces; the new one itself if it is known with these numbers."""
    same = [r for r in known if r.identity == record.identity]
    if any((r.scores, r.measures) == (record.scores, record.measures) for r in same):
        return [record]
    if same and not replace:
        raise InputError(
            f"{path}: a record of {_name(record)} is there with other numbers: "
            "remove one of the two, or give --replace"
        )
    if not replace:
        return []
    return [r for r in known if _cell(r) == _cell(record) or _older_on_other_data(r, record)]


def _older_on_other_data(old: Record, new: Record) -> bool:
    same = (old.source, old.target, old.preset) == (new.source, new.target, new.preset)
    after = _drawn(new)
    changed = any(manifest != after.get(role, manifest) for role, manifest in _drawn(old).items())
    return same and changed and old.created < new.created


def _cell(record: Record) -> tuple:
    return (record.key, record.source, record.target, record.seed, record.preset)


def _name(record: Record) -> str:
    return f"{record.key} {record.source} -> {record.target} seed {record.seed}"


def _record_files(folders: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for folder in folders:
        below = sorted(path for path in Path(folder).rglob("record.json") if "stages" not in path.parts)
        if not below:
            raise InputError(f"{folder}: no record.json below it; give the --out folder of a finished run")
        files += below
    return files


def _copy_pictures(record: Record, path: Path, reports: Path) -> None:
    """Copies the pictures of the headline claims' runs with seed 0, and only those of synthetic people."""
    shown = {(claim.left, claim.measured_on) for claim in read_claims()}
    claimed = (record.key, f"{record.source}->{record.target}") in shown
    if record.seed != 0 or not claimed or not {record.source, record.target} <= set(DOMAINS):
        return
    target = reports / "pictures" / record.key.replace("/", "+") / f"{record.source}+{record.target}"
    for picture in record.pictures:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.parent / Path(picture).name, target / Path(picture).name)
