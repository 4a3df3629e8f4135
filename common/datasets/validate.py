"""Checks a dataset before training, and compares it with the published counts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence

from common.datasets.base import SPLITS, ReIDDataset, count
from common.datasets.layout import shorten
from common.errors import InputError

logger = logging.getLogger(__name__)


def validate(dataset: ReIDDataset, needs: Sequence[str] | None = None) -> None:
    """Raises `InputError` for the first of `errors_of`."""
    for error in errors_of(dataset, needs):
        raise InputError(error)


def errors_of(dataset: ReIDDataset, needs: Sequence[str] | None = None) -> Iterator[str]:
    """Yields what invalidates training or evaluation.

    Empty splits, unknown cameras, duplicate names, train ids in the test set, queries that are no people, no
    match across cameras. `needs`: the splits that are used, all by default; in a folder of your own those
    that are there.
    """
    where = f"{dataset.root}: {dataset.name}"
    needs = _present(dataset) if needs is None and dataset.own else needs or SPLITS
    empty = [split for split in needs if not getattr(dataset, split)]
    if empty:
        reason = "".join(f"; {problem}" for problem in dataset.problems)
        *first, last = needs
        yield (
            f"{where}: no images in {' and '.join(empty)}: expected at least one in each of "
            f"{', '.join(first) + ' and ' if first else ''}{last}{reason}"
        )
        return
    yield from _camera_errors(dataset, where)
    yield from _name_errors(dataset, where)
    test = {s.pid for s in (*dataset.query, *dataset.gallery) if s.pid > 0}
    shared = sorted(test & {s.pid for s in dataset.train})
    if shared:
        yield (
            f"{where}: {len(shared)} ids are in train and in query or gallery "
            f"({shorten([dataset.people.get(pid, str(pid)) for pid in shared])}): the test ids must be unseen"
        )
    wrong = [s for s in dataset.query if s.pid < 1]
    if wrong:
        yield (
            f"{wrong[0].path}: a query of id {wrong[0].pid} ({len(wrong)} such queries): -1 is junk and 0 a "
            "distractor, neither of which can be searched for: delete or rename them"
        )
    elif dataset.query and dataset.gallery and unmatched_queries(dataset) == len(dataset.query):
        numbers = sorted({s.camid + 1 for s in (*dataset.query, *dataset.gallery)})
        yield (
            f"{where}: no query has an image of the same id under another camera in the gallery "
            f"(cameras in the test set: {numbers}): a match is impossible"
        )


def _present(dataset: ReIDDataset) -> Sequence[str]:
    """Returns the splits that a folder of your own must fill: those of its test set or the training set."""
    test = ("query", "gallery") if dataset.query or dataset.gallery else ()
    return (*(("train",) if dataset.train or not test else ()), *test)


def _name_errors(dataset: ReIDDataset, where: str) -> Iterator[str]:
    for split in SPLITS:
        # with the camera, because PRID2011 has the same names in both
        names = Counter((s.stem.lower(), s.camid) for s in getattr(dataset, split))
        duplicates = [stem for (stem, _), n in names.items() if n > 1]
        if duplicates:
            yield (
                f"{where}: {len(duplicates)} image names occur more than once in {split}: "
                f"{shorten(duplicates)}; keep one file of each"
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


def unmatched_queries(dataset: ReIDDataset) -> int:
    """Counts the queries that no gallery image of their person and another camera can answer; no score counts
    them.
    """
    cameras: dict[int, set[int]] = {}
    for s in dataset.gallery:
        if s.pid > 0:
            cameras.setdefault(s.pid, set()).add(s.camid)
    return sum(not cameras.get(s.pid, set()) - {s.camid} for s in dataset.query)


def unmatched_text(dataset: ReIDDataset) -> str:
    """Returns a sentence about queries without a match; "" if all can be scored."""
    unmatched = unmatched_queries(dataset) if dataset.gallery else 0
    if not unmatched:
        return ""
    return (
        f"{unmatched:,} of {len(dataset.query):,} queries have no image of the same person under another "
        "camera in the gallery: they are not scored, which raises every score if their images are missing"
    )


def check_source(dataset: ReIDDataset) -> None:
    """Raises `InputError` unless a dataset has training images with people."""
    if not dataset.train:
        raise InputError(f"{dataset.root}: no training images: a --source needs some, with people")
    _ = dataset.train_labels


def check_target(dataset: ReIDDataset) -> None:
    """Raises `InputError` for a target without training images; warns of one without a test set."""
    if not dataset.train:
        raise InputError(
            f"{dataset.root}: no training images: a --target needs some to adapt to, without labels "
            "(evaluate.py scores a trained network on a test set alone)"
        )
    if not dataset.query:
        logger.warning(
            "%s: no query and gallery: networks are trained and not scored (python -m common.datasets split "
            "makes a test set of a folder with people)",
            dataset.root,
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
