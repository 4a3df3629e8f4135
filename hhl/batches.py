"""The composition of a training step: 128 labelled images | 64 source images, 8 of each of 8 identities | 16
target images x (1 + C) views.

Each part is forwarded on its own, as in the released code (Sec. 4.2 of the paper, `HHLTrainer` of the code).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from common.augment import on_device, training_images
from common.datasets import ReIDDataset, Sample
from common.datasets.loading import SampleImages, epoch_plan, planned_loader
from common.runs import rank_and_world
from hhl.config import HHLConfig
from hhl.data import (
    TrainTransform,
    identity_passes,
    own_passes,
    pseudo_labels,
    released_restarts,
    target_batch,
)
from hhl.sampling import ClusterPasses, Passes, target_passes

CACHED_IMAGES = 12_000  # a set up to this size is decoded once and kept in memory


@dataclass(frozen=True)
class Part:
    """One part of the step: which images at which step, and the labels of the whole batch (every process
    knows them all).
    """

    images: SampleImages
    plan: Callable[[int], np.ndarray]
    label: Callable[[int, np.ndarray], np.ndarray]

    def labels(self, step: int, device: torch.device) -> Tensor:
        """Labels `(B,)` of the step's whole batch."""
        return torch.as_tensor(self.label(step, self.plan(step)), dtype=torch.int64, device=device)

    def loader(
        self, start: int, stop: int, *, workers: int, rank: int, world: int, pin_memory: bool
    ) -> DataLoader:
        return planned_loader(
            self.images,
            self.plan,
            start,
            stop,
            workers=workers,
            rank=rank,
            world=world,
            pin_memory=pin_memory,
        )


@dataclass(frozen=True)
class Schedule:
    """The parts by name, in the order `classify`, `source`, `target`, as far as the row has them; the length
    of an epoch and of the run in steps.

    `clusters` is there if target images are sampled by cluster; `pids` `(N,)` are the true people of the
    target's images, for the report alone.
    """

    parts: dict[str, Part]
    steps_per_epoch: int
    total: int
    num_views: int = 0
    clusters: ClusterPasses | None = None
    pids: np.ndarray | None = None

    def load(
        self, start: int, device: torch.device, workers: int, at_epoch: Callable[[int], None]
    ) -> Iterator[dict[str, Tensor]]:
        """The images of each part, this process's share, step by step from `start`; `at_epoch(epoch)` is
        called as an epoch begins.
        """
        rank, world = rank_and_world()
        how = {"workers": workers, "rank": rank, "world": world, "pin_memory": device.type == "cuda"}
        step = start
        while step < self.total:
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0:
                at_epoch(epoch)
            stop = (epoch + 1) * self.steps_per_epoch
            for loaded in zip(*(part.loader(step, stop, **how) for part in self.parts.values())):
                yield {name: on_device(batch, device) for name, (batch, _) in zip(self.parts, loaded)}
            step = stop

    def target_images(self, step: int) -> int:
        return len(self.parts["target"].plan(step)) // self.num_views if "target" in self.parts else 0

    def repeated_people(self, step: int) -> bool:
        """Whether two of the step's target images show one person, whom the pseudo-labels then tell apart
        (ledger 12); not used in training.
        """
        chosen = self.parts["target"].plan(step)[: self.target_images(step)]
        return len(np.unique(self.pids[chosen])) < len(chosen)


def schedule(
    config: HHLConfig,
    labelled: ReIDDataset,
    views: Sequence[Sample],
    num_views: int,
    seed: int,
    cache: Path | None = None,
    *,
    decode: bool = True,
) -> Schedule:
    """The steps of one row. `views` are the target's training images, then their fakes style by style
    (`camera_style_views`).

    `cache`: where packed images go, which are then augmented on the device. `decode`: small sets here and
    now, or (to plan only) none.
    """
    keep = CACHED_IMAGES if decode else 0
    recipe, method = config.recipe, config.method
    of_pid = labelled.train_labels
    class_of = np.array([of_pid[sample.pid] for sample in labelled.train])
    classify = epoch_plan(len(labelled.train), recipe.scaled(recipe.batch), seed=seed, stream="classify")
    epoch = max(1, len(labelled.train) // recipe.scaled(recipe.epochs_of_batch or recipe.batch))
    passes = triplet_passes(config, class_of, views, num_views, seed)
    shorter = min((p.steps_per_pass for p in passes.values()), default=0)

    def place(name: str, step: int) -> tuple[int, int]:
        if recipe.restarts == "own":
            return own_passes(step, passes[name].steps_per_pass)
        return released_restarts(step, epoch, shorter)

    def views_of(step: int) -> np.ndarray:
        return target_batch(
            passes["target"].batch(*place("target", step)), len(views) // num_views, num_views
        )

    def identity_of(step: int, chosen: np.ndarray) -> np.ndarray:
        """A fresh pseudo-identity for each target image, shared by its views."""
        return np.tile(
            pseudo_labels(step, len(chosen) // num_views, kind=method.pseudo, seed=seed, num_ids=len(of_pid)),
            num_views,
        )

    parts = {}
    if method.classification:
        parts["classify"] = Part(
            train_images(config, labelled.train, "classify", seed, cache, keep),
            classify,
            lambda step, chosen: class_of[chosen],
        )
    if "source" in passes:
        parts["source"] = Part(
            train_images(config, labelled.train, "source", seed, cache, keep),
            lambda step: passes["source"].batch(*place("source", step)),
            lambda step, chosen: class_of[chosen],
        )
    if "target" in passes:
        parts["target"] = Part(
            train_images(config, views, "target", seed, cache, keep), views_of, identity_of
        )
    clusters = passes.get("target")
    return Schedule(
        parts,
        epoch,
        recipe.epochs * epoch,
        num_views,
        clusters if isinstance(clusters, ClusterPasses) else None,
        np.array([sample.pid for sample in views[: len(views) // num_views]]) if num_views else None,
    )


def triplet_passes(
    config: HHLConfig, class_of: np.ndarray, views: Sequence[Sample], num_views: int, seed: int
) -> dict[str, Passes]:
    """The lists that the row's triplet batches are read from: `source` (8 x 8 by identity) and `target` (n_t
    images).
    """
    recipe, method = config.recipe, config.method
    passes: dict[str, Passes] = {}
    if method.source_triplet:
        passes["source"] = identity_passes(
            class_of,
            ids_per_batch=recipe.ids,
            images_per_id=recipe.scaled(recipe.images_per_id),
            seed=seed,
            stream="source",
        )
    if method.target_views != "none":
        passes["target"] = target_passes(
            recipe.sampling, views[: len(views) // num_views], recipe.scaled(recipe.target_batch), seed
        )
    return passes


def train_images(
    config: HHLConfig, samples: Sequence[Sample], part: str, seed: int, cache: Path | None, keep: int
) -> SampleImages:
    """The augmented images of one part."""
    recipe = config.recipe
    period = recipe.scaled(recipe.target_batch) if part == "target" and recipe.shared_augmentation else None
    return training_images(
        samples, train_transform(config, part), cache, seed=seed, stream=part, period=period, keep=keep
    )


def train_transform(config: HHLConfig, part: str) -> TrainTransform:
    """Colour jitter, a control, is for labelled images alone; the target's fakes vary in colour as they are."""
    recipe, on_target = config.recipe, part == "target"
    return TrainTransform(
        config.net.height,
        config.net.width,
        recipe.erasing,
        colour_jitter=0.0 if on_target else recipe.colour_jitter,
        keep_aspect=recipe.crop == "keep_aspect",
        first_size=first_size(config) if on_target else None,
    )


def first_size(config: HHLConfig) -> tuple[int, int] | None:
    """(height, width) that all target views are brought to before they are augmented; None: each is cropped
    at its own size, as released.
    """
    together = config.style.resize_real_first or config.recipe.shared_augmentation
    return (config.stargan.height, config.stargan.width) if together else None
