"""Defines a dataset: samples in sorted file order, published counts, a manifest that identifies the copy."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from common.files import regular_file

SPLITS = ("train", "query", "gallery")
JUNK = -1  # failed detections in Market-1501's numbering: ignored, neither a hit nor a miss
DISTRACTOR = 0  # people or background outside the test ids: always a miss


@dataclass(frozen=True)
class Sample:
    """One image: `pid` as in the file name (-1 junk, 0 distractor), `camid` from 0, a mask if any."""

    path: Path
    pid: int
    camid: int
    mask: Path | None = None
    origin: str = "real"  # real | generated | translated


@dataclass(frozen=True)
class Counts:
    """Counts of one split: image files, ids above 0, junk and distractor files, files per camera if known."""

    images: int
    ids: int
    junk: int = 0
    distractors: int = 0
    cameras: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Official:
    """The published counts of a dataset in one protocol."""

    train: Counts
    query: Counts
    gallery: Counts


@dataclass(frozen=True)
class About:
    """The facts of a real dataset that `python -m common.datasets list` prints."""

    num_cameras: int
    official: Official
    paper: str
    where: str
    counts_of: str = ""  # the protocol of `official`, for a dataset with several
    status: str = ""


def count(samples: Sequence[Sample], num_cameras: int) -> Counts:
    """Counts the samples of a split."""
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
    """Train, query and gallery of a dataset; `gallery` includes junk and distractors.

    `official` holds the published counts, `problems` one sentence for everything that the reader had to omit.
    """

    name: str
    root: Path
    train: Sequence[Sample]
    query: Sequence[Sample]
    gallery: Sequence[Sample]
    num_cameras: int
    official: Official | None = None
    problems: tuple[str, ...] = ()
    options: Mapping[str, int | str] = field(default_factory=dict)  # of the reader, as the name gave them

    @cached_property
    def train_labels(self) -> dict[int, int]:
        """Maps pid to the class label 0..K-1, in ascending order of pid."""
        return {pid: label for label, pid in enumerate(sorted({s.pid for s in self.train}))}

    @cached_property
    def manifest(self) -> dict:
        """Counts of each split, a hash of all file names (relative to the root) and sizes in bytes, and the
        options that the dataset's name gave, if any.
        """
        digest = hashlib.sha256()
        for split in SPLITS:
            for s in getattr(self, split):
                name = s.path.relative_to(self.root).as_posix()
                size = regular_file(s.path, "an image").st_size
                digest.update(f"{split} {name} {size} {s.pid} {s.camid}\n".encode())
        return {
            "name": self.name,
            "train": len(self.train),
            "train_ids": len(self.train_labels),
            "query": len(self.query),
            "gallery": len(self.gallery),
            "cameras": self.num_cameras,
            "hash": digest.hexdigest()[:16],
            **({"options": dict(self.options)} if self.options else {}),
        }
