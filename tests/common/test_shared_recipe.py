"""Tests that the presets `shared` and `photos_cpu` are one re-ID recipe each in all papers, so that their
rows can be compared.
"""

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

PAPERS = {"hhl": hhl, "spgan": spgan, "arn": arn, "ptgan": ptgan, "dcgan_lsro": dcgan_lsro}
ALIKE = {
    "dropout": 0.0,
    "batch": 64,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "erasing, colours": (0.0, 0.0),
}
RECIPES = {
    "shared": ALIKE
    | {"backbone": "thin", "weights": "none", "size": (64, 32)}
    | {"epochs": 10, "drop_epoch": 7, "rates": (0.1, 0.1)},
    "photos_cpu": ALIKE
    | {"backbone": "efficientnet_lite0", "weights": "imagenet", "size": (128, 64)}
    | {"epochs": 12, "drop_epoch": 9, "rates": (0.05, 0.05)},
}
both = pytest.mark.parametrize("name", RECIPES)


def preset(paper: str, name: str):
    return PAPERS[paper].config.PRESETS[name]


def of_hhl(config) -> dict:
    net, recipe = config.net, config.recipe
    assert (net.head, net.bn_splits, recipe.crop, recipe.pretrain_epochs) == ("linear", 1, "none", 0)
    assert recipe.embed_lr == recipe.baseline_embed_lr == recipe.base_lr
    return {
        "dropout": net.dropout,
        "rates": (recipe.base_lr, recipe.classifier_lr),
        "nesterov": recipe.nesterov,
        "erasing, colours": (recipe.erasing, recipe.colour_jitter),
    }


def of_spgan(config) -> dict:
    net, recipe = config.net, config.recipe
    assert (net.head, net.crop, recipe.bn, recipe.pretrain_epochs) == ("fc", "none", "train", 0)
    assert recipe.schedule == "paper" and not recipe.freeze_affine and not recipe.freeze_conv1_res2
    rate = recipe.lr * recipe.lr_scale
    return {
        "dropout": 0.0,  # the head fc has none
        "rates": (rate, rate * recipe.head_lr_factor),
        "nesterov": recipe.nesterov,
        "erasing, colours": (recipe.erasing, recipe.colour_jitter),
    }


def of_arn(config) -> dict:
    pretraining = config.pretrain
    assert config.recipe.warmup == "source_ce" and config.recipe.flip == 0.5 and config.net.bn_splits == 1
    return {
        "dropout": pretraining.dropout,
        "rates": (pretraining.lr, pretraining.lr * pretraining.head_lr_factor),
        "nesterov": False,  # there is no such switch
        "erasing, colours": (0.0, 0.0),
    }


def of_ptgan(config) -> dict:
    recipe = config.recipe
    return {
        "dropout": config.net.dropout,
        "rates": (recipe.base_lr, recipe.classifier_lr),
        "nesterov": recipe.nesterov,
        "erasing, colours": (0.0, recipe.colour_jitter),
    }


def of_lsro(config) -> dict:
    net, recipe = config.net, config.recipe
    assert (net.resize_height, net.resize_width) == (net.height, net.width)  # so that no crop is left
    assert (recipe.lr_groups, recipe.holdout, net.bn_momentum) == ("simple", 0.0, 0.1)
    return {
        "dropout": net.dropout,
        "rates": (recipe.base_lr, recipe.base_lr),
        "nesterov": recipe.nesterov,
        "erasing, colours": (0.0, 0.0),
    }


@both
@pytest.mark.parametrize(
    "paper, own",
    [("hhl", of_hhl), ("spgan", of_spgan), ("arn", of_arn), ("ptgan", of_ptgan), ("dcgan_lsro", of_lsro)],
)
def test_every_paper_states_the_shared_recipe(name, paper, own):
    config = preset(paper, name)
    schedule = config.pretrain if paper == "arn" else config.recipe
    stated = {
        "backbone": config.net.backbone,
        "weights": config.net.weights,
        "size": (config.net.height, config.net.width),
        "epochs": schedule.epochs,
        "drop_epoch": schedule.drop_epoch,
        "batch": round(schedule.batch * getattr(schedule, "batch_scale", 1.0)),
        "momentum": config.recipe.momentum,
        "weight_decay": config.recipe.weight_decay,
        **own(config),
    }
    assert stated == RECIPES[name]


@both
def test_the_networks_of_the_rows_without_a_method_are_one(name):
    """Backbone and one linear layer, of the same shapes; ARN has no builder of its own for them."""
    networks = (
        hhl_network(preset("hhl", name).net, 9, triplet=False),
        spgan_network(preset("spgan", name).net, 9),
        ptgan_network(preset("ptgan", name).net, 9),
        lsro_network(preset("dcgan_lsro", name).net, 9),
    )
    shapes = [sorted(tuple(p.shape) for p in network.parameters()) for network in networks]
    net = preset("arn", name).net
    backbone = build_backbone(net.backbone, net.weights)
    head = torch.nn.Linear(backbone.num_features, 9)
    expected = sorted(tuple(p.shape) for p in (*backbone.parameters(), *head.parameters()))
    assert all(found == expected for found in shapes)


def test_the_triplet_branch_of_a_linear_head_reads_pool5():
    torch.manual_seed(0)
    model = hhl_network(preset("hhl", "shared").net, 9, triplet=True).eval()
    images = torch.rand(2, 3, 64, 32)
    logits, embedding = model(images, "both")
    pooled = model(images, "pooled")
    assert torch.equal(logits, model.classifier(pooled)) and torch.equal(embedding, model.triplet(pooled))


@both
def test_training_images_are_whole_and_mirrored_half_of_the_time(name):
    """Of HHL and LSRO, whose papers crop."""
    ours, lsro = preset("hhl", name), preset("dcgan_lsro", name)
    image = Image.fromarray(np.arange(64 * 32 * 3, dtype=np.uint8).reshape(64, 32, 3))
    for transform in (
        hhl_transforms(ours.net, ours.recipe, None)["classify"],
        lsro_transform(lsro.net, lsro.recipe, lsro.method),
    ):
        views = torch.stack([transform(image, random.Random(seed)) for seed in range(40)])
        plain, mirrored = views[0], views[0].flip(-1)
        as_they_are = [torch.equal(view, plain) for view in views]
        assert all(torch.equal(view, mirrored) for view, same in zip(views, as_they_are) if not same)
        assert 10 < sum(as_they_are) < 30
