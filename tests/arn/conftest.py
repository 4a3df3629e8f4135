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


def scatter(name: str, *shape: int) -> Tensor:
    """float64 values in -1..1 that look random: a quadratic in the index modulo 2^31 - 1, shifted by the CRC of a name; exact on every machine."""
    k = np.arange(int(np.prod(shape)), dtype=np.int64) + 1
    value = (k * k % PRIME * 1583458089 + zlib.crc32(name.encode())) % PRIME
    return torch.from_numpy((2 * value / PRIME - 1).reshape(shape))


@torch.no_grad()
def fill(model: nn.Module, rename=lambda name: name) -> None:
    """Every weight and buffer from its released name by `scatter`: kernels of variance 2 / fan-in, gains and variances about 1, the rest small."""
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
            continue
        values = scatter(rename(name), *tensor.shape)
        if tensor.ndim > 1:
            values = values * (6 / tensor[0].numel()) ** 0.5
        elif name.endswith(("weight", "running_var")):
            values = 1 + 0.2 * values
        else:
            values = 0.1 * values
        tensor.copy_(values)


def fingerprint(tensors: dict[str, Tensor]) -> np.ndarray:
    """One row a tensor, in order of name: root mean square, mean, and 14 entries at even distances; float64 `(tensors, 16)`."""
    rows = []
    for _, tensor in sorted(tensors.items()):
        flat = tensor.detach().double().flatten().numpy()
        rows.append([np.sqrt(np.mean(flat**2)), flat.mean(), *flat[np.linspace(0, len(flat) - 1, 14).astype(int)]])
    return np.array(rows)




@pytest.fixture(scope="session")
def formulas():
    """The functions of this file, for the tests of this folder."""
    return SimpleNamespace(scatter=scatter, fill=fill, fingerprint=fingerprint)


@pytest.fixture(scope="session")
def golden():
    """`golden("arn_model")` -> the arrays of tests/golden/arn_model.npz."""
    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)
    return load
