"""Adds finished runs to `reports/results/<paper>.jsonl`, and their pictures to `reports/pictures/`."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from PIL import Image

from common.content import read_bytes, read_text
from common.datasets.synthetic import DOMAINS
from common.errors import InputError
from common.files import atomic_file, locked
from common.job import MAX_PICTURE
from common.records import Record, check_clock, read_record, read_record_file
from reports.claims import read_claims
from reports.experiments import REPORTS, experiments

LARGEST_RESULTS = 1 << 30  # bytes of results/<paper>.jsonl
MOST_PIXELS = 50_000_000  # of a picture


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
    lines = read_text(path, LARGEST_RESULTS, links=True).splitlines()
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
        place = (record.source, record.target, record.preset, record.data_seed)
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
    key, pair, seed, preset and numerics replaces those with another config hash or other numbers, and older
    records of its pair and preset that were made on other data are dropped. Raises `InputError`, and changes
    nothing, if a record or one of its pictures is unusable or from the future, has a key that its paper does
    not list, was made on other data than the collected ones, or is already there with other numbers (with
    `replace`: other numbers of a later time).
    """
    found = [(record, path) for path in _record_files(folders) for record in [read_record_file(path)]]
    for record, path in found:
        if record.key not in experiments(record.paper):
            raise InputError(f"{path}: {record.key} is not in {record.paper}'s --list-experiments")
        check_clock(record, str(path))
    with _alone(reports / "results"):
        results = {paper: read_results(paper, reports) for paper in {record.paper for record, _ in found}}
        new, lines = _merge(found, results, replace)
        origins = {id(record): str(path) for record, path in new}
        for paper, records in results.items():
            check_together(records, [origins.get(id(record), f"{paper}.jsonl") for record in records])
        files = {
            reports / "results" / f"{paper}.jsonl": _lines(results[paper])
            for paper in {record.paper for record, _ in new}
        }
        for record, path in new:
            files |= _pictures(record, path, reports)
        _write_all(files)
    return lines


def _merge(
    found: Sequence[tuple[Record, Path]], results: Mapping[str, list[Record]], replace: bool
) -> tuple[list[tuple[Record, Path]], list[str]]:
    """Merges records into `results`; returns the new ones, and a line for each record."""
    new: list[tuple[Record, Path]] = []
    lines: list[str] = []
    for record, path in found:
        known = results[record.paper]
        rivals = _rivals(record, known, path, replace)
        later = [rival for rival in rivals if rival.created > record.created]
        if record in rivals:
            lines.append(f"known: {_name(record)}")
        elif later:
            collected = [rival for rival in later if all(rival is not other for other, _ in new)]
            lines.append(_not_replaced(record, path, later, collected))
        else:
            for rival in rivals:
                known.remove(rival)
                lines.append(f"dropped: {_name(rival)}, config {rival.config_hash} of {rival.created}")
            known.append(record)
            new.append((record, path))
            lines.append(f"added: {_name(record)}")
    return new, lines


def _not_replaced(record: Record, path: Path, later: Sequence[Record], collected: Sequence[Record]) -> str:
    """Returns the line for a record that is older than its rivals.

    Raises `InputError` if a collected one is of the same run: only the clocks say which numbers are right.
    """
    for rival in collected:
        if rival.identity == record.identity:
            raise InputError(
                f"{path}: {_name(record)} of {record.created} has other numbers than the collected record of "
                f"{rival.created}: is a clock wrong? Remove one of the two, or run it again"
            )
    newest = max(rival.created for rival in later)
    return f"older: {_name(record)} of {record.created}; the one of {newest} stays"


def _lines(records: Sequence[Record]) -> bytes:
    return "".join(record.to_json() + "\n" for record in records).encode()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets one process at a time change the files of a folder, where the file system has locks.

    The lock is outside the folder, whose files are committed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
    with ExitStack() as held:
        with suppress(OSError, InputError):
            held.enter_context(locked(Path(tempfile.gettempdir()) / f"reid-{name}.lock", "records"))
        yield


def _write_all(files: Mapping[Path, bytes]) -> None:
    """Writes all files or none: each is renamed, the first one last, after all are on the disk."""
    with ExitStack() as stack:
        for path, content in files.items():
            file = stack.enter_context(atomic_file(path))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


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
    places = [(r.source, r.target, r.preset, r.data_seed) for r in (old, new)]
    after = _drawn(new)
    changed = any(manifest != after.get(role, manifest) for role, manifest in _drawn(old).items())
    return places[0] == places[1] and changed and old.created < new.created


def _cell(record: Record) -> tuple:
    numerics = record.setting[1]
    return (record.key, record.source, record.target, record.seed, record.data_seed, record.preset, numerics)


def _name(record: Record) -> str:
    drawing = f", data seed {record.data_seed}" if record.data_seed else ""
    return f"{record.key} {record.source} -> {record.target} seed {record.seed}{drawing}"


def _record_files(folders: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for folder in folders:
        below = sorted(_records_below(folder)) if folder.is_dir() else []
        if not below:
            raise InputError(f"{folder}: no record.json below it; give the --out folder of a finished run")
        files += below
    return files


def _records_below(folder: Path) -> Iterator[Path]:
    """Yields every `record.json`, links and pipes included, without looking into stages."""
    for place, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if name != "stages"]
        if "record.json" in names:
            yield Path(place) / "record.json"


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename}: {error.strerror}")


def _pictures(record: Record, path: Path, reports: Path) -> dict[Path, bytes]:
    """Reads the pictures of the headline claims' runs with seed 0, and only those of synthetic people; each
    preset has a folder of its own.

    Returns their content by destination. Raises `InputError` for a missing or unusable picture.
    """
    shown = {(claim.left, claim.measured_on) for claim in read_claims()}
    claimed = (record.key, f"{record.source}->{record.target}") in shown
    if record.seed != 0 or not claimed or not {record.source, record.target} <= set(DOMAINS):
        return {}
    preset = "" if record.preset == "demo" else f"+{record.preset}"
    place = f"{record.source}+{record.target}{preset}"
    target = reports / "pictures" / record.key.replace("/", "+") / place
    names = [Path(picture).name for picture in record.pictures]
    return {target / name: read_picture(path.parent / name)[0] for name in names}


def read_picture(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Returns content, width and height of a PNG file. Raises `InputError` for anything else."""
    content = read_bytes(path, MAX_PICTURE)
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            size = image.size
            image.verify()
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise InputError(f"{path}: expected a PNG picture ({type(error).__name__})") from None
    if size[0] * size[1] > MOST_PIXELS or path.suffix != ".png":
        raise InputError(f"{path}: expected a PNG picture *.png of at most {MOST_PIXELS:,} pixels")
    return content, size
