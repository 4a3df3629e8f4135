"""Hashes of the contents of image files; a file that has not changed is not read twice.

The hashes of a dataset are kept in the cache folder, beside the size and the times of each file (which every
write changes). A file that was written less than two seconds ago is read again next time: a later write
within one tick of the clock would leave no trace in its times.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from common.files import regular_file, write_atomic
from common.hashing import digest

SETTLED = 2.0  # seconds since the last write
MANY = 2_000  # files that are worth a progress bar

Stamp = tuple[int, int, int]


def cache_folder() -> Path:
    """Returns `$XDG_CACHE_HOME` (or `~/.cache`) `/crossdomain-reid`."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "crossdomain-reid"


def stamp_of(status: os.stat_result) -> Stamp:
    """Returns what every write to a file changes: its size, and the times of content and status in ns."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def settled(status: os.stat_result, now: float) -> bool:
    """Returns whether a write after `now` (seconds) must change the stamp of a file."""
    return now - max(status.st_mtime, status.st_ctime) > SETTLED


def contents_of(paths: Sequence[Path], root: Path) -> list[str]:
    """Returns the SHA-256 of each file's content, in order; hashes of unchanged files come from the cache.

    `root`: the dataset's folder, under which the cache keeps them. Raises `InputError` for anything but
    files.
    """
    folder = str(root.absolute())
    known_file = cache_folder() / "contents" / f"{_short(folder)}.json"
    known = _known(known_file)
    new: dict[str, list] = {}
    names = [str(path.absolute()).removeprefix(folder) for path in paths]
    digests = list(_digests(paths, names, known, new))
    if new:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
            write_atomic(known_file, json.dumps({**known, **new}), durable=False)
    return digests


def images_key(paths: Sequence[Path], root: Path) -> str:
    """Returns a short hash of the names and contents of images, for the key of a stage that reads them."""
    return digest([[path.name for path in paths], contents_of(paths, root)])


def _digests(
    paths: Sequence[Path], names: Sequence[str], known: dict[str, list], new: dict[str, list]
) -> Iterator[str]:
    """Yields the digest of each file; those that were read and may be kept go to `new`."""
    bar = tqdm(paths, desc="hashing images", leave=False, disable=None if len(paths) > MANY else True)
    for path, name in zip(bar, names):
        status = regular_file(path, "an image")
        stamp, saved = list(stamp_of(status)), known.get(name)
        if saved is not None and saved[:-1] == stamp:
            yield saved[-1]
            continue
        now, content = time.time(), hashlib.sha256(path.read_bytes()).hexdigest()
        if settled(status, now):
            new[name] = [*stamp, content]
        yield content


def _known(path: Path) -> dict[str, list]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        fits = isinstance(known, dict) and all(isinstance(v, list) and len(v) == 4 for v in known.values())
        return known if fits else {}
    except (OSError, ValueError):
        return {}


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
