"""A job of a toy paper, for the tests of what all papers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.datasets import ReIDDataset, Sample
from common.job import Job, Options
from common.records import Experiment
from common.runs import StageStore


@pytest.fixture
def toy_job() -> Callable[..., Job]:
    """`toy_job(out, key="toy/t/a", options=Options())`: a job whose datasets are a manifest and no more."""

    def make(out: Path, key: str = "toy/t/a", options: Options | None = None) -> Job:
        import torch

        sample = Sample(Path("toy.jpg"), 1, 0)
        data = ReIDDataset("toy", Path("."), [sample], [sample], [replace(sample, camid=1)], 2)
        data.__dict__["manifest"] = {"name": "toy", "hash": "0"}
        options = options or Options()
        store = StageStore(out, options.resume, options.fresh)
        return Job("toy", Experiment(key, ""), {}, data, data, torch.device("cpu"), options, store)

    return make
