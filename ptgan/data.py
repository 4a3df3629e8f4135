"""What the GAN is trained on: an image of either domain with its mask, in one geometry; the history pool;
scipy's stretch of the released code.

All sampling is a pure function of the seed and the step, so that a resumed run sees what an unbroken one
sees. Released counterpart: `utils.py` (`load_train_data`, `ImagePool`) and the epochs of `model.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from common.augment import DeviceTransform, Drawn, Result, jitter_colours
from common.datasets import Sample
from common.datasets.images import read_image
from common.datasets.loading import Draw, epoch_plan, normalise
from common.errors import InputError
from ptgan.config import GANConfig, NetConfig
from ptgan.masks import MaskSource, resize_mask

HALF = (0.5, 0.5, 0.5)


def bytescale(values: np.ndarray) -> np.ndarray:
    """scipy 0.17's: floats stretched linearly from their least (0) to their largest (255), as uint8; uint8 is
    left alone.
    """
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    return np.floor((values - low) * (255 / ((high - low) or 1.0)) + 0.4999).astype(np.uint8)


@dataclass(frozen=True)
class GanTransform:
    """Resize, random crop, flip of an image and its mask: `(RGB image, mask (h, w), rng) -> float32 (4,
    height, width)`, RGB in -1..1, then the mask.

    As released, the crop's offsets are 1 to load size - size, never 0. `mask_aug="joint"` moves the mask with
    its image; `released` only resizes it, so that it covers other pixels than the person's.
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
            rng.randint(min(1, room), room)
            for room in (self.load_height - self.height, self.load_width - self.width)
        )
        flip = rng.random() > 0.5
        window = (left, top, left + self.width, top + self.height)
        image = image.resize((self.load_width, self.load_height), Image.Resampling.BILINEAR).crop(window)
        if self.mask_aug == "joint":
            mask = resize_mask(mask, (self.load_height, self.load_width))[
                top : top + self.height, left : left + self.width
            ]
            mask = mask[:, ::-1] if flip else mask
        else:
            mask = resize_mask(mask, (self.height, self.width))
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.cat([normalise(image, HALF, HALF), torch.from_numpy(np.array(mask, np.float32))[None]])


def gan_transform(config: GANConfig, mask_aug: str) -> GanTransform:
    return GanTransform(
        config.height, config.width, config.load_height, config.load_width, mask_aug, config.io
    )


class MaskedImages(Dataset):
    """Images with their masks after `transform`; an item is (tensor, index), as
    `common.datasets.loading.SampleImages` gives it.

    Two domains with the same `stream` draw alike at the same step and slot. `cache` keeps the decoded images
    and masks in memory.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        masks: MaskSource,
        transform: Callable,
        *,
        seed: int,
        stream: str,
        cache: bool = False,
    ):
        self.samples, self.masks, self.transform, self.seed, self.stream = (
            samples,
            masks,
            transform,
            seed,
            stream,
        )
        self.decoded = [self._decode(sample) for sample in samples] if cache else None

    def _decode(self, sample: Sample) -> tuple[Image.Image, np.ndarray]:
        return read_image(sample.path), self.masks(sample)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Draw) -> tuple[Tensor, int]:
        image, mask = self.decoded[key.index] if self.decoded else self._decode(self.samples[key.index])
        return self.transform(
            image, mask, random.Random(f"{self.seed}/{self.stream}/{key.step}/{key.slot}")
        ), key.index


@dataclass(frozen=True)
class PairPlans:
    """Both domains shuffled anew every epoch of min(source, target) images; the larger one's rest waits for a
    later epoch, as released.
    """

    source: Callable[[int], np.ndarray]
    target: Callable[[int], np.ndarray]
    steps_per_epoch: int


def pair_plans(num_source: int, num_target: int, batch: int, seed: int) -> PairPlans:
    """`InputError` for a domain of one image, and for one that does not fill a batch."""
    for domain, count in (("source", num_source), ("target", num_target)):
        if count < 2:
            raise InputError(
                f"{count} {domain} training images: expected at least 2, a domain of one image has no style to learn"
            )
    steps = min(num_source, num_target) // batch

    def plan(count: int, domain: str) -> Callable[[int], np.ndarray]:
        epochs = epoch_plan(count, batch, seed=seed, stream=f"gan {domain}")
        return lambda step: epochs(step // steps * epochs.steps_per_epoch + step % steps)

    return PairPlans(plan(num_source, "source"), plan(num_target, "target"), steps)


class ImagePool:
    """The history of fakes that the discriminators see, in pairs (fake source, fake target); a pair holds the
    whole batch of its step.

    Until `size` pairs are kept, the new pair is kept and returned. Then, at even odds, it is returned as it
    is, or each half changes places with that of a kept pair, chosen for either half apart. Released:
    `ImagePool`; PyTorch's CycleGAN draws for each domain apart.
    """

    def __init__(self, size: int):
        self.size = size
        self.pairs: list[list[Tensor]] = []

    def query(self, pair: Sequence[Tensor], rng: random.Random) -> list[Tensor]:
        """The pair to train on, `(B, 3, H, W)` each."""
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
    """Resize to 9/8 of the size, random crop, flip, colour jitter: `(RGB image, rng) -> float32 (3, height,
    width)`, ImageNet-normalised.
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
        """Window and flip, of a resized image."""
        top, left = rng.randint(0, height - self.height), rng.randint(0, width - self.width)
        return Drawn((left, top, left + self.width, top + self.height), rng.random() < 0.5)

    def on_device(self) -> DeviceTransform:
        """The same for packed images, which are resized before they are packed. `InputError` with colour
        jitter.
        """
        if self.colour_jitter > 0:
            raise InputError(
                f"--pack with --recipe.colour-jitter {self.colour_jitter}: only the loader's workers change colours; leave --pack out"
            )
        return DeviceTransform(self.draw, Result(self.height, self.width), self.first_size, "bicubic")


def reid_transform(net: NetConfig, colour_jitter: float) -> ReidTransform:
    return ReidTransform(net.height, net.width, colour_jitter)
