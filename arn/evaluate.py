"""Scores a trained network on a target's test set: e_c of E_C in evaluation mode, L2-normalised, with and
without AdaBN.

    python evaluate.py --checkpoint runs/stages/joint-<hash>/model.pt --target synthetic-market

Released counterpart: `reid_evaluate.py`. Its "L1" is a Hamming distance, its test images are mirrored at
random, and it has no mAP.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from arn.config import ARNConfig, DecoderConfig, LatentConfig, NetConfig
from arn.data import eval_transform
from arn.model import ARNNet, Codes, build_network
from common.backbones import adabn_on, extract_features, global_pool
from common.checkpoints import load_checkpoint
from common.cli import exit_code
from common.datasets import ReIDDataset, Sample, load_dataset
from common.datasets.loading import SampleImages, ordered_loader
from common.errors import InputError
from common.evaluation.features import save_features
from common.evaluation.ranking import evaluate_dataset
from common.hashing import canonical
from common.runs import Workspace
from common.training import pick_device

BATCH = 64
ARCHITECTURE = {"net": NetConfig, "latent": LatentConfig, "dec": DecoderConfig}


@torch.no_grad()
def score(
    config: ARNConfig,
    model: ARNNet,
    target: ReIDDataset,
    device: torch.device,
    workspace: Workspace,
    workers: int = 0,
) -> None:
    """Writes `scores.json`, `measures.json` and the ranked features of query and gallery into the workspace.

    `last` and `last+adabn` rank by `config.ranked`, L2-normalised. Beside them: `raw`, e_c as it is; `X`, the
    pooled map; `sum`, e_c + e_p.
    """
    plain, adapted = (
        embed_test_set(config, net, target, device, workers)
        for net in (model, adapt(config, model, target, device, workers))
    )
    ranked = {
        "last": unit(plain, config.ranked),
        "last+adabn": unit(adapted, config.ranked),
        "raw": [rows["e_c"] for rows in plain],
        "X": unit(plain, "X"),
        **({"sum": unit(plain, "sum")} if "sum" in plain[0] else {}),
    }
    scores = {name: evaluate_dataset(target, *features).scores() for name, features in ranked.items()}
    for name, samples, rows in zip(
        ("query", "gallery"), (target.query, target.gallery), unit(plain, config.ranked)
    ):
        save_features(
            workspace.folder / f"{name}.npz",
            rows,
            [s.pid for s in samples],
            [s.camid for s in samples],
            [s.path.name for s in samples],
            normalised=True,
            model=f"ARN {config.ranked}",
        )
    workspace.write_json("scores.json", scores)
    workspace.write_json("measures.json", code_measures(plain))


def embed_test_set(
    config: ARNConfig, model: ARNNet, target: ReIDDataset, device: torch.device, workers: int
) -> list[dict[str, np.ndarray]]:
    return [embed(config, model, samples, device, workers) for samples in (target.query, target.gallery)]


def unit(rows: Sequence[dict[str, np.ndarray]], name: str) -> list[np.ndarray]:
    """The features `name` of query and gallery, L2-normalised."""
    return [F.normalize(torch.from_numpy(part[name])).numpy() for part in rows]


def embed(
    config: ARNConfig, model: ARNNet, samples: Sequence[Sample], device: torch.device, workers: int = 0
) -> dict[str, np.ndarray]:
    """Of each image, in one pass and not normalised: `e_c` and `X` `(N, D)`, and, where there is E_T, `sum` =
    e_c + e_p and `cosine` `(N, 1)`.

    `energy` and `error` `(N, 1)`: the squared norm of what D_C should rebuild, and how much of it is wrong.
    `total` `(1, P)`: the sum over images of what it should rebuild.
    """
    images = SampleImages(samples, eval_transform(config.net))
    widths: dict[str, int] = {}
    total = torch.zeros(1)

    def columns(batch: Tensor) -> Tensor:
        nonlocal total
        codes, _ = model(batch)
        total = total + codes.original.flatten(1).sum(dim=0, keepdim=True).cpu()
        parts = describe(codes)
        widths.update({name: part.shape[1] for name, part in parts.items()})
        return torch.cat(list(parts.values()), dim=1)

    rows = extract_features(columns, ordered_loader(images, BATCH, workers=workers), device, normalise=False)
    return dict(zip(widths, (part.numpy() for part in rows.split(list(widths.values()), dim=1)))) | {
        "total": total.numpy()
    }


def describe(codes: Codes) -> dict[str, Tensor]:
    """The columns of `embed` for a batch of target images."""
    error = (codes.rebuilt - codes.original).square().sum(dim=(1, 2, 3))
    parts = {
        "e_c": codes.common,
        "X": global_pool(codes.feature_map),
        "energy": codes.original.square().sum(dim=(1, 2, 3))[:, None],
        "error": error[:, None],
    }
    if codes.private is not None:
        parts |= {
            "sum": codes.common + codes.private,
            "cosine": F.cosine_similarity(codes.common, codes.private)[:, None],
        }
    return parts


def code_measures(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """On the target's test images: `rec_relative_error`, the share of the squared norm that D_C gets wrong,
    beside `mean_map_relative_error`, what the images' mean map would (D_C has learned something where it is
    below); `mean_abs_cosine`, the mean |cos(e_c, e_p)|.
    """
    totals = {
        name: np.concatenate([part[name] for part in rows]).astype(float)
        for name in ("energy", "error", "cosine", "total")
        if name in rows[0]
    }
    energy = max(totals["energy"].sum(), 1e-12)
    measures = {
        "rec_relative_error": float(totals["error"].sum() / energy),
        "mean_map_relative_error": float(
            1 - np.square(totals["total"].sum(axis=0)).sum() / (len(totals["energy"]) * energy)
        ),
    }
    if "cosine" in totals:
        measures["mean_abs_cosine"] = float(np.abs(totals["cosine"]).mean())
    return measures


def adapt(
    config: ARNConfig, model: ARNNet, target: ReIDDataset, device: torch.device, workers: int = 0
) -> ARNNet:
    """AdaBN: the statistics of every batch norm re-estimated on the target's training images, without labels."""
    return adabn_on(model, target.train, eval_transform(config.net), device, batch=BATCH, workers=workers)


def architecture(config: ARNConfig) -> dict:
    """What `load_network` must know of a configuration, for a checkpoint."""
    return {name: canonical(getattr(config, name)) for name in ARCHITECTURE}


def load_network(path: Path) -> tuple[ARNConfig, ARNNet]:
    """The network in a `model.pt`, in evaluation mode, and the part of its configuration that shapes it."""
    saved = load_checkpoint(path, expected=("state_dict", "num_ids", "architecture"))
    config = ARNConfig(**{name: kind(**saved["architecture"][name]) for name, kind in ARCHITECTURE.items()})
    model = build_network(replace(config, net=replace(config.net, weights="none")), saved["num_ids"])
    model.load_state_dict(saved["state_dict"])
    return config, model.to(memory_format=torch.channels_last).eval()


@dataclass(frozen=True)
class Evaluate:
    """Scores a checkpoint on a target and prints the scores as JSON."""

    checkpoint: Path  # model.pt of a finished joint stage
    target: str = "synthetic-market"  # dataset that is tested on
    data_root: Path | None = None  # folder that holds the datasets
    feature: Literal["e_c", "X", "sum"] = "e_c"  # common code, pooled map of E_I, or e_c + e_p
    raw: bool = False  # Euclidean distance between features as they are, as released; else L2-normalised
    adabn: bool = False  # re-estimate batch norm on the target's training images
    rerank: bool = False  # k-reciprocal re-ranking; no published number has it
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 0


def run(options: Evaluate) -> None:
    if options.workers < 0:
        raise InputError(f"--workers {options.workers}: expected 0 or more")
    device = pick_device(options.device)
    config, model = load_network(options.checkpoint)
    model = model.to(device)
    target = load_dataset(options.target, options.data_root)
    if options.adabn:
        model = adapt(config, model, target, device, options.workers)
    rows = embed_test_set(config, model, target, device, options.workers)
    if options.feature not in rows[0]:
        raise InputError(f"--feature {options.feature}: {options.checkpoint} has no private encoders")
    features = [part[options.feature] for part in rows] if options.raw else unit(rows, options.feature)
    print(json.dumps(evaluate_dataset(target, *features, rerank=options.rerank or None).scores(), indent=1))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: run(tyro.cli(Evaluate, args=argv)))


if __name__ == "__main__":
    sys.exit(main())
