"""Scores a trained network on a target's test set: the last map pooled in the eight ways of Table 3,
Euclidean ranking, with and without AdaBN.

    python evaluate.py --checkpoint runs/stages/reid-<hash>/model.pt --target synthetic-market
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from common.backbones import adabn_on, extract_features
from common.cli import exit_code
from common.datasets import ReIDDataset, Sample, load_dataset
from common.datasets.loading import EvalTransform, SampleImages, ordered_loader
from common.errors import InputError
from common.evaluation.features import save_features
from common.evaluation.ranking import evaluate_dataset
from common.runs import Workspace
from common.training import pick_device
from spgan.config import TestConfig
from spgan.experiments import MODES, PARTS, score_name
from spgan.reid.model import IDENet, load_network, local_pool

BATCH = 128
POOLINGS = tuple(product(PARTS, MODES))
ONE_PASS_WIDTH = 256  # wider maps are pooled one way at a time: all eight would not fit into memory


def score(
    model: IDENet,
    target: ReIDDataset,
    test: TestConfig,
    device: torch.device,
    workspace: Workspace,
    workers: int = 0,
) -> None:
    """Writes `scores.json` (`last`, `lmp7max`, ..., each also `+adabn`) and the features of `last` into the
    workspace.
    """
    scores = {}
    for suffix, network in (("", model), ("+adabn", adapt(model, target.train, test, device, workers))):
        for pooling, features in pooled_features(
            network, (target.query, target.gallery), POOLINGS, test, device, workers
        ):
            scores[score_name(*pooling) + suffix] = rank(target, *features, test)
            if pooling == (1, "avg") and not suffix:
                for name, samples, rows in zip(
                    ("query", "gallery"), (target.query, target.gallery), features
                ):
                    save_features(
                        workspace.folder / f"{name}.npz",
                        rows,
                        [s.pid for s in samples],
                        [s.camid for s in samples],
                        [s.path.name for s in samples],
                        normalised=True,
                        model="SPGAN pool5",
                    )
    workspace.write_json("scores.json", scores)


def pooled_features(
    model: IDENet,
    splits: Sequence[Sequence[Sample]],
    poolings: Sequence[tuple[int, str]],
    test: TestConfig,
    device: torch.device,
    workers: int = 0,
):
    """Yields (pooling, [features of each split `(N, parts * C)`, L2-normalised]) for each (parts, mode)."""
    one_pass = model.base.num_features <= ONE_PASS_WIDTH
    for group in [poolings] if one_pass else [[pooling] for pooling in poolings]:
        widths = [parts * model.base.num_features for parts, _ in group]
        rows = [
            torch.split(_embed(model, samples, group, test, device, workers), widths, dim=1)
            for samples in splits
        ]
        for place, pooling in enumerate(group):
            yield pooling, [F.normalize(columns[place]).numpy() for columns in rows]


def _embed(
    model: IDENet,
    samples: Sequence[Sample],
    poolings: Sequence[tuple[int, str]],
    test: TestConfig,
    device: torch.device,
    workers: int,
) -> Tensor:
    def embed(images: Tensor) -> Tensor:
        feature_map = model.base(images)
        return torch.cat(
            [local_pool(feature_map, *pooling, part_norm=test.part_norm) for pooling in poolings], dim=1
        )

    images = SampleImages(samples, EvalTransform(*model.image_size, test.interpolation))
    return extract_features(
        embed, ordered_loader(images, BATCH, workers=workers), device, flip=test.flip, normalise=False
    )


def adapt(
    model: IDENet, train: Sequence[Sample], test: TestConfig, device: torch.device, workers: int = 0
) -> IDENet:
    """AdaBN: the statistics of every batch norm re-estimated on the target's training images, without labels."""
    return adabn_on(
        model,
        train,
        EvalTransform(*model.image_size, test.interpolation),
        device,
        batch=BATCH,
        workers=workers,
    )


def rank(
    target: ReIDDataset, query: np.ndarray, gallery: np.ndarray, test: TestConfig, **options
) -> dict[str, float]:
    return evaluate_dataset(target, query, gallery, cut=test.cut, **options).scores()


@dataclass(frozen=True)
class Evaluate:
    """Scores a checkpoint on a target and prints the scores as JSON."""

    checkpoint: Path  # model.pt of a finished re-ID stage
    target: str = "synthetic-market"  # dataset that is tested on
    data_root: Path | None = None  # folder that holds the datasets
    test: TestConfig = field(default_factory=TestConfig)
    parts: int = 1  # stripes of the pooling; Table 3: 1, 2, 3, 7
    pool: Literal["avg", "max"] = "avg"  # in each stripe
    adabn: bool = False  # re-estimate batch norm on the target's training images
    rerank: bool = False  # k-reciprocal re-ranking; no published number has it
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 0


def run(options: Evaluate) -> None:
    if options.parts < 1:
        raise InputError(f"--parts {options.parts}: expected at least 1")
    device = pick_device(options.device)
    model = load_network(options.checkpoint).to(device)
    target = load_dataset(options.target, options.data_root)
    if options.adabn:
        model = adapt(model, target.train, options.test, device, options.workers)
    pooling = (options.parts, options.pool)
    ((_, features),) = pooled_features(
        model, (target.query, target.gallery), [pooling], options.test, device, options.workers
    )
    print(json.dumps(rank(target, *features, options.test, rerank=options.rerank or None), indent=1))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: run(tyro.cli(Evaluate, args=argv)))


if __name__ == "__main__":
    sys.exit(main())
