"""What must hold before anything trains on a dataset, and how it differs from the published counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from common.datasets.base import ReIDDataset, count
from common.datasets.layout import shorten
from common.errors import InputError

SPLITS = ("train", "query", "gallery")


def validate(dataset: ReIDDataset) -> None:
    """Raises `InputError` for the first thing that makes training or evaluation wrong; see `errors_of`."""
    for error in errors_of(dataset):
        raise InputError(error)


def errors_of(dataset: ReIDDataset) -> Iterator[str]:
    """Empty splits, cameras that the dataset does not have, duplicate names, train ids in the test set, no
    match across cameras.
    """
    where = f"{dataset.root}: {dataset.name}"
    empty = [split for split in SPLITS if not getattr(dataset, split)]
    if empty:
        reason = "".join(f"; {problem}" for problem in dataset.problems)
        yield f"{where}: no images in {' and '.join(empty)}: expected at least one in each of train, query and gallery{reason}"
        return
    yield from _camera_errors(dataset, where)
    for split in SPLITS:
        # PRID2011 names alike in both cameras
        names = Counter((s.path.stem.lower(), s.camid) for s in getattr(dataset, split))
        twice = [stem for (stem, _), n in names.items() if n > 1]
        if twice:
            yield f"{where}: {len(twice)} image names occur more than once in {split}: {shorten(twice)}; keep one file of each"
    test = {s.pid for s in (*dataset.query, *dataset.gallery) if s.pid > 0}
    shared = sorted(test & {s.pid for s in dataset.train})
    if shared:
        yield f"{where}: {len(shared)} ids are in train and in query or gallery ({shorten(list(map(str, shared)))}): the test ids must be unseen"


def _camera_errors(dataset: ReIDDataset, where: str) -> Iterator[str]:
    for split in SPLITS:
        wrong = [s for s in getattr(dataset, split) if not 0 <= s.camid < dataset.num_cameras]
        if wrong:
            first = wrong[0]
            yield (
                f"{first.path}: camera {first.camid + 1}, but {dataset.name} has cameras 1 to {dataset.num_cameras} "
                f"({len(wrong)} such images in {split})"
            )
    seen = {(s.pid, s.camid) for s in dataset.gallery if s.pid > 0}
    cameras: dict[int, set[int]] = {}
    for pid, camid in seen:
        cameras.setdefault(pid, set()).add(camid)
    if not any(cameras.get(s.pid, set()) - {s.camid} for s in dataset.query):
        yield (
            f"{where}: no query has an image of the same id under another camera in the gallery "
            f"(cameras in the test set: {sorted({s.camid + 1 for s in (*dataset.query, *dataset.gallery)})}): nothing could ever be a match"
        )


def differences(dataset: ReIDDataset) -> list[str]:
    """One sentence for each published count that differs, empty if none does or none is known."""
    if dataset.official is None:
        return []
    lines = []
    for split in SPLITS:
        found, official = (
            count(getattr(dataset, split), dataset.num_cameras),
            getattr(dataset.official, split),
        )
        for what in ("images", "ids", "junk", "distractors"):
            if getattr(found, what) != getattr(official, what):
                lines.append(
                    f"{split}: {getattr(found, what):,} {what}, officially {getattr(official, what):,}"
                )
        if official.cameras and found.cameras != official.cameras and found.images == official.images:
            lines.append(f"{split}: images per camera {found.cameras}, officially {official.cameras}")
    return lines
