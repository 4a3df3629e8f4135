"""Lists the images of a folder, with people and cameras if the names hold them. Imports without PyTorch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from common.datasets.base import UNLABELLED, Sample
from common.datasets.layout import is_system, list_images, market_name, shorten
from common.errors import InputError

LABELS = ("auto", "market", "folders", "none")


def folder_samples(folder: str | Path, labels: str = "auto") -> list[Sample]:
    """Returns the images in a folder and below it, in sorted order.

    `labels`: `market` reads person and camera from names like `0002_c1...`, `folders` takes the first folder
    below `folder` as the person (numbered from 1 in sorted order; the camera from the name, else 0), `none`
    leaves all images unlabelled, `auto` is `market` if all names fit, else `none`. Raises `InputError` for a
    folder without images, and for names that do not fit.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(
            f"{root}: expected a folder of images, found {'a file' if root.exists() else 'nothing'}"
        )
    paths = [path for below in _folders(root) for path in (below / name for name in list_images(below))]
    if not paths:
        raise InputError(f"{root}: expected images in this folder or below it, found none")
    return _labelled(root, paths, labels)


def image_sample(path: str | Path) -> Sample:
    """Returns one image, with its person and camera if its name is like `0002_c1...`."""
    path = Path(path).expanduser()
    return Sample(path, *(market_name(path.name) or (UNLABELLED, 0)))


def _folders(root: Path) -> list[Path]:
    """Lists a folder and those below it, in sorted order, without hidden ones and those of the system."""
    found = []
    for parent, children, _ in os.walk(root):
        children[:] = sorted(name for name in children if not is_system(name))
        found.append(Path(parent))
    return found


def _labelled(root: Path, paths: Sequence[Path], labels: str) -> list[Sample]:
    parsed = [market_name(path.name) for path in paths]
    unknown = [path.name for path, found in zip(paths, parsed) if found is None]
    if labels == "market" and unknown:
        raise InputError(
            f"{root}: expected names like 0002_c1..., found {len(unknown)} others: {shorten(unknown)}; "
            "use --labels folders or none"
        )
    if labels == "folders":
        return _by_folder(root, paths)
    if labels == "none" or unknown:
        return [Sample(path, UNLABELLED, 0) for path in paths]
    return [Sample(path, *found) for path, found in zip(paths, parsed) if found is not None]


def _by_folder(root: Path, paths: Sequence[Path]) -> list[Sample]:
    people = [path.relative_to(root).parts[0] if path.parent != root else "" for path in paths]
    loose = [path.name for path, person in zip(paths, people) if not person]
    if loose:
        raise InputError(
            f"{root}: expected a folder for each person, found images beside them: {shorten(loose)}"
        )
    pids = {person: number for number, person in enumerate(sorted(set(people)), 1)}
    cameras = [(market_name(path.name) or (0, 0))[1] for path in paths]
    return [Sample(path, pids[person], camera) for path, person, camera in zip(paths, people, cameras)]
