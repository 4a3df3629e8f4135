"""The last batch of an epoch: one image alone is refused where batch norm has no statistics of it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from common.datasets.base import Sample
from common.errors import InputError
from dcgan_lsro.config import PRESETS
from dcgan_lsro.data import Phase, Schedule
from dcgan_lsro.model import build_network
from dcgan_lsro.train import check_last_batch


def job(images: int, batch: int, size: int):
    demo = PRESETS["demo"]
    config = replace(
        demo,
        net=replace(demo.net, height=size, width=size, resize_height=size, resize_width=size),
        recipe=replace(demo.recipe, batch=batch, holdout=0.0),
        method=replace(demo.method, loss="none"),
    )
    train = [Sample(f"{i}.jpg", 1 + i % 2, 0) for i in range(images)]
    return SimpleNamespace(
        config=config, seed=0, source=SimpleNamespace(train=train, train_labels={1: 0, 2: 1})
    )


def network(job):
    with torch.device("meta"):
        return build_network(job.config.net, 2)


@pytest.mark.parametrize("images, batch, size", [(9, 4, 16), (8, 4, 8), (10, 4, 8)])
def test_batches_that_batch_norm_can_use(images, batch, size):
    check_last_batch(job(images, batch, size), network(job(images, batch, size)))


@pytest.mark.parametrize("images, batch", [(9, 4), (1, 4), (3, 1)])
def test_one_image_of_one_position_is_refused(images, batch):
    small = job(images, batch, 8)
    with pytest.raises(InputError, match="would be alone in its batch.*change --recipe.batch"):
        check_last_batch(small, network(small))
    model = build_network(small.config.net, 2).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # what is avoided
        model(torch.zeros(1, 3, 8, 8))


def test_the_smallest_batch():
    assert Schedule([Phase(1, 9, 9)], 4, 0).smallest == 1
    assert Schedule([Phase(1, 8, 8), Phase(2, 11, 11)], 4, 0).smallest == 3
    assert Schedule([Phase(1, 3, 3)], 4, 0).smallest == 3
    assert Schedule([Phase(1, 9, 9)], 4, 0, world=2).smallest == 4
