"""Defines a dataset: samples in sorted file order, published counts, a manifest that identifies the copy."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from common.datasets.contents import contents_of
from common.errors import InputError
from common.files import regular_file

SPLITS = ("train", "query", "gallery")
JUNK = -1  # failed detections in Market-1501's numbering: ignored, neither a hit nor a miss
DISTRACTOR = 0  # people or background outside the test ids: always a miss
UNLABELLED = -2  # a training image whose person is not known


@dataclass(frozen=True)
class Sample:
    """One image: `pid` as in the file name (-1 junk, 0 distractor, -2 unlabelled), `camid` from 0, a mask if
    any.
    """

    path: Path
    pid: int
    camid: int
    mask: Path | None = None
    origin: str = "real"  # real | generated | translated
    key: str = ""  # unique name for what is made from the image, where its file's name is not unique

    @property
    def stem(self) -> str:
        """Returns the name of what is made from this image: translations, styles, masks."""
        return self.key or self.path.stem


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
    skipped: Mapping[str, int] = field(default_factory=dict)  # kind -> other files that were passed over
    camera_names: tuple[str, ...] = ()  # of an own dataset: the name of camera 0, 1, ...
    people: Mapping[int, str] = field(default_factory=dict)  # of an own dataset: pid -> name
    own: bool = False  # given by its folder: no published counts, and parts may be absent
    drawn: bool = False  # a synthetic domain: its name and options determine the content
    parts: tuple[ReIDDataset, ...] = ()  # the datasets of which it is the union

    @property
    def labelled(self) -> bool:
        """Returns whether the person of every training image is known."""
        return all(s.pid != UNLABELLED for s in self.train)

    @cached_property
    def train_labels(self) -> dict[int, int]:
        """Maps pid to the class label 0..K-1 by ascending pid. Raises `InputError` without labels."""
        if not self.labelled:
            unknown = sum(s.pid == UNLABELLED for s in self.train)
            raise InputError(
                f"{self.root}: {unknown} of {len(self.train)} training images have no person: "
                "expected a dataset with labels here; without them it can be a --target only"
            )
        return {pid: label for label, pid in enumerate(sorted({s.pid for s in self.train}))}

    def name_of(self, path: Path) -> str:
        """Returns the path of a file relative to the dataset's folder; the whole path if it is elsewhere."""
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()

    @cached_property
    def manifest(self) -> dict:
        """Counts of each split, a hash of all file names (relative to the root) and sizes in bytes, a hash of
        the contents of images and masks except for a synthetic domain, and the options that the dataset's
        name gave.
        """
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(json.dumps(part.manifest, sort_keys=True).encode())
        for split in SPLITS:
            for s in getattr(self, split):
                name = self.name_of(s.path)
                size = regular_file(s.path, "an image").st_size
                digest.update(f"{split} {name} {size} {s.pid} {s.camid}\n".encode())
        return {
            "name": self.name,
            "train": len(self.train),
            "train_ids": len(self.train_labels) if self.labelled else 0,
            "query": len(self.query),
            "gallery": len(self.gallery),
            "cameras": self.num_cameras,
            "hash": digest.hexdigest()[:16],
            **({} if self.drawn or self.parts else {"contents": self._contents()}),
            **({"options": dict(self.options)} if self.options else {}),
        }

    def _contents(self) -> str:
        samples = [s for split in SPLITS for s in getattr(self, split)]
        paths = [s.path for s in samples] + [s.mask for s in samples if s.mask is not None]
        digests = contents_of(paths, self.root)
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]
