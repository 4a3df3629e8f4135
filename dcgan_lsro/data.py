"""What the network is trained on: labelled images and, in most rows, unlabelled ones, shuffled together; the
released augmentations.

All sampling is a pure function of the seed and the step, so that a resumed run sees what an unbroken one
sees. Released counterpart: `prepare_data.m`, `prepare_gan_data.m`, `getBatch` of the training scripts, the
epochs of `examples/cnn_train_dag.m`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.augment import DeviceTransform, Drawn, Result
from common.datasets import JUNK, ReIDDataset, Sample, load_dataset
from common.datasets.layout import list_images
from common.datasets.loading import epoch_plan, normalise
from common.errors import InputError
from dcgan_lsro.config import EvalConfig, LSROConfig, MethodConfig, NetConfig, RecipeConfig

UNLABELLED = -1


def load(config: EvalConfig, name: str, root: Path | None) -> ReIDDataset:
    """A dataset; CUHK03 by the protocol and split of the configuration."""
    split = {"protocol": config.cuhk03_protocol, "split": config.cuhk03_split} if name == "cuhk03" else {}
    return load_dataset(name, root, **split)


@dataclass(frozen=True)
class TrainTransform:
    """Crop and mirror: `(RGB image, rng) -> float32 (3, height, width)`, ImageNet-normalised.

    `crop="paper"` (Sec. 5.2): to `resize_height x resize_width`, then a random window of `height x width`.
    `crop="scale"` (released scripts): a random window of 85 to 100 % of both sides, brought to that size.
    Bicubic.
    """

    net: NetConfig
    crop: str = "paper"
    flip: float = 0.5

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        size = (self.net.width, self.net.height)
        if self.crop == "paper":
            whole = (self.net.resize_width, self.net.resize_height)
            if image.size != whole:
                image = image.resize(whole, Image.Resampling.BICUBIC)
            drawn = self.draw(*whole, rng)
            image, flip = image.crop(drawn.box), drawn.flip
        else:
            share = rng.uniform(0.85, 1.0)
            inner = [share * side for side in image.size]
            left, top = (rng.uniform(0, side - cut) for side, cut in zip(image.size, inner))
            image = image.resize(
                size, Image.Resampling.BICUBIC, box=(left, top, left + inner[0], top + inner[1])
            )
            flip = rng.random() < self.flip
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return normalise(image)

    def draw(self, width: int, height: int, rng: random.Random) -> Drawn:
        """Window and flip under `crop="paper"`, of a resized image."""
        left, top = rng.randint(0, width - self.net.width), rng.randint(0, height - self.net.height)
        return Drawn((left, top, left + self.net.width, top + self.net.height), rng.random() < self.flip)

    def on_device(self) -> DeviceTransform:
        """The same for packed images, resized before they are packed. `InputError` for `crop="scale"`, whose
        windows are no whole pixels.
        """
        if self.crop != "paper":
            raise InputError(
                f"--pack with --recipe.crop {self.crop}: only the loader's workers do this crop; leave --pack out"
            )
        return DeviceTransform(
            self.draw,
            Result(self.net.height, self.net.width),
            (self.net.resize_height, self.net.resize_width),
            "bicubic",
        )


def unlabelled_count(method: MethodConfig, real: int) -> int:
    """How many unlabelled images a row has beside `real` labelled ones. `InputError` if a row that needs some
    would have none.
    """
    count = 0 if method.loss == "none" else round(method.amount * real)
    if count == 0 and method.loss != "none":
        raise InputError(
            f"--method.amount {method.amount}: less than one unlabelled image for {real} real ones: raise it, or use --method.loss none"
        )
    return count


def matched_count(method: MethodConfig, real: int) -> int:
    """Places of an epoch beside those of the real images: the row's unlabelled images or, `step_matched`, as
    many as LSRO would have.

    `real`: all labelled images, before the holdout.
    """
    return round(method.amount * real) if method.step_matched else unlabelled_count(method, real)


def first_images(folder: Path, count: int) -> list[Sample]:
    """The first `count` images of a folder in sorted order, as samples of nobody. `InputError` if there are
    fewer.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of unlabelled images, found none")
    names = list_images(folder)
    if len(names) < count:
        raise InputError(
            f"{folder}: expected at least {count} images, found {len(names)}: give a larger folder, or lower --method.amount"
        )
    return [Sample(folder / name, JUNK, -1, origin="generated") for name in names[:count]]


def people_without_labels(dataset: ReIDDataset, count: int, seed: int) -> list[Sample]:
    """`count` training images of another dataset, drawn at random, without their labels (Table 4).
    `InputError` if there are fewer.
    """
    if len(dataset.train) < count:
        raise InputError(
            f"{dataset.root}: expected at least {count} training images to use without labels, found {len(dataset.train)}: "
            "lower --method.amount, or name a larger --pool.people"
        )
    chosen = np.sort(np.random.default_rng((seed, 4)).permutation(len(dataset.train))[:count])
    return [replace(dataset.train[i], pid=JUNK, camid=-1) for i in chosen]


def check_strangers(people: ReIDDataset, dataset: ReIDDataset) -> None:
    """Raises `InputError` if images to be used without labels are images of the run's own dataset, as they
    would be with their labels too.
    """
    own = {s.path for s in (*dataset.train, *dataset.query, *dataset.gallery)}
    shared = sum(s.path in own for s in people.train)
    if shared:
        raise InputError(
            f"--pool.people {people.name}: expected people whom {dataset.name} does not have, found {shared} images of both: "
            "name another dataset"
        )


def held_out(samples: Sequence[Sample], share: float, seed: int) -> np.ndarray:
    """Which images (bool, `(N,)`) the released `prepare_data.m` sets aside: `share * N` draws with
    replacement, about 95 % of them distinct for 0.1.

    Images of people with fewer than ten stay in training, and so do those of the last person.
    """
    pids = [s.pid for s in samples]
    images_of, last = Counter(pids), max(pids)
    drawn = np.zeros(len(samples), bool)
    drawn[np.random.default_rng((seed, 10)).integers(0, len(samples), round(share * len(samples)))] = True
    return drawn & np.array([images_of[pid] >= 10 and pid != last for pid in pids])


@dataclass(frozen=True)
class TrainingSet:
    """`samples`: the labelled ones, then the unlabelled; `labels` `(N,)`: class, or -1; the number of people."""

    samples: Sequence[Sample]
    labels: np.ndarray
    num_ids: int

    @property
    def num_real(self) -> int:
        return int(np.count_nonzero(self.labels != UNLABELLED))

    def batch(self, indices: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """`labels` and the mask `is_gan` of a batch, `(B,)` each."""
        labels = torch.as_tensor(self.labels[indices], dtype=torch.int64, device=device)
        return labels, labels == UNLABELLED


def training_set(
    dataset: ReIDDataset, unlabelled: Sequence[Sample], holdout: float, seed: int
) -> TrainingSet:
    """The labelled images of a dataset (less the `holdout`) and the unlabelled ones; the people and their
    labels do not depend on the latter.
    """
    real = dataset.train
    if holdout > 0:
        out = held_out(real, holdout, seed)
        real = [s for s, left_out in zip(real, out) if not left_out]
    labels = [dataset.train_labels[s.pid] for s in real] + [UNLABELLED] * len(unlabelled)
    return TrainingSet([*real, *unlabelled], np.array(labels), len(dataset.train_labels))


@dataclass(frozen=True)
class Phase:
    """Some epochs over the first `images` of a training set, each of `length` images; a shuffled pass goes on
    from epoch to epoch.
    """

    epochs: int
    images: int
    length: int


@dataclass(frozen=True)
class Schedule:
    """The indices of every step, shuffled anew in every pass; the last batch of an epoch is as small as it
    comes, as released.
    """

    phases: tuple[Phase, ...]
    batch: int
    seed: int

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return sum(phase.epochs * self._steps(phase) for phase in self.phases)

    @property
    def steps_per_epoch(self) -> int:
        """Of the longest epoch."""
        return max(self._steps(phase) for phase in self.phases)

    def _steps(self, phase: Phase) -> int:
        return -(-phase.length // self.batch)

    def _place(self, step: int) -> tuple[int, int, int]:
        """Number of the phase, epoch in it, step of that epoch."""
        for number, phase in enumerate(self.phases):
            if step < phase.epochs * self._steps(phase):
                return number, *divmod(step, self._steps(phase))
            step -= phase.epochs * self._steps(phase)
        raise IndexError(f"the schedule has {self.total} steps")

    def epoch(self, step: int) -> int:
        """Epoch of a step, from 0."""
        number, epoch, _ = self._place(step)
        return sum(phase.epochs for phase in self.phases[:number]) + epoch

    def __call__(self, step: int) -> np.ndarray:
        number, epoch, position = self._place(step)
        phase = self.phases[number]
        passes = epoch_plan(phase.images, phase.images, seed=self.seed, stream=f"re-ID {number}")
        start = position * self.batch
        places = epoch * phase.length + np.arange(start, min(start + self.batch, phase.length))
        return np.array([passes(place // phase.images)[place % phase.images] for place in places])


def schedule(config: LSROConfig, real: int, unlabelled: int, seed: int, world: int = 1) -> Schedule:
    """The epochs of a row with `real` labelled images and `unlabelled` other ones (`matched_count`).

    Pseudo-labels: the generated images come in after `pseudo_start` epochs (not fed before, not only
    unweighted). `step_matched`: as many steps an epoch as a row with so many generated images, all filled
    with real ones. Several processes share every batch equally, so the last batch of an epoch loses up to
    `world - 1` images.
    """
    recipe, method = config.recipe, config.method
    together = real + unlabelled
    if method.step_matched:
        phases = [Phase(recipe.epochs, real, together)]
    elif method.loss == "pseudo" and method.pseudo == "paper":
        start = min(method.pseudo_start, recipe.epochs)
        phases = [Phase(start, real, real), Phase(recipe.epochs - start, together, together)]
    else:
        phases = [Phase(recipe.epochs, together, together)]
    kept = tuple(replace(phase, length=phase.length // world * world) for phase in phases if phase.epochs)
    return Schedule(kept, recipe.batch, seed)


def weight_decay(recipe: RecipeConfig, method: MethodConfig) -> tuple[float, bool]:
    """Weight decay of a row and whether batch norm has it too: the released pseudo-label net is the
    exception.
    """
    if method.loss == "pseudo" and recipe.pseudo_weight_decay is not None:
        return recipe.pseudo_weight_decay, True
    return recipe.weight_decay, False
