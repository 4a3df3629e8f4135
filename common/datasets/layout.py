"""Folders and file names: where a dataset lies below `--data-root`, its images in sorted order, ids and
cameras from their names.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common.datasets.base import JUNK, Official, ReIDDataset, Sample
from common.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
MARKET_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")

_MAX_DEPTH = 3  # DIR/prid2011/prid_2011/single_shot

Parse = Callable[[str], "tuple[int, int] | None"]


def name_rule(pattern: str) -> Parse:
    """A reader of file names: pid and camera (from 1) are the pattern's two groups; gives (pid, camera from
    0), or None for other names.
    """
    compiled = re.compile(pattern)

    def parse(name: str) -> tuple[int, int] | None:
        match = compiled.match(name)
        return (int(match[1]), int(match[2]) - 1) if match else None

    return parse


# whatever follows the camera: Market-1501, DukeMTMC-reID, CUHK03-NP and what is derived from them
market_name = name_rule(r"(-?\d+)_c(\d+)")


def find_root(dataset: str, root: str | Path | None, names: Sequence[str], *layouts: Sequence[str]) -> Path:
    """The folder that holds all parts (files or folders) of one of `layouts`: `root` itself, or one below it
    called like one of `names`.

    Names are compared without case and punctuation, so `market1501` also finds `Market-1501`. Raises
    `InputError` with what was looked for and what was found.
    """
    if root is None:
        raise InputError(
            f"{dataset}: no folder given: pass --data-root DIR, the folder that holds {names[0]} (nothing is downloaded)"
        )
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InputError(
            f"{root}: expected a folder with {dataset}, found {'a file' if root.exists() else 'nothing'}"
        )
    looked = list(_candidates(root, {_plain(name) for name in names}))
    for layout in layouts:
        for folder in looked:
            if has(folder, layout):
                return folder
    raise InputError(_not_found(dataset, looked, names, layouts))


def has(folder: Path, layout: Sequence[str]) -> bool:
    """Whether all parts of a layout are in the folder."""
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
    dataset: str, looked: list[Path], names: Sequence[str], layouts: Sequence[Sequence[str]]
) -> str:
    found_parts = {
        (folder, layout): [part for part in layout if (folder / part).exists()]
        for layout in layouts
        for folder in looked
    }
    best, layout = max(found_parts, key=lambda place: len(found_parts[place]))
    listing = shorten(_listing(best), 8) or "an empty folder"
    wanted = f"{best}: {dataset} needs {' or '.join(', '.join(layout) for layout in layouts)}"
    if found_parts[best, layout]:
        return f"{wanted}; missing {', '.join(part for part in layout if part not in found_parts[best, layout])}; found {listing}"
    return f"{wanted}, here or in a folder called {', '.join(names)}; found {listing}"


def list_images(folder: Path) -> list[str]:
    """Names of the images in a folder, sorted; other files (Thumbs.db, lists, macOS `._` files) are passed
    over.
    """
    return [
        name
        for name in _listing(folder)
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    ]


def read_folder(folder: Path, parse: Parse, problems: list[str]) -> list[Sample]:
    """The samples of one folder in sorted order; image files whose names `parse` does not understand are left
    out and named in `problems`.
    """
    samples, unknown = [], []
    for name in list_images(folder):
        parsed = parse(name)
        if parsed is None:
            unknown.append(name)
        else:
            samples.append(Sample(folder / name, *parsed))
    if unknown:
        problems.append(
            f"{folder}: {len(unknown)} image name{'s' * (len(unknown) > 1)} not understood and left out: {shorten(unknown)}"
        )
    return samples


def keep_existing(samples: list[Sample], source: Path, problems: list[str]) -> list[Sample]:
    """In sorted order, without the samples that `source` lists but that are not on disk; these are named in
    `problems`.
    """
    present = {
        folder: set(_listing(folder)) if folder.is_dir() else set()
        for folder in {s.path.parent for s in samples}
    }
    missing = [s.path.name for s in samples if s.path.name not in present[s.path.parent]]
    if missing:
        problems.append(
            f"{source}: {len(missing)} listed images are not on disk and left out: {shorten(missing)}"
        )
    return sorted(
        (s for s in samples if s.path.name in present[s.path.parent]), key=lambda s: s.path.as_posix()
    )


def read_market_layout(
    name: str, root: Path, num_cameras: int, official: Official | None = None, parse: Parse = market_name
) -> ReIDDataset:
    """A dataset in Market-1501's layout: `bounding_box_train`, `query`, `bounding_box_test`. Junk does not
    train.
    """
    problems: list[str] = []
    train, query, gallery = (read_folder(root / folder, parse, problems) for folder in MARKET_FOLDERS)
    junk = sum(s.pid == JUNK for s in train)
    if junk:
        problems.append(f"{root / MARKET_FOLDERS[0]}: {junk} junk images (pid -1) left out of training")
        train = [s for s in train if s.pid != JUNK]
    return ReIDDataset(name, root, train, query, gallery, num_cameras, official, tuple(problems))


def refuse_equal_names(samples: Sequence[Sample]) -> None:
    """`InputError` if two images have one name up to the suffix, as PRID2011's in its two folders: one
    translation would replace the other.
    """
    name, count = Counter(sample.path.stem for sample in samples).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{samples[0].path.parent.parent}: {count} training images are called {name}: "
            "translations are named after their image, so each needs a name of its own"
        )


def shorten(names: Sequence[str], limit: int = 3) -> str:
    """`a, b, c and 12 more`."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
