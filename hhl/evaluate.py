"""Scores a trained network on a target's test set: L2-normalised pool5, Euclidean ranking, with and without
AdaBN (Sec. 4.2).

    python evaluate.py --checkpoint runs/stages/reid-<hash>/model.pt --target synthetic-market
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from common.backbones import adabn_on, extract_features
from common.checkpoints import load_checkpoint, load_strictly, saved_config
from common.cli import exit_code
from common.datasets import ReIDDataset, Sample, load_dataset
from common.datasets.loading import EvalTransform, SampleImages, ordered_loader
from common.evaluation.features import save_features
from common.evaluation.ranking import evaluate_dataset
from common.runs import Workspace
from common.training import pick_device
from hhl.config import NetConfig, TestConfig
from hhl.model import HHLNet, build_network

BATCH = 128


def score(
    model: HHLNet,
    target: ReIDDataset,
    test: TestConfig,
    device: torch.device,
    workspace: Workspace,
    workers: int = 0,
) -> None:
    """Writes `scores.json` (`last`, `last+adabn`) and the features of `last` into the workspace."""
    features = [embed(model, samples, test, device, workers) for samples in (target.query, target.gallery)]
    for name, samples, rows in zip(("query", "gallery"), (target.query, target.gallery), features):
        save_features(
            workspace.folder / f"{name}.npz",
            rows,
            [s.pid for s in samples],
            [s.camid for s in samples],
            [s.path.name for s in samples],
            normalised=test.normalise,
            model="HHL pool5",
        )
    adapted = adapt(model, target.train, test, device, workers)
    again = [embed(adapted, samples, test, device, workers) for samples in (target.query, target.gallery)]
    scores = {
        "last": evaluate_dataset(target, *features).scores(),
        "last+adabn": evaluate_dataset(target, *again).scores(),
    }
    workspace.write_json("scores.json", scores)


def embed(
    model: HHLNet,
    samples: Sequence[Sample | Path],
    test: TestConfig,
    device: torch.device,
    workers: int = 0,
    *,
    flip: bool = False,
) -> np.ndarray:
    """Test features `(N, D)`, L2-normalised unless `test` says otherwise: resize, one view unless `flip` (as
    released).
    """
    images = SampleImages(samples, EvalTransform(*model.image_size, test.interpolation))
    rows = extract_features(
        lambda x: model(x, "pooled"),
        ordered_loader(images, BATCH, workers=workers),
        device,
        flip=flip,
        normalise=test.normalise,
    )
    return rows.numpy()


def adapt(
    model: HHLNet, train: Sequence[Sample], test: TestConfig, device: torch.device, workers: int = 0
) -> HHLNet:
    """AdaBN: the statistics of every batch norm re-estimated on the target's training images, without labels."""
    return adabn_on(
        model,
        train,
        EvalTransform(*model.image_size, test.interpolation),
        device,
        batch=BATCH,
        workers=workers,
    )


def load_network(path: Path) -> HHLNet:
    """The network in a `model.pt`, in evaluation mode."""
    saved = load_checkpoint(path, expected=("state_dict", "num_ids", "net"))
    net = saved_config(NetConfig, saved["net"], path, "HHL")
    model = build_network(
        replace(net, weights="none"), saved["num_ids"], triplet="triplet.weight" in saved["state_dict"]
    )
    load_strictly(model, saved["state_dict"], path)
    return model.to(memory_format=torch.channels_last).eval()


@dataclass(frozen=True)
class Evaluate:
    """Scores a checkpoint on a target and prints the scores as JSON."""

    checkpoint: Path  # model.pt of a finished re-ID stage
    target: str = "synthetic-market"  # dataset that is tested on
    data_root: Path | None = None  # folder that holds the datasets
    test: TestConfig = field(default_factory=TestConfig)
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
        model = adapt(model, target.train, options.test, device, options.workers)
    features = [
        embed(model, samples, options.test, device, options.workers, flip=options.flip)
        for samples in (target.query, target.gallery)
    ]
    print(json.dumps(evaluate_dataset(target, *features, rerank=options.rerank or None).scores(), indent=1))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: run(tyro.cli(Evaluate, args=argv)))


if __name__ == "__main__":
    sys.exit(main())
