"""The batches of ARN: mirrored images of both domains, the source sampled by identity.

Released counterpart: `reid_dataset.py`, `config.py` and the loaders in `reid_main.py`, which sample both
domains uniformly.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from arn.config import NetConfig, RecipeConfig
from common.augment import DeviceTransform, Drawn, Result, training_images
from common.datasets import ReIDDataset, Sample
from common.datasets.loading import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, SampleImages, normalise
from common.datasets.plans import Plan, epoch_plan, identity_plan
from common.errors import InputError
from common.job import Workspace

CACHED_IMAGES = 12_000  # a dataset of at most this size is decoded once and kept in memory
STATISTICS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}


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
        """Draws the flip; the box is the whole image."""
        return Drawn((0, 0, width, height), rng.random() < self.flip)

    def on_device(self) -> DeviceTransform:
        """Returns the same for packed images; the device mirrors last."""
        return DeviceTransform(self.draw, Result(self.height, self.width, *STATISTICS[self.normalise]))


def eval_transform(net: NetConfig) -> EvalTransform:
    """Returns the transform of test images: resize, then normalise. The released code also mirrors them at
    random, because it reuses the training list; ours does not.
    """
    return EvalTransform(net.height, net.width, "bilinear", *STATISTICS[net.normalise])


class Labelled(NamedTuple):
    """The source's images with their classes 0..K-1 `(N,)`, in ascending order of pid."""

    samples: list[Sample]
    labels: np.ndarray

    @property
    def num_ids(self) -> int:
        return int(self.labels.max()) + 1


def labelled_samples(source: ReIDDataset, split: str) -> Labelled:
    """Returns the training set (`train`), or with it the people of the gallery (`all`), without junk and
    distractors: the released class counts (1812 for Duke, 1501 for Market) are those of both together.
    """
    samples = list(source.train)
    if split == "all":
        samples += [sample for sample in source.gallery if sample.pid > 0]
    class_of = {pid: number for number, pid in enumerate(sorted({sample.pid for sample in samples}))}
    return Labelled(samples, np.array([class_of[sample.pid] for sample in samples]))


class Plans(NamedTuple):
    """The batches of the joint training; an epoch is one pass over the source's images."""

    source: Plan
    target: Plan
    steps_per_epoch: int


def plans(recipe: RecipeConfig, labels: np.ndarray, num_target: int, seed: int) -> Plans:
    """Plans as many source as target images a step. Raises `InputError` where they do not fill a batch."""
    target = epoch_plan(num_target, recipe.batch, seed=seed, stream="target")
    source = epoch_plan(len(labels), recipe.batch, seed=seed, stream="source")
    if recipe.sampler == "uniform":
        return Plans(source, target, source.steps_per_epoch)
    num_ids = len(np.unique(labels))
    if num_ids < recipe.ids:
        raise InputError(
            f"--recipe.ids {recipe.ids}: the source has {num_ids} identities: use fewer, or more data"
        )
    each = recipe.batch // recipe.ids
    pk = identity_plan(labels, ids=recipe.ids, images_per_id=each, seed=seed, stream="identities")
    return Plans(pk, target, source.steps_per_epoch)


def train_images(
    samples: Sequence[Sample], net: NetConfig, flip: float, stream: str, work: Workspace
) -> SampleImages:
    """Returns augmented images; `stream` names their random draws."""
    transform = TrainTransform(net.height, net.width, net.normalise, flip)
    return training_images(samples, transform, work.cache, seed=work.seed, stream=stream, keep=CACHED_IMAGES)
