"""The three ways to choose a step's target images (Sec. 4.3, Fig. 3).

    random       a shuffled list: the released code's only way
    cluster      k-means with k = n_t over pool5, made anew each epoch; one image of every cluster: no two
    look alike
    supervised   n_t people by their true identities, one image each: a reference that looks at the target's
    labels

No released code for the last two; the paper gives k = n_t and no more.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from scipy.cluster.vq import kmeans2

from common.datasets.base import Sample
from common.errors import InputError
from common.training import broadcast
from hhl.data import identity_passes, shuffled_passes, step_generator

STREAM = "target"


class Passes(Protocol):
    """A list of images read pass by pass, `steps_per_pass` batches each."""

    steps_per_pass: int

    def batch(self, pass_number: int, position: int) -> np.ndarray: ...


class ClusterPasses:
    """One image of each of `clusters` clusters a batch. `refresh` clusters anew; what it found is saved and
    restored with the run.
    """

    def __init__(self, n: int, clusters: int, seed: int):
        if clusters > n:
            raise InputError(
                f"{n} target images do not give {clusters} clusters: use a smaller --recipe.target-batch"
            )
        self.clusters, self.seed = clusters, seed
        self.steps_per_pass = n // clusters
        self.assignment = torch.arange(n) % clusters

    def refresh(self, features: np.ndarray, epoch: int) -> None:
        """k-means of L2-normalised features `(N, D)`; a cluster that comes out empty takes the image that is
        farthest from its centre.
        """
        assignment = k_means(features, self.clusters, step_generator(self.seed, "k-means", epoch))
        self.assignment = broadcast(torch.from_numpy(assignment))

    def batch(self, pass_number: int, position: int) -> np.ndarray:
        """Indices `(clusters,)`."""
        draw = step_generator(self.seed, STREAM, pass_number, position)
        return np.array(
            [
                draw.choice(np.flatnonzero(self.assignment.numpy() == cluster))
                for cluster in range(self.clusters)
            ]
        )

    def state_dict(self) -> dict:
        return {"assignment": self.assignment}

    def load_state_dict(self, state: dict) -> None:
        self.assignment = state["assignment"]


def k_means(
    features: np.ndarray, clusters: int, rng: np.random.Generator, iterations: int = 20
) -> np.ndarray:
    """The cluster `(N,)`, int64, of each row of `(N, D)`, started from rows drawn by `rng`; every cluster has
    a member.
    """
    rows = np.asarray(features, np.float64)
    start = rows[rng.choice(len(rows), clusters, replace=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty cluster is filled below
        centres, assignment = kmeans2(rows, start, iter=iterations, minit="matrix", missing="warn")
    assignment = assignment.astype(np.int64)
    for empty in np.setdiff1d(np.arange(clusters), assignment):
        distance = np.linalg.norm(rows - centres[assignment], axis=1)
        # do not empty another one
        distance[np.bincount(assignment, minlength=clusters)[assignment] == 1] = -1
        assignment[distance.argmax()] = empty
    return assignment


def target_passes(kind: str, train: Sequence[Sample], batch: int, seed: int) -> Passes:
    """The passes over the target's training images that `recipe.sampling` names; `batch` is n_t. `InputError`
    if there are too few images.
    """
    if kind == "cluster":
        return ClusterPasses(len(train), batch, seed)
    if kind == "supervised":
        return identity_passes(
            [s.pid for s in train], ids_per_batch=batch, images_per_id=1, seed=seed, stream=STREAM
        )
    return shuffled_passes(len(train), batch, seed=seed, stream=STREAM)
