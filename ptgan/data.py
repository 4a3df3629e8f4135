"""Loads the images of the GAN with their masks, keeps the history of fakes, and augments the re-ID images.

All sampling is a pure function of the seed and the step, so that a resumed run sees the images of an
uninterrupted one. Released counterpart: `utils.py` (`load_train_data`, `ImagePool`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from common.augment import DeviceTransform, Drawn, Result, jitter_colours
from common.datasets import Sample
from common.datasets.images import read_image
from common.datasets.loading import Draw, normalise
from common.errors import InputError
from ptgan.config import GANConfig
from ptgan.masks import MaskSource, resize_mask

HALF = (0.5, 0.5, 0.5)


def bytescale(values: np.ndarray) -> np.ndarray:
    """Stretches floats linearly so that the minimum becomes 0 and the maximum 255, as scipy 0.17 does.

    Returns uint8; input of uint8 is returned unchanged.
    """
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    return np.floor((values - low) * (255 / ((high - low) or 1.0)) + 0.4999).astype(np.uint8)


@dataclass(frozen=True)
class GANTransform:
    """Resizes, crops and flips an image and its mask at random: `(RGB image, mask (h, w), rng) -> float32 (4,
    height, width)`, RGB in -1..1, then the mask.

    As released, the crop's offsets range from 1 to load size - size and are never 0. `mask_aug="joint"` moves
    the mask with its image; `released` only resizes it, so that it covers other pixels than the person's.
    """

    height: int
    width: int
    load_height: int
    load_width: int
    mask_aug: str = "joint"
    io: str = "plain"

    def __call__(self, image: Image.Image, mask: np.ndarray, rng: random.Random) -> Tensor:
        if self.io == "scipy_bytescale":
            image = Image.fromarray(bytescale(np.asarray(image, np.float64)))
        top, left = (
            rng.randint(min(1, margin), margin)
            for margin in (self.load_height - self.height, self.load_width - self.width)
        )
        flip = rng.random() > 0.5
        box = (left, top, left + self.width, top + self.height)
        image = image.resize((self.load_width, self.load_height), Image.Resampling.BILINEAR).crop(box)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mask = self._follow(mask, top, left, flip)
        return torch.cat([normalise(image, HALF, HALF), torch.from_numpy(np.array(mask, np.float32))[None]])

    def _follow(self, mask: np.ndarray, top: int, left: int, flip: bool) -> np.ndarray:
        """Returns the mask for the image's crop and flip, `(height, width)`."""
        if self.mask_aug == "released":
            return resize_mask(mask, (self.height, self.width))
        mask = resize_mask(mask, (self.load_height, self.load_width))
        mask = mask[top : top + self.height, left : left + self.width]
        return mask[:, ::-1] if flip else mask


def gan_transform(config: GANConfig, mask_aug: str) -> GANTransform:
    """Returns the transform of a configuration."""
    sizes = (config.height, config.width, config.load_height, config.load_width)
    return GANTransform(*sizes, mask_aug, config.io)


class Domain(NamedTuple):
    """The training images of one domain, and their masks."""

    samples: Sequence[Sample]
    masks: MaskSource


class MaskedImages(Dataset):
    """Images with their masks after `transform`; an item is (tensor, index), as in `SampleImages`.

    Two domains with the same `stream` draw the same numbers at the same step and slot. `cache` keeps the
    decoded images and masks in memory.
    """

    def __init__(
        self,
        domain: Domain,
        transform: Callable[[Image.Image, np.ndarray, random.Random], Tensor],
        *,
        seed: int,
        stream: str,
        cache: bool = False,
    ):
        self.domain, self.transform, self.seed, self.stream = domain, transform, seed, stream
        self.decoded = [self._decode(sample) for sample in domain.samples] if cache else None

    def _decode(self, sample: Sample) -> tuple[Image.Image, np.ndarray]:
        return read_image(sample.path), self.domain.masks(sample)

    def __len__(self) -> int:
        return len(self.domain.samples)

    def __getitem__(self, key: Draw) -> tuple[Tensor, int]:
        index = key.index
        image, mask = self.decoded[index] if self.decoded else self._decode(self.domain.samples[index])
        rng = random.Random(f"{self.seed}/{self.stream}/{key.step}/{key.slot}")
        return self.transform(image, mask, rng), index


class ImagePool:
    """The history of fakes that the discriminators see, in pairs (fake source, fake target) of whole batches.

    Until `size` pairs are kept, the new pair is kept and returned. Afterwards, with probability 1/2, each
    half of the new pair replaces that of a randomly chosen pair, both halves independently, and the replaced
    halves are returned; otherwise the new pair is returned. Released: `ImagePool`; PyTorch's CycleGAN decides
    for each domain separately.
    """

    def __init__(self, size: int):
        self.size = size
        self.pairs: list[list[Tensor]] = []

    def query(self, pair: Sequence[Tensor], rng: random.Random) -> list[Tensor]:
        """Returns the pair to train on, `(B, 3, H, W)` each."""
        new = [half.detach() for half in pair]
        if len(self.pairs) < self.size:
            self.pairs.append(new)
            return list(new)
        if self.size == 0 or not rng.random() > 0.5:
            return new
        old = []
        for half in range(2):
            kept = self.pairs[int(rng.random() * self.size)]
            old.append(kept[half].to(new[half].device))
            kept[half] = new[half]
        return old

    def state_dict(self) -> dict:
        return {"pairs": self.pairs}

    def load_state_dict(self, state: dict) -> None:
        self.pairs = [list(pair) for pair in state["pairs"]]


# ---------------------------------------------------------------- the re-ID network's images


@dataclass(frozen=True)
class ReidTransform:
    """Resizes to 9/8 of the size, crops, flips and jitters the colours: `(RGB image, rng) -> float32 (3,
    height, width)`, ImageNet-normalised.
    """

    height: int
    width: int
    colour_jitter: float = 0.0

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        height, width = self.first_size
        drawn = self.draw(width, height, rng)
        image = image.resize((width, height), Image.Resampling.BICUBIC).crop(drawn.box)
        if drawn.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return normalise(jitter_colours(image, self.colour_jitter, rng) if self.colour_jitter > 0 else image)

    @property
    def first_size(self) -> tuple[int, int]:
        """(height, width) before the crop."""
        return round(self.height * 9 / 8), round(self.width * 9 / 8)

    def draw(self, width: int, height: int, rng: random.Random) -> Drawn:
        """Draws box and flip for a resized image."""
        top, left = rng.randint(0, height - self.height), rng.randint(0, width - self.width)
        return Drawn((left, top, left + self.width, top + self.height), rng.random() < 0.5)

    def on_device(self) -> DeviceTransform:
        """Returns the transform for packed images, which are resized before they are packed.

        Raises `InputError` with colour jitter.
        """
        if self.colour_jitter > 0:
            raise InputError(
                f"--pack with --recipe.colour-jitter {self.colour_jitter}: only the loader's workers change "
                "colours; leave --pack out"
            )
        return DeviceTransform(self.draw, Result(self.height, self.width), self.first_size, "bicubic")
