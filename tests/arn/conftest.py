"""How the golden networks of ARN were filled."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="session")
def formulas(formulas) -> SimpleNamespace:
    """The formulas of all papers with `scatter` as a tensor, and `fill`."""

    def scatter(name: str, *shape: int) -> Tensor:
        return torch.from_numpy(formulas.scatter(name, *shape))

    @torch.no_grad()
    def fill(model: nn.Module, rename=lambda name: name) -> None:
        """Every weight and buffer from its released name: kernels of variance 2 / fan-in, gains and variances
        about 1, the rest small.
        """
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

    return SimpleNamespace(scatter=scatter, fill=fill, fingerprint=formulas.fingerprint)
