"""What every dataset hands to the papers: samples in sorted file order, and a manifest that identifies them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common.errors import InputError

JUNK = -1  # the detector's failures in Market-1501's numbering: never a hit, never a miss
DISTRACTOR = 0  # people or background outside the test ids: always a miss


@dataclass(frozen=True)
class Sample:
    """One image: `pid` as in the file name (-1 junk, 0 distractor), `camid` counted from 0, the foreground
    mask if one is on disk.
    """

    path: Path
    pid: int
    camid: int
    mask: Path | None = None
    origin: str = "real"  # real | generated | translated


@dataclass(frozen=True)
class Counts:
    """What one split holds: all image files, ids above 0, junk and distractor files, files of each camera
    (None: not known).
    """

    images: int
    ids: int
    junk: int = 0
    distractors: int = 0
    cameras: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Official:
    """The published counts of a dataset in one protocol; `ReIDDataset.official` is compared with what was
    found.
    """

    train: Counts
    query: Counts
    gallery: Counts


@dataclass(frozen=True)
class About:
    """For `python -m common.datasets list`: where a dataset comes from and whether it can still be had."""

    paper: str
    where: str
    official: Official
    counts_of: str = ""  # which protocol, where there are several
    status: str = ""


def count(samples: Sequence[Sample], num_cameras: int) -> Counts:
    """The counts of a split as it was found."""
    cameras = Counter(s.camid for s in samples)
    return Counts(
        images=len(samples),
        ids=len({s.pid for s in samples if s.pid > 0}),
        junk=sum(s.pid == JUNK for s in samples),
        distractors=sum(s.pid == DISTRACTOR for s in samples),
        cameras=tuple(cameras[c] for c in range(num_cameras)),
    )


@dataclass(frozen=True)
class ReIDDataset:
    """Train, query and gallery of one dataset. Junk and distractors are in `gallery`; the evaluator treats
    them.

    `official` holds the published counts, `problems` what the reader had to leave out, one sentence each.
    """

    name: str
    root: Path
    train: Sequence[Sample]
    query: Sequence[Sample]
    gallery: Sequence[Sample]
    num_cameras: int
    official: Official | None = None
    problems: tuple[str, ...] = ()

    @cached_property
    def train_labels(self) -> dict[int, int]:
        """pid -> class label 0..K-1, in ascending order of pid."""
        return {pid: label for label, pid in enumerate(sorted({s.pid for s in self.train}))}

    @cached_property
    def manifest(self) -> dict:
        """Counts of each split and a hash of all file names (relative to the root) and sizes in bytes."""
        digest = hashlib.sha256()
        for split in ("train", "query", "gallery"):
            for s in getattr(self, split):
                digest.update(
                    f"{split} {s.path.relative_to(self.root).as_posix()} {_size(s.path)} {s.pid} {s.camid}\n".encode()
                )
        return {
            "name": self.name,
            "train": len(self.train),
            "train_ids": len(self.train_labels),
            "query": len(self.query),
            "gallery": len(self.gallery),
            "cameras": self.num_cameras,
            "hash": digest.hexdigest()[:16],
        }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{path}: listed, but there is no file (a link that leads nowhere?)") from None
