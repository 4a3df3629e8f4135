"""Transfers the source's training images to the target's style, as a dataset in Market-1501's layout with a
`manifest.json`.

Released counterpart: `model.py` (`cyclegan.test`), which writes `AtoB_<name>` of 256x256; here name and size
are the source file's.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from common.datasets import ReIDDataset, Sample
from common.datasets.images import read_image
from common.datasets.layout import refuse_equal_names
from common.datasets.loading import EvalTransform, SampleImages, Transform, normalise, ordered_loader
from common.errors import InputError
from common.files import write_atomic
from common.job import Workspace
from common.provenance import code_version
from common.runs import Stage
from ptgan.config import GANConfig, TranslationConfig
from ptgan.data import HALF, bytescale
from ptgan.train_gan import load_generator

FOLDER = "bounding_box_train"
RELEASED_PREFIX = "AtoB_"
BATCH = 16


@torch.no_grad()
def translate(
    source: ReIDDataset, gan: GANConfig, config: TranslationConfig, trained: Stage | None, work: Workspace
) -> None:
    """Writes `bounding_box_train` and its manifest; images that an interrupted build left there are kept.

    `trained`: the stage of the GAN. Without it the images only change in size and format, the control
    `identity`.
    """
    folder = work.folder / FOLDER
    refuse_equal_names(source.train)
    generator = load_generator(gan, trained.folder / "generator.pt", work.device) if trained else None
    todo = [sample for sample in source.train if not (folder / file_name(sample)).is_file()]
    work.kept.touch()
    with tqdm(total=len(todo), desc="transfer", disable=None, leave=False) as bar:
        images = SampleImages(todo, eval_transform(gan))
        for real, index in ordered_loader(images, BATCH, workers=work.options.workers) if todo else ():
            fakes = generator(real.to(work.device)) if generator is not None else real
            for fake, i in zip(fakes.float().cpu(), index.tolist()):
                save_image(to_uint8(fake, gan.io), todo[i], folder, config)
            bar.update(len(real))
    manifest = {
        "generator": gan.method if trained else "identity",
        "checkpoint": trained.hash if trained else "",
        "source": source.manifest,
        "code_version": code_version(),
        "images": len(source.train),
    }
    work.write_json("manifest.json", manifest)


def eval_transform(gan: GANConfig) -> Transform:
    """Returns the resize to the generator's size, no crop: RGB image -> `(3, height, width)` in -1..1."""
    if gan.io == "plain":
        return EvalTransform(gan.height, gan.width, "bilinear", HALF, HALF)
    return StretchedTransform(gan.height, gan.width)


class StretchedTransform:
    """Stretches the image to 0..255 before it resizes it, as scipy does in the released `load_test_data`."""

    def __init__(self, height: int, width: int):
        self.size = (width, height)

    def __call__(self, image: Image.Image, rng: random.Random | None = None) -> Tensor:
        stretched = Image.fromarray(bytescale(np.asarray(image, np.float64)))
        return normalise(stretched.resize(self.size, Image.Resampling.BILINEAR), HALF, HALF)


def to_uint8(image: Tensor, io_mode: str = "plain") -> np.ndarray:
    """Converts `(3, H, W)` in -1..1 to uint8 `(H, W, 3)`, rounded; `scipy_bytescale` stretches its minimum to
    0 and its maximum to 255, as released.
    """
    values = (image.numpy().transpose(1, 2, 0).astype(np.float64) + 1) / 2
    if io_mode == "scipy_bytescale":
        return bytescale(values)
    return np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)


def save_image(pixels: np.ndarray, sample: Sample, folder: Path, config: TranslationConfig) -> None:
    """Stores `pixels` under the sample's name, in its file's format and, unless `size` is the generator's, in
    its file's size.
    """
    image = Image.fromarray(pixels)
    if config.size == "file":
        size = read_image(sample.path).size
        image = image.resize(size, Image.Resampling.BICUBIC) if image.size != size else image
    buffer = io.BytesIO()
    path = folder / file_name(sample)
    image.save(buffer, Image.registered_extensions()[path.suffix.lower()], quality=config.quality)
    write_atomic(path, buffer.getvalue(), durable=False)


def file_name(sample: Sample) -> str:
    """Returns the name of a sample's transferred image: its file's, in a format that holds colours."""
    suffix = sample.path.suffix
    return sample.stem + (".png" if suffix.lower() in (".gif", ".pbm", ".pgm", ".pnm") else suffix)


def translated_samples(source: Sequence[Sample], folder: Path) -> list[Sample]:
    """Returns the source's samples with their transferred images, `<name>` or `AtoB_<name>`.

    Raises `InputError` that names the first one that is missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of transferred images, found none")
    present = {path.name for path in folder.iterdir()}
    samples, missing = [], []
    for sample in source:
        name = file_name(sample)
        names = [n for n in (name, RELEASED_PREFIX + name) if n in present]
        if names:
            samples.append(replace(sample, path=folder / names[0], mask=None, origin="translated"))
        else:
            missing.append(name)
    if missing:
        raise InputError(
            f"{folder}: expected a transferred image for each of {len(source)} training images, "
            f"{len(missing)} are missing, the first is {missing[0]}: transfer this training set again, or "
            "name the right folder"
        )
    return samples
