"""Closed formulas that stand in for random numbers, the golden arrays computed with them from the released code, and a tiny pair of datasets."""

from __future__ import annotations

import re
import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.datasets.synthetic import load_synthetic

GOLDEN = Path(__file__).parents[1] / "golden"
PRIME = 2**31 - 1


def scatter(name: str, *shape: int) -> np.ndarray:
    """Values in -1..1 that look random: a quadratic in the index modulo 2^31 - 1, shifted by the CRC of a name; exact on every machine."""
    k = np.arange(int(np.prod(shape)), dtype=np.int64) + 1
    value = (k * k % PRIME * 1583458089 + zlib.crc32(name.encode())) % PRIME
    return (2 * value / PRIME - 1).reshape(shape)


def scattered(name: str, *shape: int) -> Tensor:
    """`scatter` as a float32 tensor."""
    return torch.from_numpy(scatter(name, *shape).astype(np.float32))


@torch.no_grad()
def fill(model: nn.Module) -> nn.Module:
    """Every parameter from its name by `scatter`: kernels of variance 2 / (entries of their first slice), scales about 1, offsets about 0."""
    for name, parameter in model.named_parameters():
        values = scattered(name, *parameter.shape)
        if parameter.ndim > 1:
            values = values * (6 / parameter[0].numel()) ** 0.5
        else:
            values = 1 + 0.2 * values if name.endswith("scale") else 0.1 * values
        parameter.copy_(values)
    return model


def fingerprint(tensors: dict[str, Tensor]) -> np.ndarray:
    """One row a tensor, in order of name: root mean square, mean, and 14 entries at even distances; `(tensors, 16)`."""
    rows = []
    for _, tensor in sorted(tensors.items()):
        flat = tensor.detach().double().flatten().numpy()
        rows.append([np.sqrt(np.mean(flat**2)), flat.mean(), *flat[np.linspace(0, len(flat) - 1, 14).astype(int)]])
    return np.array(rows)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def formulas():
    """The functions of this file, for the tests of this folder."""
    return SimpleNamespace(scatter=scatter, scattered=scattered, fill=fill, fingerprint=fingerprint)


@pytest.fixture(scope="session")
def golden():
    """`golden("ptgan_steps")` -> the arrays of tests/golden/ptgan_steps.npz."""
    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)
    return load


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """Market-1501 and DukeMTMC-reID layouts of a few drawn people each, with their true masks as `bounding_box_train_mask/<stem>.png`."""
    root = tmp_path_factory.mktemp("data")
    for name, folder in (("synthetic-market", "Market-1501-v15.09.15"), ("synthetic-duke", "DukeMTMC-reID")):
        drawn = load_synthetic(name, root / "drawn", train_ids=6, test_ids=3).root
        for split in ("bounding_box_train", "bounding_box_test", "query"):
            (root / folder / split).mkdir(parents=True)
            for path in (drawn / split).glob("*.jpg"):
                pid, camera, sequence, frame = re.match(r"(-?\d+)_c(\d)s(\d)_(\d+)", path.name).groups()
                stem = path.stem if folder.startswith("Market") else f"{pid}_c{camera}_f{sequence}{frame}"
                if folder.startswith("Market") or pid != "-1":
                    shutil.copyfile(path, root / folder / split / f"{stem}.jpg")
                    place = root / folder / f"{split}_mask"
                    place.mkdir(exist_ok=True)
                    shutil.copyfile(drawn / "masks" / split / f"{path.stem}.png", place / f"{stem}.png")
    return root
