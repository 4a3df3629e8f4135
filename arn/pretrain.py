"""The stage that the blog omits and the released code requires as a checkpoint: E_I learns the source's
identities.

It must exist: the row "L_rec alone, E_I fixed", which sees no label, is published at the level of direct
transfer from a trained network; and the released `reid_main.py` cannot start without a checkpoint of
everything but the classifier.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from arn.config import NetConfig, PretrainConfig, RecipeConfig
from arn.data import Labelled, train_images
from common.backbones import build_backbone, global_pool, split_batch_norm
from common.checkpoints import save_checkpoint
from common.datasets.plans import epoch_plan
from common.job import Workspace
from common.training import Loop, accelerate, average_gradients, gather, seed_everything


def pretrain(
    net: NetConfig, pretraining: PretrainConfig, recipe: RecipeConfig, source: Labelled, work: Workspace
) -> None:
    """Trains the whole backbone and a classifier on its pooled map by cross-entropy, and writes the backbone
    to `base.pt`.
    """
    seed_everything(work.seed, deterministic=work.options.deterministic)
    plan = epoch_plan(len(source.samples), pretraining.batch, seed=work.seed, stream="pretrain")
    images = train_images(source.samples, net, recipe.flip, "pretrain", work)
    backbone = build_backbone(net.backbone, net.weights)
    classifier = nn.Sequential(
        nn.Dropout(pretraining.dropout), nn.Linear(backbone.num_features, source.num_ids)
    )
    model = split_batch_norm(nn.ModuleDict({"base": backbone, "classifier": classifier}), net.bn_splits)
    accelerate(model, work.device, work.options).train()
    optimizer = torch.optim.SGD(
        [
            {"params": backbone.parameters(), "lr": pretraining.lr},
            {"params": classifier.parameters(), "lr": pretraining.head_lr_factor * pretraining.lr},
        ],
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    steps = plan.steps_per_epoch
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, pretraining.drop_epoch * steps, gamma=0.1)
    loop = Loop(
        work,
        pretraining.epochs * steps,
        {"model": model, "optimizer": optimizer, "schedule": schedule},
        label="E_I",
        save_every=steps,
    )

    for step, batch in loop.over(loop.load(images, plan, source.labels)):
        logits = gather(classifier(global_pool(backbone(batch.images))))
        loss = F.cross_entropy(logits, batch.labels)  # of E_I alone; no equation

        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        schedule.step()
        loop.log(step, cross_entropy=loss, ei_accuracy=(logits.argmax(1) == batch.labels).float().mean())
    if loop.main:
        save_checkpoint(work.folder / "base.pt", {"state_dict": backbone.state_dict()})
