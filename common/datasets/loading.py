"""Batches for PyTorch whose images depend on the seed and the step alone: not on the number of workers, of
processes, or on a resume.

A *plan* maps a step to the indices of its batch; it is a pure function, so a run that starts at step k sees
what an unbroken run sees there. Each image has its own random generator, seeded by (seed, stream, step,
slot), where slot is the place in the whole batch.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from common.datasets.base import Sample
from common.datasets.images import read_image
from common.errors import InputError

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Draw",
    "EpochPlan",
    "EvalTransform",
    "SampleImages",
    "epoch_plan",
    "normalise",
    "ordered_loader",
    "planned_loader",
    "read_image",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATION = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

Plan = Callable[[int], Sequence[int]]
Transform = Callable[[Image.Image, random.Random], Tensor]


class Draw(NamedTuple):
    """One place of a training batch: `index` into the images, `step` and `slot` (place in the whole batch)
    for the random generator.
    """

    step: int
    slot: int
    index: int


class SampleImages(Dataset):
    """Images of samples (or paths) after `transform(image, rng)`; an item is (tensor, index).

    The key is a `Draw` (training: rng from seed, stream, step and slot) or an int (evaluation: rng from seed,
    stream and index). `stream` names the random stream, so that two loaders of one run do not draw alike.
    `cache` decodes all images at once and keeps them in memory; a transform must not change its image in
    place. `period`: slots that are equal modulo it draw alike (several views of one image, a batch holding
    all first views, then all second ones, ...). Raises `InputError` for a broken image.
    """

    def __init__(
        self,
        samples: Sequence[Sample | str | Path],
        transform: Transform,
        *,
        seed: int = 0,
        stream: str = "",
        cache: bool = False,
        period: int | None = None,
    ):
        self.paths = [s.path if isinstance(s, Sample) else Path(s) for s in samples]
        self.transform, self.seed, self.stream, self.period = transform, seed, stream, period
        self.decoded = [read_image(path) for path in self.paths] if cache else None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | Draw) -> tuple[Tensor, int]:
        index, rng = self.place(key)
        image = self.decoded[index] if self.decoded else read_image(self.paths[index])
        return self.transform(image, rng), index

    def place(self, key: int | Draw) -> tuple[int, random.Random]:
        """The index of the image and its random generator."""
        if isinstance(key, Draw):
            index, place = key.index, f"{key.step}/{key.slot % self.period if self.period else key.slot}"
        else:
            index, place = key, f"image {key}"
        return index, random.Random(f"{self.seed}/{self.stream}/{place}")


class _Loader(DataLoader):
    """A DataLoader that leaves torch's global generator alone; an `InputError` of a worker arrives as it was
    raised.

    It travels as data: PyTorch would wrap its traceback into it and wait five seconds for the worker that
    raised it.
    """

    def __init__(self, images: Dataset, **kwargs):  # each worker runs one thread: PyTorch's own default
        collate = partial(_collate, getattr(images, "collate", default_collate))
        super().__init__(_ErrorsAsItems(images), collate_fn=collate, generator=torch.Generator(), **kwargs)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for batch in super().__iter__():
            if isinstance(batch, InputError):
                raise batch
            yield batch


class _ErrorsAsItems(Dataset):
    def __init__(self, images: Dataset):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key):
        try:
            return self.images[key]
        except InputError as error:
            return InputError(str(error))  # without its traceback


def _collate(collate: Callable[[list], list], items: list) -> list | InputError:
    return next((item for item in items if isinstance(item, InputError)), None) or collate(items)


@dataclass(frozen=True)
class _Steps:
    """The batches of steps start..stop-1, each the part of one rank."""

    plan: Plan
    start: int
    stop: int
    rank: int
    world: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.start, self.stop):
            indices = self.plan(step)
            if len(indices) % self.world:
                raise InputError(
                    f"a batch of {len(indices)} images does not divide into {self.world} equal parts: change the batch size"
                )
            part = len(indices) // self.world
            yield [
                Draw(step, slot, int(indices[slot]))
                for slot in range(self.rank * part, (self.rank + 1) * part)
            ]


def planned_loader(
    images: Dataset,
    plan: Plan,
    start: int,
    stop: int,
    *,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> DataLoader:
    """Batches of steps start..stop-1: (images `(B, 3, H, W)`, indices `(B,)`), the same for any number of
    workers.

    With `world` > 1, rank r gets the r-th of `world` equal contiguous parts of each batch, as DataParallel
    splits it.
    """
    if not 0 <= rank < world:
        raise InputError(f"rank {rank} of {world}: expected 0 to {world - 1}")
    return _Loader(
        images,
        batch_sampler=_Steps(plan, start, stop, rank, world),
        num_workers=workers,
        pin_memory=pin_memory,
    )


def ordered_loader(
    images: Dataset, batch_size: int, *, workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """For evaluation: all images in order, the last batch as small as it comes."""
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: expected at least 1")
    return _Loader(images, batch_size=batch_size, num_workers=workers, pin_memory=pin_memory)


@dataclass(frozen=True)
class EpochPlan:
    """Shuffled epochs over 0..n-1 as a function of the step; what does not fill a batch at the end of an
    epoch is left out.
    """

    n: int
    batch_size: int
    seed: int
    stream: str = ""

    @property
    def steps_per_epoch(self) -> int:
        return self.n // self.batch_size

    def __call__(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return _permutation(self.n, self.seed, self.stream, epoch)[start : start + self.batch_size]


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, stream: str, epoch: int) -> np.ndarray:
    order = np.random.default_rng((seed, zlib.crc32(stream.encode()), epoch)).permutation(n)
    order.setflags(write=False)
    return order


def epoch_plan(n: int, batch_size: int, *, seed: int, stream: str = "") -> EpochPlan:
    """Shuffled epochs with `drop_last`; raises `InputError` if the images do not fill one batch."""
    if batch_size < 1 or seed < 0:
        raise InputError(f"batch size {batch_size}, seed {seed}: expected at least 1 and 0")
    if n < batch_size:
        raise InputError(
            f"{n} images do not fill one batch of {batch_size}: use a smaller batch or more images"
        )
    return EpochPlan(n, batch_size, seed, stream)


def normalise(
    image: Image.Image, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """RGB image -> float32 `(3, H, W)`: (value / 255 - mean) / std; `mean=std=(0.5, 0.5, 0.5)` gives the
    GANs' range -1..1.
    """
    scale, shift = scale_and_shift(tuple(mean), tuple(std))
    pixels = np.asarray(image).transpose(2, 0, 1)
    values = np.empty(pixels.shape, np.float32)
    np.multiply(pixels, scale, out=values)
    values -= shift
    return torch.from_numpy(values)


@lru_cache(maxsize=8)
def scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """float32 `(3, 1, 1)` each: a normalised value is the pixel's times the first, minus the second."""
    mean_, std_ = (np.asarray(values, np.float64).reshape(3, 1, 1) for values in (mean, std))
    return (1 / (255 * std_)).astype(np.float32), (mean_ / std_).astype(np.float32)


@dataclass(frozen=True)
class EvalTransform:
    """Resize (antialiased, as Pillow does) and normalise: RGB image -> float32 `(3, height, width)`."""

    height: int
    width: int
    interpolation: str = "bicubic"  # or bilinear
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self):
        if self.height < 1 or self.width < 1:
            raise InputError(f"image size {self.height} x {self.width}: expected positive numbers")
        if self.interpolation not in INTERPOLATION:
            raise InputError(
                f"interpolation {self.interpolation!r}: expected one of {', '.join(INTERPOLATION)}"
            )

    def __call__(self, image: Image.Image, rng: random.Random | None = None) -> Tensor:
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), INTERPOLATION[self.interpolation])
        return normalise(image, self.mean, self.std)
