"""The composition of a training step: 128 labelled images | 64 source images, 8 of each of 8 identities | 16 target images x (1 + C) views.

Each part is forwarded on its own, as in the released code (Sec. 4.2 of the paper, `HHLTrainer` of the code).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from common.datasets import ReIDDataset, Sample
from common.datasets.loading import SampleImages, epoch_plan, planned_loader
from hhl.config import HHLConfig
from hhl.data import TrainTransform, identity_passes, pseudo_labels, released_restarts, shuffled_passes, target_batch

CACHED_IMAGES = 12_000   # a set up to this size is decoded once and kept in memory


@dataclass(frozen=True)
class Part:
    """One part of the step: which images at which step, and the labels of the whole batch (every process knows them all)."""

    images: SampleImages
    plan: Callable[[int], np.ndarray]
    label: Callable[[int, np.ndarray], np.ndarray]

    def labels(self, step: int, device: torch.device) -> Tensor:
        """Labels `(B,)` of the step's whole batch."""
        return torch.as_tensor(self.label(step, self.plan(step)), dtype=torch.int64, device=device)

    def loader(self, start: int, stop: int, *, workers: int, rank: int, world: int, pin_memory: bool) -> DataLoader:
        return planned_loader(self.images, self.plan, start, stop, workers=workers, rank=rank, world=world, pin_memory=pin_memory)


@dataclass(frozen=True)
class Schedule:
    """The parts by name, `classify` first, then `source` and `target` if the row has them; the length of an epoch and of the run in steps."""

    parts: dict[str, Part]
    steps_per_epoch: int
    total: int


def schedule(config: HHLConfig, labelled: ReIDDataset, views: Sequence[Sample], num_views: int, seed: int) -> Schedule:
    """The steps of one row. `views` are the target's training images, then their fakes style by style (`camera_style_views`)."""
    recipe, method = config.recipe, config.method
    transform = TrainTransform(config.net.height, config.net.width, recipe.erasing, colour_jitter=recipe.colour_jitter)

    def images(samples: Sequence[Sample], stream: str) -> SampleImages:
        return SampleImages(samples, transform, seed=seed, stream=stream, cache=len(samples) <= CACHED_IMAGES)

    of_pid = labelled.train_labels
    class_of = np.array([of_pid[sample.pid] for sample in labelled.train])
    classify = epoch_plan(len(labelled.train), recipe.batch, seed=seed, stream="classify")
    epoch = classify.steps_per_epoch
    parts = {"classify": Part(images(labelled.train, "classify"), classify, lambda step, chosen: class_of[chosen])}

    passes = {}
    if method.source_triplet:
        passes["source"] = identity_passes(class_of, ids_per_batch=recipe.ids, images_per_id=recipe.images_per_id, seed=seed, stream="source")
    if method.target_views != "none":
        passes["target"] = shuffled_passes(len(views) // num_views, recipe.target_batch, seed=seed, stream="target")
    shorter = min((p.steps_per_pass for p in passes.values()), default=0)

    if "source" in passes:
        parts["source"] = Part(images(labelled.train, "source"), lambda step: passes["source"].batch(*released_restarts(step, epoch, shorter)),
                               lambda step, chosen: class_of[chosen])
    if "target" in passes:
        def views_of(step: int) -> np.ndarray:
            return target_batch(passes["target"].batch(*released_restarts(step, epoch, shorter)), len(views) // num_views, num_views)

        def identity_of(step: int, chosen: np.ndarray) -> np.ndarray:
            """A fresh pseudo-identity for each target image, shared by its views."""
            return np.tile(pseudo_labels(step, recipe.target_batch, kind=method.pseudo, seed=seed, num_ids=len(of_pid)), num_views)

        parts["target"] = Part(images(views, "target"), views_of, identity_of)
    return Schedule(parts, epoch, recipe.epochs * epoch)
