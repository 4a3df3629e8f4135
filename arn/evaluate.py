"""Scores a trained network on a target's test set: e_c of E_C in evaluation mode, L2-normalised, with and
without AdaBN.

    python evaluate.py --checkpoint runs/stages/joint-<hash>/model.pt --target synthetic-market

Released counterpart: `reid_evaluate.py`. Its "L1" is a Hamming distance, its test images are mirrored at
random, and it computes no mAP.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arn.config import ARNConfig, DecoderConfig, LatentConfig, NetConfig
from arn.data import eval_transform
from arn.model import ARNNet, Codes, build_network
from common.backbones import global_pool
from common.checkpoints import load_strictly, saved_network
from common.datasets import ReIDDataset, Sample
from common.errors import InputError
from common.evaluation.scoring import (
    Embedder,
    Evaluate,
    Features,
    Scores,
    evaluate_command,
    load_target,
    rank,
    save_test_features,
)
from common.hashing import canonical
from common.job import Workspace

Encode = Callable[[ARNNet, Tensor], Codes]


def named_features(network: ARNNet, images: Tensor) -> dict[str, Tensor]:
    """Returns the columns of `describe` for a batch of target images."""
    return describe(target_codes(network, images))


def describe(codes: Codes) -> dict[str, Tensor]:
    """Returns `e_c` and `X` `(B, D)`; with private encoders `e_p`, `sum` = e_c + e_p and `cosine` `(B, 1)`;
    `energy` and `error` `(B, 1)`: the squared norms of what D_C should rebuild and of its error.
    """
    error = codes.rebuilt - codes.original
    features = {
        "e_c": codes.common,
        "X": global_pool(codes.feature_map),
        "energy": codes.original.square().sum(dim=(1, 2, 3))[:, None],
        "error": error.square().sum(dim=(1, 2, 3))[:, None],
    }
    if codes.private is not None:
        features["e_p"] = codes.private
        features["sum"] = codes.common + codes.private
        features["cosine"] = F.cosine_similarity(codes.common, codes.private)[:, None]
    return features


def embedder_of(net: NetConfig, device: torch.device, workers: int) -> Embedder:
    """Returns the embedder of all features in one pass, not normalised."""
    return Embedder(named_features, eval_transform(net), device, workers, batch=64, normalise=False)


def target_codes(network: ARNNet, images: Tensor) -> Codes:
    """Encodes target images by E_C and E_T."""
    return network(images)[0]


def with_total(
    embedder: Embedder, network: ARNNet, samples: Sequence[Sample], encode: Encode = target_codes
) -> Features:
    """Returns the features of the images and `total` `(1, P)`, the sum of what D_C should rebuild."""
    sums = []

    def features(network: ARNNet, images: Tensor) -> dict[str, Tensor]:
        codes = encode(network, images)
        sums.append(codes.original.flatten(1).sum(dim=0, keepdim=True).cpu())
        return describe(codes)

    rows = replace(embedder, features=features).embed(network, samples)
    return rows | {"total": sum(sums, torch.zeros(1)).numpy()}


def unit(rows: Sequence[Features], name: str) -> list[np.ndarray]:
    """Returns the feature `name` of query and gallery, L2-normalised."""
    return [F.normalize(torch.from_numpy(part[name])).numpy() for part in rows]


def score(network: ARNNet, net: NetConfig, ranked: str, target: ReIDDataset, work: Workspace) -> None:
    """Writes `scores.json`, `measures.json` and the ranked features of query and gallery.

    `last` and `last+adabn` rank by `ranked`, L2-normalised; `raw` by e_c, not normalised; `X` by the pooled
    map; `sum` by e_c + e_p.
    """
    embedder = embedder_of(net, work.device, work.options.workers)
    plain = [with_total(embedder, network, samples) for samples in (target.query, target.gallery)]
    adapted = embedder.embed_test(embedder.adapt(network, target.train), target)
    features = {
        "last": unit(plain, ranked),
        "last+adabn": unit(adapted, ranked),
        "raw": [rows["e_c"] for rows in plain],
        "X": unit(plain, "X"),
    }
    if "sum" in plain[0]:
        features["sum"] = unit(plain, "sum")
    save_test_features(work.folder, target, features["last"], model=f"ARN {ranked}", normalised=True)
    work.write_json("scores.json", {name: rank(target, *rows) for name, rows in features.items()})
    work.write_json("measures.json", code_measures(plain))


def code_measures(rows: Sequence[Features]) -> dict[str, float]:
    """Returns, on the target's test images, `rec_relative_error`, the share of the squared norm that D_C
    rebuilds wrongly; `mean_map_relative_error`, the same for the images' mean map (D_C has learned something
    if its error is lower); and `mean_abs_cosine`, the mean |cos(e_c, e_p)|.
    """
    totals = {
        name: np.concatenate([part[name] for part in rows]).astype(float)
        for name in ("energy", "error", "cosine", "total")
        if name in rows[0]
    }
    energy = max(totals["energy"].sum(), 1e-12)
    mean_map = np.square(totals["total"].sum(axis=0)).sum() / (len(totals["energy"]) * energy)
    measures = {
        "rec_relative_error": float(totals["error"].sum() / energy),
        "mean_map_relative_error": float(1 - mean_map),
    }
    if "cosine" in totals:
        measures["mean_abs_cosine"] = float(np.abs(totals["cosine"]).mean())
    return measures


# ---------------------------------------------------------------- checkpoints


def architecture(config: ARNConfig) -> dict[str, Any]:
    """Returns the parts of a configuration that `load_network` reads from a checkpoint."""
    return {name: canonical(getattr(config, name)) for name in ("net", "latent", "dec")}


def saved_config(net: Mapping, latent: Mapping, dec: Mapping) -> ARNConfig:
    """Returns the configuration whose `architecture` was saved."""
    return ARNConfig(NetConfig(**net), LatentConfig(**latent), DecoderConfig(**dec))


def load_network(path: Path) -> tuple[NetConfig, ARNNet]:
    """Returns the network in a `model.pt`, in evaluation mode, and its configuration. Raises `InputError` for
    another file.
    """
    config, num_ids, state = saved_network(path, saved_config, "ARN", entry="architecture")
    network = build_network(replace(config, net=replace(config.net, weights="none")), num_ids)
    load_strictly(network, state, path)
    return config.net, network.to(memory_format=torch.channels_last).eval()


@dataclass(frozen=True)
class ARNEvaluate(Evaluate):
    """Scores a checkpoint on a target and prints the scores as JSON."""

    feature: Literal["e_c", "X", "sum"] = "e_c"  # common code, pooled map of E_I, or e_c + e_p
    raw: bool = False  # Euclidean distance of features that are not L2-normalised, as released


def scores(options: ARNEvaluate, device: torch.device) -> Scores:
    """Returns the scores of one feature. Raises `InputError` for a feature that the network lacks."""
    net, network = load_network(options.checkpoint)
    if options.feature == "sum" and network.encoder_t is None:
        raise InputError(f"--feature sum: {options.checkpoint} has no private encoders")
    target = load_target(options)
    embedder = embedder_of(net, device, options.workers)
    network = network.to(device)
    if options.adabn:
        network = embedder.adapt(network, target.train)
    rows = embedder.embed_test(network, target)
    features = [part[options.feature] for part in rows] if options.raw else unit(rows, options.feature)
    return rank(target, *features, rerank=options.rerank or None)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return evaluate_command(ARNEvaluate, scores, argv)


if __name__ == "__main__":
    sys.exit(main())
