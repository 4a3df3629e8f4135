"""What HHL feeds its network: the released augmentation, identity sampling, restarts of the short loaders,
pseudo-labels, camera-style views.

All sampling is a pure function of the seed and the step, so that a resumed run sees what an unbroken one
sees. It follows the released rules, not the released sequences: those come out of the global generators of
PyTorch and NumPy, in the order in which workers ask. Released counterpart: `reid/utils/data/` (transforms.py,
sampler.py, preprocessor.py) and the iterators in `reid/trainers.py`.
"""

from __future__ import annotations

import math
import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from common.augment import NOTHING, DeviceTransform, Drawn, Result, colour_adjustments
from common.datasets.base import Sample
from common.datasets.loading import IMAGENET_MEAN, EpochPlan, epoch_plan, normalise
from common.errors import InputError

PSEUDO_LABELS = range(1000, 11000)  # released: int(U[0, 1) * 10000 + 1000); source labels stay below


@dataclass(frozen=True)
class TrainTransform:
    """Random rectangle, flip, colour jitter, normalisation, erasing: `(RGB image, rng) -> float32 (3, height,
    width)`, ImageNet-normalised.

    With `random.Random(s)` and `colour_jitter=0` the draws are those of the released transforms after
    `random.seed(s)`. `flip` and `erasing` are probabilities. `colour_jitter` (ours, for the control
    experiment) scales brightness, contrast and saturation by U(1 - s, 1 + s) and turns the hue by U(-s/4,
    s/4) of a full turn. `keep_aspect` crops at the image's own aspect, as the paper's words say.
    `first_size`, (height, width): every image is brought to this size before all else. With `--pack` the
    device does the same (`on_device`), from the same draws.
    """

    height: int
    width: int
    erasing: float = 0.0
    flip: float = 0.5
    colour_jitter: float = 0.0
    keep_aspect: bool = False
    first_size: tuple[int, int] | None = None

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
        """Every random draw of an image of this size, in the order of the released transforms: box, flip,
        colours (ours), erasing.
        """
        box = crop_box(width, height, rng, keep_aspect=self.keep_aspect)
        flip = rng.random() < self.flip
        colours = tuple(colour_adjustments(self.colour_jitter, rng)) if self.colour_jitter > 0 else ()
        return Drawn(box, flip, erasing_box(self.height, self.width, self.erasing, rng), colours)

    def on_device(self) -> DeviceTransform:
        """Raises `InputError` with colour jitter, which is made of Pillow's own operations."""
        if self.colour_jitter > 0:
            raise InputError(
                f"--pack with --recipe.colour-jitter {self.colour_jitter}: only the loader's workers change colours; leave --pack out"
            )
        return DeviceTransform(
            self.draw, Result(self.height, self.width, fill=IMAGENET_MEAN), self.first_size
        )


def crop_box(
    width: int, height: int, rng: random.Random, *, keep_aspect: bool = False
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of 64 to 100 % of the area, height 2 to 3 times the width; after ten
    misfits, the whole image.
    """
    for _ in range(10):
        area = rng.uniform(0.64, 1.0) * (width * height)
        aspect = height / width if keep_aspect else rng.uniform(2, 3)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= width and h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def erasing_box(height: int, width: int, probability: float, rng: random.Random) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of 2 to 20 % of the area, aspect U(0.3, 3), at most 100 attempts; an empty
    box if nothing is to be erased.
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


def erase(image: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Random erasing, in place. As released, the fill is the ImageNet mean in 0..1 although `image` `(3, H,
    W)` is normalised already, so it is not the neutral zero.
    """
    left, top, right, bottom = box
    image[:, top:bottom, left:right] = image.new_tensor(IMAGENET_MEAN)[:, None, None]
    return image


@dataclass(frozen=True)
class IdentityPasses:
    """PK sampling: in each pass every identity comes up once at most, in random order, with `images_per_id`
    of its images.
    """

    images_of: tuple[np.ndarray, ...]  # indices of each identity's images
    ids_per_batch: int
    images_per_id: int
    seed: int
    stream: str

    @property
    def steps_per_pass(self) -> int:
        return len(self.images_of) // self.ids_per_batch

    def batch(self, pass_number: int, position: int) -> np.ndarray:
        """Indices `(ids_per_batch * images_per_id,)`, grouped by identity; one with too few images draws all
        of them with replacement.
        """
        order = step_generator(self.seed, self.stream, pass_number).permutation(len(self.images_of))
        chosen = order[position * self.ids_per_batch : (position + 1) * self.ids_per_batch]
        draw = step_generator(self.seed, self.stream, pass_number, position + 1)
        k = self.images_per_id
        return np.concatenate(
            [draw.choice(self.images_of[i], k, replace=len(self.images_of[i]) < k) for i in chosen]
        )


def identity_passes(
    pids: Sequence[int], *, ids_per_batch: int = 8, images_per_id: int = 8, seed: int, stream: str
) -> IdentityPasses:
    """The released `RandomIdentitySampler` under `drop_last`; `pids` holds each image's identity.
    `InputError` if there are too few.
    """
    labels = np.asarray(pids)
    images_of = tuple(np.flatnonzero(labels == pid) for pid in np.unique(labels))
    if min(ids_per_batch, images_per_id) < 1:
        raise InputError(
            f"identity sampling: {ids_per_batch} identities x {images_per_id} images a batch: expected at least 1 x 1"
        )
    if len(images_of) < ids_per_batch:
        raise InputError(
            f"identity sampling: {len(images_of)} identities, {ids_per_batch} wanted in a batch: use fewer, or more data"
        )
    return IdentityPasses(images_of, ids_per_batch, images_per_id, seed, stream)


@dataclass(frozen=True)
class ShuffledPasses:
    """A shuffled list under `drop_last`, read pass by pass."""

    plan: EpochPlan

    @property
    def steps_per_pass(self) -> int:
        return self.plan.steps_per_epoch

    def batch(self, pass_number: int, position: int) -> np.ndarray:
        """Indices `(batch_size,)`."""
        return self.plan(pass_number * self.steps_per_pass + position)


def shuffled_passes(n: int, batch_size: int, *, seed: int, stream: str) -> ShuffledPasses:
    """Passes over 0..n-1, each in a new order; `InputError` if the images do not fill one batch."""
    return ShuffledPasses(epoch_plan(n, batch_size, seed=seed, stream=stream))


def own_passes(step: int, steps_per_pass: int) -> tuple[int, int]:
    """(pass number, position in it) of a loader that begins anew only when it has run out."""
    return divmod(step, steps_per_pass)


def released_restarts(step: int, steps_per_epoch: int, shorter_pass: int) -> tuple[int, int]:
    """(pass number, position in it) of both auxiliary loaders at a step of the run.

    Both begin a new pass at the start of every epoch, and again as soon as the shorter one runs out. Duke ->
    Market: 129 steps an epoch and 87 batches of source identities, so each epoch has a pass of 87 steps and
    one of 42; Market -> Duke: 101, of 93 and 8.
    """
    epoch, step_of_epoch = divmod(step, steps_per_epoch)
    restarts, position = divmod(step_of_epoch, shorter_pass)
    return epoch * math.ceil(steps_per_epoch / shorter_pass) + restarts, position


def pseudo_labels(step: int, n: int, *, kind: str = "random10k", seed: int, num_ids: int) -> np.ndarray:
    """Labels `(n,)` of a step's target images, never one of the source labels 0..num_ids-1.

    `random10k`, released: drawn from 1000..10999, so that two images of a batch of 16 share one in 1.2 % of
    the batches. `unique`, the paper's words: all different. Raises `InputError` for random10k with more than
    1000 source identities.
    """
    if kind == "unique":
        return num_ids + np.arange(n)
    if kind != "random10k":
        raise InputError(f"pseudo-labels {kind!r}: expected random10k or unique")
    if num_ids > PSEUDO_LABELS.start:
        raise InputError(
            f"pseudo-labels random10k begin at {PSEUDO_LABELS.start}, but the source has {num_ids} identities: use unique"
        )
    return step_generator(seed, "pseudo-labels", step).integers(PSEUDO_LABELS.start, PSEUDO_LABELS.stop, n)


def step_generator(seed: int, stream: str, *place: int) -> np.random.Generator:
    """NumPy's generator of one place of a named random stream."""
    return np.random.default_rng((seed, zlib.crc32(stream.encode()), *place))


def fake_path(folder: Path, stem: str, k: int) -> Path:
    """The image `stem` in the style of camera k, counted from 1: `<stem>_fake_<k>.jpg`."""
    return Path(folder) / f"{stem}_fake_{k}.jpg"


def camera_style_views(
    train: Sequence[Sample], folder: Path, num_cameras: int, include_own: bool = True
) -> list[Sample]:
    """All views of the target's training images: first the N real ones, then the N of style 1, ..., of style
    C: view k of image i is k * N + i.

    A translated view has the person of its original and the camera of its style. `include_own=False` leaves
    out the style of the image's own camera; view k is then the k-th other style. The folder may be the
    authors' own; it must hold all C styles of every image and no other styles: `InputError` with the count
    and the first name otherwise.
    """
    _check_style_folder(train, Path(folder), num_cameras)
    views = list(train)
    for k in range(num_cameras if include_own else num_cameras - 1):
        for sample in train:
            style = k if include_own or k < sample.camid else k + 1
            views.append(
                replace(
                    sample,
                    path=fake_path(folder, sample.path.stem, style + 1),
                    camid=style,
                    origin="translated",
                )
            )
    return views


def _check_style_folder(train: Sequence[Sample], folder: Path, num_cameras: int) -> None:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder of camera-style images, found none: translate the target's training images first"
        )
    found = {path.name for path in folder.iterdir() if re.search(r"_fake_.*\.jpg$", path.name)}
    expected = {
        fake_path(folder, sample.path.stem, k).name for sample in train for k in range(1, num_cameras + 1)
    }
    for what, names in (("missing", expected - found), ("not of these images and cameras", found - expected)):
        if names:
            raise InputError(
                f"{folder}: expected {len(expected)} camera-style images ({len(train)} x {num_cameras} cameras), {len(names)} are {what}, "
                f"the first is {min(names)}: translate this training set again, or name the right folder"
            )


def target_batch(indices: Sequence[int] | np.ndarray, n: int, num_views: int) -> np.ndarray:
    """Views of a batch of target images in the released order, all reals, all of style 1, ...: `(num_views *
    len(indices),)` into the views.
    """
    return (n * np.arange(num_views)[:, None] + np.asarray(indices)[None, :]).ravel()
