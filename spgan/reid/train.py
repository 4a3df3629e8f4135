"""Trains an IDE network on the images of one row. Released counterpart: the Caffe solvers, `train_IDE.py`,
`train_IDE_plus.py`, `train.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from common.augment import on_device, training_images
from common.checkpoints import save_checkpoint
from common.job import Options
from common.datasets import Sample
from common.datasets.loading import epoch_plan, planned_loader
from common.hashing import canonical
from common.runs import Stage, Workspace, rank_and_world
from common.training import Loop, accelerate, average_gradients, gather, seed_everything
from spgan.config import NetConfig, RecipeConfig
from spgan.reid.data import rate_factor, total_steps, train_transform
from spgan.reid.model import build_network, freeze, load_network, parameter_groups, set_training_mode

CACHED_IMAGES = 20_000  # a set up to this size is decoded once and kept in memory


def train_reid(
    net: NetConfig,
    recipe: RecipeConfig,
    samples: Sequence[Sample],
    labels: dict[int, int],
    interpolation: str,
    seed: int,
    device: torch.device,
    workspace: Workspace,
    options: Options,
    start: Stage | None = None,
    label: str = "re-ID",
) -> None:
    """Writes `model.pt`; the backbone begins with that of `start` if given."""
    seed_everything(seed, deterministic=options.deterministic)
    model = build_network(net, len(labels)).to(device)
    if start is not None:
        model.base.load_state_dict(load_network(start.folder / "model.pt").base.state_dict())
    freeze(model, affine=recipe.freeze_affine, conv1_res2=recipe.freeze_conv1_res2)
    rate = recipe.lr * recipe.lr_scale
    optimizer = torch.optim.SGD(
        parameter_groups(model, rate, rate * recipe.head_lr_factor),
        lr=rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    plan = epoch_plan(len(samples), recipe.batch, seed=seed, stream="re-ID")
    loop = Loop(
        workspace,
        total_steps(recipe, plan.steps_per_epoch),
        {"model": model, "optimizer": optimizer},
        label=label,
        save_every=plan.steps_per_epoch,
    )
    rank, world = rank_and_world()
    images = training_images(
        samples,
        train_transform(net, recipe, interpolation),
        workspace.cache,
        seed=seed,
        stream="re-ID",
        keep=CACHED_IMAGES,
    )
    loader = planned_loader(
        images,
        plan,
        loop.start,
        loop.total,
        workers=options.workers,
        rank=rank,
        world=world,
        pin_memory=device.type == "cuda",
    )
    classes = torch.tensor([labels[s.pid] for s in samples])
    accelerate(model, device, options)
    set_training_mode(model, recipe.bn)

    for step, (batch, _) in loop.over(loader):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate_factor(recipe, step, plan.steps_per_epoch)
        # of the whole batch, on every process
        wanted = classes[torch.as_tensor(plan(step).copy())].to(device)
        logits = gather(model(on_device(batch, device)))
        loss = F.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        loop.log(step, cross_entropy=loss, accuracy=(logits.argmax(1) == wanted).float().mean())

    if loop.main:
        save_checkpoint(
            workspace.folder / "model.pt",
            {"state_dict": model.state_dict(), "num_ids": len(labels), "net": canonical(net)},
        )
