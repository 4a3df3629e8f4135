"""Augments a whole batch of packed uint8 images on the device: crop, resize, flip, normalise, erase.

The random draws are those of the workers' path, one generator per image, so both paths use the same boxes at
the same step. The pixels equal Pillow's: its weights are whole multiples of 2^-22, whose sums over a line are
exact in float64.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from common.datasets.base import Sample
from common.datasets.loading import IMAGENET_MEAN, IMAGENET_STD, Draw, SampleImages, scale_and_shift
from common.datasets.packed import pack

NOTHING = (0, 0, 0, 0)
UNIT = 2.0**22  # Pillow's weights of 8-bit images are multiples of 1 / UNIT
# columns first if the height shrinks, by more than twice what the width does
TALL_FIRST = int(PIL.__version__.split(".")[0]) >= 13


class Drawn(NamedTuple):
    """The random draws of one image; boxes are (left, top, right, bottom), `erased` is of the result."""

    box: tuple[int, int, int, int]
    flip: bool
    erased: tuple[int, int, int, int] = NOTHING
    # colour adjustments and their amounts; only workers apply them
    colours: tuple[tuple[Callable, float], ...] = ()


def colour_adjustments(strength: float, rng: random.Random) -> list[tuple[Callable, float]]:
    """Brightness, contrast, saturation and hue, in random order (`torchvision.transforms.ColorJitter(s, s, s,
    s / 4)`).
    """
    adjustments = [
        (TF.adjust_brightness, 1 + rng.uniform(-strength, strength)),
        (TF.adjust_contrast, 1 + rng.uniform(-strength, strength)),
        (TF.adjust_saturation, 1 + rng.uniform(-strength, strength)),
        (TF.adjust_hue, rng.uniform(-strength, strength) / 4),
    ]
    rng.shuffle(adjustments)
    return adjustments


def jitter_colours(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Scales brightness, contrast and saturation by U(1 - s, 1 + s) and turns the hue by U(-s/4, s/4), in
    random order: the control of HHL, SPGAN and PTGAN.
    """
    for adjust, amount in colour_adjustments(strength, rng):
        image = adjust(image, amount)
    return image


@dataclass(frozen=True)
class Result:
    """What a batch becomes: height, width, the statistics of `normalise`, and the normalised colour of what
    is erased.
    """

    height: int
    width: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class DeviceTransform:
    """A training transform taken apart: images brought to `first_size` (height, width; None: their own) when
    they are packed, the draws `draw(width, height, rng)` of each image at each step, and what the device
    makes of them.
    """

    draw: Callable[[int, int, random.Random], Drawn]
    result: Result
    first_size: tuple[int, int] | None = None
    interpolation: str = "bilinear"  # to the first size


class Packable(Protocol):
    """A transform that the device can do. `on_device` raises `InputError` if its settings ask for something
    that only workers do.
    """

    def on_device(self) -> DeviceTransform: ...


class PackedImages(NamedTuple):
    """Packed images `(B, H, W, 3)`, uint8, each in the top left corner, with their random draws."""

    images: Tensor
    boxes: Tensor  # (B, 4)
    flips: Tensor  # (B,) bool
    erased: Tensor  # (B, 4)
    result: Result


class PackedSamples(SampleImages):
    """`SampleImages` augmented on the device; a batch is (`PackedImages`, indices).

    Workers only draw and copy. Packs the images if `cache` lacks them.
    """

    def __init__(
        self,
        samples: Sequence[Sample | str | Path],
        transform: Packable,
        cache: Path,
        *,
        seed: int = 0,
        stream: str = "",
        period: int | None = None,
    ):
        super().__init__(samples, transform, seed=seed, stream=stream, period=period)  # type: ignore[arg-type]
        self.steps = transform.on_device()
        self.packed = pack(samples, cache, size=self.steps.first_size, interpolation=self.steps.interpolation)

    def __getitem__(self, key: int | Draw) -> tuple[Any, int]:  # ((image, Drawn), index)
        index, rng = self.place(key)
        image = self.packed[index]
        return (image, self.steps.draw(image.shape[1], image.shape[0], rng)), index

    def collate(self, items: Sequence[tuple[tuple[np.ndarray, Drawn], int]]) -> list:
        images, draws = zip(*(item for item, _ in items))
        height, width, _ = np.max([image.shape for image in images], axis=0)
        together = np.zeros((len(images), height, width, 3), np.uint8)
        for place, image in zip(together, images):
            place[: image.shape[0], : image.shape[1]] = image
        views = PackedImages(
            torch.from_numpy(together),
            torch.tensor([d.box for d in draws]),
            torch.tensor([d.flip for d in draws]),
            torch.tensor([d.erased for d in draws]),
            self.steps.result,
        )
        return [views, torch.tensor([index for _, index in items])]


def training_images(
    samples: Sequence[Sample],
    transform: Any,  # a Transform; Packable if `cache` is given
    cache: Path | None,
    *,
    seed: int,
    stream: str,
    period: int | None = None,
    keep: int = 0,
) -> SampleImages:
    """Returns augmented images: packed in `cache` and augmented on the device, or augmented by the workers.

    Workers keep the decoded images of sets of up to `keep` images.
    """
    if cache is not None:
        return PackedSamples(samples, transform, cache, seed=seed, stream=stream, period=period)
    return SampleImages(
        samples, transform, seed=seed, stream=stream, cache=len(samples) <= keep, period=period
    )


def on_device(images: Tensor | PackedImages, device: torch.device) -> Tensor:
    """Returns a loader's images as the network takes them: float32 `(B, 3, h, w)` on the device,
    channels-last, finished there if they come as `PackedImages`.
    """
    if isinstance(images, Tensor):
        return images.to(device, non_blocking=True, memory_format=torch.channels_last)
    *tensors, result = images
    pixels, boxes, flips, erased = (tensor.to(device, non_blocking=True) for tensor in tensors)
    cropped = crop_resize_flip(pixels, boxes, flips, (result.height, result.width))
    return erase(normalise(cropped, result.mean, result.std), erased, result.fill)


def crop_resize_flip(images: Tensor, boxes: Tensor, flips: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops, resizes and mirrors as Pillow does: `image.crop(box).resize(size, BILINEAR)`, mirrored where
    `flips` `(B,)` is true.

    uint8 `(B, H, W, 3)` and boxes (left, top, right, bottom) `(B, 4)` inside the images to whole numbers
    0..255 as float32 `(B, 3, h, w)`, channels-last. Pillow's triangle filter, which widens as it shrinks;
    along rows first, then along columns (or as `TALL_FIRST` says), whole numbers after either pass.
    """
    (_, rows, columns, _), (height, width) = images.shape, size
    left, top, right, bottom = boxes.to(torch.float64).unbind(1)
    across, down = resize_weights(left, right, columns, width), resize_weights(top, bottom, rows, height)
    across = torch.where(flips[:, None, None], across.flip(1), across)
    images = images.double()
    resized = _along_columns(_along_rows(images, across), down)
    if TALL_FIRST and height < rows:  # some boxes may need it; which ones, the device knows
        other = _along_rows(_along_columns(images, down), across)
        lost_rows, lost_columns = bottom - top - height, right - left - width
        resized = torch.where(
            ((lost_rows > 0) & (lost_rows > 2 * lost_columns))[:, None, None, None], other, resized
        )
    return resized.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)


def _along_rows(images: Tensor, weights: Tensor) -> Tensor:
    """Resizes rows: `(B, H, W, 3)` and weights `(B, w, W)` to `(B, H, w, 3)`."""
    count, rows, columns, _ = images.shape
    sums = weights @ images.permute(0, 2, 1, 3).reshape(count, columns, rows * 3)
    return _levels(sums).view(count, -1, rows, 3).permute(0, 2, 1, 3)


def _along_columns(images: Tensor, weights: Tensor) -> Tensor:
    """Resizes columns: `(B, H, W, 3)` and weights `(B, h, H)` to `(B, h, W, 3)`."""
    count, rows, columns, _ = images.shape
    return _levels(weights @ images.reshape(count, rows, columns * 3)).view(count, -1, columns, 3)


def _levels(sums: Tensor) -> Tensor:
    return (sums / UNIT + 0.5).floor_().clamp_(0, 255)


def resize_weights(start: Tensor, stop: Tensor, pixels: int, size: int) -> Tensor:
    """Weights `(B, size, pixels)` of Pillow's triangle filter between a line's pixels start..stop-1 `(B,)`
    and `size` results, times `UNIT`.

    Result i lies at start + (i + 1/2) (stop - start) / size, a pixel at its centre; the filter reaches one
    pixel, or one result where that is more; its weights within the box are brought to a sum of 1, then
    rounded. float64, as `start` and `stop`.
    """
    scale = (stop - start)[:, None, None] / size
    result, pixel = (torch.arange(n, device=start.device, dtype=start.dtype) + 0.5 for n in (size, pixels))
    distance = (pixel[None, None, :] - start[:, None, None] - result[None, :, None] * scale) / scale.clamp(
        min=1
    )
    inside = (pixel >= start[:, None]) & (pixel <= stop[:, None])
    weights = (1 - distance.abs()).clamp(min=0) * inside[:, None, :]
    return (weights / weights.sum(dim=2, keepdim=True) * UNIT + 0.5).floor_()


def normalise(
    images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """Normalises float32 levels 0..255 `(B, 3, h, w)` as `common.datasets.loading.normalise`, bit by bit."""
    scale, shift = (
        torch.from_numpy(values).to(images.device) for values in scale_and_shift(tuple(mean), tuple(std))
    )
    return images * scale - shift


def erase(images: Tensor, boxes: Tensor, fill: Sequence[float]) -> Tensor:
    """Fills the boxes (left, top, right, bottom) `(B, 4)` of `(B, 3, h, w)` with the colour `fill`; an empty
    box erases nothing.
    """
    left, top, right, bottom = (side[:, None] for side in boxes.unbind(1))
    row, column = (torch.arange(n, device=images.device) for n in images.shape[2:])
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    colour = torch.tensor(fill, device=images.device, dtype=images.dtype)[:, None, None]
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], colour, images)
