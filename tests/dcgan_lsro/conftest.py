"""How the golden networks of DCGAN + LSRO were filled."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def formulas(formulas) -> SimpleNamespace:
    """The formulas of all papers, and `fill`."""

    @torch.no_grad()
    def fill(model: nn.Module) -> None:
        """Every weight and buffer from its name: kernels of variance 2 / (entries of one row), gains and
        variances about 1, the rest small.
        """
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.zero_()
                continue
            values = formulas.scatter(name, *tensor.shape)
            if tensor.ndim > 1:
                values = values * (6 / np.prod(tensor.shape[1:])) ** 0.5
            else:
                values = 1 + 0.2 * values if name.endswith(("weight", "running_var")) else 0.1 * values
            tensor.copy_(torch.from_numpy(values))

    return SimpleNamespace(**vars(formulas), fill=fill)
