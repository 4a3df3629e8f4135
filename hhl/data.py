"""What is in a batch: 128 labelled images | 8 identities x 8 source images | 16 target images in 1 + C views.

Each part is forwarded separately, as in the released code (Sec. 4.2; `reid/trainers.py`). All sampling is a
pure function of the seed and the step, so that a resumed run sees the batches of an uninterrupted one. It
follows the released rules, not the released sequences, which come out of global generators.

The target images of a step are chosen in one of three ways (Sec. 4.3, Fig. 3):

    random       a shuffled list, the only way of the released code
    cluster      one image of each of k = n_t k-means clusters of pool5, which are recomputed every epoch
    supervised   n_t people by their true identities, one image each: a reference that reads target labels

There is no released code for the last two; the paper states k = n_t and no more.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch.utils.data import Dataset

from common.augment import training_images
from common.datasets import ReIDDataset, Sample
from common.datasets.plans import Passes, Plan, epoch_plan, identity_plan, random_stream
from common.errors import InputError
from common.job import Workspace
from common.training import Labels, broadcast
from hhl.augmentation import TrainTransform
from hhl.config import MethodConfig, RecipeConfig
from hhl.views import TargetViews

CACHED_IMAGES = 12_000  # a set up to this size is decoded once and kept in memory
PSEUDO_LABELS = range(1000, 11000)  # released: int(U[0, 1) * 10000 + 1000); source labels stay below


@dataclass(frozen=True)
class Part:
    """One part of a batch: its samples, which of them come at a step, and their labels."""

    samples: Sequence[Sample]
    plan: Plan
    labels: Labels
    # slots whose numbers are equal modulo `period` share their augmentation; None: no slots do
    period: int | None = None


@dataclass(frozen=True)
class Schedule:
    """The parts of a row's batches by name: `classify`, `source` and `target`, as far as it has them."""

    parts: Mapping[str, Part]
    steps_per_epoch: int
    total: int  # steps
    views: TargetViews = field(default_factory=TargetViews)
    clusters: ClusterPlan | None = None  # of the target images, if they are sampled by cluster
    images: Mapping[str, Dataset] = field(default_factory=dict)  # augmented, of each part; see `with_images`


def plan_steps(
    recipe: RecipeConfig, method: MethodConfig, labelled: ReIDDataset, views: TargetViews, seed: int
) -> Schedule:
    """Returns the steps of one row, without images. Raises `InputError` if a batch cannot be filled."""
    identities, num_images = labelled.train_labels, len(labelled.train)
    class_of = np.array([identities[sample.pid] for sample in labelled.train])
    steps_per_epoch = max(1, num_images // recipe.scaled(recipe.epochs_of_batch or recipe.batch))
    classify = epoch_plan(num_images, recipe.scaled(recipe.batch), seed=seed, stream="classify")
    passes = triplet_passes(recipe, method, class_of, views, seed)
    plans = restarting(passes, recipe.restarts, steps_per_epoch)

    def pseudo_identities(step: int, indices: np.ndarray) -> np.ndarray:
        n = len(indices) // views.num_views
        drawn = pseudo_labels(step, n, kind=method.pseudo, seed=seed, num_ids=len(identities))
        return np.tile(drawn, views.num_views)  # shared by the views of an image

    parts = {}
    if method.classification:
        parts["classify"] = Part(labelled.train, classify, class_of)
    if "source" in plans:
        parts["source"] = Part(labelled.train, plans["source"], class_of)
    if "target" in plans:
        period = recipe.scaled(recipe.target_batch) if recipe.shared_augmentation else None
        chosen = plans["target"]
        parts["target"] = Part(views.samples, lambda step: views.of(chosen(step)), pseudo_identities, period)
    target = passes.get("target")
    clusters = target if isinstance(target, ClusterPlan) else None
    return Schedule(parts, steps_per_epoch, recipe.epochs * steps_per_epoch, views, clusters)


def with_images(schedule: Schedule, transforms: Mapping[str, TrainTransform], work: Workspace) -> Schedule:
    """Returns the schedule with the augmented images of its parts: in memory if they are few, or packed."""
    images = {
        name: training_images(
            part.samples,
            transforms[name],
            work.cache,
            seed=work.seed,
            stream=name,
            period=part.period,
            keep=CACHED_IMAGES,
        )
        for name, part in schedule.parts.items()
    }
    return replace(schedule, images=images)


# ---------------------------------------------------------------- which images


def triplet_passes(
    recipe: RecipeConfig, method: MethodConfig, class_of: np.ndarray, views: TargetViews, seed: int
) -> dict[str, Passes]:
    """Returns the batches of the triplet loss: `source`, by identity, and `target`, of originals."""
    passes: dict[str, Passes] = {}
    if method.source_triplet:
        k = recipe.scaled(recipe.images_per_id)
        passes["source"] = identity_plan(
            class_of, ids=recipe.ids, images_per_id=k, seed=seed, stream="source"
        )
    if method.target_views != "none":
        batch = recipe.scaled(recipe.target_batch)
        passes["target"] = target_passes(recipe.sampling, views.originals, batch, seed)
    return passes


def target_passes(sampling: str, train: Sequence[Sample], batch: int, seed: int) -> Passes:
    """Returns batches of target images; `batch` is n_t. Raises `InputError` if there are too few images."""
    if sampling == "cluster":
        return ClusterPlan(len(train), batch, seed)
    if sampling == "supervised":
        pids = [sample.pid for sample in train]
        return identity_plan(pids, ids=batch, images_per_id=1, seed=seed, stream="target")
    if sampling == "random":
        return epoch_plan(len(train), batch, seed=seed, stream="target")
    raise ValueError(f"sampling {sampling!r}: expected random, cluster or supervised")


def restarting(passes: Mapping[str, Passes], restarts: str, steps_per_epoch: int) -> dict[str, Plan]:
    """Returns the batches at each step of the run: `released`, see `released_restarts`, or `own`.

    `own`: each list is shuffled again only when it has been read.
    """
    shorter = min((p.steps_per_epoch for p in passes.values()), default=0)

    def plan(batches: Passes) -> Plan:
        if restarts == "own":
            return lambda step: batches.batch(*divmod(step, batches.steps_per_epoch))
        if restarts == "released":
            return lambda step: batches.batch(*released_restarts(step, steps_per_epoch, shorter))
        raise ValueError(f"restarts {restarts!r}: expected released or own")

    return {name: plan(batches) for name, batches in passes.items()}


def released_restarts(step: int, steps_per_epoch: int, shorter_pass: int) -> tuple[int, int]:
    """Returns the (number of the pass, position in it) of both triplet loaders at a step of the run.

    Both start a new pass with every epoch, and again as soon as the shorter one ends. Duke -> Market: 129
    steps an epoch and 87 batches of source identities, so each epoch has a pass of 87 steps and one of 42;
    Market -> Duke: 101, of 93 and 8.
    """
    epoch, step_of_epoch = divmod(step, steps_per_epoch)
    restarts, position = divmod(step_of_epoch, shorter_pass)
    return epoch * math.ceil(steps_per_epoch / shorter_pass) + restarts, position


class ClusterPlan:
    """Batches with one image of each of `clusters` clusters; the clusters are saved with the run."""

    def __init__(self, n: int, clusters: int, seed: int):
        if clusters > n:
            raise InputError(
                f"{n} target images do not give {clusters} clusters: use a smaller --recipe.target-batch"
            )
        self.clusters, self.seed = clusters, seed
        self.steps_per_epoch = n // clusters
        self.assignment = torch.arange(n) % clusters

    def refresh(self, features: np.ndarray, epoch: int) -> None:
        """Clusters L2-normalised features `(N, D)`."""
        assignment = k_means(features, self.clusters, random_stream(self.seed, "k-means", epoch))
        self.assignment = broadcast(torch.from_numpy(assignment))

    def batch(self, epoch: int, position: int) -> np.ndarray:
        """Returns the indices `(clusters,)` at a position of a pass."""
        draw = random_stream(self.seed, "target", epoch, position)
        members = [np.flatnonzero(self.assignment.numpy() == cluster) for cluster in range(self.clusters)]
        return np.array([draw.choice(images) for images in members])

    def state_dict(self) -> dict:
        return {"assignment": self.assignment}

    def load_state_dict(self, state: dict) -> None:
        self.assignment = state["assignment"]


def k_means(
    features: np.ndarray, clusters: int, rng: np.random.Generator, iterations: int = 20
) -> np.ndarray:
    """Returns the cluster `(N,)`, int64, of each row of `(N, D)`; the first centres are rows drawn by `rng`.

    An empty cluster gets the image that is farthest from its centre.
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


# ---------------------------------------------------------------- their labels


def pseudo_labels(step: int, n: int, *, kind: str = "random10k", seed: int, num_ids: int) -> np.ndarray:
    """Draws the labels `(n,)` of a step's target images, never one of the source labels 0..num_ids-1.

    `random10k`, released: from 1000..10999, so that two images of a batch of 16 share one in 1.2 % of the
    batches. `unique`, the paper's words: all different. Raises `InputError` for random10k with more than 1000
    source identities.
    """
    if kind == "unique":
        return num_ids + np.arange(n)
    if kind != "random10k":
        raise InputError(f"pseudo-labels {kind!r}: expected random10k or unique")
    if num_ids > PSEUDO_LABELS.start:
        raise InputError(
            f"pseudo-labels random10k begin at {PSEUDO_LABELS.start}, but the source has {num_ids} "
            "identities: use --method.pseudo unique"
        )
    return random_stream(seed, "pseudo-labels", step).integers(PSEUDO_LABELS.start, PSEUDO_LABELS.stop, n)
