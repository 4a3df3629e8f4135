"""Translates images to the other domain's style. Released counterpart: `SPGAN/test_spgan.py`,
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
from spgan.config import GANConfig, TranslationConfig
from spgan.gan.loop import load_arrays
from spgan.gan.model import generator, load_variables

BATCH = 16


def load_generator(config: GANConfig, path: Path, role: str) -> keras.Model:
    """Loads `g_s2t` or `g_t2s` of a `networks.npz`. Raises `InputError` for one of another width or depth."""
    network = generator(role, config)
    load_variables(network, load_arrays(path), str(path))
    return network


def to_input(image: Image.Image, config: GANConfig, *, truncate: bool) -> np.ndarray:
    """Resizes an RGB image as Pillow does, to float32 `(height, width, 3)` in -1..1.

    `truncate`: first to -1..1 in float64 and back to 0..255 without rounding, as released, which darkens 20
    of the 256 levels by one.
    """
    pixels = np.asarray(image)
    if truncate:
        pixels = ((pixels / 127.5 - 1 + 1) / 2 * 255).astype(np.uint8)
    resized = Image.fromarray(pixels).resize((config.width, config.height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32) / np.float32(127.5) - 1


def to_uint8(images: np.ndarray, *, truncate: bool) -> np.ndarray:
    """Maps -1..1 to uint8; the released code truncates, which darkens by half a level on average."""
    scaled = (images + 1) / 2 * 255
    return (scaled if truncate else scaled + 0.5).clip(0, 255).astype(np.uint8)


def translate(
    config: GANConfig,
    translation: TranslationConfig,
    networks: Path,
    role: str,
    images: Sequence[tuple[str, str]],
) -> None:
    """Translates image files to JPEG files, `(input, output)` each; skips outputs that exist already."""
    network = load_generator(config, networks, role)
    todo = [(Path(source), Path(output)) for source, output in images if not Path(output).is_file()]
    truncate, done = translation.truncate, len(images) - len(todo)
    with tqdm(total=len(images), initial=done, desc="translate", disable=None, leave=False) as bar:
        for start in range(0, len(todo), BATCH):
            part = todo[start : start + BATCH]
            batch = np.stack([to_input(read_image(source), config, truncate=truncate) for source, _ in part])
            # every batch has one shape, so that the graph is compiled once
            padded = np.concatenate([batch, np.zeros((BATCH - len(part), *batch.shape[1:]), np.float32)])
            translations = to_uint8(network.predict_on_batch(padded), truncate=truncate)
            for pixels, (_, output) in zip(translations, part):
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG", quality=translation.quality)
                write_atomic(output, buffer.getvalue(), durable=False)
            bar.update(len(part))
