"""Scores a trained network on a target's test set, for all five papers.

A paper's `evaluate.py` declares its named features (an `Embedder`), its network's loader and its own flags;
see `hhl/evaluate.py`. Features, AdaBN, feature files, both APs and the `evaluate` command are here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from common.backbones import adabn_on, extract_features
from common.checks import Bound, bounded, check_fields
from common.cli import exit_code
from common.datasets import ReIDDataset, Sample, load_dataset
from common.datasets.loading import SampleImages, Transform, ordered_loader
from common.errors import InputError
from common.evaluation.features import save_features
from common.evaluation.protocols import evaluate_single_shot
from common.evaluation.ranking import evaluate_dataset, ids_of
from common.flags import parse_flags
from common.job import Workspace
from common.training import pick_device

Network = TypeVar("Network", bound=nn.Module)
Features = dict[str, np.ndarray]  # name -> (N, D)
Scores = dict[str, float]  # R-1, ..., mAP, mAP_step as fractions


@dataclass(frozen=True)
class Embedder:
    """How a paper turns test images into named features."""

    # (network, images (B, 3, H, W)) -> named features (B, D) each, from one pass
    features: Callable[[Any, Tensor], Mapping[str, Tensor]]
    transform: Transform  # of a test image
    device: torch.device
    workers: int = 0
    batch: int = 128
    flip: bool = False  # add the features of the mirrored image
    normalise: bool = True  # L2-normalise each feature

    def embed(self, network: nn.Module, samples: Sequence[Sample | Path]) -> Features:
        """Returns the features of each image, in order; the network must be in evaluation mode."""
        widths: dict[str, int] = {}

        def columns(images: Tensor) -> Tensor:
            parts = self.features(network, images)
            widths.update({name: part.shape[1] for name, part in parts.items()})
            return torch.cat(list(parts.values()), dim=1)

        loader = ordered_loader(SampleImages(samples, self.transform), self.batch, workers=self.workers)
        bar = tqdm(
            loader, desc="features", unit="batch", disable=None, leave=False
        )  # silent without a terminal
        rows = extract_features(columns, bar, self.device, flip=self.flip, normalise=False)
        parts = zip(widths, rows.split(list(widths.values()), dim=1))
        return {name: (F.normalize(part) if self.normalise else part).numpy() for name, part in parts}

    def embed_test(self, network: nn.Module, target: ReIDDataset) -> tuple[Features, Features]:
        """Returns the features of query and gallery."""
        return self.embed(network, target.query), self.embed(network, target.gallery)

    def adapt(self, network: Network, train: Sequence[Sample]) -> Network:
        """Returns an AdaBN copy: batch-norm statistics of the target's training images, without labels."""
        return adabn_on(network, train, self.transform, self.device, batch=self.batch, workers=self.workers)


def rank(target: ReIDDataset, query: np.ndarray, gallery: np.ndarray, **options: Any) -> Scores:
    """Returns the scores of one ranking; `options` as in `common.evaluation.ranking.evaluate`.

    `cuhk03:protocol=classic` is ranked in 20 random single-shot galleries, without options.
    """
    if target.name == "cuhk03" and target.options.get("protocol") == "classic":
        if any(options.get(name) for name in ("rerank", "cut")):
            raise InputError("cuhk03:protocol=classic: its single-shot draws take neither --rerank nor a cut")
        return evaluate_single_shot(
            query, *ids_of(target.query), gallery, *ids_of(target.gallery), repeats=20
        ).scores()
    return evaluate_dataset(target, query, gallery, **options).scores()


def score(
    embedder: Embedder, network: nn.Module, target: ReIDDataset, work: Workspace, *, model: str
) -> None:
    """Writes `scores.json` with `last` and `last+adabn`, and the features of `last`.

    For papers with one feature; `model` names network and layer in the feature files.
    """
    adapted = embedder.adapt(network, target.train)
    rows = {"last": _only(embedder, network, target), "last+adabn": _only(embedder, adapted, target)}
    save_test_features(work.folder, target, rows["last"], model=model, normalised=embedder.normalise)
    work.write_json("scores.json", {name: rank(target, *features) for name, features in rows.items()})


def _only(embedder: Embedder, network: nn.Module, target: ReIDDataset) -> list[np.ndarray]:
    """Returns the only feature of query and gallery."""
    return [feature for rows in embedder.embed_test(network, target) for feature in rows.values()]


def save_test_features(
    folder: Path, target: ReIDDataset, features: Sequence[np.ndarray], *, model: str, normalised: bool
) -> None:
    """Writes `query.npz` and `gallery.npz`; `features`: of query and gallery, `(N, D)` each."""
    for name, rows in zip(("query", "gallery"), features):
        samples: Sequence[Sample] = getattr(target, name)
        save_features(
            folder / f"{name}.npz",
            rows,
            [s.pid for s in samples],
            [s.camid for s in samples],
            [s.path.name for s in samples],
            normalised=normalised,
            model=model,
        )


# ---------------------------------------------------------------- the evaluate command


@dataclass(frozen=True)
class Evaluate:
    """The flags of every paper's `evaluate.py`."""

    checkpoint: Path  # model.pt of a finished re-ID stage
    target: str = "synthetic-market"  # dataset to test on: a name, or the path of a folder
    data_root: Path | None = None  # folder that holds the datasets
    adabn: bool = False  # re-estimate batch norm on the target's training images
    rerank: bool = False  # k-reciprocal re-ranking; no published number has it
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = bounded(0, Bound("0 or more, at most 1,024", least=0, most=1024))  # that load images


def evaluate_command(
    flags: type[Any],
    scores: Callable[[Any, torch.device], Scores],
    argv: Sequence[str] | None = None,
) -> int:
    """Prints `scores(options, device)` as JSON and returns the exit code; `flags` subclasses `Evaluate`."""
    return exit_code(lambda: _evaluate(flags, scores, argv))


def _evaluate(flags: type[Evaluate], scores: Callable, argv: Sequence[str] | None) -> None:
    options = parse_flags(flags, sys.argv[1:] if argv is None else argv)
    check_fields(options)
    print(json.dumps(scores(options, pick_device(options.device)), indent=1))


def load_target(options: Evaluate) -> ReIDDataset:
    """Loads the target of the flags; its training images are needed for --adabn only."""
    return load_dataset(options.target, options.data_root, needs=needed_splits(options))


def needed_splits(options: Evaluate) -> tuple[str, ...]:
    """Returns the splits that an evaluation reads."""
    return ("train", "query", "gallery") if options.adabn else ("query", "gallery")


def checkpoint_scores(options: Evaluate, network: nn.Module, embedder: Embedder, **ranking: Any) -> Scores:
    """Returns the scores of a network with one feature on the target of the flags; `ranking`: see `rank`."""
    target = load_target(options)
    network = network.to(embedder.device)
    if options.adabn:
        network = embedder.adapt(network, target.train)
    features = _only(embedder, network, target)
    return rank(target, *features, rerank=options.rerank or None, **ranking)
