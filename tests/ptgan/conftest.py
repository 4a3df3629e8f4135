"""Fixtures of PTGAN's tests: the golden networks' weights, jobs without a command line."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.datasets import ReIDDataset
from common.job import Job, Options
from common.records import Experiment
from common.runs import StageStore


@pytest.fixture(scope="session")
def formulas(formulas) -> SimpleNamespace:
    """The formulas of all papers, and: `scattered`, a float32 tensor; `fill`."""

    def scattered(name: str, *shape: int) -> Tensor:
        return torch.from_numpy(formulas.scatter(name, *shape).astype(np.float32))

    @torch.no_grad()
    def fill(model: nn.Module) -> nn.Module:
        """Sets every parameter from its name: kernels of variance 2 / (entries of their first slice), scales
        about 1, offsets about 0.
        """
        for name, parameter in model.named_parameters():
            values = scattered(name, *parameter.shape)
            if parameter.ndim > 1:
                values = values * (6 / parameter[0].numel()) ** 0.5
            else:
                values = 1 + 0.2 * values if name.endswith("scale") else 0.1 * values
            parameter.copy_(values)
        return model

    return SimpleNamespace(**vars(formulas), scattered=scattered, fill=fill)


@pytest.fixture
def make_job(tmp_path) -> Callable[..., Job]:
    """`make_job(config, source, target, **options)`: a job whose stages are in `out`."""

    def make(config: Any, source: ReIDDataset, target: ReIDDataset, **options: Any) -> Job:
        experiment, store = Experiment("ptgan/t/a", ""), StageStore(tmp_path / "out")
        device = torch.device("cpu")
        return Job("ptgan", experiment, config, source, target, device, Options(**options), store)

    return make
