"""IDE, IDE+ and LMP: parameters moved under each batch-norm mode and freeze, poolings, schedules, training
images.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from common.augment import jitter_colours
from common.checkpoints import save_checkpoint
from common.datasets.base import Sample
from common.datasets.loading import normalise
from common.errors import InputError
from common.hashing import canonical
from spgan.config import PRESETS, MethodConfig, NetConfig, RecipeConfig
from spgan.reid.data import TrainTransform, rate_factor, total_steps, training_set
from spgan.reid.model import (
    IDENet,
    freeze,
    load_network,
    local_pool,
    parameter_groups,
    set_training_mode,
)

THIN = NetConfig(backbone="thin", weights="none", height=64, width=32)


@pytest.fixture(scope="module")
def batch(formulas):
    return torch.from_numpy(formulas.scatter("batch", 8, 3, 64, 32)).float(), torch.arange(8) % 4


# ---------------------------------------------------------------- batch norm and freezing


@pytest.mark.parametrize("bn", ["train", "eval"])
@pytest.mark.parametrize("head", ["fc", "bottleneck"])
@pytest.mark.parametrize("affine, conv1_res2", [(False, False), (True, False), (False, True), (True, True)])
def test_what_moves_in_a_step(batch, bn, head, affine, conv1_res2):
    torch.manual_seed(0)
    model = IDENet(replace(THIN, head=head), 4)
    with torch.no_grad():
        model.head[-1].weight.mul_(100)  # so that the first step reaches the backbone
    freeze(model, affine=affine, conv1_res2=conv1_res2)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1, 0.1), lr=0.1, weight_decay=5e-4)
    set_training_mode(model, bn)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}

    buffers = {name for name, _ in model.named_buffers()}
    in_head = {name for name in buffers if name.startswith("head")}
    assert moved & buffers == (buffers if bn == "train" else in_head)
    layers = [name for name, module in model.base.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    norms = {f"base.{name}.{kind}" for name in layers for kind in ("weight", "bias")}
    first = {
        name
        for name, p in model.base.named_parameters(prefix="base")
        if name.startswith(("base.conv1", "base.layer1")) and p.ndim == 4
    }
    frozen = (norms if affine else set()) | (first if conv1_res2 else set())
    parameters = {name for name, _ in model.named_parameters()}
    assert norms and len(first) == 4 and moved & parameters == parameters - frozen


def test_training_modes_of_the_blogs_excerpt():
    model = IDENet(replace(THIN, head="bottleneck"), 4)
    set_training_mode(model, "eval")
    assert not any(module.training for module in model.base.modules()) and all(
        module.training for module in model.head.modules()
    )
    set_training_mode(model, "train")
    assert all(module.training for module in model.modules())


def test_the_released_sizes():
    """Heads for Market's 751 people, and the layers of a ResNet-50 that Caffe's nets freeze."""
    model = IDENet(NetConfig(weights="none", head="bottleneck"), 751)
    assert sum(p.numel() for p in model.head.parameters()) == 1_435_375
    freeze(model, conv1_res2=True)
    assert sum(p.numel() for p in model.base.parameters() if not p.requires_grad) == 222_400
    assert sum(p.numel() for p in model.base.parameters()) == 23_508_032
    assert sum(p.numel() for p in IDENet(NetConfig(weights="none"), 751).head.parameters()) == 1_538_799


def test_resnet50_makes_seven_rows_of_224(formulas):
    """Shapes alone, on the meta device: Caffe's map, of which LMP's seven parts are a row each."""
    with torch.device("meta"):
        base = IDENet(NetConfig(weights="none"), 2).base
        assert base(torch.empty(1, 3, NetConfig.height, NetConfig.width)).shape == (1, 2048, 7, 7)


# ---------------------------------------------------------------- checkpoints


def test_networks_that_are_not_spgans(tmp_path):
    model = IDENet(THIN, 4)
    saved = {"state_dict": model.state_dict(), "num_ids": 4, "net": canonical(THIN)}
    save_checkpoint(tmp_path / "model.pt", saved)
    net = load_network(tmp_path / "model.pt").net
    assert (net.height, net.width) == (64, 32)
    for change, words in (
        ({"net": {"backbone": "thin", "embed_dim": 8}}, "expected a re-ID network of SPGAN.*embed_dim"),
        ({"net": None}, "expected a re-ID"),
        ({"num_ids": 5}, r"does not fit this network.*head\.0\.weight"),
        (
            {
                "state_dict": {
                    name: value for name, value in saved["state_dict"].items() if "head" not in name
                }
            },
            "does not fit",
        ),
    ):
        save_checkpoint(tmp_path / "model.pt", saved | change)
        with pytest.raises(InputError, match=rf"model\.pt: .*{words}"):
            load_network(tmp_path / "model.pt")


# ---------------------------------------------------------------- LMP


def test_two_and_three_parts_of_seven_rows_are_the_released_windows(formulas):
    feature_map = torch.from_numpy(formulas.scatter("map", 2, 5, 7, 7)).float()
    for parts, window, stride in ((2, 4, 3), (3, 3, 2), (7, 1, 1)):
        for mode, pool in (("max", F.max_pool2d), ("avg", F.avg_pool2d)):
            caffe = pool(feature_map, (window, 7), stride=(stride, 1))  # (B, C, parts, 1)
            pooled = local_pool(feature_map, parts, mode)
            assert pooled.shape == (2, 5 * parts)
            assert torch.allclose(pooled.view(2, parts, 5), caffe[:, :, :, 0].transpose(1, 2), atol=1e-6), (
                parts,
                mode,
            )


def test_one_part_and_part_norm(formulas):
    feature_map = torch.from_numpy(formulas.scatter("map", 2, 5, 8, 4)).float()
    assert torch.allclose(local_pool(feature_map, 1, "avg"), feature_map.mean((2, 3)), atol=1e-6)
    assert torch.equal(local_pool(feature_map, 1, "max"), feature_map.amax((2, 3)))
    parts = local_pool(feature_map, 7, "max", part_norm=True).view(2, 7, 5)
    assert torch.allclose(parts.norm(dim=2), torch.ones(2, 7), atol=1e-6)


# ---------------------------------------------------------------- recipe and images


def test_schedules():
    paper, caffe = RecipeConfig(), PRESETS["released"].recipe
    assert total_steps(paper, 808) == 50 * 808 and total_steps(caffe, 808) == 50_000
    assert [rate_factor(paper, epoch * 808, 808) for epoch in (0, 39, 40, 49)] == [1, 1, 0.1, 0.1]
    assert rate_factor(paper, 40 * 808 - 1, 808) == 1
    assert [rate_factor(caffe, step, 808) for step in (0, 19_999, 20_000, 40_000)] == pytest.approx(
        [1, 1, 0.1, 0.01]
    )


def test_the_heads_rate():
    groups = {g["name"]: g["lr"] for g in parameter_groups(IDENet(THIN, 4), 1e-3, 1e-2)}
    assert groups == {"base": 1e-3, "head": 1e-2}


def test_training_images(formulas):
    image = Image.fromarray(((formulas.scatter("image", 40, 20, 3) + 1) * 127.5).astype(np.uint8))
    for crop in ("none", "random"):
        shapes = {TrainTransform(64, 32, crop)(image, random.Random(seed)).shape for seed in range(4)}
        assert shapes == {(3, 64, 32)}
    plain = {
        tuple(TrainTransform(64, 32)(image, random.Random(seed)).flatten().tolist()) for seed in range(8)
    }
    assert len(plain) == 2  # without a crop: the image and its mirror image
    erased = TrainTransform(64, 32, erasing=1.0)(image, random.Random(0))
    assert 0.02 < (erased == 0).all(0).float().mean() < 0.5
    jittered = np.asarray(jitter_colours(image, 0.3, random.Random(0)), float)
    assert 1 < np.abs(jittered - np.asarray(image, float)).mean() < 90


def test_a_random_crop_is_a_window_of_nine_eighths_of_the_size(formulas):
    image = Image.fromarray(((formulas.scatter("image", 40, 20, 3) + 1) * 127.5).astype(np.uint8))
    whole = np.asarray(image.resize((36, 72), Image.Resampling.BILINEAR))
    for seed in range(4):
        rng = random.Random(seed)
        left, top, mirrored = rng.randint(0, 4), rng.randint(0, 8), rng.random() < 0.5
        window = whole[top : top + 64, left : left + 32]
        expected = normalise(Image.fromarray(window[:, ::-1] if mirrored else window))
        assert torch.equal(TrainTransform(64, 32, "random")(image, random.Random(seed)), expected)


def test_training_sets():
    class Domain:
        def __init__(self, name: str, pids: tuple[int, ...]):
            self.train = [Sample(f"{name}{pid}.jpg", pid, 0) for pid in pids]
            self.train_labels = {pid: label for label, pid in enumerate(pids)}

    source, target = Domain("s", (3, 7)), Domain("t", (5,))
    fakes = [replace(s, origin="translated") for s in source.train]
    sets = {
        images: training_set(images, source, target, fakes, TrainTransform(64, 32))
        for images in get_args(get_type_hints(MethodConfig)["images"])
    }
    assert {images: [s.origin for s in data.samples] for images, data in sets.items()} == {
        "source": ["real"] * 2,
        "target": ["real"],
        "translated": ["translated"] * 2,
        "both": ["real"] * 2 + ["translated"] * 2,
    }
    assert sets["target"].classes == {5: 0} and sets["both"].classes == {3: 0, 7: 1}
    assert sets["both"].labels.tolist() == [0, 1, 0, 1]
