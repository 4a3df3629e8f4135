"""Every paper's training transform on packed images beside its workers' path: the same draws, the same
pixels; and what it refuses.
"""

import numpy as np
import pytest
import torch
from PIL import Image

import arn.data
import dcgan_lsro.config
import dcgan_lsro.data
import ptgan.data
import spgan.reid.data
from common.augment import on_device, training_images
from common.datasets.loading import planned_loader
from common.datasets.plans import epoch_plan
from common.errors import InputError
from hhl.augmentation import TrainTransform as HHLTransform

CROPPED = dcgan_lsro.config.NetConfig(height=32, width=16, resize_height=36, resize_width=18)
TRANSFORMS = {
    "arn": arn.data.TrainTransform(32, 16, "half"),
    "hhl": HHLTransform(32, 16, erasing=0.5),
    "hhl, first size": HHLTransform(32, 16, first_size=(40, 20), crop="keep_aspect"),
    "ptgan": ptgan.data.ReidTransform(32, 16),
    "spgan": spgan.reid.data.TrainTransform(32, 16, "random", "bicubic", erasing=0.5),
    "spgan, no crop": spgan.reid.data.TrainTransform(32, 16),
    "dcgan_lsro": dcgan_lsro.data.TrainTransform(CROPPED),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory, formulas) -> list:
    """Six files, losslessly stored, of three sizes."""
    paths = [tmp_path_factory.mktemp("photos") / f"{number}.png" for number in range(6)]
    for path, (height, width) in zip(paths, [(64, 32), (57, 31), (90, 30)] * 2):
        Image.fromarray(
            (127.5 + 127.5 * formulas.scatter(path.stem, height, width, 3)).astype(np.uint8)
        ).save(path)
    return paths


@pytest.mark.parametrize("name", TRANSFORMS)
def test_packed_equals_the_workers(name, photos, tmp_path):
    plan = epoch_plan(len(photos), 3, seed=1)
    kinds = [
        training_images(photos, TRANSFORMS[name], cache, seed=2, stream="x") for cache in (None, tmp_path)
    ]
    for (theirs, _), (ours, _) in zip(*(planned_loader(images, plan, 0, 8) for images in kinds), strict=True):
        ours = on_device(ours, torch.device("cpu"))
        levels = (ours - theirs).abs() * 255 * 0.225
        assert ours.shape == theirs.shape == (3, 3, 32, 16)
        assert levels.max() < 1.2 and (levels < 0.01).float().mean() > 0.99


@pytest.mark.parametrize(
    "transform, words",
    [
        (HHLTransform(32, 16, colour_jitter=0.2), "--pack with --recipe.colour-jitter 0.2"),
        (ptgan.data.ReidTransform(32, 16, 0.2), "--pack with --recipe.colour-jitter 0.2"),
        (spgan.reid.data.TrainTransform(32, 16, colour_jitter=0.2), "--pack with --recipe.colour-jitter 0.2"),
        (dcgan_lsro.data.TrainTransform(CROPPED, "scale"), "--pack with --recipe.crop scale"),
    ],
)
def test_what_only_workers_do_is_refused(transform, words, photos, tmp_path):
    with pytest.raises(InputError, match=words):
        training_images(photos, transform, tmp_path, seed=0, stream="x")
    assert not list(tmp_path.iterdir())
