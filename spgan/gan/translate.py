"""Renders images in the other domain's style. Released counterpart: `SPGAN/test_spgan.py`,
`SPGAN/Utils/image_utils.py`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from tqdm import tqdm

from common.datasets.images import read_image
from common.files import write_atomic
from spgan.config import GanConfig, TranslateConfig
from spgan.gan.loop import load_arrays
from spgan.gan.model import generator, load_variables

BATCH = 16


def load_generator(config: GanConfig, path: Path, role: str) -> keras.Model:
    """`g_s2t` or `g_t2s` of a `networks.npz`; raises `InputError` for one of another width, depth or size."""
    network = generator(
        role,
        config.height,
        config.width,
        channels=config.g_channels,
        blocks=config.blocks,
        residual=config.residual,
    )
    arrays = load_arrays(path)
    load_variables(
        network,
        {name[len(role) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{role}/")},
        str(path),
    )
    return network


def to_input(image: Image.Image, config: GanConfig, *, truncate: bool) -> np.ndarray:
    """RGB image to float32 `(height, width, 3)` in -1..1, resized as Pillow does.

    `truncate`: through the released -1..1 in float64 and back to 0..255 without rounding, which darkens 20 of
    the 256 levels by one.
    """
    pixels = np.asarray(image)
    if truncate:
        pixels = ((pixels / 127.5 - 1 + 1) / 2 * 255).astype(np.uint8)
    resized = Image.fromarray(pixels).resize((config.width, config.height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32) / np.float32(127.5) - 1


def to_uint8(images: np.ndarray, *, truncate: bool) -> np.ndarray:
    """-1..1 to uint8; the released code truncates, half a level too dark on average."""
    scaled = (images + 1) / 2 * 255
    return (scaled if truncate else scaled + 0.5).clip(0, 255).astype(np.uint8)


def translate(
    config: GanConfig, style: TranslateConfig, networks: Path, role: str, images: Sequence[tuple[str, str]]
) -> None:
    """Translates files to JPEG files, `(input, output)` each; outputs that are there already (after an
    interruption) are kept.
    """
    network = load_generator(config, networks, role)
    todo = [(Path(source), Path(output)) for source, output in images if not Path(output).is_file()]
    with tqdm(
        total=len(images), initial=len(images) - len(todo), desc="translate", disable=None, leave=False
    ) as bar:
        for start in range(0, len(todo), BATCH):
            part = todo[start : start + BATCH]
            batch = np.stack(
                [to_input(read_image(source), config, truncate=style.truncate) for source, _ in part]
            )
            # one shape, one graph
            padded = np.concatenate([batch, np.zeros((BATCH - len(part), *batch.shape[1:]), np.float32)])
            for pixels, (_, output) in zip(
                to_uint8(network.predict_on_batch(padded), truncate=style.truncate), part
            ):
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG", quality=style.quality)
                write_atomic(output, buffer.getvalue())
            bar.update(len(part))
