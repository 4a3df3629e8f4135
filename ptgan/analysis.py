"""Measures a transfer without labels: the change of person and background, and the distance to the target.

The same measurement of the paper's qualitative figure is in `reports/published/ptgan.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from common.datasets import Sample
from common.datasets.images import read_image
from ptgan.masks import MaskSource, resize_mask

IMAGES = 200  # at least so many of each set, evenly spaced, or all of a smaller set


def analyse(
    source: Sequence[Sample],
    translated: Sequence[Sample],
    target: Sequence[Sample],
    masks: MaskSource | None,
    size: tuple[int, int],
) -> dict[str, float]:
    """Returns the distances of styles and, with masks, the changes inside and outside of them.

    `translated`: one image for each of `source`, in its order, repeated for each of several cameras. Images
    are compared at `size` (height, width).
    """
    pairs = [(source[i % len(source)], sample) for i, sample in enumerate(translated)]
    pairs = pairs[:: max(1, len(pairs) // IMAGES)]
    images = {
        "source": np.stack([pixels(before, size) for before, _ in pairs]),
        "translated": np.stack([pixels(after, size) for _, after in pairs]),
        "target": np.stack([pixels(sample, size) for sample in target[:: max(1, len(target) // IMAGES)]]),
    }
    measures = {
        f"style_distance_{name}": style_distance(images[name], images["target"])
        for name in ("source", "translated")
    }
    if masks is not None:
        covered = np.stack([resize_mask(masks(before), size) for before, _ in pairs])
        measures |= rms_change(images["source"], images["translated"], covered)
        measures["mask_coverage"] = float(covered.mean())
    return {name: round(value, 5) for name, value in measures.items()}


def pixels(sample: Sample, size: tuple[int, int]) -> np.ndarray:
    """Returns float32 `(height, width, 3)` in -1..1."""
    image = read_image(sample.path)
    image = image.resize(size[::-1], Image.Resampling.BILINEAR) if image.size != size[::-1] else image
    return np.asarray(image, np.float32) / 127.5 - 1


def rms_change(before: np.ndarray, after: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Returns the mean over images of the root mean square change of their pixels.

    Images `(N, H, W, 3)` in -1..1, masks `(N, H, W)` of 0 and 1. `rms_inside` covers the masks' pixels,
    `rms_outside` the others; an image without such pixels is omitted from that mean.
    """
    squared = ((after.astype(np.float64) - before) ** 2).mean(axis=3)
    result = {}
    for name, chosen in (("rms_inside", masks > 0.5), ("rms_outside", masks <= 0.5)):
        count = chosen.sum(axis=(1, 2))
        roots = np.sqrt((squared * chosen).sum(axis=(1, 2))[count > 0] / count[count > 0])
        result[name] = float(roots.mean()) if len(roots) else 0.0
    return result


def style_distance(images: np.ndarray, target: np.ndarray) -> float:
    """Returns the root mean square difference of the colour statistics of two sets `(N, H, W, 3)`: mean and
    standard deviation of each channel over all pixels.
    """
    statistics = [
        np.concatenate(
            [pictures.mean(axis=(0, 1, 2), dtype=np.float64), pictures.std(axis=(0, 1, 2), dtype=np.float64)]
        )
        for pictures in (images, target)
    ]
    return float(np.sqrt(((statistics[0] - statistics[1]) ** 2).mean()))
