"""The re-ID network: a backbone, dropout on its pooled map, one linear layer that classifies the source's
people (IDE).

    images -> base -> pool5 -> drop -> classifier        logits (training, labels of the source)
                        +-> L2 norm                      the test feature

The released code has none; the paper's is GoogLeNet (unverified).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from common.augment import on_device, training_images
from common.backbones import Backbone, build_backbone, global_pool, imagenet_v1
from common.checkpoints import load_checkpoint, load_strictly, read_state_dict, save_checkpoint, saved_config
from common.job import Options
from common.datasets import Sample
from common.datasets.loading import epoch_plan, planned_loader
from common.hashing import canonical
from common.runs import Workspace, rank_and_world
from common.training import Loop, accelerate, average_gradients, gather, seed_everything
from ptgan.config import GOOGLENET, NetConfig, PTGANConfig, RecipeConfig
from ptgan.data import reid_transform

CACHED_IMAGES = 20_000  # a set up to this size is decoded once and kept in memory


class IDENet(nn.Module):
    """The classifier starts at N(0, 0.001^2) with zero biases; the backbone comes with its own weights."""

    def __init__(self, backbone: Backbone, num_ids: int, dropout: float = 0.5):
        super().__init__()
        self.base = backbone
        self.drop = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.num_features, num_ids)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(B, 3, H, W)`, ImageNet-normalised, to logits `(B, num_ids)`."""
        return self.classifier(self.drop(global_pool(self.base(x))))

    def pool5(self, x: Tensor) -> Tensor:
        """The test feature `(B, num_features)`, L2-normalised."""
        return F.normalize(global_pool(self.base(x)))


class GoogLeNetInput(nn.Module):
    """From ImageNet's mean and deviation to GoogLeNet's own, (x - 0.5) / 0.5; torchvision's
    `transform_input`.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer(
            "scale", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) / 0.5, persistent=False
        )
        self.register_buffer(
            "shift", (torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) - 0.5) / 0.5, persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def googlenet(weights: str = "none") -> Backbone:
    """torchvision's GoogLeNet without its heads: `(B, 3, H, W) -> (B, 1024, H / 32, W / 32)`. It has batch
    norm, Caffe's has none.
    """
    net = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=True)
    dropped = ("aux1", "aux2", "avgpool", "dropout", "fc")
    layers = OrderedDict((name, module) for name, module in net.named_children() if name not in dropped)
    backbone = Backbone(OrderedDict(transform_input=GoogLeNetInput(), **layers), net.fc.in_features)
    if weights != "none":
        state = imagenet_v1(GOOGLENET) if weights == "imagenet" else read_state_dict(weights)
        load_strictly(
            backbone, {key: value for key, value in state.items() if not key.startswith(dropped)}, weights
        )
    return backbone


def build_network(net: NetConfig, num_ids: int) -> IDENet:
    """The network that a configuration describes. Raises `InputError` for weights that cannot be had."""
    backbone = (
        googlenet(net.weights) if net.backbone == GOOGLENET else build_backbone(net.backbone, net.weights)
    )
    model = IDENet(backbone, num_ids, net.dropout)
    model.image_size = (net.height, net.width)
    return model


def load_network(path: Path) -> IDENet:
    """The network in a `model.pt`, in evaluation mode."""
    saved = load_checkpoint(path, expected=("state_dict", "num_ids", "net"))
    model = build_network(
        replace(saved_config(NetConfig, saved["net"], path, "PTGAN"), weights="none"), saved["num_ids"]
    )
    load_strictly(model, saved["state_dict"], path)
    return model.to(memory_format=torch.channels_last).eval()


def train_reid(
    config: PTGANConfig,
    samples: Sequence[Sample],
    labels: dict[int, int],
    seed: int,
    device: torch.device,
    workspace: Workspace,
    options: Options,
) -> None:
    """Trains the network on `samples` with the source's `labels` (pid -> class) and writes `model.pt`."""
    seed_everything(seed, deterministic=options.deterministic)
    rank, world = rank_and_world()
    model = build_network(config.net, len(labels)).to(device)
    optimizer = build_optimizer(config.recipe, model)
    plan = epoch_plan(len(samples), config.recipe.batch, seed=seed, stream="re-ID")
    loop = Loop(
        workspace,
        config.recipe.epochs * plan.steps_per_epoch,
        {"model": model, "optimizer": optimizer},
        label="re-ID",
        save_every=plan.steps_per_epoch,
    )
    accelerate(model, device, options).train()
    images = training_images(
        samples,
        reid_transform(config.net, config.recipe.colour_jitter),
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
    label_of = torch.tensor([labels[sample.pid] for sample in samples])

    for step, (batch, _) in loop.over(loader):
        set_learning_rate(optimizer, 0.1 if step // plan.steps_per_epoch >= config.recipe.drop_epoch else 1.0)
        wanted = label_of[torch.tensor(plan(step))].to(device)  # of the whole batch, on every process
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
            {"state_dict": model.state_dict(), "num_ids": len(labels), "net": canonical(config.net)},
        )


def build_optimizer(recipe: RecipeConfig, model: IDENet) -> torch.optim.SGD:
    """SGD with a rate for the backbone and one for the classifier."""
    groups = [
        {
            "name": "base",
            "params": list(model.base.parameters()),
            "lr": recipe.base_lr,
            "initial_lr": recipe.base_lr,
        },
        {
            "name": "classifier",
            "params": list(model.classifier.parameters()),
            "lr": recipe.classifier_lr,
            "initial_lr": recipe.classifier_lr,
        },
    ]
    return torch.optim.SGD(
        groups,
        lr=recipe.base_lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
