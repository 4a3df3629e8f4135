"""Measures the errors of fakes: images of a synthetic target can be drawn in another camera's true style."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from common.datasets import ReIDDataset
from common.datasets.images import read_image
from common.datasets.synthetic import DOMAINS, oracle
from hhl.views import fake_path

IMAGES = 200  # evenly spread over the training set


def oracle_errors(target: ReIDDataset, folder: Path) -> dict[str, float]:
    """Returns mean absolute pixel errors (0..255) at the fakes' size; empty for real targets.

    They cover about `IMAGES` images and all cameras but each image's own. `fake_l1`: the fake against the
    oracle. `identity_l1`: the unchanged image against the oracle; a generator above it does harm.
    `own_style_l1`: the fake in the image's own camera against the image.
    """
    if target.name not in DOMAINS:
        return {}
    errors: dict[str, list[float]] = {"fake_l1": [], "identity_l1": [], "own_style_l1": []}
    for sample in target.train[:: max(1, len(target.train) // IMAGES)]:
        own = read_image(fake_path(folder, sample.stem, sample.camid + 1))
        real = _pixels(read_image(sample.path), own.size)
        errors["own_style_l1"].append(np.abs(_pixels(own, own.size) - real).mean())
        for camera in set(range(target.num_cameras)) - {sample.camid}:
            truth = _pixels(Image.fromarray(oracle(sample, camera)), own.size)
            fake = _pixels(read_image(fake_path(folder, sample.stem, camera + 1)), own.size)
            errors["fake_l1"].append(np.abs(fake - truth).mean())
            errors["identity_l1"].append(np.abs(real - truth).mean())
    return {name: round(float(np.mean(values)), 3) for name, values in errors.items()}


def _pixels(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)
