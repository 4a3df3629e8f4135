"""Loads the feature network of any checkpoint that `common.foreign` recognises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from common.backbones import Backbone, build_backbone, global_pool
from common.checkpoints import file_hash, load_strictly
from common.datasets.loading import EvalTransform
from common.errors import InputError
from common.evaluation.scoring import Embedder
from common.foreign import OSNET, Program, Recognised, recognise
from common.osnet import build_osnet

HEIGHT, WIDTH = 256, 128  # of a person's image where the checkpoint does not say: all known programs


class FeatureNet(nn.Module):
    """A backbone, the mean over its map, and the layers up to the test feature.

    Maps ImageNet-normalised images `(B, 3, H, W)` to features `(B, D)`, not L2-normalised.
    """

    def __init__(self, base: nn.Module, neck: nn.Sequential):
        super().__init__()
        self.base = base
        self.neck = neck

    def forward(self, images: Tensor) -> Tensor:
        return self.neck(global_pool(self.base(images)))


@dataclass(frozen=True)
class FeatureNetwork:
    """A network with everything that its test features depend on."""

    network: FeatureNet
    found: Recognised
    height: int
    width: int
    interpolation: str
    flip: bool
    normalise: bool
    name: str  # of model and feature, with the hash of the file: for feature files

    def embedder(self, device: torch.device, *, workers: int = 0, batch: int = 128) -> Embedder:
        """Returns how images become the feature `feature` `(N, D)`."""
        return Embedder(
            lambda network, images: {"feature": network(images)},
            EvalTransform(self.height, self.width, self.interpolation),
            device,
            workers,
            batch,
            flip=self.flip,
            normalise=self.normalise,
        )


def load_feature_network(
    checkpoint: str | Path, *, size: tuple[int, int] | None = None, flip: bool | None = None
) -> FeatureNetwork:
    """Returns the network of a checkpoint in evaluation mode, with the test settings of its program.

    `size`: (height, width) of the images, by default those of the checkpoint, or 256x128. `flip`: whether the
    feature of the mirrored image is added, by default as its program does. Raises `InputError` for a
    checkpoint that is not recognised or does not fit.
    """
    found = recognise(checkpoint)
    program = found.program
    network = FeatureNet(_backbone(found), neck_of(found)).eval()
    height, width = size or (_whole(found.settings, "height", HEIGHT), _whole(found.settings, "width", WIDTH))
    flip = program.flip if flip is None else flip
    what = f"{Path(checkpoint).name} {file_hash(checkpoint)} {height}x{width}{' flip' if flip else ''}"
    return FeatureNetwork(
        network.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        found,
        height,
        width,
        program.interpolation,
        flip,
        program.normalise,
        what,
    )


def _whole(settings: Mapping, name: str, default: int) -> int:
    value = settings.get(name, default)
    return value if isinstance(value, int) and 1 <= value <= 16_384 else default


def _backbone(found: Recognised) -> nn.Module:
    """Builds the backbone as its program does, and loads its tensors."""
    if found.backbone == OSNET:
        osnet = build_osnet(found.trunk, found.where)
        load_strictly(osnet, found.trunk, found.where)
        return osnet
    base = build_backbone(found.backbone)
    load_strictly(base, found.trunk, found.where)
    adjust(base, found.program)
    return base


def adjust(base: Backbone, program: Program) -> None:
    """Changes what a program's ResNet does differently from torchvision's without changing its tensors.

    The demo's thin network has no max pooling and no layer4.
    """
    if not program.stem_relu:
        base.relu = nn.Identity()
    if program.ceil_pool and hasattr(base, "maxpool"):
        base.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    if program.last_stride == 1 and hasattr(base, "layer4"):
        block: Any = base.get_submodule("layer4.0")
        strided = block.conv2 if isinstance(block, Bottleneck) else block.conv1
        strided.stride = block.downsample[0].stride = (1, 1)


def neck_of(found: Recognised) -> nn.Sequential:
    """Builds the layers between pooling and the test feature from their tensors.

    A matrix (or a 1x1 convolution) is a linear layer, a vector with running statistics a batch norm.
    """
    layers: list[nn.Module] = []
    for index in sorted({name.rpartition(".")[0] for name in found.neck}, key=_number):
        prefix = f"{index}." if index else ""
        state = {
            name.removeprefix(prefix): value for name, value in found.neck.items() if name.startswith(prefix)
        }
        layers.append(_layer(state, f"{found.where}: {found.program.neck}{index}"))
        if isinstance(layers[-1], nn.BatchNorm1d) and found.program.relu:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _number(index: str) -> tuple[int, str]:
    return (int(index), "") if index.isdecimal() and len(index) < 9 else (0, index)


def _layer(state: Mapping[str, Tensor], where: str) -> nn.Module:
    weight = state.get("weight")
    if weight is None or weight.dim() not in (1, 2, 4) or 0 in weight.shape:
        raise InputError(f"{where}: expected a linear layer or a batch norm, found {', '.join(state)}")
    layer: nn.Module
    if weight.dim() == 1:
        layer = nn.BatchNorm1d(len(weight))
    else:
        if weight.dim() == 4:
            if weight.shape[2:] != (1, 1):
                raise InputError(f"{where}: expected a 1x1 convolution, found {tuple(weight.shape)}")
            state = {**state, "weight": weight.flatten(1)}
        out, width = state["weight"].shape
        layer = nn.Linear(width, out, bias="bias" in state)
    load_strictly(layer, state, where)
    return layer


def plain_state_dict(network: FeatureNetwork) -> dict[str, Tensor]:
    """Returns the backbone's tensors under torchvision's names, contiguous, without a classifier."""
    return {name: value.contiguous() for name, value in network.network.base.state_dict().items()}
