"""Camera splits, `market1501@c123`: two domains from one dataset, when only one dataset is available.

A split is a group of cameras. Identity number i of the sorted training ids is assigned to camera i modulo the
number of cameras, and a split trains on the images of its identities taken by its cameras. Two splits without
a common camera therefore share neither a view nor a person: `market1501@c123 -> market1501@c456` has labelled
people in the source and different, unlabelled people in the target. Test identities are not divided: query
and gallery are the images of the split's cameras, including junk and distractors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from common.datasets.base import ReIDDataset, Sample
from common.errors import InputError

SPLIT = re.compile(r"(?P<dataset>[^@]+)@c(?P<cameras>.*)")


def parse_split(name: str) -> tuple[str, tuple[int, ...]]:
    """Parses `market1501@c123` to ("market1501", (0, 1, 2)); cameras above 9 are written `msmt17@c1,10`.

    A name without `@` has no cameras. Raises `InputError` for anything else after the `@`.
    """
    if "@" not in name:
        return name, ()
    match = SPLIT.fullmatch(name)
    text = match["cameras"] if match else ""
    parts = text.split(",") if "," in text else list(text)
    cameras = {int(part) for part in parts if part.isdecimal() and int(part) > 0}
    if not match or not cameras or len(cameras) < len(parts):
        raise InputError(
            f"{name}: expected different cameras, counted from 1, after the @, "
            "as in market1501@c123 or msmt17@c1,10"
        )
    return match["dataset"], tuple(sorted(camera - 1 for camera in cameras))


def camera_split(dataset: ReIDDataset, cameras: Sequence[int]) -> ReIDDataset:
    """Returns the part of a dataset that belongs to these cameras (from 0), which are renumbered from 0.

    Raises `InputError` for a camera that the dataset lacks, for all of its cameras, and for fewer than two.
    """
    name = f"{dataset.name}@c{(',' if max(cameras) > 8 else '').join(str(camera + 1) for camera in cameras)}"
    if max(cameras) >= dataset.num_cameras:
        raise InputError(f"{name}: {dataset.name} has cameras 1 to {dataset.num_cameras}")
    if not 2 <= len(cameras) < dataset.num_cameras:
        raise InputError(
            f"{name}: expected at least two cameras, so that a query has a match under another one, "
            f"and not all {dataset.num_cameras}"
        )
    new = {camera: place for place, camera in enumerate(cameras)}
    mine = {pid for place, pid in enumerate(dataset.train_labels) if place % dataset.num_cameras in new}

    def taken(samples: Sequence[Sample]) -> list[Sample]:
        return [replace(sample, camid=new[sample.camid]) for sample in samples if sample.camid in new]

    return replace(
        dataset,
        name=name,
        num_cameras=len(cameras),
        camera_names=tuple(dataset.camera_names[c] for c in cameras) if dataset.camera_names else (),
        official=None,
        train=[s for s in taken(dataset.train) if s.pid in mine],
        query=taken(dataset.query),
        gallery=taken(dataset.gallery),
    )
