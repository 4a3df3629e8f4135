"""Training images of any form reach the GAN as all other code reads them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.datasets.images import read_image
from common.errors import InputError
from spgan.config import GANConfig
from spgan.gan.data import batches

CONFIG = GANConfig(height=16, width=8, load_height=16, load_width=8, batch=1)
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8)


def loaded(paths) -> np.ndarray:
    draw = {name: np.zeros(len(paths), np.int64) for name in ("top", "left")}
    draw |= {"index": np.arange(len(paths)), "flip": np.zeros(len(paths), bool)}
    dataset = batches(list(map(str, paths)), draw, CONFIG, 1)
    return np.concatenate(list(dataset.as_numpy_iterator()))


@pytest.fixture
def photos(tmp_path):
    turned, alpha = Image.Exif(), np.dstack([PHOTO, PHOTO[..., 0]])
    turned[0x0112] = 3
    Image.fromarray(PHOTO).save(tmp_path / "plain.png")
    Image.fromarray(PHOTO).save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(PHOTO).save(tmp_path / "other.webp", lossless=True)
    Image.fromarray(PHOTO).save(tmp_path / "other.tif")
    return sorted(tmp_path.iterdir())


def test_every_form_is_read_as_elsewhere(photos):
    expected = np.stack([np.asarray(read_image(path)) for path in photos])
    assert np.abs((loaded(photos) + 1) * 127.5 - expected).max() < 1e-3


def test_a_form_of_unknown_range_is_named(photos, tmp_path):
    Image.fromarray(PHOTO[..., 0].astype(np.int32)).save(tmp_path / "bad.tif")
    with pytest.raises(Exception, match="32-bit pixels"):
        loaded([*photos, tmp_path / "bad.tif"])
    with pytest.raises(InputError, match="bad.tif: 32-bit pixels"):
        read_image(tmp_path / "bad.tif")
