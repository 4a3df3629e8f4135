"""Backbones by name, their features, AdaBN, and batch norm over parts of a batch.

A backbone maps images `(B, 3, H, W)` to the last feature map `(B, num_features, h, w)`; its children carry
torchvision's names (`conv1`, `bn1`, `layer1`, ...), so that published checkpoints load.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from common.checkpoints import fetched_weights, load_strictly, read_state_dict
from common.datasets.base import Sample
from common.datasets.loading import SampleImages, planned_loader
from common.datasets.plans import epoch_plan
from common.efficientnet import NUM_FEATURES, efficientnet_lite0, imagenet_weights
from common.errors import InputError
from common.foreign import trunk_weights

EFFICIENTNET = "efficientnet_lite0"
BACKBONES = ("thin", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", EFFICIENTNET)
BatchNorm = nn.modules.batchnorm._BatchNorm
Network = TypeVar("Network", bound=nn.Module)


class Backbone(nn.Sequential):
    """A convolutional trunk without its classifier: `(B, 3, H, W) -> (B, num_features, h, w)`."""

    def __init__(self, layers: OrderedDict[str, nn.Module], num_features: int):
        super().__init__(layers)
        self.num_features = num_features


def thin_resnet() -> Backbone:
    """Returns the demo's network: a 3x3 stem of 16 channels, three basic blocks (32, 64, 128) of stride 2,
    0.30 M parameters.
    """
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 16, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(16), relu=nn.ReLU(inplace=True)
    )
    width = 16
    for number, planes in enumerate((32, 64, 128), start=1):
        shortcut = nn.Sequential(nn.Conv2d(width, planes, 1, stride=2, bias=False), nn.BatchNorm2d(planes))
        layers[f"layer{number}"] = BasicBlock(width, planes, stride=2, downsample=shortcut)
        width = planes
    return Backbone(layers, width)


def build_backbone(name: str, weights: str = "none") -> Backbone:
    """Builds one of `BACKBONES`.

    `weights`: `none` (random), `imagenet` or a file. ImageNet's weights of a ResNet are torchvision's
    IMAGENET1K_V1, those of the papers of 2017 and 2018, fetched into torch's cache if absent; those of
    efficientnet_lite0 come with the extra `photos`. A file holds this backbone: torchvision's state dict, or
    a network that `common.foreign` recognises. Raises `InputError` for an unknown name and for weights that
    are unavailable or do not fit.
    """
    if name not in BACKBONES:
        raise InputError(f"unknown backbone {name!r}: expected one of {', '.join(BACKBONES)}")
    if name == "thin":
        backbone = thin_resnet()
    elif name == EFFICIENTNET:
        backbone = Backbone(efficientnet_lite0(), NUM_FEATURES)
    else:
        resnet = getattr(torchvision.models, name)(weights=None)
        layers = OrderedDict((n, m) for n, m in resnet.named_children() if n not in ("avgpool", "fc"))
        backbone = Backbone(layers, resnet.fc.in_features)
    if weights != "none":
        state = {key: value for key, value in _state(name, weights).items() if not key.startswith("fc.")}
        load_strictly(backbone, state, weights)
    return backbone


def _state(name: str, weights: str) -> dict[str, Tensor]:
    if name == "thin" and weights == "imagenet":
        raise InputError("the thin ResNet of the demo has no ImageNet weights: give a weights file, or none")
    if weights == "imagenet":
        return imagenet_weights() if name == EFFICIENTNET else imagenet_v1(name)
    if name == EFFICIENTNET:
        state = read_state_dict(weights)
        if not any(key.startswith("base.") for key in state):  # not a model.pt of this project
            return state
    return trunk_weights(weights, name)


def imagenet_v1(name: str) -> dict[str, Tensor]:
    """torchvision's IMAGENET1K_V1 weights of a network, fetched into torch's cache if absent. Raises
    `InputError` if they cannot be had.
    """
    return fetched_weights(
        torchvision.models.get_model_weights(name).IMAGENET1K_V1,
        f"ImageNet weights of {name}",
        "give a weights file, or none",
    )


def global_pool(feature_map: Tensor) -> Tensor:
    """Returns the mean over the map: `(B, C, h, w) -> (B, C)`; called pool5 for a ResNet."""
    return feature_map.mean(dim=(2, 3))


@torch.inference_mode()
def extract_features(
    embed: Callable[[Tensor], Tensor],
    images: Iterable,
    device: torch.device,
    *,
    flip: bool = False,
    normalise: bool = True,
) -> Tensor:
    """Features of a loader whose items begin with images `(B, 3, H, W)`: `(N, D)`, float32, on the CPU, in
    the loader's order.

    L2-normalised unless `normalise` is off. `flip` adds the feature of the mirrored image before that. The
    caller puts the model in evaluation mode.
    """
    rows = []
    for batch, *_ in images:
        batch = batch.to(device, non_blocking=True, memory_format=torch.channels_last)
        feature = embed(batch)
        if flip:
            feature = feature + embed(batch.flip(3))
        rows.append((F.normalize(feature.float()) if normalise else feature.float()).cpu())
    if not rows:
        raise InputError("no images to extract features from")
    return torch.cat(rows)


@torch.no_grad()
def adabn(model: Network, images: Iterable, device: torch.device) -> Network:
    """Returns a copy of `model` whose batch-norm running statistics are the means over `images` (Li et al.,
    2016); no label is used, no weight moves.

    Every batch weighs the same, so give batches of one size. The copy is returned in evaluation mode.
    """
    adapted = copy.deepcopy(model).eval()
    for module in adapted.modules():
        if isinstance(module, BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # cumulative average
            module.train()
    for batch, *_ in images:
        adapted(batch.to(device, non_blocking=True, memory_format=torch.channels_last))
    return adapted.eval()


def adabn_on(
    model: Network,
    samples: Sequence[Sample],
    transform: Callable,
    device: torch.device,
    *,
    batch: int = 128,
    workers: int = 0,
) -> Network:
    """Returns `adabn` over shuffled batches of samples (a target's training images), each through `transform`
    (the test images' one).
    """
    if len(samples) < 2:
        raise InputError(
            "AdaBN: expected at least 2 training images of the target, whose statistics it estimates, "
            f"found {len(samples)}: leave it out, or give more images"
        )
    plan = epoch_plan(len(samples), min(batch, len(samples)), seed=0, stream="adabn")
    return adabn(
        model,
        planned_loader(SampleImages(samples, transform), plan, 0, plan.steps_per_epoch, workers=workers),
        device,
    )


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch norm as `splits` GPUs under DataParallel compute it.

    Each part of the batch is normalised by its own statistics; running statistics follow the first part.
    """

    splits = 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.splits == 1:
            return BatchNorm.forward(self, x)
        first, *rest = x.chunk(self.splits)
        parts = [F.batch_norm(part, None, None, self.weight, self.bias, True, 0.0, self.eps) for part in rest]
        return torch.cat([BatchNorm.forward(self, first), *parts])


class SplitBatchNorm1d(nn.BatchNorm1d):
    """`SplitBatchNorm2d` for features `(B, C)`."""

    splits = 1
    forward = SplitBatchNorm2d.forward  # type: ignore[assignment]


SPLIT: dict[type, Any] = {nn.BatchNorm2d: SplitBatchNorm2d, nn.BatchNorm1d: SplitBatchNorm1d}


def split_batch_norm(model: nn.Module, splits: int) -> nn.Module:
    """Replaces every batch norm below `model` by its split form with the same state; returns `model`."""
    if splits > 1:
        for parent in list(model.modules()):
            for name, norm in parent.named_children():
                if type(norm) in SPLIT:
                    setattr(parent, name, _split(norm, splits))
    return model


def _split(norm: Any, splits: int) -> nn.Module:
    copied = SPLIT[type(norm)](norm.num_features, norm.eps, norm.momentum)
    copied.load_state_dict(norm.state_dict())
    copied.splits = splits
    return copied.train(norm.training)
