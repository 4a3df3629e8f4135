"""The re-ID network (IDE) and its training: a backbone, dropout on its pooled map, a linear layer that
classifies the source's identities.

    images -> base -> pool5 -> drop -> classifier        logits (training, labels of the source)
                        +-> L2 norm                      the test feature

The released code has none; the paper's is GoogLeNet (unverified).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from common.augment import training_images
from common.backbones import Backbone, build_backbone, global_pool, imagenet_v1
from common.checkpoints import load_strictly, read_state_dict, save_checkpoint, saved_network
from common.datasets import Sample
from common.datasets.loading import IMAGENET_MEAN, IMAGENET_STD
from common.datasets.plans import epoch_plan
from common.hashing import canonical
from common.job import Workspace
from common.training import (
    Loop,
    accelerate,
    average_gradients,
    gather,
    scale_learning_rate,
    seed_everything,
)
from ptgan.config import GOOGLENET, NetConfig, RecipeConfig
from ptgan.data import ReidTransform

CACHED_IMAGES = 20_000  # a set up to this size is decoded once and kept in memory


class IDENet(nn.Module):
    """The re-ID network for images of `image_size` (height, width).

    The classifier starts at N(0, 0.001^2) with zero biases; the backbone has its own weights.
    """

    def __init__(self, backbone: Backbone, num_ids: int, dropout: float, image_size: tuple[int, int]):
        super().__init__()
        self.image_size = image_size
        self.base = backbone
        self.drop = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.num_features, num_ids)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images `(B, 3, H, W)`, ImageNet-normalised, to logits `(B, num_ids)`."""
        return self.classifier(self.drop(global_pool(self.base(x))))

    def pool5(self, x: Tensor) -> Tensor:
        """Returns the test feature `(B, num_features)`, L2-normalised."""
        return F.normalize(global_pool(self.base(x)))


class GoogLeNetInput(nn.Module):
    """Converts images from ImageNet's normalisation to GoogLeNet's, (x - 0.5) / 0.5.

    Equals torchvision's `transform_input`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self):
        super().__init__()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale", std / 0.5, persistent=False)
        self.register_buffer("shift", (mean - 0.5) / 0.5, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def googlenet(weights: str = "none") -> Backbone:
    """Returns torchvision's GoogLeNet without its heads: `(B, 3, H, W) -> (B, 1024, H / 32, W / 32)`.

    It has batch norm, Caffe's has none.
    """
    net = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=True)
    dropped = ("aux1", "aux2", "avgpool", "dropout", "fc")
    layers = OrderedDict((name, module) for name, module in net.named_children() if name not in dropped)
    backbone = Backbone(OrderedDict(transform_input=GoogLeNetInput(), **layers), net.fc.in_features)
    if weights != "none":
        state = imagenet_v1(GOOGLENET) if weights == "imagenet" else read_state_dict(weights)
        kept = {key: value for key, value in state.items() if not key.startswith(dropped)}
        load_strictly(backbone, kept, weights)
    return backbone


def build_network(net: NetConfig, num_ids: int) -> IDENet:
    """Builds the network of a configuration. Raises `InputError` for unavailable weights."""
    if net.backbone == GOOGLENET:
        backbone = googlenet(net.weights)
    else:
        backbone = build_backbone(net.backbone, net.weights)
    return IDENet(backbone, num_ids, net.dropout, (net.height, net.width))


def load_network(path: Path) -> IDENet:
    """Returns the network of a `model.pt`, in evaluation mode."""
    net, num_ids, state = saved_network(path, NetConfig, "PTGAN")
    model = build_network(replace(net, weights="none"), num_ids)
    load_strictly(model, state, path)
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def train_reid(
    net: NetConfig,
    recipe: RecipeConfig,
    samples: Sequence[Sample],
    classes: Mapping[int, int],
    work: Workspace,
) -> None:
    """Trains the network on `samples` with the source's `classes` (pid -> class) and writes `model.pt`."""
    seed_everything(work.seed, deterministic=work.options.deterministic)
    model = build_network(net, len(classes)).to(work.device)
    optimizer = build_optimizer(recipe, model)
    plan = epoch_plan(len(samples), recipe.batch, seed=work.seed, stream="re-ID")
    epoch = plan.steps_per_epoch
    loop = Loop(
        work,
        recipe.epochs * epoch,
        {"model": model, "optimizer": optimizer},
        label="re-ID",
        save_every=epoch,
    )
    accelerate(model, work.device, work.options).train()
    images = training_images(
        samples,
        ReidTransform(net.height, net.width, recipe.colour_jitter),
        work.cache,
        seed=work.seed,
        stream="re-ID",
        keep=CACHED_IMAGES,
    )

    labels = np.array([classes[sample.pid] for sample in samples])
    for step, batch in loop.over(loop.load(images, plan, labels)):
        scale_learning_rate(optimizer, 0.1 if step // epoch >= recipe.drop_epoch else 1.0)
        logits = gather(model(batch.images))
        loss = F.cross_entropy(logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        accuracy = (logits.argmax(1) == batch.labels).float().mean()
        loop.log(step, cross_entropy=loss, accuracy=accuracy)

    if loop.main:
        saved = {"state_dict": model.state_dict(), "num_ids": len(classes), "net": canonical(net)}
        save_checkpoint(work.folder / "model.pt", saved)


def build_optimizer(recipe: RecipeConfig, model: IDENet) -> torch.optim.SGD:
    """Returns SGD with one learning rate for the backbone and one for the classifier."""
    groups = [
        {"name": name, "params": list(module.parameters()), "lr": lr, "initial_lr": lr}
        for name, module, lr in (
            ("base", model.base, recipe.base_lr),
            ("classifier", model.classifier, recipe.classifier_lr),
        )
    ]
    return torch.optim.SGD(
        groups,
        lr=recipe.base_lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
