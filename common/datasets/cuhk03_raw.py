"""Extracts the raw `cuhk-03.mat` (MATLAB 7.3, HDF5) once: its images, named as by torchreid, and its splits.

    images_detected/1_001_1_01.png        pair of cameras, person, view, number
    splits_classic_detected.json          the 20 splits of 1,367 and 100 people

Needs h5py (`pip install -e '.[cuhk03]'`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.errors import InputError
from common.files import locked, write_atomic

RAW = "cuhk-03.mat"
FIRST_OF_VIEW_2 = 5  # a person's images 0-4 are of the first camera of the pair, 5-9 of the second

log = logging.getLogger("run")
Deref = Callable[[Any], np.ndarray]


def extract(raw: Path, images: str) -> None:
    """Writes `images_<images>` and the list of its classic splits beside the file, unless they are there.

    Raises `InputError` without h5py and for another file; leaves no part of a folder.
    """
    try:
        import h5py
    except ImportError:
        raise InputError(
            f"{raw}: reading this file needs h5py: pip install -e '.[cuhk03]' (or: pip install h5py)"
        ) from None
    folder = raw.parent / f"images_{images}"
    with locked(raw.parent / f".{folder.name}.lock", f"{folder}"):
        if folder.is_dir():
            return
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        log.info("%s: extracting it to %s", raw, folder)
        try:
            with h5py.File(raw, "r") as file:
                people = _write_images(file, lambda ref: file[ref][:].T, images, partial)
                splits = _classic_splits(file, lambda ref: file[ref][:].T, people)
        except (OSError, KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError) and error.errno:  # a full disk
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{raw}: expected CUHK03's MATLAB 7.3 file ({reason}); download it again"
            ) from None
        write_atomic(raw.parent / f"splits_classic_{images}.json", json.dumps(splits))
        os.replace(partial, folder)


def _write_images(file: Any, deref: Deref, images: str, folder: Path) -> dict[tuple[int, int], list[str]]:
    """Writes every image; returns the names of each person (pair, person), both from 1."""
    people: dict[tuple[int, int], list[str]] = {}
    for pair, cell in enumerate(file[images][0], start=1):
        rows = deref(cell)
        for person, row in enumerate(tqdm(rows, f"pair {pair}", leave=False, disable=None), start=1):
            names = people.setdefault((pair, person), [])
            for number, reference in enumerate(row):
                pixels = deref(reference)
                if pixels.ndim < 3:  # an empty cell
                    continue
                view = 1 if number < FIRST_OF_VIEW_2 else 2
                names.append(f"{pair}_{person:03}_{view}_{number + 1:02}.png")
                Image.fromarray(pixels.astype(np.uint8)).save(folder / names[-1])
    return people


def _classic_splits(file: Any, deref: Deref, people: dict[tuple[int, int], list[str]]) -> list[dict]:
    """Returns torchreid's rows [name, label, camera] of each split; query and gallery are all test images."""
    splits = []
    for cell in file["testsets"][0]:
        test = {(int(pair), int(person)) for pair, person in deref(cell)}
        rows: dict[str, list] = {"train": [], "query": []}
        for (pair, person), names in people.items():
            label = 1_000 * pair + person
            part = "query" if (pair, person) in test else "train"
            rows[part] += [[name, label, int(name.split("_")[2]) - 1] for name in names]
        splits.append({**rows, "gallery": rows["query"]})
    return splits
