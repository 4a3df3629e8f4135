"""Reads a dataset of your own, given by its folder (`--source DIR`), in one of four layouts:

    images.csv                                         a table: path, person, camera, split, mask
    bounding_box_train/ query/ bounding_box_test/      Market-1501's, names `0002_c1...` (person, camera)
    train/ query/ gallery/                             one folder a person in each
    <person>/                                          one folder a person: training images

A folder of images alone is a training set without labels, unless all names are `0002_c1...`. Parts may be
absent: a source needs training images with people, a test set queries and a gallery.

Within a folder a person, cameras are either its subfolders or the `c1`, `cam1` or `camera1` in all file
names; otherwise there is one camera. Names of people and cameras are any text, mapped to numbers in sorted
order (of numbers, if all are); `python -m common.datasets check DIR --names FILE` writes the mapping down. In
a gallery, `-1` is junk and `0` (no query's name) a distractor.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.datasets.base import DISTRACTOR, JUNK, SPLITS, UNLABELLED, ReIDDataset, Sample
from common.datasets.layout import (
    FOLDERS,
    IMAGE_SUFFIXES,
    MARKET_FOLDERS,
    is_system,
    list_folders,
    list_images,
    market_name,
    shorten,
    unread_images,
)
from common.errors import InputError

TABLE = "images.csv"
# folders of each split, the first that is there; `train_all` is layumi's train and val together
SPLIT_FOLDERS = {"train": ("train_all", "train"), "query": ("query",), "gallery": ("gallery", "test")}
CAMERA_IN_NAME = re.compile(r"(?:^|[_\-. ])c(?:am(?:era)?)?[_\-]?(\d+)", re.IGNORECASE)
ONE_CAMERA = "1"
# files that only other datasets have, and the names under which those are read
KNOWN = {
    "list_train.txt": "msmt17",
    "cuhk-03.mat": "cuhk03",
    "images_detected": "cuhk03",
    "images_labeled": "cuhk03",
    "cam_a": "prid2011",
}


@dataclass(frozen=True)
class Found:
    """One image as its folder or table describes it; `person` None: not known."""

    path: Path
    split: str
    person: str | None
    camera: str
    mask: Path | None = None


def read_own(folder: str | Path) -> ReIDDataset:
    """Reads the dataset in a folder. Raises `InputError` for a folder without a known layout."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(
            f"{root}: expected a folder of images, found {'a file' if root.exists() else 'nothing'}"
        )
    root = root.absolute()
    problems: list[str] = []
    skipped: Counter[str] = Counter()
    found = _read(root, problems, skipped)
    if not found:
        raise InputError(_nothing(root, problems, skipped))
    return build(root, found, problems, skipped)


def own_name(root: Path) -> str:
    """Returns the name of an own dataset: `own-` and the name of its folder, without special characters."""
    text = unicodedata.normalize("NFC", root.resolve().name)
    return "own-" + (re.sub(r"[^\w.-]+", "-", text).strip("-.") or "folder")


def _read(root: Path, problems: list[str], skipped: Counter[str]) -> list[Found]:
    if (root / TABLE).is_file():
        from common.datasets.table import read_table

        listed = read_table(root / TABLE, problems)
        skipped["images that images.csv does not list"] = _unlisted(root, listed)
        return listed
    if any((root / part).is_dir() for part in (MARKET_FOLDERS[0], MARKET_FOLDERS[2])):
        parts = zip(SPLITS, MARKET_FOLDERS)
        return [f for split, part in parts for f in _flat(root / part, split, problems, skipped)]
    folders = {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    if folders["query"] or (folders["train"] and folders["gallery"]):
        return [
            f
            for split, part in folders.items()
            if part is not None
            for f in _people(part, split, problems, skipped) or _flat(part, split, problems, skipped)
        ]
    return _people(root, "train", problems, skipped) or _images(root, problems, skipped)


def _unlisted(root: Path, listed: Sequence[Found]) -> int:
    """Counts the images below a folder that a table mentions neither as images nor as masks."""
    known = {str(path) for one in listed for path in (one.path, one.mask) if path is not None}
    return sum(
        os.path.join(folder, name) not in known
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not is_system(name)
    )


def _flat(folder: Path, split: str, problems: list[str], skipped: Counter[str]) -> list[Found]:
    """Reads a folder of images named as Market-1501's; other names are left out."""
    if not folder.is_dir():
        return []
    names = _names(folder, problems, skipped)
    parsed = [(name, market_name(name)) for name in names]
    unknown = [name for name, place in parsed if place is None]
    if unknown:
        what = f"image name{'s' * (len(unknown) > 1)}"
        problems.append(
            f"{folder}: {len(unknown)} {what} not understood and left out: {shorten(unknown)}; expected "
            f"PERSON_cCAMERA..., or a table {TABLE} in {folder.parent}"
        )
    return [Found(folder / name, split, str(p[0]), str(p[1] + 1)) for name, p in parsed if p is not None]


def _images(folder: Path, problems: list[str], skipped: Counter[str]) -> list[Found]:
    """Reads a folder of images without people, unless all of their names are Market-1501's."""
    names = _names(folder, problems, skipped)
    parsed = [market_name(name) for name in names]
    if names and all(parsed):
        return [Found(folder / n, "train", str(p[0]), str(p[1] + 1)) for n, p in zip(names, parsed) if p]
    cameras = _cameras(names, folder, problems)
    return [Found(folder / name, "train", None, camera) for name, camera in zip(names, cameras)]


def _people(folder: Path, split: str, problems: list[str], skipped: Counter[str]) -> list[Found]:
    """Reads one folder a person, with images or with one folder a camera."""
    rows: list[tuple[Path, str]] = []  # image, person
    by_folder: list[Found] = []
    for person in list_folders(folder):
        names = _names(folder / person, problems, skipped, folders=False)
        rows += [(folder / person / name, person) for name in names]
        for camera in list_folders(folder / person):
            place = folder / person / camera
            by_folder += [Found(place / n, split, person, camera) for n in _names(place, problems, skipped)]
    if not rows and not by_folder:
        return []
    if loose := _names(folder, problems, skipped, folders=False):
        problems.append(
            f"{folder}: {len(loose)} images beside the folders of people left out: {shorten(loose)}"
        )
    if rows and by_folder:
        problems.append(
            f"{folder}: {len(by_folder)} images in folders below those of the people left out, such as "
            f"{by_folder[0].path}: expected images, or one folder a camera, in each person's folder"
        )
    if not rows:
        return by_folder
    cameras = _cameras([path.name for path, _ in rows], folder, problems)
    return [Found(path, split, person, camera) for (path, person), camera in zip(rows, cameras)]


def _names(folder: Path, problems: list[str], skipped: Counter[str], *, folders: bool = True) -> list[str]:
    """Lists the images of a folder and counts what else is there, with `folders` also the folders."""
    here: Counter[str] = Counter()
    names = list_images(folder, here)
    if not folders:
        del here[FOLDERS]
    problems += unread_images(folder, here)
    skipped.update(here)
    return names


def _cameras(names: Sequence[str], folder: Path, problems: list[str]) -> list[str]:
    """Returns the camera in each name; one camera for all if not all names have one."""
    matches = [CAMERA_IN_NAME.search(name) for name in names]
    if all(matches):
        return [str(int(match[1])) for match in matches if match]
    without = [name for name, match in zip(names, matches) if not match]
    if len(without) < len(names):
        problems.append(
            f"{folder}: {len(without)} of {len(names)} image names have no camera (c1, cam1 or camera1), so "
            f"all images count as one camera's: {shorten(without)}; rename them, or write {TABLE}"
        )
    return [ONE_CAMERA] * len(names)


def _nothing(root: Path, problems: Sequence[str], skipped: Counter[str]) -> str:
    known = next((name for part, name in KNOWN.items() if (root / part).exists()), None)
    if known:
        return f"{root}: this is {known}'s layout: pass its name and --data-root {root}"
    held = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()) if count)
    reason = "; ".join(problems) or (f"found {held}" if held else "found none")
    return (
        f"{root}: expected images, in folders of Market-1501's layout, in one folder a person, or listed in "
        f"{TABLE} (path, person, camera, split); {reason}"
    )


# ---------------------------------------------------------------- from names to numbers


def build(root: Path, found: Sequence[Found], problems: Sequence[str], skipped: Counter[str]) -> ReIDDataset:
    """Returns the dataset of the images found, its people and cameras numbered in sorted order."""
    problems = list(problems)
    junk = [f for f in found if f.split == "train" and f.person == str(JUNK)]
    if junk:
        problems.append(f"{root}: {len(junk)} junk images (person -1) left out of training")
        found = [f for f in found if not (f.split == "train" and f.person == str(JUNK))]
    without = [f for f in found if f.split == "train" and f.mask is None]
    if without and any(f.mask for f in found if f.split == "train"):
        raise InputError(
            f"{root / TABLE}: {len(without)} training images without a mask beside others with one, such as "
            f"{without[0].path.name}: name the mask of every training image, or of none"
        )
    distractors = {f.person for f in found if f.split == "gallery" and re.fullmatch("0+", f.person or "")}
    distractors -= {f.person for f in found if f.split == "query"}
    special: dict[str | None, int] = {None: UNLABELLED, str(JUNK): JUNK}

    def in_gallery(f: Found) -> bool:
        return f.split == "gallery" and (f.person is None or f.person in distractors)

    people = _numbers({f.person for f in found if f.person not in special and not in_gallery(f)}, first=1)
    numbers = dict(special)
    numbers.update(people)
    cameras = _numbers({f.camera for f in found}, first=0, keep=False)
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for f, key in zip(found, _keys(root, found)):
        pid = DISTRACTOR if in_gallery(f) else numbers[f.person]
        samples[f.split].append(Sample(f.path, pid, cameras[f.camera], f.mask, key=key))
    train, query, gallery = (sorted(samples[split], key=lambda s: s.path.as_posix()) for split in SPLITS)
    return ReIDDataset(
        own_name(root),
        root,
        train,
        query,
        gallery,
        num_cameras=len(cameras),
        problems=tuple(problems),
        skipped={kind: count for kind, count in skipped.items() if count},
        camera_names=tuple(cameras),
        people={number: name for name, number in people.items()},
        own=True,
    )


def _numbers(names: Iterable[str | None], *, first: int, keep: bool = True) -> dict[str, int]:
    """Maps names to numbers in sorted order, of numbers if all are; with `keep`, different positive numbers
    map to themselves.
    """
    texts = {name for name in names if name is not None}
    if all(re.fullmatch(r"\d{1,12}", name) for name in texts):
        ordered = sorted(texts, key=lambda name: (int(name), name))
        values = [int(name) for name in ordered]
        if keep and len(set(values)) == len(values) and (not values or values[0] >= first):
            return dict(zip(ordered, values))
    else:
        ordered = sorted(texts)
    return {name: first + place for place, name in enumerate(ordered)}


def _keys(root: Path, found: Sequence[Found]) -> list[str]:
    """Returns a unique name for each image where two files of one split share theirs; "" where none do."""
    stems = Counter((f.split, f.path.stem.lower()) for f in found)
    if not stems or max(stems.values()) == 1:
        return [""] * len(found)
    return [_key(root, f.path) for f in found]


def _key(root: Path, path: Path) -> str:
    place = path.relative_to(root) if path.is_relative_to(root) else path
    return "+".join(part for part in place.with_suffix("").parts if part not in ("/", "\\"))


def skipped_text(skipped: Mapping[str, int]) -> str:
    """Returns `passed over: 2 hidden or of the system, 1 .txt`; "" for nothing."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()) if count)
    return f"passed over: {kinds}" if kinds else ""
