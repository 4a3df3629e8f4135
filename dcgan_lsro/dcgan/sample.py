"""Draws the unlabelled images: noise in, image files out, always in batches of one size, each a function of
the seed and its number.

Released counterpart: option 5 of `visualize` in `DCGAN/utils.py` (git history): 750 batches of 64, brought to
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

from common.datasets.layout import list_images
from common.files import write_atomic
from common.provenance import code_version
from common.runs import Workspace
from dcgan_lsro.config import PoolConfig
from dcgan_lsro.dcgan.model import Generator
from dcgan_lsro.dcgan.train import draw_z

FOLDER = "generated"
SUFFIX = {"png": ".png", "jpeg": ".jpg"}


@torch.no_grad()
def sample(
    generator: Generator,
    z_dim: int,
    pool: PoolConfig,
    count: int,
    seed: int,
    workspace: Workspace,
    device: torch.device,
    *,
    checkpoint_hash: str,
) -> None:
    """Writes `count` images into the folder `generated`, then `manifest.json`; whole batches that are there
    (after an interruption) are kept.

    With `gen_bn=batch` an image depends on the others of its batch, so the last batch is drawn in full and
    cut. The generator's running statistics, which training mode moves, are not read then.
    """
    folder = workspace.folder / FOLDER
    generator.train(pool.gen_bn == "batch")
    workspace.kept.touch()
    for number in tqdm(range(-(-count // pool.batch)), desc="draw", disable=None, leave=False):
        first = number * pool.batch
        paths = [folder / file_name(index, pool) for index in range(first, min(first + pool.batch, count))]
        if all(path.is_file() for path in paths):
            continue
        images = generator(draw_z(pool.batch, z_dim, seed, "pool", number).to(device))
        for path, pixels in zip(paths, to_uint8(images, pool.range)):
            write_atomic(path, encode(Image.fromarray(pixels), pool))
    workspace.write_json(
        "manifest.json",
        {
            "generator": "DCGAN",
            "checkpoint": checkpoint_hash,
            "images": count,
            "seed": seed,
            "pool": pool,
            "code_version": code_version(),
        },
    )


def file_name(index: int, pool: PoolConfig) -> str:
    """Sorted names are in the order of drawing, so that the first N of a pool are the same N for any size of
    it.
    """
    return f"gan_{index:06d}{SUFFIX[pool.format]}"


def to_uint8(images: Tensor, kind: str) -> np.ndarray:
    """`(B, 3, H, W)` in -1..1 to uint8 `(B, H, W, 3)`.

    `fixed`: (x + 1) / 2. `stretch`: each image from its own smallest to its own largest value, which is what
    `scipy.misc.imresize` did to the released images: -0.8, 0, 0.6 become 0, 146, 255 instead of 25, 128, 204.
    """
    x = images.double()
    if kind == "stretch":
        low, high = x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
        x = (x - low) / (high - low).clamp(min=1e-12)
    else:
        x = (x + 1) / 2
    return (255 * x.clamp(0, 1) + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def encode(image: Image.Image, pool: PoolConfig) -> bytes:
    """The image at the stored size (bilinear) as the bytes of a PNG or JPEG."""
    buffer = io.BytesIO()
    options = {"quality": pool.quality} if pool.format == "jpeg" else {"compress_level": 1}
    image.resize((pool.width, pool.height), Image.Resampling.BILINEAR).save(buffer, pool.format, **options)
    return buffer.getvalue()


def diversity(folder: Path, reference: list[Path], count: int = 256) -> dict[str, float]:
    """Picture-side measures of a pool: how much its images differ from one another, against real ones; a
    collapsed generator is near 0.

    `gan_spread` and `real_spread`: the standard deviation over images of each pixel and channel, averaged, in
    0..255.
    """
    # a write that was killed leaves a hidden file
    generated = [folder / name for name in list_images(folder)]
    return {
        "gan_spread": _spread(generated[:count]),
        "real_spread": _spread(reference[:: max(1, len(reference) // count)][:count]),
    }


def _spread(paths: list[Path]) -> float:
    pixels = []
    for path in paths:
        with Image.open(path) as image:
            pixels.append(
                np.asarray(image.convert("RGB").resize((32, 64), Image.Resampling.BILINEAR), np.float32)
            )
    return round(float(np.std(np.stack(pixels), axis=0).mean()), 2)
