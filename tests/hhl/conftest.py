"""How the golden networks of HHL were filled."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn


class HalfDrop(nn.Module):
    """A dropout that drops every other entry."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.arange(x.numel()).reshape(x.shape) % 2 * 2)


@pytest.fixture(scope="session")
def formulas(formulas) -> SimpleNamespace:
    """The formulas of all papers, fingerprints in float32, and: `scattered`, a float32 tensor; `fill`;
    `HalfDrop`.
    """

    def scattered(name: str, *shape: int) -> Tensor:
        return torch.from_numpy(formulas.scatter(name, *shape).astype(np.float32))

    def fingerprint(tensors: dict[str, Tensor]) -> np.ndarray:
        return formulas.fingerprint(tensors).astype(np.float32)

    @torch.no_grad()
    def fill(model: nn.Module) -> None:
        """Every weight and buffer from its name: matrices and kernels of variance 2 / fan-in, gains and
        variances about 1.
        """
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.zero_()
                continue
            values = scattered(name, *tensor.shape)
            if tensor.ndim > 1:
                values *= (6 / tensor[0].numel()) ** 0.5
            elif name.endswith(("weight", "running_var")):
                values = 1 + 0.2 * values
            else:
                values *= 0.1
            tensor.copy_(values)

    return SimpleNamespace(
        scatter=formulas.scatter, scattered=scattered, fill=fill, fingerprint=fingerprint, HalfDrop=HalfDrop
    )
