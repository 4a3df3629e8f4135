"""Finds a dataset below `--data-root`, lists its images in sorted order, parses ids and cameras."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common.datasets.base import JUNK, Official, ReIDDataset, Sample
from common.errors import InputError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# pictures, as their names say, in formats that are not read: never left out without a finding
OTHER_IMAGES = (
    *(".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".svg", ".psd", ".tga", ".exr", ".hdr", ".ico"),
    *(".raw", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".npy"),
)
SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db", "$recycle.bin")
SYSTEM = "hidden or of the system"  # kinds of what is passed over, beside the endings of files
FOLDERS = "folders"
MARKET_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
TEST_FOLDERS = MARKET_FOLDERS[1:]  # of a copy without training images, which evaluate.py takes

_MAX_DEPTH = 3  # DIR/prid2011/prid_2011/single_shot

Parse = Callable[[str], "tuple[int, int] | None"]


def name_rule(pattern: str) -> Parse:
    """Returns a parser of file names: (pid, camera from 0), or None if the name does not match.

    The two groups of `pattern` are the pid and the camera counted from 1.
    """
    compiled = re.compile(pattern)

    def parse(name: str) -> tuple[int, int] | None:
        match = compiled.match(name)
        return (int(match[1]), int(match[2]) - 1) if match else None

    return parse


# ignores everything after the camera: Market-1501, DukeMTMC-reID, CUHK03-NP and datasets derived from them
market_name = name_rule(r"(-?\d+)_c(\d+)")


def find_root(dataset: str, root: str | Path | None, names: Sequence[str], *layouts: Sequence[str]) -> Path:
    """Finds the folder with all parts of one of `layouts`: `root`, or a subfolder called like one of `names`.

    Names are compared without case and punctuation, so `market1501` also matches `Market-1501`. Raises
    `InputError` that states what was expected and what was found.
    """
    if root is None:
        raise InputError(
            f"{dataset}: no folder given: pass --data-root DIR, the folder that holds {names[0]} "
            "(nothing is downloaded)"
        )
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InputError(
            f"{root}: expected a folder with {dataset}, found {'a file' if root.exists() else 'nothing'}"
        )
    candidates = list(_candidates(root, {_plain(name) for name in names}))
    for layout in layouts:
        for folder in candidates:
            if has(folder, layout):
                return folder
    raise InputError(_not_found(dataset, candidates, names, layouts))


def has(folder: Path, layout: Sequence[str]) -> bool:
    """Returns whether the folder contains all parts of a layout."""
    return all((folder / part).exists() for part in layout)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _candidates(folder: Path, names: set[str], depth: int = 0) -> Iterator[Path]:
    yield folder
    if depth < _MAX_DEPTH:
        for below in _listing(folder):
            if _plain(below) in names and (folder / below).is_dir():
                yield from _candidates(folder / below, names, depth + 1)


def _listing(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"{folder}: this folder cannot be listed ({error.strerror})") from None


def _not_found(
    dataset: str, candidates: list[Path], names: Sequence[str], layouts: Sequence[Sequence[str]]
) -> str:
    """Describes the closest candidate: what is missing there, and what it contains."""

    def missing(place: tuple[Sequence[str], Path]) -> list[str]:
        return [part for part in place[0] if not (place[1] / part).exists()]

    places = [(layout, folder) for layout in layouts for folder in candidates]
    layout, best = place = max(places, key=lambda place: len(place[0]) - len(missing(place)))
    listing = shorten(_listing(best), 8) or "an empty folder"
    expected = f"{best}: {dataset} needs {' or '.join(', '.join(layout) for layout in layouts)}"
    if len(missing(place)) < len(layout):
        return f"{expected}; missing {', '.join(missing(place))}; found {listing}"
    return f"{expected}, here or in a folder called {', '.join(names)}; found {listing}"


def is_system(name: str) -> bool:
    """Returns whether a file or folder belongs to the system (hidden, Thumbs.db, __MACOSX), not to the
    dataset.
    """
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def list_images(folder: Path, skipped: Counter[str] | None = None) -> list[str]:
    """Lists the sorted image names of a folder; counts in `skipped`, by kind, the other files (Thumbs.db,
    lists, macOS `._` files).

    Raises `InputError` for a name that is not UTF-8: records and feature files could not hold it.
    """
    names = []
    for name in _listing(folder):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in IMAGE_SUFFIXES and not is_system(name):
            names.append(name)
        elif skipped is not None:
            skipped[_kind(folder, name, suffix)] += 1
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{folder}: expected file names in UTF-8, found {name!a}: rename it") from None
    return names


def _kind(folder: Path, name: str, suffix: str) -> str:
    if is_system(name):
        return SYSTEM
    return FOLDERS if (folder / name).is_dir() else suffix or "without an ending"


def list_folders(folder: Path) -> list[str]:
    """Lists the sorted folders in a folder, without those of the system."""
    return [name for name in _listing(folder) if not is_system(name) and (folder / name).is_dir()]


def unread_images(folder: Path, skipped: Counter[str]) -> list[str]:
    """Returns a problem if `skipped` counts pictures in formats that are not read."""
    unread = {suffix: count for suffix, count in sorted(skipped.items()) if suffix in OTHER_IMAGES}
    if not unread:
        return []
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in unread.items())
    return [
        f"{folder}: {sum(unread.values())} images in formats that are not read and left out: {kinds}; "
        "convert them to .png or .jpg"
    ]


def read_folder(
    folder: Path, parse: Parse, problems: list[str], skipped: Counter[str] | None = None
) -> list[Sample]:
    """Returns the samples of a folder in sorted order; names that `parse` rejects go to `problems`."""
    samples: list[Sample] = []
    unknown: list[str] = []
    skipped = Counter() if skipped is None else skipped
    here: Counter[str] = Counter()
    for name in list_images(folder, here):
        parsed = parse(name)
        if parsed is None:
            unknown.append(name)
        else:
            samples.append(Sample(folder / name, *parsed))
    if unknown:
        names = f"image name{'s' * (len(unknown) > 1)}"
        problems.append(f"{folder}: {len(unknown)} {names} not understood and left out: {shorten(unknown)}")
    problems += unread_images(folder, here)
    skipped.update(here)
    return samples


def keep_existing(samples: list[Sample], source: Path, problems: list[str]) -> list[Sample]:
    """Sorts the samples that `source` lists; those that are not on disk are dropped and go to `problems`."""
    folders = {s.path.parent for s in samples}
    present = {folder / name for folder in folders if folder.is_dir() for name in _listing(folder)}
    missing = [s.path.name for s in samples if s.path not in present]
    if missing:
        problems.append(
            f"{source}: {len(missing)} listed images are not on disk and left out: {shorten(missing)}"
        )
    return sorted((s for s in samples if s.path in present), key=lambda s: s.path.as_posix())


def read_market_layout(
    name: str, root: Path, num_cameras: int, official: Official | None = None, parse: Parse = market_name
) -> ReIDDataset:
    """Reads `bounding_box_train`, `query` and `bounding_box_test`; junk is left out of training."""
    problems: list[str] = []
    skipped: Counter[str] = Counter()
    train, query, gallery = (
        read_folder(root / folder, parse, problems, skipped) if (root / folder).is_dir() else []
        for folder in MARKET_FOLDERS
    )
    junk = sum(s.pid == JUNK for s in train)
    if junk:
        problems.append(f"{root / MARKET_FOLDERS[0]}: {junk} junk images (pid -1) left out of training")
        train = [s for s in train if s.pid != JUNK]
    return ReIDDataset(
        name, root, train, query, gallery, num_cameras, official, tuple(problems), skipped=skipped
    )


def refuse_equal_names(samples: Sequence[Sample]) -> None:
    """Raises `InputError` if two images share a name: one translation would overwrite the other."""
    name, count = Counter(sample.stem for sample in samples).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{samples[0].path.parent.parent}: {count} training images are called {name}: "
            "translations are named after their image, so each image needs a unique name"
        )


def shorten(names: Sequence[str], limit: int = 3) -> str:
    """Joins names as `a, b, c and 12 more`."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
