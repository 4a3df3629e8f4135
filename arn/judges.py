"""Yardsticks of ARN's mechanism: does D_C rebuild X, which code holds the domain, does C_S know the source?

They use the finished network and change nothing in it (see common/evaluation/yardsticks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from arn.data import Labelled
from arn.evaluate import code_measures, embedder_of, load_network, with_total
from arn.model import ARNNet, Codes
from common.datasets import ReIDDataset, Sample
from common.evaluation.scoring import Embedder, Features
from common.evaluation.yardsticks import linear_probe
from common.job import Job, Workspace
from common.runs import Stage

IMAGES = 2000  # training images, spread evenly, that the linear reference of D_C is computed from


def judge_codes(job: Job, source: Labelled, joint: Stage) -> dict[str, float]:
    """Returns the measures of `judge`, or none where the row asks for no yardsticks."""
    steps = job.config.test.judge_steps
    if steps == 0:
        return {}

    def measure(work: Workspace) -> None:
        net, network = load_network(joint.folder / "model.pt")
        embedder = embedder_of(net, work.device, work.options.workers)
        judged = judge(embedder, network.to(work.device), source, job.source, job.target, steps)
        work.write_json("judged.json", {name: round(value, 4) for name, value in judged.items()})

    depends_on = {
        "joint": joint.hash,
        "source": job.source.manifest,
        "target": job.target.manifest,
        "steps": steps,
    }
    return job.stage("judged", depends_on, measure).json("judged.json")


def judge(
    embedder: Embedder,
    network: ARNNet,
    labelled: Labelled,
    source: ReIDDataset,
    target: ReIDDataset,
    steps: int,
) -> dict[str, float]:
    """Returns, on the test images of both domains, whose people the network has not seen:

    `rec_explained`: the share of the variance about the mean map that D_C rebuilds, on the target;
    `rec_explained_source`; and `rec_explained_linear`, by the best linear map to as many numbers as a code
    has, fitted to training images of both domains (0: the mean map). `domain_read_common`,
    `domain_read_private`, `domain_read_map`: how well a linear probe reads the domain from e_c, e_p and, for
    comparison, the pooled X (0.5: a guess). `cs_accuracy`: of C_S, on its own training images.
    """
    rows_t = with_total(embedder, network, [*target.query, *target.gallery])
    rows_s = with_total(embedder, network, [*source.query, *source.gallery], source_codes)
    measures = {
        "rec_explained": explained_share(rows_t),
        "rec_explained_source": explained_share(rows_s),
        "rec_explained_linear": linear_share(embedder, network, source, target, rows_t["e_c"].shape[1]),
        "cs_accuracy": classifier_accuracy(embedder, network, labelled),
    }
    for name, feature in (("common", "e_c"), ("private", "e_p"), ("map", "X")):
        if feature in rows_t:
            measures[f"domain_read_{name}"] = linear_probe(rows_s[feature], rows_t[feature], steps)
    return measures


def source_codes(network: ARNNet, images: Tensor) -> Codes:
    """Encodes source images by E_C and E_S, as in training."""
    return cast(Codes, network(images, images)[1])


def explained_share(rows: Features) -> float:
    """Returns the share of the variance about the images' mean map that D_C rebuilds; 0 if it rebuilds the
    mean map, negative if it does worse.
    """
    measures = code_measures([rows])
    return 1 - measures["rec_relative_error"] / max(measures["mean_map_relative_error"], 1e-12)


def classifier_accuracy(embedder: Embedder, network: ARNNet, labelled: Labelled) -> float:
    """Returns C_S's accuracy in evaluation mode, without dropout."""

    def features(network: ARNNet, images: Tensor) -> dict[str, Tensor]:
        return {"logits": source_codes(network, images).logits}

    logits = _embed(embedder, features, network, labelled.samples)["logits"]
    return float((logits.argmax(axis=1) == labelled.labels).mean())


def linear_share(
    embedder: Embedder, network: ARNNet, source: ReIDDataset, target: ReIDDataset, width: int
) -> float:
    """Returns the share of the target's variance that the first `width` principal components of what D_C
    should rebuild explain; the components are those of the training images of both domains.
    """

    def features(network: ARNNet, images: Tensor) -> dict[str, Tensor]:
        return {"original": network(images)[0].original.flatten(1)}

    known = [*source.train, *target.train]
    known = known[:: max(1, len(known) // IMAGES)]
    test = [*target.query, *target.gallery]
    maps, tested = (_embed(embedder, features, network, part)["original"] for part in (known, test))
    return principal_share(maps, tested, width)


def principal_share(known: np.ndarray, tested: np.ndarray, width: int) -> float:
    """Returns the share of the variance of `tested` `(M, P)` about its mean that the mean and the first
    `width` principal components of `known` `(N, P)` explain.
    """
    mean = known.mean(axis=0)
    # of the N x N products of the images: P has thousands of entries
    values, vectors = torch.linalg.eigh(torch.from_numpy((known - mean) @ (known - mean).T))
    present = (values > 1e-6 * values[-1]).nonzero()[:, 0].flip(0)[:width]
    components = (known - mean).T @ (vectors[:, present] / values[present].sqrt()).numpy()
    centred = tested - mean
    error = np.square(centred).sum() - np.square(centred @ components).sum()
    return float(1 - error / np.square(tested - tested.mean(axis=0)).sum())


def _embed(embedder: Embedder, features: Callable, network: ARNNet, samples: Sequence[Sample]) -> Features:
    return replace(embedder, features=features).embed(network, samples)
