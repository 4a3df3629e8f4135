"""The re-ID network's training images, and the schedule of its learning rate."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from common.augment import NOTHING, DeviceTransform, Drawn, Result, jitter_colours
from common.datasets import ReIDDataset, Sample
from common.datasets.loading import INTERPOLATION, normalise
from common.errors import InputError
from spgan.config import NetConfig, RecipeConfig

CAFFE_STEPS, CAFFE_DROP = 50_000, 20_000  # the released solvers


@dataclass(frozen=True)
class TrainTransform:
    """Resizes, crops from 9/8 of the size (`crop="random"`), flips, jitters and erases an RGB image; returns
    float32 `(3, height, width)`.

    `colour_jitter` (ours, for the control) scales brightness, contrast and saturation by U(1 - s, 1 + s) and
    shifts the hue by U(-s/4, s/4).
    """

    height: int
    width: int
    crop: str = "none"
    interpolation: str = "bilinear"
    colour_jitter: float = 0.0
    erasing: float = 0.0

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        height, width = self.first_size
        if image.size != (width, height):
            image = image.resize((width, height), INTERPOLATION[self.interpolation])
        box, flip = self.window(width, height, rng)
        image = image.crop(box)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.colour_jitter > 0:
            image = jitter_colours(image, self.colour_jitter, rng)
        left, top, right, bottom = erasing_box(self.height, self.width, self.erasing, rng)
        tensor = normalise(image)
        tensor[:, top:bottom, left:right] = 0
        return tensor

    @property
    def first_size(self) -> tuple[int, int]:
        """Height and width before the crop."""
        scale = 9 / 8 if self.crop == "random" else 1
        return round(self.height * scale), round(self.width * scale)

    def window(self, width: int, height: int, rng: random.Random) -> tuple[tuple[int, int, int, int], bool]:
        """Draws the crop (left, top, right, bottom) and the flip of a resized image."""
        left = top = 0
        if self.crop == "random":
            left, top = rng.randint(0, width - self.width), rng.randint(0, height - self.height)
        return (left, top, left + self.width, top + self.height), rng.random() < 0.5

    def draw(self, width: int, height: int, rng: random.Random) -> Drawn:
        """Draws all random numbers but those of the colours."""
        box, flip = self.window(width, height, rng)
        return Drawn(box, flip, erasing_box(self.height, self.width, self.erasing, rng))

    def on_device(self) -> DeviceTransform:
        """Returns the same for packed images, which are resized before packing. Raises `InputError` with
        colour jitter.
        """
        if self.colour_jitter > 0:
            raise InputError(
                f"--pack with --recipe.colour-jitter {self.colour_jitter}: only the loader's workers change "
                "colours; leave --pack out"
            )
        return DeviceTransform(
            self.draw, Result(self.height, self.width), self.first_size, self.interpolation
        )


def erasing_box(height: int, width: int, probability: float, rng: random.Random) -> tuple[int, int, int, int]:
    """Draws the box of random erasing: 2 to 40 % of the area, aspect U(0.3, 1 / 0.3), at most 100 attempts;
    an empty box if nothing is erased.
    """
    if rng.random() >= probability:
        return NOTHING
    for _ in range(100):
        area, aspect = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            return left, top, left + w, top + h
    return NOTHING


def train_transform(net: NetConfig, recipe: RecipeConfig, interpolation: str) -> TrainTransform:
    return TrainTransform(
        net.height, net.width, net.crop, interpolation, recipe.colour_jitter, recipe.erasing
    )


@dataclass(frozen=True)
class TrainingSet:
    """The labelled images of a network."""

    samples: Sequence[Sample]
    classes: Mapping[int, int]  # identity -> class
    transform: TrainTransform
    label: str = "re-ID"  # of the training in logs

    @property
    def labels(self) -> np.ndarray:
        """The class of each image."""
        return np.array([self.classes[s.pid] for s in self.samples])


def training_set(
    images: str,
    source: ReIDDataset,
    target: ReIDDataset,
    translated: Sequence[Sample],
    transform: TrainTransform,
) -> TrainingSet:
    """Returns the training set of a row, by `method.images`."""
    samples: dict[str, Sequence[Sample]] = {
        "source": source.train,
        "target": target.train,
        "translated": translated,
        "both": [*source.train, *translated],
    }
    labelled = target if images == "target" else source
    return TrainingSet(samples[images], labelled.train_labels, transform)


def total_steps(recipe: RecipeConfig, steps_per_epoch: int) -> int:
    """Returns the number of training steps."""
    return CAFFE_STEPS if recipe.schedule == "caffe" else recipe.epochs * steps_per_epoch


def rate_factor(recipe: RecipeConfig, step: int, steps_per_epoch: int) -> float:
    """Returns the factor of both learning rates at a 0-based step: x 0.1 at each drop (paper 1, caffe 2)."""
    if recipe.schedule == "caffe":
        return 0.1 ** (step // CAFFE_DROP)
    return 0.1 if step // steps_per_epoch >= recipe.drop_epoch else 1.0
