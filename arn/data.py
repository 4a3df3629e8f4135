"""What ARN feeds its network: mirrored images of both domains, the source by identity, every draw a function
of the seed and the step.

Released counterpart: `reid_dataset.py`, `config.py` and the loaders in `reid_main.py`, which draw both
domains uniformly.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from arn.config import ARNConfig, NetConfig
from common.augment import DeviceTransform, Drawn, Result, training_images
from common.datasets import ReIDDataset, Sample
from common.datasets.loading import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    EpochPlan,
    EvalTransform,
    SampleImages,
    epoch_plan,
    normalise,
    planned_loader,
)
from common.errors import InputError

CACHED_IMAGES = 12_000  # a set up to this size is decoded once and kept in memory
STATISTICS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": ((0.5,) * 3, (0.5,) * 3)}


@dataclass(frozen=True)
class TrainTransform:
    """Flip, resize, normalise, as released: `(RGB image, rng) -> float32 (3, height, width)`. `flip` is a
    probability.
    """

    height: int
    width: int
    normalise: str = "imagenet"  # or half: -1..1
    flip: float = 0.5

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        if self.draw(image.width, image.height, rng).flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        return normalise(image, *STATISTICS[self.normalise])

    def draw(self, width: int, height: int, rng: random.Random) -> Drawn:
        """The whole of an image of this size, mirrored or not."""
        return Drawn((0, 0, width, height), rng.random() < self.flip)

    def on_device(self) -> DeviceTransform:
        """The same for packed images; the device mirrors last."""
        return DeviceTransform(self.draw, Result(self.height, self.width, *STATISTICS[self.normalise]))


def eval_transform(net: NetConfig) -> EvalTransform:
    """Resize and normalise. The released code mirrors at random here too, by taking the training list; that
    is not repeated.
    """
    return EvalTransform(net.height, net.width, "bilinear", *STATISTICS[net.normalise])


def labelled_samples(source: ReIDDataset, split: str) -> tuple[list[Sample], np.ndarray]:
    """The source's labelled images and their classes 0..K-1 in ascending order of pid.

    `train`: its training set. `all`: the people of its gallery too, without junk and distractors; the
    released class counts (1812 for Duke, 1501 for Market) are those of training set and gallery together.
    """
    samples = list(source.train)
    if split == "all":
        samples += [sample for sample in source.gallery if sample.pid > 0]
    class_of = {pid: number for number, pid in enumerate(sorted({sample.pid for sample in samples}))}
    return samples, np.array([class_of[sample.pid] for sample in samples])


@dataclass(frozen=True)
class IdentityPlan:
    """PK sampling: a pass shows each identity once at most, in random order, `images_per_id` of its images
    side by side.
    """

    images_of: tuple[np.ndarray, ...]  # indices of each identity's images
    ids_per_batch: int
    images_per_id: int
    seed: int
    stream: str

    def __call__(self, step: int) -> np.ndarray:
        """Indices `(ids_per_batch * images_per_id,)`; of an identity with too few images, all draws are with
        replacement.
        """
        number, position = divmod(step, len(self.images_of) // self.ids_per_batch)
        order = self._generator(number).permutation(len(self.images_of))
        chosen = order[position * self.ids_per_batch : (position + 1) * self.ids_per_batch]
        draw = self._generator(number, position + 1)
        k = self.images_per_id
        return np.concatenate(
            [draw.choice(self.images_of[i], k, replace=len(self.images_of[i]) < k) for i in chosen]
        )

    def _generator(self, *place: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, zlib.crc32(self.stream.encode()), *place))


def identity_plan(labels: np.ndarray, *, ids: int, batch: int, seed: int, stream: str) -> IdentityPlan:
    """`batch` images of `ids` identities each step. Raises `InputError` if there are too few identities."""
    images_of = tuple(np.flatnonzero(labels == label) for label in np.unique(labels))
    if len(images_of) < ids:
        raise InputError(
            f"--recipe.ids {ids}: the source has {len(images_of)} identities: use fewer, or more data"
        )
    return IdentityPlan(images_of, ids, batch // ids, seed, stream)


@dataclass(frozen=True)
class Part:
    """One domain's share of the step."""

    images: SampleImages
    plan: Callable[[int], np.ndarray]
    classes: np.ndarray | None = None  # of every image; None: unlabelled

    def labels(self, step: int, device: torch.device) -> Tensor:
        """Labels `(B,)` of the step's whole batch."""
        return torch.as_tensor(self.classes[self.plan(step)], dtype=torch.int64, device=device)

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
    """Both domains, and the length of an epoch (one pass over the source's images) in steps."""

    source: Part
    target: Part
    steps_per_epoch: int


def plans(
    config: ARNConfig, labels: np.ndarray, num_target: int, seed: int
) -> tuple[EpochPlan | IdentityPlan, EpochPlan]:
    """Which source and which target images come at which step. Raises `InputError` if a batch cannot be
    filled.
    """
    recipe = config.recipe
    target = epoch_plan(num_target, recipe.batch, seed=seed, stream="target")
    source = epoch_plan(len(labels), recipe.batch, seed=seed, stream="source")
    if recipe.sampler == "pk":
        return identity_plan(
            labels, ids=recipe.ids, batch=recipe.batch, seed=seed, stream="identities"
        ), target
    return source, target


def schedule(
    config: ARNConfig,
    source: tuple[Sequence[Sample], np.ndarray],
    target: ReIDDataset,
    seed: int,
    cache: Path | None = None,
) -> Schedule:
    """The joint training's batches: `recipe.batch` source images with labels, as many target images without;
    packed in `cache` if given.
    """
    samples, labels = source
    source_plan, target_plan = plans(config, labels, len(target.train), seed)
    return Schedule(
        source=Part(train_images(config, samples, "source", seed, cache), source_plan, labels),
        target=Part(train_images(config, target.train, "target", seed, cache), target_plan),
        steps_per_epoch=len(samples) // config.recipe.batch,
    )


def train_images(
    config: ARNConfig, samples: Sequence[Sample], stream: str, seed: int, cache: Path | None = None
) -> SampleImages:
    """Augmented images; `stream` names their random draws."""
    transform = TrainTransform(config.net.height, config.net.width, config.net.normalise, config.recipe.flip)
    return training_images(samples, transform, cache, seed=seed, stream=stream, keep=CACHED_IMAGES)
