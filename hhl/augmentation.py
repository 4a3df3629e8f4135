"""The released augmentation of training images: random rectangle, flip, erasing; colour jitter as a control.

Released counterpart: `reid/utils/data/transforms.py`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from common.augment import NOTHING, DeviceTransform, Drawn, Result, colour_adjustments
from common.datasets.loading import IMAGENET_MEAN, normalise
from common.errors import InputError
from hhl.config import NetConfig, RecipeConfig

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class TrainTransform:
    """Crops, flips, normalises and erases: `(RGB image, rng) -> float32 (3, height, width)`.

    With `random.Random(s)` and `colour_jitter=0` the draws are those of the released transforms after
    `random.seed(s)`. With `--pack` the device does the same (`on_device`), from the same draws.
    """

    height: int
    width: int
    erasing: float = 0.0  # probability
    flip: float = 0.5  # probability
    # ours, a control: brightness, contrast, saturation x U(1 - s, 1 + s), hue + U(-s/4, s/4) of a full turn
    colour_jitter: float = 0.0
    # keep_aspect: at the image's own aspect, as the paper's words say; none: the whole image
    crop: str = "released"
    first_size: tuple[int, int] | None = None  # (height, width) to which every image is resized first

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        if self.first_size is not None and image.size != self.first_size[::-1]:
            image = image.resize(self.first_size[::-1], Image.Resampling.BILINEAR)
        drawn = self.draw(image.width, image.height, rng)
        if drawn.box != (0, 0, *image.size):
            image = image.crop(drawn.box)
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        if drawn.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for adjust, amount in drawn.colours:
            image = adjust(image, amount)
        return erase(normalise(image), drawn.erased)

    def draw(self, width: int, height: int, rng: random.Random) -> Drawn:
        """Returns all random draws for an image of this size, in the order of the released transforms."""
        box = (0, 0, width, height)
        if self.crop != "none":
            box = crop_box(width, height, rng, keep_aspect=self.crop == "keep_aspect")
        flip = rng.random() < self.flip
        colours = tuple(colour_adjustments(self.colour_jitter, rng)) if self.colour_jitter > 0 else ()
        return Drawn(box, flip, erasing_box(self.height, self.width, self.erasing, rng), colours)

    def on_device(self) -> DeviceTransform:
        """Returns the transform for the device; `InputError` with colour jitter, which needs Pillow."""
        if self.colour_jitter > 0:
            raise InputError(
                f"--pack with --recipe.colour-jitter {self.colour_jitter}: only the loader's workers change "
                "colours; leave --pack out"
            )
        result = Result(self.height, self.width, fill=IMAGENET_MEAN)
        return DeviceTransform(self.draw, result, self.first_size)


def train_transforms(
    net: NetConfig, recipe: RecipeConfig, first_size: tuple[int, int] | None
) -> dict[str, TrainTransform]:
    """Returns the augmentation of each part of a batch; `first_size` is for the target's views.

    Colour jitter is for labelled images only: the colours of the target's fakes vary already.
    """
    plain = TrainTransform(net.height, net.width, recipe.erasing, crop=recipe.crop)
    labelled = replace(plain, colour_jitter=recipe.colour_jitter)
    target = replace(plain, first_size=first_size)
    return {"classify": labelled, "source": labelled, "target": target}


def crop_box(width: int, height: int, rng: random.Random, *, keep_aspect: bool = False) -> Box:
    """Draws a box of 64 to 100 % of the area, 2 to 3 times as high as wide.

    With `keep_aspect` the box has the image's aspect ratio. After ten boxes that do not fit: the whole image.
    """
    for _ in range(10):
        area = rng.uniform(0.64, 1.0) * (width * height)
        aspect = height / width if keep_aspect else rng.uniform(2, 3)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= width and h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def erasing_box(height: int, width: int, probability: float, rng: random.Random) -> Box:
    """Draws a box of 2 to 20 % of the area, of aspect U(0.3, 3), in at most 100 attempts.

    Returns an empty box if nothing is to be erased.
    """
    if rng.uniform(0, 1) > probability:
        return NOTHING
    for _ in range(100):
        area = rng.uniform(0.02, 0.2) * (height * width)
        aspect = rng.uniform(0.3, 3)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= width and h <= height:
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            return left, top, left + w, top + h
    return NOTHING


def erase(image: Tensor, box: Box) -> Tensor:
    """Fills a box of a normalised image `(3, H, W)`, in place.

    The fill is the ImageNet mean in 0..1, as released: not the neutral 0 of a normalised image.
    """
    left, top, right, bottom = box
    image[:, top:bottom, left:right] = image.new_tensor(IMAGENET_MEAN)[:, None, None]
    return image
