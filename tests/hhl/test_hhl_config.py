"""The configuration: bounds and choices of its fields, and what the pretraining keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

from common.cli import override
from common.datasets import ReIDDataset, Sample
from common.hashing import digest
from hhl import train
from hhl.augmentation import TrainTransform, train_transforms
from hhl.config import PRESETS, HHLConfig, MethodConfig, NetConfig, RecipeConfig
from hhl.data import plan_steps
from hhl.experiments import HHL
from hhl.views import TargetViews

# ---------------------------------------------------------------- choices


def choices(hint: Any) -> tuple:
    """Returns the values of a Literal, also of one in a union."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for part in get_args(hint) for choice in choices(part))


CHOICES = [
    (group, name, choice)
    for group, kind in (("method", MethodConfig), ("recipe", RecipeConfig))
    for name, hint in get_type_hints(kind).items()
    for choice in choices(hint)
]


@pytest.mark.parametrize("group, name, choice", CHOICES)
def test_every_choice_of_batches_and_losses_is_handled(group, name, choice):
    """A new kind without a branch fails here, not at the first step after a GAN has trained."""
    config = override(small_config(), {f"{group}.{name}": choice})
    samples = [Sample(Path(f"{i}.jpg"), i // 4, i % 2) for i in range(24)]
    data = ReIDDataset("people", Path(), samples, [], [], 2)
    views = TargetViews() if config.method.target_views == "none" else TargetViews([*samples] * 2, 2)
    schedule = plan_steps(config.recipe, config.method, data, views, seed=0)
    labels = {}
    for part_name, part in schedule.parts.items():
        indices = part.plan(1)
        labels[part_name] = part.labels(1, indices) if callable(part.labels) else part.labels[indices]
    assert set(train_transforms(config.net, config.recipe, None)) == {"classify", "source", "target"}

    of_triplet = torch.as_tensor(np.concatenate([labels[n] for n in ("source", "target") if n in labels]))
    n = len(of_triplet)
    anchors = train.anchor_mask(config.method.target_anchors, n, len(labels.get("target", ())) // 2, 2)
    terms = train.triplet_term(config.method, torch.randn(n, 4), of_triplet, anchors)
    assert all(torch.isfinite(term) for term in terms) and train.SHARE[config.method.triplets]


def small_config() -> HHLConfig:
    recipe = RecipeConfig(batch=8, ids=3, images_per_id=2, target_batch=4)
    return HHLConfig(net=NetConfig("thin", "none", 64, 32), recipe=recipe)


@pytest.mark.parametrize(
    "name",
    ["method.triplets", "method.margin", "method.reduction", "method.target_anchors", "method.pseudo"]
    + ["recipe.sampling", "recipe.restarts"],
)
def test_a_choice_that_does_not_exist_fails(name):
    with pytest.raises((KeyError, ValueError)):
        test_every_choice_of_batches_and_losses_is_handled(*name.split("."), "new")


def test_every_part_of_a_batch_is_augmented_as_configured():
    for crop in choices(get_type_hints(RecipeConfig)["crop"]):
        recipe = RecipeConfig(crop=crop, erasing=0.2, colour_jitter=0.3)
        plain = TrainTransform(64, 32, 0.2, crop=crop)
        assert train_transforms(NetConfig(height=64, width=32), recipe, (9, 5)) == {
            "classify": dataclasses.replace(plain, colour_jitter=0.3),
            "source": dataclasses.replace(plain, colour_jitter=0.3),
            "target": dataclasses.replace(plain, first_size=(9, 5)),
        }


# ---------------------------------------------------------------- the pretraining


def test_pretraining_keeps_every_setting_that_is_not_the_rows():
    """Crop, erasing and the optimiser are kept; what rows vary has its default, by design."""
    kept = {
        "batch_scale": 0.5,
        "base_lr": 0.2,
        "classifier_lr": 0.3,
        "momentum": 0.8,
        "weight_decay": 1e-3,
        "nesterov": False,
        "crop": "keep_aspect",
        "erasing": 0.5,
        "pretrain_epochs": 3,
    }
    of_the_row = {
        "epochs_of_batch": 64,
        "batch": 32,
        "ids": 4,
        "images_per_id": 4,
        "target_batch": 8,
        "sampling": "cluster",
        "restarts": "own",
        "single_pass": True,
        "shared_augmentation": True,
        "colour_jitter": 0.3,
    }
    replaced = {"epochs": 9, "drop_epoch": 7, "embed_lr": 0.01, "baseline_embed_lr": None}
    typed = RecipeConfig(**kept, **of_the_row, **replaced)
    for f in dataclasses.fields(RecipeConfig):  # no field is forgotten
        assert getattr(typed, f.name) != f.default, f.name
    assert set(of_the_row) == set(train.OF_THE_ROW)
    method = MethodConfig(source_triplet=False, target_views="none")
    expected = RecipeConfig(**kept, epochs=3, drop_epoch=3, embed_lr=0.3, baseline_embed_lr=0.3)
    config = HHLConfig(recipe=typed)
    assert train.pretraining(config) == dataclasses.replace(config, recipe=expected, method=method)


@pytest.mark.parametrize("preset", PRESETS)
def test_all_experiments_of_a_preset_share_one_pretraining(preset):
    plain = (
        [train.pretraining(override(PRESETS[preset], e.overrides)) for e in HHL.experiments]
        if (PRESETS[preset].recipe.pretrain_epochs)
        else []
    )
    assert len({digest(config.recipe) for config in plain}) <= 1
