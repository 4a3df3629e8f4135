"""The stage that the blog does not tell and the released code asks for as a checkpoint: E_I learns the
source's identities.

Why it must exist: the row "L_rec alone, E_I fixed", which sees no label, is published at the level of direct
transfer from a trained network; and the released `reid_main.py` cannot start without a checkpoint of
everything but the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from arn.config import ARNConfig
from arn.data import Part, train_images
from common.augment import on_device
from common.backbones import build_backbone, global_pool, split_batch_norm
from common.checkpoints import save_checkpoint
from common.job import Options
from common.datasets import Sample
from common.datasets.loading import epoch_plan
from common.runs import Workspace, rank_and_world
from common.training import Loop, accelerate, average_gradients, gather, seed_everything


def pretrain(
    config: ARNConfig,
    source: tuple[Sequence[Sample], np.ndarray],
    seed: int,
    device: torch.device,
    workspace: Workspace,
    options: Options,
) -> None:
    """Trains the whole backbone and a classifier on its pooled map by cross-entropy, and writes the backbone
    to `base.pt`.
    """
    seed_everything(seed, deterministic=options.deterministic)
    recipe, (samples, labels) = config.pretrain, source
    plan = epoch_plan(len(samples), recipe.batch, seed=seed, stream="pretrain")
    part = Part(train_images(config, samples, "pretrain", seed, workspace.cache), plan, labels)
    backbone = build_backbone(config.net.backbone, config.net.weights)
    classifier = nn.Sequential(
        nn.Dropout(recipe.dropout), nn.Linear(backbone.num_features, int(labels.max()) + 1)
    )
    model = split_batch_norm(
        nn.ModuleDict({"base": backbone, "classifier": classifier}), config.net.bn_splits
    )
    accelerate(model, device, options).train()
    optimizer = torch.optim.SGD(
        [
            {"params": backbone.parameters(), "lr": recipe.lr},
            {"params": classifier.parameters(), "lr": 10 * recipe.lr},
        ],
        lr=recipe.lr,
        momentum=config.recipe.momentum,
        weight_decay=config.recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, recipe.drop_epoch * plan.steps_per_epoch, gamma=0.1)
    loop = Loop(
        workspace,
        recipe.epochs * plan.steps_per_epoch,
        {"model": model, "optimizer": optimizer, "schedule": schedule},
        label="E_I",
        save_every=plan.steps_per_epoch,
    )

    rank, world = rank_and_world()
    loader = part.loader(
        loop.start,
        loop.total,
        workers=options.workers,
        rank=rank,
        world=world,
        pin_memory=device.type == "cuda",
    )
    for step, (images, _) in loop.over(loader):
        images, classes = on_device(images, device), part.labels(step, device)
        logits = gather(classifier(global_pool(backbone(images))))
        loss = F.cross_entropy(logits, classes)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        schedule.step()
        loop.log(step, cross_entropy=loss, ei_accuracy=(logits.argmax(1) == classes).float().mean())
    if loop.main:
        save_checkpoint(workspace.folder / "base.pt", {"state_dict": backbone.state_dict()})
