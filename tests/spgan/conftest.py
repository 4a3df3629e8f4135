"""Closed formulas that stand in for random numbers, the golden arrays, and tiny drawn datasets. Tests in gan/ run in a process with TensorFlow."""

from __future__ import annotations

import os
import re
import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.datasets.synthetic import load_synthetic

GOLDEN = Path(__file__).parents[1] / "golden"
PRIME = 2**31 - 1
collect_ignore = [] if os.environ.get("SPGAN_TENSORFLOW") else ["gan"]   # see test_spgan_tensorflow.py


def scatter(name: str, *shape: int) -> np.ndarray:
    """Values in -1..1 that look random: a quadratic in the index modulo 2^31 - 1, shifted by the CRC of a name; exact on every machine."""
    k = np.arange(int(np.prod(shape)), dtype=np.int64) + 1
    value = (k * k % PRIME * 1583458089 + zlib.crc32(name.encode())) % PRIME
    return (2 * value / PRIME - 1).reshape(shape)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A variable from its name, `<network>/<layer>/<kernel, bias, scale, offset>`: kernels of variance 2 / fan-in, scales about 1."""
    values, kind = scatter(name, *shape), name.rsplit("/", 1)[1]
    if kind == "kernel":
        values = values * (6 / np.prod(shape[:-1])) ** 0.5
    else:
        values = 1 + 0.2 * values if kind == "scale" else 0.1 * values
    return values.astype(np.float32)


def fingerprint(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """One row an array, in order of name: root mean square, mean, and 14 entries at even distances; float32 `(arrays, 16)`."""
    rows = []
    for _, array in sorted(arrays.items()):
        flat = np.asarray(array, np.float64).ravel()
        rows.append([np.sqrt(np.mean(flat**2)), flat.mean(), *flat[np.linspace(0, len(flat) - 1, 14).astype(int)]])
    return np.array(rows, np.float32)


@pytest.fixture(scope="session")
def formulas():
    """The functions of this file."""
    return SimpleNamespace(scatter=scatter, weight=weight, fingerprint=fingerprint)


@pytest.fixture(scope="session")
def golden():
    """`golden("spgan_model")` -> the arrays of tests/golden/spgan_model.npz."""
    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)
    return load


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """Market-1501 and DukeMTMC-reID layouts of a few drawn people each."""
    root = tmp_path_factory.mktemp("data")
    for name, folder in (("synthetic-market", "Market-1501-v15.09.15"), ("synthetic-duke", "DukeMTMC-reID")):
        drawn = load_synthetic(name, root / "drawn", train_ids=6, test_ids=4).root
        for split in ("bounding_box_train", "bounding_box_test", "query"):
            (root / folder / split).mkdir(parents=True)
            for path in (drawn / split).glob("*.jpg"):
                pid, camera, sequence, frame = re.match(r"(-?\d+)_c(\d)s(\d)_(\d+)", path.name).groups()
                market = folder.startswith("Market")
                if market or pid != "-1":
                    shutil.copyfile(path, root / folder / split / (path.name if market else f"{pid}_c{camera}_f{sequence}{frame}.jpg"))
    return root
