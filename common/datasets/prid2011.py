"""PRID2011, single-shot (Hirzer et al., SCIA 2011): two cameras; 385 people in A, 749 in B, of whom the first
200 are the same.

Layout: `single_shot/cam_a/person_0001.png`, `single_shot/cam_b/person_0001.png`. People above 200 differ
between A and B. Protocol of Hirzer et al. (Sec. 4): 100 of the 200 pairs, drawn at random, form the training
set; the other 100 images of camera A are the queries, and the gallery is camera B without the training
people, 649 images. The authors publish no list of draws. Here, draw number `split` takes the 100 people with
the smallest SHA-256 of `prid2011 SPLIT PERSON`, which is the same on every machine.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from common.datasets.base import About, Counts, Official, ReIDDataset, Sample
from common.datasets.layout import find_root, read_folder
from common.errors import InputError

FOLDERS = ("prid2011", "prid", "single_shot")
CAMERA_FOLDERS = {"a": "cam_a", "b": "cam_b"}
PAIRS = 200
TRAIN_IDS = 100
SPLITS = 10
_OFFICIAL = {  # by query camera; the gallery is the other camera without the training people
    "a": Official(Counts(200, 100), Counts(100, 100), Counts(649, 649)),
    "b": Official(Counts(200, 100), Counts(100, 100), Counts(285, 285)),
}
ABOUT = About(
    num_cameras=2,
    official=_OFFICIAL["a"],
    paper="Hirzer et al., SCIA 2011",
    where="https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/PRID11/",
    counts_of="single-shot",
)

_NAME = re.compile(r"person_(\d+)\.")  # the camera is the folder


def load_prid2011(root: str | Path | None, *, split: int = 0, query_camera: str = "a") -> ReIDDataset:
    """Reads PRID2011. `split`, 0..9, selects the draw of the 100 training people.

    `query_camera` is `a` (the protocol) or `b`; the other camera is the gallery.
    """
    if split not in range(SPLITS):
        raise InputError(f"prid2011: split {split!r}: expected 0 to {SPLITS - 1}")
    if query_camera not in CAMERA_FOLDERS:
        raise InputError(f"prid2011: query camera {query_camera!r}: expected a or b")
    folder = find_root("prid2011", root, FOLDERS, tuple(CAMERA_FOLDERS.values()))
    problems: list[str] = []
    official = _OFFICIAL[query_camera]
    cameras = {
        c: _read_camera(folder / name, camid, problems)
        for camid, (c, name) in enumerate(CAMERA_FOLDERS.items())
    }

    chosen = training_people(split)
    other = "b" if query_camera == "a" else "a"
    train = [s for samples in cameras.values() for s in samples if s.pid in chosen]
    query = [s for s in cameras[query_camera] if s.pid <= PAIRS and s.pid not in chosen]
    gallery = [s for s in cameras[other] if s.pid not in chosen]
    return ReIDDataset(
        "prid2011", folder, train, query, gallery, ABOUT.num_cameras, official, tuple(problems)
    )


def _read_camera(folder: Path, camid: int, problems: list[str]) -> list[Sample]:
    def parse(name: str) -> tuple[int, int] | None:
        match = _NAME.match(name)
        return (int(match[1]), camid) if match else None

    return read_folder(folder, parse, problems)


def training_people(split: int) -> set[int]:
    """Returns the 100 of the 200 people that form the training set in draw number `split`."""

    def digest(person: int) -> bytes:
        return hashlib.sha256(f"prid2011 {split} {person}".encode()).digest()

    return set(sorted(range(1, PAIRS + 1), key=digest)[:TRAIN_IDS])
