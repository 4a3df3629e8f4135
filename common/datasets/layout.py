"""Folders and file names: where a dataset lies below `--data-root`, its images in sorted order, ids and cameras from their names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common.datasets.base import JUNK, Official, ReIDDataset, Sample
from common.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
MARKET_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")

_MARKET_NAME = re.compile(r"(-?\d+)_c(\d+)")
_MAX_DEPTH = 3   # DIR/market1501/Market-1501-v15.09.15


def market_name(name: str) -> tuple[int, int] | None:
    """`0002_c1s1_000451_03.jpg`, `-1_c3s2_...`, `0005_c2_f0046985.jpg`, `0001_c1_1.png` -> (pid, camera from 0), None for other names."""
    match = _MARKET_NAME.match(name)
    return (int(match[1]), int(match[2]) - 1) if match else None


def find_root(dataset: str, root: str | Path | None, names: Sequence[str], parts: Sequence[str]) -> Path:
    """The folder that holds `parts` (files or folders): `root` itself, or a folder below it that is called like one of `names`.

    Names are compared without case and punctuation, so `market1501` also finds `Market-1501`. Raises `InputError` with what was
    looked for and what was found.
    """
    if root is None:
        raise InputError(f"{dataset}: no folder given: pass --data-root DIR, the folder that holds {names[0]} (nothing is downloaded)")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder with {dataset}, found {'a file' if root.exists() else 'nothing'}")
    looked = list(_candidates(root, {_plain(name) for name in names}))
    for folder in looked:
        if all((folder / part).exists() for part in parts):
            return folder
    raise InputError(_not_found(dataset, looked, names, parts))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _candidates(folder: Path, names: set[str], depth: int = 0) -> Iterator[Path]:
    yield folder
    if depth < _MAX_DEPTH:
        for below in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()):
            if _plain(below) in names:
                yield from _candidates(folder / below, names, depth + 1)


def _not_found(dataset: str, looked: list[Path], names: Sequence[str], parts: Sequence[str]) -> str:
    best = max(looked, key=lambda folder: (sum((folder / part).exists() for part in parts), len(folder.parts)))
    missing = [part for part in parts if not (best / part).exists()]
    found = sorted(entry.name for entry in os.scandir(best))
    listing = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "") if found else "an empty folder"
    wanted = f"{dataset} needs {', '.join(parts)}"
    if len(missing) < len(parts):
        return f"{best}: {wanted}; missing {', '.join(missing)}; found {listing}"
    return f"{best}: {wanted}, here or in a folder called {', '.join(names)}; found {listing}"


def list_images(folder: Path) -> list[str]:
    """Names of the images in a folder, sorted; other files (Thumbs.db, lists, macOS `._` files) are passed over."""
    return sorted(e.name for e in os.scandir(folder) if e.name.lower().endswith(IMAGE_SUFFIXES) and not e.name.startswith("."))


def read_folder(folder: Path, parse: Callable[[str], tuple[int, int] | None], problems: list[str]) -> list[Sample]:
    """The samples of one folder in sorted order; image files whose names `parse` does not understand are left out and named in `problems`."""
    samples, unknown = [], []
    for name in list_images(folder):
        parsed = parse(name)
        if parsed is None:
            unknown.append(name)
        else:
            samples.append(Sample(folder / name, *parsed))
    if unknown:
        problems.append(f"{folder}: {len(unknown)} image name{'s' * (len(unknown) > 1)} not understood and left out: {shorten(unknown)}")
    return samples


def read_market_layout(name: str, root: Path, num_cameras: int, official: Official | None) -> ReIDDataset:
    """A dataset in Market-1501's layout: `bounding_box_train`, `query`, `bounding_box_test`. Junk does not train."""
    problems: list[str] = []
    train, query, gallery = (read_folder(root / folder, market_name, problems) for folder in MARKET_FOLDERS)
    junk = sum(s.pid == JUNK for s in train)
    if junk:
        problems.append(f"{root / MARKET_FOLDERS[0]}: {junk} junk images (pid -1) left out of training")
        train = [s for s in train if s.pid != JUNK]
    return ReIDDataset(name, root, train, query, gallery, num_cameras, official, tuple(problems))


def shorten(names: Sequence[str], limit: int = 3) -> str:
    """`a, b, c and 12 more`."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
