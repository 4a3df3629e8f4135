"""The training data: labelled images and, in most rows, unlabelled ones, shuffled together; augmentation.

Released counterpart: `prepare_data.m`, `prepare_gan_data.m`, `getBatch` of the training scripts, and the
epochs of `examples/cnn_train_dag.m`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from common.augment import DeviceTransform, Drawn, Result
from common.datasets import JUNK, ReIDDataset, Sample, load_dataset
from common.datasets.layout import list_images
from common.datasets.loading import INTERPOLATION, normalise
from common.datasets.plans import epoch_plan
from common.errors import InputError
from dcgan_lsro.config import MethodConfig, NetConfig, RecipeConfig, TestConfig
from dcgan_lsro.losses import UNLABELLED


def load(name: str, root: Path | None, test: TestConfig, needs: Sequence[str] | None = None) -> ReIDDataset:
    """Reads a dataset; CUHK03 with the protocol and split of the configuration, unless its name gives others
    (`cuhk03:protocol=767/700`). `needs`: see `load_dataset`.
    """
    if name.partition(":")[0] == "cuhk03":
        split = test.cuhk03_split
        return load_dataset(name, root, needs=needs, protocol=test.cuhk03_protocol, split=split)
    return load_dataset(name, root, needs=needs)


@dataclass(frozen=True)
class TrainTransform:
    """Crops and flips at random: `(RGB image, rng) -> float32 (3, height, width)`, ImageNet-normalised.

    `crop="paper"` (Sec. 5.2): resized to `resize_height x resize_width`, then a random window of
    `height x width`. `crop="scale"` (released scripts): a random window of 85 to 100 % of both sides or, with
    `share="area"`, of the area, resized to that size.
    """

    net: NetConfig
    crop: str = "paper"
    flip: float = 0.5
    share: str = "side"
    interpolation: str = "bicubic"  # or bilinear

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        size = (self.net.width, self.net.height)
        if self.crop == "paper":
            whole = (self.net.resize_width, self.net.resize_height)
            if image.size != whole:
                image = image.resize(whole, INTERPOLATION[self.interpolation])
            drawn = self.draw(*whole, rng)
            image, flip = image.crop(drawn.box), drawn.flip
        else:
            share = rng.uniform(0.85, 1.0)
            share = share**0.5 if self.share == "area" else share
            inner = [share * side for side in image.size]
            left, top = (rng.uniform(0, side - cut) for side, cut in zip(image.size, inner))
            image = image.resize(
                size, INTERPOLATION[self.interpolation], box=(left, top, left + inner[0], top + inner[1])
            )
            flip = rng.random() < self.flip
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return normalise(image)

    def draw(self, width: int, height: int, rng: random.Random) -> Drawn:
        """Draws window and flip of a resized image under `crop="paper"`."""
        left, top = rng.randint(0, width - self.net.width), rng.randint(0, height - self.net.height)
        return Drawn((left, top, left + self.net.width, top + self.net.height), rng.random() < self.flip)

    def on_device(self) -> DeviceTransform:
        """Returns the transform for packed images, which are resized before they are packed.

        Raises `InputError` for `crop="scale"`, whose windows are not whole pixels.
        """
        if self.crop != "paper":
            raise InputError(
                f"--pack with --recipe.crop {self.crop}: only the loader's workers do this crop; "
                "leave --pack out"
            )
        return DeviceTransform(
            self.draw,
            Result(self.net.height, self.net.width),
            (self.net.resize_height, self.net.resize_width),
            self.interpolation,
        )


def train_transform(net: NetConfig, recipe: RecipeConfig, method: MethodConfig) -> TrainTransform:
    """Returns the transform of a row; the pseudo-label rows may have their own interpolation."""
    interpolation = recipe.pseudo_interpolation if method.loss == "pseudo" else "bicubic"
    return TrainTransform(net, recipe.crop, share=recipe.crop_share, interpolation=interpolation)


def unlabelled_count(method: MethodConfig, real: int) -> int:
    """Returns the number of unlabelled images of a row with `real` labelled ones.

    Raises `InputError` if a row that needs some would have none.
    """
    count = 0 if method.loss == "none" else round(method.amount * real)
    if count == 0 and method.loss != "none":
        raise InputError(
            f"--method.amount {method.amount}: less than one unlabelled image for {real} real ones: "
            "raise it, or use --method.loss none"
        )
    return count


def matched_count(method: MethodConfig, real: int) -> int:
    """Returns an epoch's number of additional images: the row's unlabelled ones or, `step_matched`, LSRO's.

    `real`: all labelled images, before the holdout.
    """
    return round(method.amount * real) if method.step_matched else unlabelled_count(method, real)


def first_images(folder: Path, count: int) -> list[Sample]:
    """Returns the first `count` images of a folder in sorted order, without identities.

    Raises `InputError` if there are fewer.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of unlabelled images, found none")
    names = list_images(folder)
    if len(names) < count:
        raise InputError(
            f"{folder}: expected at least {count} images, found {len(names)}: give a larger folder, "
            "or lower --method.amount"
        )
    return [Sample(folder / name, JUNK, -1, origin="generated") for name in names[:count]]


def people_without_labels(dataset: ReIDDataset, count: int, seed: int) -> list[Sample]:
    """Returns `count` random training images of another dataset without their labels (Table 4).

    Raises `InputError` if there are fewer.
    """
    if len(dataset.train) < count:
        raise InputError(
            f"{dataset.root}: expected at least {count} training images to use without labels, "
            f"found {len(dataset.train)}: lower --method.amount, or name a larger --pool.people"
        )
    chosen = np.sort(np.random.default_rng((seed, 4)).permutation(len(dataset.train))[:count])
    return [replace(dataset.train[i], pid=JUNK, camid=-1) for i in chosen]


def check_strangers(people: ReIDDataset, dataset: ReIDDataset) -> None:
    """Raises `InputError` if `people`, which is used without labels, shares images with the run's dataset."""
    own = {s.path for s in (*dataset.train, *dataset.query, *dataset.gallery)}
    shared = sum(s.path in own for s in people.train)
    if shared:
        raise InputError(
            f"--pool.people {people.name}: expected people whom {dataset.name} does not have, "
            f"found {shared} images of both: name another dataset"
        )


def held_out(samples: Sequence[Sample], share: float, seed: int) -> np.ndarray:
    """Returns a mask `(N,)` of validation images: `share * N` draws with replacement, as in `prepare_data.m`.

    About 95 % of the draws are distinct for a share of 0.1. Identities with fewer than ten images stay in
    training, and so does the last identity.
    """
    pids = [s.pid for s in samples]
    images_of, last = Counter(pids), max(pids)
    drawn = np.zeros(len(samples), bool)
    drawn[np.random.default_rng((seed, 10)).integers(0, len(samples), round(share * len(samples)))] = True
    return drawn & np.array([images_of[pid] >= 10 and pid != last for pid in pids])


@dataclass(frozen=True)
class TrainingSet:
    """Labelled images, then unlabelled ones; `labels` `(N,)` holds classes, or `UNLABELLED`."""

    samples: Sequence[Sample]
    labels: np.ndarray
    num_ids: int

    @property
    def num_real(self) -> int:
        return int(np.count_nonzero(self.labels != UNLABELLED))


def training_set(
    dataset: ReIDDataset, unlabelled: Sequence[Sample], holdout: float, seed: int
) -> TrainingSet:
    """Returns the labelled images of a dataset, without the `holdout`, and the unlabelled ones.

    Identities and their labels do not depend on the unlabelled images.
    """
    real = dataset.train
    if holdout > 0:
        real = [s for s, out in zip(real, held_out(real, holdout, seed)) if not out]
    labels = [dataset.train_labels[s.pid] for s in real] + [UNLABELLED] * len(unlabelled)
    return TrainingSet([*real, *unlabelled], np.array(labels), len(dataset.train_labels))


@dataclass(frozen=True)
class Phase:
    """Epochs of `length` images each over the first `images` of a training set.

    A shuffled pass that an epoch does not finish continues in the next one.
    """

    epochs: int
    images: int
    length: int


@dataclass(frozen=True)
class Schedule:
    """The plan of a row: the indices of every step, shuffled in every pass.

    The last batch of an epoch may be smaller, as released. Several processes share every batch equally, so it
    loses up to `world - 1` images.
    """

    phases: Sequence[Phase]
    batch: int
    seed: int
    world: int = 1

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return sum(phase.epochs * self._steps(phase) for phase in self.phases)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the longest epoch."""
        return max(self._steps(phase) for phase in self.phases)

    @property
    def smallest(self) -> int:
        """Images of the smallest batch: the last one of an epoch."""
        lengths = [self._length(phase) for phase in self.phases]
        return min(length % self.batch or min(length, self.batch) for length in lengths)

    def _length(self, phase: Phase) -> int:
        return phase.length // self.world * self.world

    def _steps(self, phase: Phase) -> int:
        return -(-self._length(phase) // self.batch)

    def _place(self, step: int) -> tuple[int, int, int]:
        """Returns the number of the phase, the epoch in it, and the step in that epoch."""
        for number, phase in enumerate(self.phases):
            if step < phase.epochs * self._steps(phase):
                return number, *divmod(step, self._steps(phase))
            step -= phase.epochs * self._steps(phase)
        raise IndexError(f"the schedule has {self.total} steps")

    def epoch(self, step: int) -> int:
        """Returns the epoch of a step, from 0."""
        number, epoch, _ = self._place(step)
        return sum(phase.epochs for phase in self.phases[:number]) + epoch

    def __call__(self, step: int) -> np.ndarray:
        number, epoch, position = self._place(step)
        phase = self.phases[number]
        passes = epoch_plan(phase.images, phase.images, seed=self.seed, stream=f"re-ID {number}")
        length, start = self._length(phase), position * self.batch
        places = range(epoch * length + start, epoch * length + min(start + self.batch, length))
        return np.array([passes(place // phase.images)[place % phase.images] for place in places])


def phases(recipe: RecipeConfig, method: MethodConfig, real: int, unlabelled: int) -> list[Phase]:
    """Returns the epochs of a row with `real` labelled images and `unlabelled` other ones (`matched_count`).

    Pseudo-labels: during the first `pseudo_start` epochs the batches contain no generated images at all.
    `step_matched`: real images fill the batches of a row with so many generated ones.
    """
    together = real + unlabelled
    if method.step_matched:
        return [Phase(recipe.epochs, real, together)]
    if method.loss == "pseudo" and method.pseudo == "paper":
        start = min(method.pseudo_start, recipe.epochs)
        both = Phase(start, real, real), Phase(recipe.epochs - start, together, together)
        return [phase for phase in both if phase.epochs]
    return [Phase(recipe.epochs, together, together)]


def weight_decay(recipe: RecipeConfig, method: MethodConfig) -> tuple[float, bool]:
    """Returns the weight decay of a row, and whether it includes batch norm (released pseudo-labels only)."""
    if method.loss == "pseudo" and recipe.pseudo_weight_decay is not None:
        return recipe.pseudo_weight_decay, True
    return recipe.weight_decay, False
