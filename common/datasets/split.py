"""Makes a test protocol of a dataset with people and cameras: `python -m common.datasets split DIR`.

The test people are drawn by the smallest SHA-256 of `split SEED PERSON`, and the queries of each person and
camera by that of `split SEED PERSON CAMERA IMAGE`: the same on every machine, and unchanged for the others
when a person is added. Each query has an image of another camera in the gallery: a person seen by one camera
has no query, and of a person with one image a camera one camera is kept for the gallery.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.datasets.base import DISTRACTOR, JUNK, SPLITS, UNLABELLED, ReIDDataset
from common.datasets.own import TABLE, Found, read_own
from common.datasets.table import write_table
from common.errors import InputError


def split_folder(
    folder: Path,
    out: Path | None = None,
    *,
    query_per_camera: int = 1,
    test_people: float = 0.5,
    seed: int = 0,
    camera_pattern: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes `images.csv` of a dataset's images, all parts of which are divided anew; returns its path.

    `test_people`: their share. `camera_pattern`: a regular expression whose group is the camera in the path
    of an image. Raises `InputError` for images without people, fewer than two cameras or three people with
    two, and for a table that exists, unless `overwrite`.
    """
    out = out or folder / TABLE
    if out.exists() and not overwrite:
        raise InputError(f"{out}: a table is there already: name another with --out, or use --overwrite")
    if query_per_camera < 1 or not 0 < test_people < 1 or seed < 0:
        raise InputError(
            f"--query-per-camera {query_per_camera}, --test-people {test_people}, --seed {seed}: expected at "
            "least 1, a share between 0 and 1, and 0 or more"
        )
    dataset = read_own(folder)
    divided = split_images(_images(dataset, camera_pattern), query_per_camera, test_people, seed)
    write_table(out.absolute(), [*divided, *_others(dataset)])
    return out


def split_images(
    images: Sequence[Found], query_per_camera: int, test_people: float, seed: int
) -> list[Found]:
    """Returns the images with their splits, in order of their paths."""
    cameras: dict[str, set[str]] = defaultdict(set)
    for image in images:
        cameras[str(image.person)].add(image.camera)
    matched = sorted(person for person, seen in cameras.items() if len(seen) > 1)
    if len(matched) < 2 or len(cameras) < 3:
        raise InputError(
            f"expected at least 3 people, 2 of them under two cameras, found {len(cameras)} people and "
            f"{len(matched)} under two cameras: a query is answered by another camera (cameras are folders "
            "in each person's folder, c1, cam1 or camera1 in file names, or --camera-pattern)"
        )
    count = min(max(1, round(test_people * len(cameras))), len(cameras) - 1)
    ordered = sorted(cameras, key=lambda person: (person not in matched, _digest(seed, person)))
    # all people of one camera could fill neither a test set nor, above, a query
    drawn = sorted(cameras, key=lambda person: _digest(seed, person))[:count]
    test = set(drawn) if set(drawn) & set(matched) else {*drawn[:-1], ordered[0]}
    groups: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for image in images:
        groups[str(image.person), image.camera].append(image)
    queries = {
        image.path
        for person in test
        for image in _queries(
            {camera: groups[person, camera] for camera in cameras[person]}, query_per_camera, seed, person
        )
    }
    place = {True: "query", False: "gallery"}
    divided = [
        replace(i, split=place[i.path in queries] if str(i.person) in test else "train") for i in images
    ]
    return sorted(divided, key=lambda i: (SPLITS.index(i.split), i.path.as_posix()))


def _queries(of_camera: dict[str, list[Found]], number: int, seed: int, person: str) -> list[Found]:
    """Draws a person's queries; for each an image of another camera stays in the gallery."""
    if len(of_camera) < 2:
        return []
    drawn = {}
    for camera, group in of_camera.items():
        ordered = sorted(group, key=lambda image: _digest(seed, person, camera, image.path.name))
        drawn[camera] = ordered[: min(number, max(1, len(group) - 1))]
    left = [camera for camera, group in of_camera.items() if len(group) > len(drawn[camera])]
    if len(left) < 2:  # the only camera left, or one of them, is for the gallery alone
        del drawn[(left or sorted(drawn, key=lambda camera: _digest(seed, person, camera)))[0]]
    return [image for images in drawn.values() for image in images]


def _images(dataset: ReIDDataset, camera_pattern: str | None) -> list[Found]:
    samples = [s for split in SPLITS for s in getattr(dataset, split)]
    unknown = [s for s in samples if s.pid == UNLABELLED]
    if unknown:
        raise InputError(
            f"{dataset.root}: {len(unknown)} of {len(samples)} images have no person: expected one folder a "
            "person, or names PERSON_cCAMERA..., to make a test set of"
        )
    found = {
        s.path: Found(s.path, "train", dataset.people[s.pid], dataset.camera_names[s.camid], s.mask)
        for s in samples
        if s.pid in dataset.people
    }
    return [_with_camera(image, dataset.root, camera_pattern) for image in found.values()]


def _others(dataset: ReIDDataset) -> list[Found]:
    """Returns junk and distractors, which stay in the gallery."""
    return [
        Found(s.path, "gallery", str(s.pid), dataset.camera_names[s.camid])
        for s in dataset.gallery
        if s.pid in (JUNK, DISTRACTOR)
    ]


def _with_camera(image: Found, root: Path, pattern: str | None) -> Found:
    if pattern is None:
        return image
    name = Path(os.path.relpath(image.path, root)).as_posix()
    try:
        match = re.search(pattern, name)
        return replace(image, camera=match[1]) if match else _refuse(pattern, name)
    except (re.error, IndexError):
        raise InputError(
            f"--camera-pattern {pattern}: expected a regular expression with one group, as 'cam_(.+?)_'"
        ) from None


def _refuse(pattern: str, name: str) -> Found:
    raise InputError(f"--camera-pattern {pattern}: matches nothing in {name}")


def _digest(seed: int, *place: str) -> bytes:
    return hashlib.sha256(" ".join(["split", str(seed), *place]).encode(errors="surrogateescape")).digest()
