"""Closed formulas that stand in for random numbers, and the golden arrays computed with them from the released code."""

from __future__ import annotations

import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[1] / "golden"
PRIME = 2**31 - 1


def scatter(name: str, *shape: int) -> np.ndarray:
    """Values in -1..1 that look random: a quadratic in the index modulo 2^31 - 1, shifted by the CRC of a name; exact on every machine."""
    k = np.arange(int(np.prod(shape)), dtype=np.int64) + 1
    value = (k * k % PRIME * 1583458089 + zlib.crc32(name.encode())) % PRIME
    return (2 * value / PRIME - 1).reshape(shape)


def formula(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight or buffer from its name: matrices and kernels of variance 2 / (entries of one row), gains and variances about 1."""
    values = scatter(name, *shape)
    if len(shape) > 1:
        return values * (6 / np.prod(shape[1:])) ** 0.5
    return 1 + 0.2 * values if name.endswith(("weight", "running_var")) else 0.1 * values


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Every weight and buffer of `model` by `formula`."""
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
        else:
            tensor.copy_(torch.from_numpy(formula(name, tuple(tensor.shape))))


def fingerprint(tensors: dict[str, Tensor]) -> np.ndarray:
    """One row a tensor, in order of name: root mean square, mean, and 14 entries at even distances; float64 `(tensors, 16)`."""
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
    return SimpleNamespace(scatter=scatter, fill=fill, fingerprint=fingerprint)


@pytest.fixture(scope="session")
def golden():
    """`golden("dcgan_lsro_dcgan")` -> the arrays of tests/golden/dcgan_lsro_dcgan.npz."""
    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)
    return load
