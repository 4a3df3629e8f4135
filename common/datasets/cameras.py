"""Camera splits, `market1501@c123`: two domains out of one dataset, for where no second one is at hand.

A split is a group of cameras. The identity at place i of the sorted training ids belongs to camera i modulo
the number of cameras; a split trains on the images that its cameras took of its own identities. So two splits
without a common camera share neither a view nor a person, whichever cameras they hold, and `market1501@c123
-> market1501@c456` has labelled people here and others, unlabelled, there. The test identities are not
divided: query and gallery are those of the split's cameras, junk and distractors included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from common.datasets.base import ReIDDataset, Sample
from common.errors import InputError

SPLIT = re.compile(r"(?P<dataset>[^@]+)@c(?P<cameras>.*)")


def parse_split(name: str) -> tuple[str, tuple[int, ...]]:
    """`market1501@c123` -> ("market1501", (0, 1, 2)); `msmt17@c1,10` for cameras above 9; no `@`: the name
    and no cameras.

    Raises `InputError` for anything else after the `@`.
    """
    if "@" not in name:
        return name, ()
    found = SPLIT.fullmatch(name)
    text = found["cameras"] if found else ""
    parts = text.split(",") if "," in text else list(text)
    if (
        not parts
        or not all(part.isdecimal() and int(part) > 0 for part in parts)
        or len(set(map(int, parts))) < len(parts)
    ):
        raise InputError(
            f"{name}: expected different cameras, counted from 1, after the @, as in market1501@c123 or msmt17@c1,10"
        )
    return found["dataset"], tuple(sorted(int(part) - 1 for part in parts))


def camera_split(dataset: ReIDDataset, cameras: Sequence[int]) -> ReIDDataset:
    """The part of a dataset that belongs to these cameras (counted from 0), which are renumbered from 0.

    Raises `InputError` for a camera that the dataset does not have, and for all of its cameras or fewer than
    two.
    """
    name = f"{dataset.name}@c{(',' if max(cameras) > 8 else '').join(str(camera + 1) for camera in cameras)}"
    if max(cameras) >= dataset.num_cameras:
        raise InputError(f"{name}: {dataset.name} has cameras 1 to {dataset.num_cameras}")
    if not 2 <= len(cameras) < dataset.num_cameras:
        raise InputError(
            f"{name}: expected at least two cameras, so that a query has a match under another one, and not all {dataset.num_cameras}"
        )
    new = {camera: place for place, camera in enumerate(cameras)}
    mine = {pid for place, pid in enumerate(dataset.train_labels) if place % dataset.num_cameras in new}

    def taken(samples: Sequence[Sample]) -> list[Sample]:
        return [replace(sample, camid=new[sample.camid]) for sample in samples if sample.camid in new]

    return replace(
        dataset,
        name=name,
        num_cameras=len(cameras),
        official=None,
        train=[s for s in taken(dataset.train) if s.pid in mine],
        query=taken(dataset.query),
        gallery=taken(dataset.gallery),
    )
