"""Scores a trained network on a target's test set: L2-normalised pooled map, Euclidean ranking, with and
without AdaBN.

    python evaluate.py --checkpoint runs/stages/reid-<hash>/model.pt --target synthetic-market
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from common.backbones import adabn_on, extract_features
from common.cli import exit_code
from common.datasets import ReIDDataset, Sample, load_dataset
from common.datasets.loading import EvalTransform, SampleImages, ordered_loader
from common.evaluation.features import save_features
from common.evaluation.ranking import evaluate_dataset
from common.runs import Workspace
from common.training import pick_device
from ptgan.reid import IDENet, load_network

BATCH = 128


def score(
    model: IDENet, target: ReIDDataset, device: torch.device, workspace: Workspace, workers: int = 0
) -> None:
    """Writes `scores.json` (`last`, `last+adabn`) and the features of `last` into the workspace."""
    features = [embed(model, samples, device, workers) for samples in (target.query, target.gallery)]
    for name, samples, rows in zip(("query", "gallery"), (target.query, target.gallery), features):
        save_features(
            workspace.folder / f"{name}.npz",
            rows,
            [s.pid for s in samples],
            [s.camid for s in samples],
            [s.path.name for s in samples],
            normalised=True,
            model="PTGAN IDE pool5",
        )
    adapted = adapt(model, target.train, device, workers)
    again = [embed(adapted, samples, device, workers) for samples in (target.query, target.gallery)]
    scores = {
        "last": evaluate_dataset(target, *features).scores(),
        "last+adabn": evaluate_dataset(target, *again).scores(),
    }
    workspace.write_json("scores.json", scores)


def embed(
    model: IDENet, samples: Sequence[Sample], device: torch.device, workers: int = 0, *, flip: bool = False
) -> np.ndarray:
    """Test features `(N, D)`, L2-normalised: resize, one view unless `flip`."""
    images = SampleImages(samples, EvalTransform(*model.image_size))
    return extract_features(
        model.pool5, ordered_loader(images, BATCH, workers=workers), device, flip=flip
    ).numpy()


def adapt(model: IDENet, train: Sequence[Sample], device: torch.device, workers: int = 0) -> IDENet:
    """AdaBN: the statistics of every batch norm re-estimated on the target's training images, without labels."""
    return adabn_on(model, train, EvalTransform(*model.image_size), device, batch=BATCH, workers=workers)


@dataclass(frozen=True)
class Evaluate:
    """Scores a checkpoint on a target and prints the scores as JSON."""

    checkpoint: Path  # model.pt of a finished re-ID stage
    target: str = "synthetic-market"  # dataset that is tested on
    data_root: Path | None = None  # folder that holds the datasets
    flip: bool = False  # average with the mirrored image; no published number does
    adabn: bool = False  # re-estimate batch norm on the target's training images
    rerank: bool = False  # k-reciprocal re-ranking; no published number has it
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 0


def run(options: Evaluate) -> None:
    device = pick_device(options.device)
    model = load_network(options.checkpoint).to(device)
    target = load_dataset(options.target, options.data_root)
    if options.adabn:
        model = adapt(model, target.train, device, options.workers)
    features = [
        embed(model, samples, device, options.workers, flip=options.flip)
        for samples in (target.query, target.gallery)
    ]
    print(json.dumps(evaluate_dataset(target, *features, rerank=options.rerank or None).scores(), indent=1))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: run(tyro.cli(Evaluate, args=argv)))


if __name__ == "__main__":
    sys.exit(main())
