"""The training loop of the re-ID network, written a second time in float64 with all settings different from
each other; labels are read off the images' colours.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from common.datasets.base import Sample
from common.job import Workspace
from common.runs import Stage
from spgan.config import NetConfig, RecipeConfig
from spgan.reid import train as reid_train
from spgan.reid.data import TrainingSet, train_transform
from spgan.reid.model import IDENet

NET = NetConfig(backbone="thin", weights="none", height=32, width=16)
PEOPLE, SHADES, BATCH = (9, 4, 7), 4, 4  # pids of classes 0, 1, 2; images of each
RECIPE = RecipeConfig(
    lr=0.01,
    lr_scale=2.0,
    head_lr_factor=3.0,
    momentum=0.8,
    weight_decay=0.02,
    epochs=3,
    drop_epoch=2,
    batch=BATCH,
)
STEPS_PER_EPOCH = len(PEOPLE) * SHADES // BATCH
SETTINGS = {
    "eval": {},
    "train": {"bn": "train", "nesterov": False},
    "caffe": {"schedule": "caffe", "freeze_affine": True, "freeze_conv1_res2": True, "nesterov": False},
}


@pytest.fixture
def data(tmp_path) -> TrainingSet:
    """Twelve images of one colour each: the red level is 60 * class + 10 * number."""
    samples = []
    for label, pid in enumerate(PEOPLE):
        for number in range(SHADES):
            path = tmp_path / "images" / f"{pid:04}_c1_{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (16, 32), (60 * label + 10 * number, 20 * number, 30)).save(path)
            samples.append(Sample(path, pid, 0))
    classes = {pid: label for label, pid in enumerate(PEOPLE)}
    return TrainingSet(samples, classes, train_transform(NET, RECIPE, "bilinear"))


def red_levels(images: Tensor) -> np.ndarray:
    """The red level 0..255 of ImageNet-normalised images."""
    return np.rint((images[:, 0].mean((1, 2)).numpy() * 0.229 + 0.485) * 255).astype(int)


def rate_at(recipe: RecipeConfig, step: int) -> float:
    if recipe.schedule == "caffe":
        return 0.01 * 2 * (1, 1, 0.1, 0.1, 0.01, 0.01, 0.001)[step]
    return 0.01 * 2 * (1 if step < 2 * STEPS_PER_EPOCH else 0.1)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_loop_is_the_loop_written_again(data, tmp_path, monkeypatch, settings):
    recipe = RecipeConfig(**{**vars(RECIPE), **SETTINGS[settings]})
    monkeypatch.setattr("spgan.reid.data.CAFFE_STEPS", 7)
    monkeypatch.setattr("spgan.reid.data.CAFFE_DROP", 2)
    seen: list[Tensor] = []
    made: list[IDENet] = []
    build = reid_train.new_network

    def in_float64(*arguments) -> IDENet:
        model = build(*arguments).double()
        made.append(copy.deepcopy(model))
        model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].double()) or (seen[-1],))
        return model

    monkeypatch.setattr(reid_train, "new_network", in_float64)
    work = Workspace(tmp_path / "work", seed=3, device=torch.device("cpu"))
    work.folder.mkdir()
    reid_train.train_reid(work, NET, recipe, data)
    trained = torch.load(Path(work.folder) / "model.pt", weights_only=True)["state_dict"]

    model = made[0]
    model.train(recipe.bn == "train")
    model.head.train()
    speed = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step, images in enumerate(seen):
        labels = torch.tensor(red_levels(images) // 60)
        loss = -torch.log_softmax(model(images), 1)[torch.arange(BATCH), labels].mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for (name, parameter), gradient in zip(model.named_parameters(), gradients):
            is_norm = name.startswith("base") and parameter.ndim == 1
            first = name.startswith(("base.conv1", "base.layer1")) and parameter.ndim == 4
            if (recipe.freeze_affine and is_norm) or (recipe.freeze_conv1_res2 and first):
                continue
            with torch.no_grad():
                gradient = gradient + 0.02 * parameter
                speed[name] = 0.8 * speed[name] + gradient
                move = gradient + 0.8 * speed[name] if recipe.nesterov else speed[name]
                factor = 3 if name.startswith("head") else 1
                parameter -= rate_at(recipe, step) * factor * move

    epochs = [
        red_levels(torch.cat(seen[i : i + STEPS_PER_EPOCH])) for i in range(0, len(seen), STEPS_PER_EPOCH)
    ]
    assert len(seen) == (7 if settings == "caffe" else 3 * STEPS_PER_EPOCH)
    assert all(len(set(epoch)) == len(PEOPLE) * SHADES for epoch in epochs[:2])
    for name, value in model.state_dict().items():
        assert torch.allclose(value, trained[name], rtol=1e-9, atol=1e-12), name


def test_a_pretrained_backbone_is_taken_over_and_the_head_is_new(data, tmp_path):
    """One step at a rate of almost 0: the backbone is that of the start."""
    works = [
        Workspace(tmp_path / name, seed=seed, device=torch.device("cpu"))
        for name, seed in (("a", 1), ("b", 2))
    ]
    for work in works:
        work.folder.mkdir()
    slow = RecipeConfig(lr=1e-12, weight_decay=0.0, epochs=1, batch=BATCH)
    reid_train.train_reid(works[0], NET, slow, data)
    start = Stage("pretrain", "", works[0].folder, 0.0, False)
    reid_train.train_reid(works[1], NET, slow, data, start)
    first, second = (torch.load(work.folder / "model.pt", weights_only=True)["state_dict"] for work in works)
    for name, value in first.items():
        same = torch.allclose(value.float(), second[name].float(), atol=1e-6)
        assert same == (name != "head.0.weight"), name
