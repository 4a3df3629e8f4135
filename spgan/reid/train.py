"""Trains an IDE network on the images of one row. Released counterpart: the Caffe solvers, `train_IDE.py`,
`train_IDE_plus.py`, `train.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from common.augment import training_images
from common.checkpoints import save_checkpoint
from common.datasets.plans import epoch_plan
from common.hashing import canonical
from common.job import Workspace
from common.runs import Stage
from common.training import (
    Loop,
    accelerate,
    average_gradients,
    gather,
    scale_learning_rate,
    seed_everything,
)
from spgan.config import NetConfig, RecipeConfig
from spgan.reid.data import TrainingSet, rate_factor, total_steps
from spgan.reid.model import IDENet, freeze, load_network, parameter_groups, set_training_mode

CACHED_IMAGES = 20_000  # a set of up to this size is decoded once and kept in memory


def train_reid(
    work: Workspace, net: NetConfig, recipe: RecipeConfig, data: TrainingSet, start: Stage | None = None
) -> None:
    """Trains a network, its backbone from that of `start` if given; writes `model.pt`."""
    model = new_network(work, net, len(data.classes), start)
    freeze(model, affine=recipe.freeze_affine, conv1_res2=recipe.freeze_conv1_res2)
    optimizer = sgd(model, recipe)
    plan = epoch_plan(len(data.samples), recipe.batch, seed=work.seed, stream="re-ID")
    loop = Loop(
        work,
        total_steps(recipe, plan.steps_per_epoch),
        {"model": model, "optimizer": optimizer},
        label=data.label,
        save_every=plan.steps_per_epoch,
    )
    images = training_images(
        data.samples, data.transform, work.cache, seed=work.seed, stream="re-ID", keep=CACHED_IMAGES
    )
    accelerate(model, work.device, work.options)
    set_training_mode(model, recipe.bn)

    for step, batch in loop.over(loop.load(images, plan, data.labels)):
        scale_learning_rate(optimizer, rate_factor(recipe, step, plan.steps_per_epoch))
        logits = gather(model(batch.images))
        loss = F.cross_entropy(logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        loop.log(step, cross_entropy=loss, accuracy=(logits.argmax(1) == batch.labels).float().mean())

    if loop.main:
        content = {"state_dict": model.state_dict(), "num_ids": len(data.classes), "net": canonical(net)}
        save_checkpoint(work.folder / "model.pt", content)


def new_network(work: Workspace, net: NetConfig, num_ids: int, start: Stage | None) -> IDENet:
    """Returns a seeded network on the stage's device, its backbone from that of `start` if given."""
    seed_everything(work.seed, deterministic=work.options.deterministic)
    model = IDENet(net, num_ids).to(work.device)
    if start is not None:
        model.base.load_state_dict(load_network(start.folder / "model.pt").base.state_dict())
    return model


def sgd(model: IDENet, recipe: RecipeConfig) -> torch.optim.SGD:
    rate = recipe.lr * recipe.lr_scale
    return torch.optim.SGD(
        parameter_groups(model, rate, rate * recipe.head_lr_factor),
        lr=rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
