"""Scores a trained network on a target's test set: L2-normalised pooled map, Euclidean ranking, with and
without AdaBN.

    python evaluate.py --checkpoint runs/stages/reid-<hash>/model.pt --target synthetic-market
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from common.datasets.loading import EvalTransform
from common.evaluation import scoring
from common.evaluation.scoring import Embedder, Scores, checkpoint_scores, evaluate_command
from ptgan.reid import IDENet, load_network


def embedder(model: IDENet, device: torch.device, workers: int = 0, *, flip: bool = False) -> Embedder:
    """Returns the test feature, pool5 `(N, D)`: one view of the resized image unless `flip`."""
    return Embedder(
        lambda network, images: {"pool5": network.pool5(images)},
        EvalTransform(*model.image_size),
        device,
        workers,
        flip=flip,
    )


@dataclass(frozen=True)
class Evaluate(scoring.Evaluate):
    """Scores a checkpoint on a target and prints the scores as JSON."""

    flip: bool = False  # average with the mirrored image; no published number does


def scores(options: Evaluate, device: torch.device) -> Scores:
    """Returns the scores of the checkpoint."""
    model = load_network(options.checkpoint)
    return checkpoint_scores(options, model, embedder(model, device, options.workers, flip=options.flip))


def main(argv: Sequence[str] | None = None) -> int:
    return evaluate_command(Evaluate, scores, argv)


if __name__ == "__main__":
    sys.exit(main())
