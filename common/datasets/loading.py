"""Loads the batches of a plan for PyTorch; images depend on the seed and the step alone.

The number of workers, the number of processes and a resume do not change them: each image has its own random
generator, seeded by (seed, stream, step, slot), where slot is the image's position in the whole batch.
"""

from __future__ import annotations

import random
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from common.datasets.base import Sample
from common.datasets.images import read_image
from common.datasets.plans import Plan
from common.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATION = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

Transform = Callable[[Image.Image, random.Random], Tensor]


class Draw(NamedTuple):
    """One image of a training batch: its index, and the step and slot that seed its random generator."""

    step: int
    slot: int
    index: int  # type: ignore[assignment]  # tuples have a method of this name


class SampleImages(Dataset):
    """Images of samples (or paths) after `transform(image, rng)`; an item is (tensor, index).

    The key is a `Draw` in training, where step and slot seed the rng, or an int in evaluation, where the
    index does. `stream` separates the random draws of two loaders of one run. `cache` decodes all images
    eagerly and keeps them in memory; a transform must not change its image in place. `period`: slots that are
    equal modulo it share their draws (several views of one image). Raises `InputError` for a broken image.
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
        """Returns the index of the image and its random generator."""
        if isinstance(key, Draw):
            index, place = key.index, f"{key.step}/{key.slot % self.period if self.period else key.slot}"
        else:
            index, place = key, f"image {key}"
        return index, random.Random(f"{self.seed}/{self.stream}/{place}")


class _Loader(DataLoader):
    """A DataLoader that does not use torch's global generator and re-raises a worker's `InputError`
    unchanged.

    The error is passed on as an item: PyTorch would add its traceback and wait five seconds for the worker.
    """

    def __init__(self, images: Dataset, **kwargs):  # each worker runs one thread: PyTorch's own default
        collate = partial(_collate, getattr(images, "collate", default_collate))
        kwargs |= {"collate_fn": collate, "worker_init_fn": leave_signals_to_the_parent}
        super().__init__(_ErrorsAsItems(images), generator=torch.Generator(), **kwargs)

    def __iter__(self) -> Iterator[list[Tensor]]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, InputError):
                raise batch
            yield batch


def leave_signals_to_the_parent(worker: int) -> None:
    """Lets a worker live on when a signal to the whole process group asks the command to stop: its parent
    still needs the batch of the step that it finishes and saves. A worker ends with its parent.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class PlannedLoader(_Loader):
    """The loader of a plan; `steps` knows the whole batches behind this process's parts."""

    def __init__(self, images: Dataset, steps: PlannedSteps, **kwargs):
        super().__init__(images, batch_sampler=steps, **kwargs)
        self.steps = steps


class _ErrorsAsItems(Dataset):
    def __init__(self, images: Any):
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


class PlannedSteps:
    """The batches of steps start..stop-1, each reduced to the part of one rank.

    `drawn` holds the whole batches that have been drawn but not yet delivered, in order.
    """

    def __init__(self, plan: Plan, start: int, stop: int, rank: int, world: int):
        self.plan, self.start, self.stop, self.rank, self.world = plan, start, stop, rank, world
        self.drawn: deque[np.ndarray] = deque()

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Draw]]:
        self.drawn.clear()
        for step in range(self.start, self.stop):
            indices = np.asarray(self.plan(step))
            part, rest = divmod(len(indices), self.world)
            if rest:
                raise InputError(
                    f"a batch of {len(indices)} images does not divide into {self.world} equal parts: "
                    "change the batch size"
                )
            self.drawn.append(indices)
            slots = range(self.rank * part, (self.rank + 1) * part)
            yield [Draw(step, slot, int(indices[slot])) for slot in slots]


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
) -> PlannedLoader:
    """Loads the batches of steps start..stop-1: (images `(B, 3, H, W)`, indices `(B,)`).

    The batches do not depend on the number of workers. With `world` > 1, rank r receives the r-th of `world`
    equal contiguous parts of each batch, as DataParallel splits it.
    """
    if not 0 <= rank < world:
        raise InputError(f"rank {rank} of {world}: expected 0 to {world - 1}")
    steps = PlannedSteps(plan, start, stop, rank, world)
    return PlannedLoader(images, steps, num_workers=workers, pin_memory=pin_memory)


class Batch(NamedTuple):
    """One training step; under `torchrun` `images` is this process's part, the rest is the whole batch's."""

    images: Tensor  # (b, 3, H, W)
    indices: np.ndarray  # (B,)
    labels: Tensor | None = None  # (B,), int64


def ordered_loader(
    images: Dataset, batch_size: int, *, workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """Loads all images in order, for evaluation; the last batch may be smaller."""
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: expected at least 1")
    return _Loader(images, batch_size=batch_size, num_workers=workers, pin_memory=pin_memory)


def normalise(
    image: Image.Image, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """Normalises an RGB image: float32 `(3, H, W)`, (value / 255 - mean) / std; `mean=std=(0.5, 0.5, 0.5)`
    is the GANs' range -1..1.
    """
    scale, shift = scale_and_shift(tuple(mean), tuple(std))
    pixels = np.asarray(image).transpose(2, 0, 1)
    values = np.empty(pixels.shape, np.float32)
    np.multiply(pixels, scale, out=values)
    values -= shift
    return torch.from_numpy(values)


@lru_cache(maxsize=8)
def scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns two float32 arrays `(3, 1, 1)`: a normalised value is the pixel's times the first, minus the
    second.
    """
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
