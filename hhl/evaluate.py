"""Scores a trained network on a target's test set: Euclidean ranking of pool5, with and without AdaBN.

python evaluate.py --checkpoint runs/stages/reid-<hash>/model.pt --target synthetic-market
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from common.checkpoints import load_strictly, saved_network
from common.datasets.loading import EvalTransform
from common.evaluation import scoring
from common.evaluation.scoring import Embedder, Scores, checkpoint_scores, evaluate_command
from hhl.config import NetConfig, TestConfig
from hhl.model import HHLNet, build_network


def embedder(
    model: HHLNet, test: TestConfig, device: torch.device, workers: int = 0, *, flip: bool = False
) -> Embedder:
    """Returns the test feature, pool5 `(N, D)`: one view of the resized image unless `flip`, as released."""
    return Embedder(
        lambda network, images: {"pool5": network(images, "pooled")},
        EvalTransform(*model.image_size, test.interpolation),
        device,
        workers,
        flip=flip,
        normalise=test.normalise,
    )


def load_network(path: Path) -> HHLNet:
    """Returns the network of a `model.pt`, in evaluation mode."""
    net, num_ids, state = saved_network(path, NetConfig, "HHL")
    model = build_network(replace(net, weights="none"), num_ids, triplet="triplet.weight" in state)
    load_strictly(model, state, path)
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


@dataclass(frozen=True)
class Evaluate(scoring.Evaluate):
    """Scores a checkpoint on a target and prints the scores as JSON."""

    test: TestConfig = field(default_factory=TestConfig)
    flip: bool = False  # add the features of the mirrored image; no published number has it


def scores(options: Evaluate, device: torch.device) -> Scores:
    """Returns the scores of the checkpoint."""
    model = load_network(options.checkpoint)
    features = embedder(model, options.test, device, options.workers, flip=options.flip)
    return checkpoint_scores(options, model, features)


def main(argv: Sequence[str] | None = None) -> int:
    return evaluate_command(Evaluate, scores, argv)


if __name__ == "__main__":
    sys.exit(main())
