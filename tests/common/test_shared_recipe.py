"""Tests that the preset `shared` is one re-ID recipe in all papers, so that their rows can be compared."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

import arn.config
import dcgan_lsro.config
import hhl.config
import ptgan.config
import spgan.config
from common.backbones import build_backbone
from dcgan_lsro.data import train_transform as lsro_transform
from dcgan_lsro.model import build_network as lsro_network
from hhl.augmentation import train_transforms as hhl_transforms
from hhl.model import build_network as hhl_network
from ptgan.reid import build_network as ptgan_network
from spgan.reid.model import IDENet as spgan_network

ARN, HHL, LSRO, PTGAN, SPGAN = (
    paper.config.PRESETS["shared"] for paper in (arn, hhl, dcgan_lsro, ptgan, spgan)
)
RECIPE = {
    "backbone": "thin",
    "weights": "none",
    "size": (64, 32),
    "dropout": 0.0,
    "epochs": 10,
    "drop_epoch": 7,
    "batch": 64,
    "rates": (0.1, 0.1),
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "erasing, colours": (0.0, 0.0),
}


def of_hhl() -> dict:
    net, recipe = HHL.net, HHL.recipe
    assert (net.head, net.bn_splits, recipe.crop, recipe.pretrain_epochs) == ("linear", 1, "none", 0)
    assert recipe.embed_lr == recipe.baseline_embed_lr == 0.1
    return {
        "dropout": net.dropout,
        "rates": (recipe.base_lr, recipe.classifier_lr),
        "nesterov": recipe.nesterov,
        "erasing, colours": (recipe.erasing, recipe.colour_jitter),
    }


def of_spgan() -> dict:
    net, recipe = SPGAN.net, SPGAN.recipe
    assert (net.head, net.crop, recipe.bn, recipe.pretrain_epochs) == ("fc", "none", "train", 0)
    assert recipe.schedule == "paper" and not recipe.freeze_affine and not recipe.freeze_conv1_res2
    rate = recipe.lr * recipe.lr_scale
    return {
        "dropout": 0.0,  # the head fc has none
        "rates": (rate, rate * recipe.head_lr_factor),
        "nesterov": recipe.nesterov,
        "erasing, colours": (recipe.erasing, recipe.colour_jitter),
    }


def of_arn() -> dict:
    pretraining = ARN.pretrain
    assert ARN.recipe.warmup == "source_ce" and ARN.recipe.flip == 0.5 and ARN.net.bn_splits == 1
    return {
        "dropout": pretraining.dropout,
        "rates": (pretraining.lr, pretraining.lr * pretraining.head_lr_factor),
        "nesterov": False,  # there is no such switch
        "erasing, colours": (0.0, 0.0),
    }


def of_ptgan() -> dict:
    recipe = PTGAN.recipe
    return {
        "dropout": PTGAN.net.dropout,
        "rates": (recipe.base_lr, recipe.classifier_lr),
        "nesterov": recipe.nesterov,
        "erasing, colours": (0.0, recipe.colour_jitter),
    }


def of_lsro() -> dict:
    net, recipe = LSRO.net, LSRO.recipe
    assert (net.resize_height, net.resize_width) == (net.height, net.width)  # so that no crop is left
    assert (recipe.lr_groups, recipe.holdout, net.bn_momentum) == ("simple", 0.0, 0.1)
    return {
        "dropout": net.dropout,
        "rates": (recipe.base_lr, recipe.base_lr),
        "nesterov": recipe.nesterov,
        "erasing, colours": (0.0, 0.0),
    }


@pytest.mark.parametrize(
    "preset, schedule, own",
    [
        (HHL, HHL.recipe, of_hhl),
        (SPGAN, SPGAN.recipe, of_spgan),
        (ARN, ARN.pretrain, of_arn),
        (PTGAN, PTGAN.recipe, of_ptgan),
        (LSRO, LSRO.recipe, of_lsro),
    ],
    ids=["hhl", "spgan", "arn", "ptgan", "dcgan_lsro"],
)
def test_every_paper_states_the_shared_recipe(preset, schedule, own):
    stated = {
        "backbone": preset.net.backbone,
        "weights": preset.net.weights,
        "size": (preset.net.height, preset.net.width),
        "epochs": schedule.epochs,
        "drop_epoch": schedule.drop_epoch,
        "batch": round(schedule.batch * getattr(schedule, "batch_scale", 1.0)),
        "momentum": preset.recipe.momentum,
        "weight_decay": preset.recipe.weight_decay,
        **own(),
    }
    assert stated == RECIPE


def test_the_networks_of_the_rows_without_a_method_are_one():
    """Backbone and one linear layer, of the same shapes; ARN has no builder of its own for them."""
    networks = (
        hhl_network(HHL.net, 9, triplet=False),
        spgan_network(SPGAN.net, 9),
        ptgan_network(PTGAN.net, 9),
        lsro_network(LSRO.net, 9),
    )
    shapes = [sorted(tuple(p.shape) for p in network.parameters()) for network in networks]
    backbone = build_backbone(ARN.net.backbone, ARN.net.weights)
    head = torch.nn.Linear(backbone.num_features, 9)
    expected = sorted(tuple(p.shape) for p in (*backbone.parameters(), *head.parameters()))
    assert all(found == expected for found in shapes)


def test_the_triplet_branch_of_a_linear_head_reads_pool5():
    torch.manual_seed(0)
    model = hhl_network(HHL.net, 9, triplet=True).eval()
    images = torch.rand(2, 3, 64, 32)
    logits, embedding = model(images, "both")
    pooled = model(images, "pooled")
    assert torch.equal(logits, model.classifier(pooled)) and torch.equal(embedding, model.triplet(pooled))


def test_training_images_are_whole_and_mirrored_half_of_the_time():
    """Of HHL and LSRO, whose papers crop."""
    image = Image.fromarray(np.arange(64 * 32 * 3, dtype=np.uint8).reshape(64, 32, 3))
    for transform in (
        hhl_transforms(HHL.net, HHL.recipe, None)["classify"],
        lsro_transform(LSRO.net, LSRO.recipe, LSRO.method),
    ):
        views = torch.stack([transform(image, random.Random(seed)) for seed in range(40)])
        plain, mirrored = views[0], views[0].flip(-1)
        as_they_are = [torch.equal(view, plain) for view in views]
        assert all(torch.equal(view, mirrored) for view, same in zip(views, as_they_are) if not same)
        assert 10 < sum(as_they_are) < 30
