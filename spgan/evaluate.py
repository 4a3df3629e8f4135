"""Scores a trained network on a target's test set: Euclidean ranking of the last map in the eight poolings of
Table 3, with and without AdaBN.

    python evaluate.py --checkpoint runs/stages/reid-<hash>/model.pt --target synthetic-market
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from common.checks import Bound, bounded
from common.datasets import ReIDDataset
from common.datasets.loading import EvalTransform
from common.evaluation import scoring
from common.evaluation.scoring import Embedder, Scores, checkpoint_scores, evaluate_command, rank
from common.job import Workspace
from spgan.config import TestConfig
from spgan.experiments import MODES, PARTS, score_name
from spgan.reid.model import IDENet, load_network, local_pool

Pooling = tuple[int, str]  # parts, mode
POOLINGS: tuple[Pooling, ...] = tuple(product(PARTS, MODES))
ONE_PASS_WIDTH = 256  # wider maps are pooled one way at a time: all eight would not fit into memory


def embedder(
    model: IDENet, poolings: Sequence[Pooling], test: TestConfig, device: torch.device, workers: int = 0
) -> Embedder:
    """Returns one L2-normalised feature `(B, parts * C)` for each pooling, named as in records."""

    def features(network: IDENet, images: Tensor) -> dict[str, Tensor]:
        last_map = network.base(images)
        return {score_name(*p): local_pool(last_map, *p, part_norm=test.part_norm) for p in poolings}

    transform = EvalTransform(model.net.height, model.net.width, test.interpolation)
    return Embedder(features, transform, device, workers, flip=test.flip)


def score(model: IDENet, target: ReIDDataset, test: TestConfig, work: Workspace) -> None:
    """Writes `scores.json` (`last`, `lmp7max`, ..., each also `+adabn`) and the features of `last`."""
    one_pass = model.base.num_features <= ONE_PASS_WIDTH
    groups = [POOLINGS] if one_pass else [(pooling,) for pooling in POOLINGS]
    embedders = [embedder(model, group, test, work.device, work.options.workers) for group in groups]
    scores: dict[str, Scores] = {}
    for suffix, network in (("", model), ("+adabn", embedders[0].adapt(model, target.train))):
        for features in embedders:
            query, gallery = features.embed_test(network, target)
            for name in query:
                rows = query[name], gallery[name]
                scores[name + suffix] = rank(target, *rows, cut=test.cut, no_match=test.no_match)
                if name + suffix == "last":
                    scoring.save_test_features(
                        work.folder, target, rows, model="SPGAN pool5", normalised=True
                    )
    work.write_json("scores.json", scores)


@dataclass(frozen=True)
class Evaluate(scoring.Evaluate):
    """Scores a checkpoint on a target and prints the scores as JSON."""

    test: TestConfig = field(default_factory=TestConfig)
    parts: int = bounded(1, Bound("1 to 64", least=1, most=64))  # stripes of the pooling; Table 3: 1, 2, 3, 7
    pool: Literal["avg", "max"] = "avg"  # in each stripe


def scores(options: Evaluate, device: torch.device) -> Scores:
    """Returns the scores of the checkpoint with one pooling."""
    model = load_network(options.checkpoint)
    features = embedder(model, [(options.parts, options.pool)], options.test, device, options.workers)
    test = options.test
    return checkpoint_scores(options, model, features, cut=test.cut, no_match=test.no_match)


def main(argv: Sequence[str] | None = None) -> int:
    return evaluate_command(Evaluate, scores, argv)


if __name__ == "__main__":
    sys.exit(main())
