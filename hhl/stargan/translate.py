"""Renders every training image of the target in the style of every camera, its own included.

Released counterpart: `Solver.test` of `stargan4reid`: `<stem>_fake_<k>.jpg`, k from 1, JPEG of quality 75, at
the generator's size.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from common.datasets import ReIDDataset, Sample
from common.datasets.loading import EvalTransform, SampleImages, ordered_loader
from common.files import write_atomic
from common.job import Workspace
from common.provenance import code_version
from hhl.config import GANConfig, TranslationConfig
from hhl.stargan.model import Generator, camera_one_hot
from hhl.stargan.train import HALF
from hhl.views import fake_path

FOLDER = "bounding_box_train_camstyle_stargan4reid"  # the released name
BATCH = 16  # as released


@torch.no_grad()
def translate(
    work: Workspace,
    generator: Generator,
    target: ReIDDataset,
    gan: GANConfig,
    style: TranslationConfig,
) -> None:
    """Writes the camera-style folder; images that exist already, after an interruption, are kept."""
    folder = work.folder / FOLDER
    cameras = range(target.num_cameras)
    todo = [
        sample
        for sample in target.train
        if not all(fake_path(folder, sample.stem, k + 1).is_file() for k in cameras)
    ]
    work.kept.touch()
    images = SampleImages(todo, EvalTransform(gan.height, gan.width, "bilinear", HALF, HALF))
    loader = ordered_loader(images, BATCH, workers=work.options.workers) if todo else ()
    with tqdm(total=len(todo), desc="translate", disable=None, leave=False) as bar:
        for real, index in loader:
            real = real.to(work.device)
            for camera in cameras:
                one_hot = camera_one_hot(torch.full((len(real),), camera), len(cameras)).to(work.device)
                fakes = to_uint8(generator(real, one_hot), truncate=style.truncate)
                for pixels, i in zip(fakes, index):
                    save_fake(pixels, todo[i], folder, camera, style.quality)
            bar.update(len(real))


def manifest(generator: str, checkpoint: str, target: ReIDDataset) -> dict:
    """Returns the manifest of a camera-style folder."""
    return {
        "generator": generator,
        "checkpoint": checkpoint,
        "source": target.manifest,
        "code_version": code_version(),
        "images": len(target.train) * target.num_cameras,
    }


def save_fake(pixels: np.ndarray, sample: Sample, folder: Path, camera: int, quality: int) -> None:
    """Writes `<stem>_fake_<camera + 1>.jpg`; `pixels` uint8 `(H, W, 3)`, `camera` 0-based."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    write_atomic(fake_path(folder, sample.stem, camera + 1), buffer.getvalue(), durable=False)


def to_uint8(images: Tensor, *, truncate: bool) -> np.ndarray:
    """Converts `(B, 3, H, W)` in -1..1 to uint8 `(B, H, W, 3)`; torchvision 0.2.1 truncated."""
    scaled = (images.float() + 1).div(2).clamp(0, 1) * 255
    return (scaled if truncate else scaled + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
