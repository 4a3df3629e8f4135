"""Generates the unlabelled images from noise, in batches of one size, each a function of seed and number.

Released counterpart: option 5 of `visualize` in `DCGAN/utils.py` (git history): 750 batches of 64, resized to
256 x 256, JPEG.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from common.datasets.images import read_image
from common.datasets.layout import list_images
from common.files import write_atomic
from common.job import Workspace
from common.provenance import code_version
from dcgan_lsro.config import PoolConfig
from dcgan_lsro.dcgan.model import Generator
from dcgan_lsro.dcgan.train import draw_z

FOLDER = "generated"
SUFFIX = {"png": ".png", "jpeg": ".jpg"}


@torch.no_grad()
def sample(
    generator: Generator, pool: PoolConfig, count: int, work: Workspace, *, checkpoint_hash: str
) -> None:
    """Writes `count` images into the folder `generated`, then `manifest.json`; keeps whole earlier batches.

    With `gen_bn=batch` an image depends on the rest of its batch, so the last batch is generated in full and
    truncated. The generator's running statistics, which change in training mode, are not read in that case.
    """
    folder = work.folder / FOLDER
    generator.train(pool.gen_bn == "batch")
    work.kept.touch()
    for number in tqdm(range(-(-count // pool.batch)), desc="generate", disable=None, leave=False):
        first = number * pool.batch
        paths = [folder / file_name(index, pool) for index in range(first, min(first + pool.batch, count))]
        if all(path.is_file() for path in paths):
            continue
        images = generator(draw_z(pool.batch, generator.z_dim, work.seed, "pool", number).to(work.device))
        for path, pixels in zip(paths, to_uint8(images, pool.range)):
            write_atomic(path, encode(Image.fromarray(pixels), pool), durable=False)
    work.write_json(
        "manifest.json",
        {
            "generator": "DCGAN",
            "checkpoint": checkpoint_hash,
            "images": count,
            "seed": work.seed,
            "pool": pool,
            "code_version": code_version(),
        },
    )


def file_name(index: int, pool: PoolConfig) -> str:
    """Returns the name of an image; names sort by index, so that smaller pools are subsets of larger ones."""
    return f"gan_{index:06d}{SUFFIX[pool.format]}"


def to_uint8(images: Tensor, kind: str) -> np.ndarray:
    """Converts `(B, 3, H, W)` in -1..1 to uint8 `(B, H, W, 3)`.

    `fixed`: (x + 1) / 2. `stretch`: each image from its smallest to its largest value, as
    `scipy.misc.imresize` stretched the released images: -0.8, 0, 0.6 become 0, 146, 255 instead of 25, 128,
    204.
    """
    x = images.double()
    if kind == "stretch":
        low, high = x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
        x = (x - low) / (high - low).clamp(min=1e-12)
    else:
        x = (x + 1) / 2
    return (255 * x.clamp(0, 1) + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def encode(image: Image.Image, pool: PoolConfig) -> bytes:
    """Returns the bytes of the image, resized (bilinear) to the stored size, as PNG or JPEG."""
    buffer = io.BytesIO()
    options = {"quality": pool.quality} if pool.format == "jpeg" else {"compress_level": 1}
    image.resize((pool.width, pool.height), Image.Resampling.BILINEAR).save(buffer, pool.format, **options)
    return buffer.getvalue()


def diversity(folder: Path, reference: list[Path], count: int = 256) -> dict[str, float]:
    """Returns how much the images of a pool differ, `gan_spread`, and how much real ones do, `real_spread`.

    Each is the standard deviation over images of a pixel and channel, averaged, in 0..255. It is near 0 for a
    collapsed generator.
    """
    generated = [folder / name for name in list_images(folder)]  # no hidden file of a killed write
    return {
        "gan_spread": _spread(generated[:count]),
        "real_spread": _spread(reference[:: max(1, len(reference) // count)][:count]),
    }


def _spread(paths: list[Path]) -> float:
    pixels = []
    for path in paths:
        small = read_image(path).resize((32, 64), Image.Resampling.BILINEAR)
        pixels.append(np.asarray(small, np.float32))
    return round(float(np.std(np.stack(pixels), axis=0).mean()), 2)
