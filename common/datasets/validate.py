"""Checks a dataset before training, and compares it with the published counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from common.datasets.base import SPLITS, ReIDDataset, count
from common.datasets.layout import shorten
from common.errors import InputError


def validate(dataset: ReIDDataset) -> None:
    """Raises `InputError` for the first of `errors_of`."""
    for error in errors_of(dataset):
        raise InputError(error)


def errors_of(dataset: ReIDDataset) -> Iterator[str]:
    """Yields what invalidates training or evaluation.

    Empty splits, unknown cameras, duplicate names, train ids in the test set, no match across cameras.
    """
    where = f"{dataset.root}: {dataset.name}"
    empty = [split for split in SPLITS if not getattr(dataset, split)]
    if empty:
        reason = "".join(f"; {problem}" for problem in dataset.problems)
        yield (
            f"{where}: no images in {' and '.join(empty)}: "
            f"expected at least one in each of train, query and gallery{reason}"
        )
        return
    yield from _camera_errors(dataset, where)
    for split in SPLITS:
        # with the camera, because PRID2011 has the same names in both
        names = Counter((s.path.stem.lower(), s.camid) for s in getattr(dataset, split))
        duplicates = [stem for (stem, _), n in names.items() if n > 1]
        if duplicates:
            yield (
                f"{where}: {len(duplicates)} image names occur more than once in {split}: "
                f"{shorten(duplicates)}; keep one file of each"
            )
    test = {s.pid for s in (*dataset.query, *dataset.gallery) if s.pid > 0}
    shared = sorted(test & {s.pid for s in dataset.train})
    if shared:
        yield (
            f"{where}: {len(shared)} ids are in train and in query or gallery "
            f"({shorten(list(map(str, shared)))}): the test ids must be unseen"
        )


def _camera_errors(dataset: ReIDDataset, where: str) -> Iterator[str]:
    for split in SPLITS:
        wrong = [s for s in getattr(dataset, split) if not 0 <= s.camid < dataset.num_cameras]
        if wrong:
            first = wrong[0]
            yield (
                f"{first.path}: camera {first.camid + 1}, but {dataset.name} has cameras 1 to "
                f"{dataset.num_cameras} ({len(wrong)} such images in {split})"
            )
    cameras: dict[int, set[int]] = {}
    for s in dataset.gallery:
        if s.pid > 0:
            cameras.setdefault(s.pid, set()).add(s.camid)
    if not any(cameras.get(s.pid, set()) - {s.camid} for s in dataset.query):
        numbers = sorted({s.camid + 1 for s in (*dataset.query, *dataset.gallery)})
        yield (
            f"{where}: no query has an image of the same id under another camera in the gallery "
            f"(cameras in the test set: {numbers}): a match is impossible"
        )


def differences(dataset: ReIDDataset) -> list[str]:
    """Returns one sentence for each published count that differs; empty if no counts are known."""
    if dataset.official is None:
        return []
    lines = []
    for split in SPLITS:
        counts = count(getattr(dataset, split), dataset.num_cameras)
        official = getattr(dataset.official, split)
        for name in ("images", "ids", "junk", "distractors"):
            if getattr(counts, name) != getattr(official, name):
                lines.append(
                    f"{split}: {getattr(counts, name):,} {name}, officially {getattr(official, name):,}"
                )
        if official.cameras and counts.cameras != official.cameras and counts.images == official.images:
            lines.append(f"{split}: images per camera {counts.cameras}, officially {official.cameras}")
    return lines
