"""The batches of ARN: flips, normalisation, identity sampling, the source's split, composition of a step."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arn.config import PRESETS, RecipeConfig
from arn.data import TrainTransform, eval_transform, labelled_samples, plans
from common.cli import override
from common.datasets import ReIDDataset, Sample
from common.datasets.plans import identity_plan
from common.errors import InputError


def people(images_each: list[int], split: str = "train") -> list[Sample]:
    return [
        Sample(Path(f"{split}/{pid}_{n}.jpg"), pid, n % 2)
        for pid, count in enumerate(images_each, start=1)
        for n in range(count)
    ]


def dataset(**splits) -> ReIDDataset:
    return ReIDDataset("made-up", Path("."), splits.get("train", []), [], splits.get("gallery", []), 2)


@pytest.mark.parametrize(
    "normalise, low, high", [("half", -1.0, 1.0), ("imagenet", -0.485 / 0.229, (1 - 0.485) / 0.229)]
)
def test_range_and_flip(normalise, low, high):
    """A picture that is black on the left and white on the right."""
    image = Image.fromarray(
        np.repeat(np.array([[0] * 4 + [255] * 4], np.uint8), 16, axis=0)[:, :, None].repeat(3, axis=2)
    )
    seen = set()
    for seed in range(20):
        x = TrainTransform(16, 8, normalise)(image, random.Random(seed))
        assert x.shape == (3, 16, 8) and x.dtype == torch.float32
        seen.add((round(float(x[0, 0, 0]), 4), round(float(x[0, 0, 7]), 4)))
    assert seen == {(round(low, 4), round(high, 4)), (round(high, 4), round(low, 4))}
    never = TrainTransform(16, 8, normalise, flip=0.0)(image, random.Random(0))
    plain = eval_transform(
        override(PRESETS["released"], {"net.normalise": normalise, "net.height": 16, "net.width": 8}).net
    )(image)
    assert torch.equal(plain, never)  # no mirror at test time, which the released code has


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=4, max_size=12),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 200),
)
def test_pk_batches(images_each, ids, each, step):
    labels = np.repeat(np.arange(len(images_each)), images_each)
    plan = identity_plan(labels, ids=ids, images_per_id=each, seed=3, stream="x")
    chosen = plan(step)
    drawn = labels[chosen].reshape(ids, each)
    assert (drawn == drawn[:, :1]).all() and len(set(drawn[:, 0])) == ids
    for identity, row in zip(drawn[:, 0], chosen.reshape(ids, each)):
        assert len(set(row)) == each or images_each[identity] < each
    assert np.array_equal(chosen, plan(step))  # a function of the step alone


def test_a_pass_shows_every_identity_once():
    labels = np.repeat(np.arange(12), 5)
    plan = identity_plan(labels, ids=4, images_per_id=4, seed=0, stream="x")
    seen = [set(labels[plan(step)]) for step in range(6)]
    assert set().union(*seen[:3]) == set().union(*seen[3:]) == set(range(12)) and seen[:3] != seen[3:]


def test_too_few_identities():
    with pytest.raises(InputError, match="--recipe.ids 4: the source has 3 identities"):
        plans(RecipeConfig(ids=4, batch=16), np.repeat([0, 1, 2], 6), num_target=16, seed=0)


def test_split_all_takes_the_gallerys_people_without_junk_and_distractors():
    gallery = [Sample(Path(f"gallery/{n}.jpg"), pid, 0) for n, pid in enumerate([-1, 0, 7, 9, 9])]
    source = dataset(train=people([2, 3]), gallery=gallery)
    samples, labels = labelled_samples(source, "train")
    assert len(samples) == 5 and labels.tolist() == [0, 0, 1, 1, 1]
    samples, labels = labelled_samples(source, "all")
    assert len(samples) == 8 and labels.tolist() == [0, 0, 1, 1, 1, 2, 3, 3] and len(source.train) == 5


def test_a_step_has_as_many_target_as_source_images():
    config = override(PRESETS["demo"], {"recipe.batch": 8, "recipe.ids": 4})
    source, target = dataset(train=people([6] * 5)), dataset(train=people([3] * 9))
    labelled = labelled_samples(source, "train")
    assert labelled.num_ids == 5
    for sampler, positives in (("pk", True), ("uniform", None)):
        recipe = override(config, {"recipe.sampler": sampler}).recipe
        batches = plans(recipe, labelled.labels, len(target.train), seed=0)
        labels = labelled.labels[batches.source(0)]
        assert len(batches.source(0)) == len(batches.target(0)) == len(labels) == 8
        assert batches.steps_per_epoch == 30 // 8
        assert positives is None or labels.tolist() == [n for n in labels[::2].tolist() for _ in range(2)]
