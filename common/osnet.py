"""OSNet (Zhou et al., ICCV 2019), torchreid's own network, so that its checkpoints can be read.

The children carry torchreid's names. `OSNet-IBN` has instance norm in the stem and in some blocks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError

STREAMS = "abcd"  # of a block: 1 to 4 light convolutions
SMALLEST, LARGEST = 8, 4096  # channels
REDUCTION = 16  # of the gate


def convolution(channels: int, out: int, kernel: int = 1, stride: int = 1, **kwargs) -> nn.Conv2d:
    """Returns a convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False, **kwargs)


def unit(channels: int, out: int, *, kernel: int = 1, stride: int = 1, relu: bool = True, norm=None):
    """Returns convolution, norm and (unless `relu` is off) ReLU."""
    layers = OrderedDict(conv=convolution(channels, out, kernel, stride), bn=(norm or nn.BatchNorm2d)(out))
    return nn.Sequential(layers | ({"relu": nn.ReLU()} if relu else {}))


def light_unit(channels: int) -> nn.Sequential:
    """Returns a 1x1 convolution, a depthwise 3x3 one, batch norm and ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv1=convolution(channels, channels),
            conv2=convolution(channels, channels, 3, groups=channels),
            bn=nn.BatchNorm2d(channels),
            relu=nn.ReLU(),
        )
    )


def instance_norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, affine=True)


class Gate(nn.Module):
    """Weighs the channels of a map by its mean, `(B, C, h, w) -> (B, C, h, w)`; all streams share it."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // REDUCTION, 1)
        self.fc2 = nn.Conv2d(channels // REDUCTION, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return x * self.fc2(F.relu(self.fc1(pooled))).sigmoid()


class OmniScaleBlock(nn.Module):
    """A residual block whose streams see 1 to 4 scales."""

    def __init__(self, channels: int, out: int, *, instance: bool):
        super().__init__()
        middle = out // 4
        self.conv1 = unit(channels, middle)
        self.conv2a = light_unit(middle)
        for depth, name in enumerate(STREAMS[1:], 2):
            self.add_module(f"conv2{name}", nn.Sequential(*(light_unit(middle) for _ in range(depth))))
        self.gate = Gate(middle)
        self.conv3 = unit(middle, out, relu=False)
        self.downsample = unit(channels, out, relu=False) if channels != out else None
        self.IN = instance_norm(out) if instance else None

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.conv1(x)
        scales = [self.gate(self.get_submodule(f"conv2{name}")(reduced)) for name in STREAMS]
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.conv3(sum(scales[1:], scales[0])) + shortcut
        return F.relu(out if self.IN is None else self.IN(out))


def build_osnet(state: Mapping[str, Tensor], where: str) -> nn.Sequential:
    """Builds the trunk whose tensors these are, `(B, 3, H, W) -> (B, C, H / 16, W / 16)`; does not load them.

    Raises `InputError` for widths that no OSNet has.
    """
    widths = [_channels(state, f"{name}.weight", where) for name in ("conv1.conv", *LAST_CONVOLUTIONS)]
    stem, *stages = widths
    instance = "conv1.bn.running_mean" not in state
    layers: dict[str, nn.Module] = {
        "conv1": unit(3, stem, kernel=7, stride=2, norm=instance_norm if instance else None),
        "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
    }
    channels = stem
    for number, out in enumerate(stages, 2):
        blocks: list[nn.Module] = []
        for index in range(2):
            has_norm = f"conv{number}.{index}.IN.weight" in state
            blocks.append(OmniScaleBlock(channels, out, instance=has_norm))
            channels = out
        if number < 4:  # the third stage keeps its size
            blocks.append(nn.Sequential(unit(out, out), nn.AvgPool2d(2, stride=2)))
        layers[f"conv{number}"] = nn.Sequential(*blocks)
    layers["conv5"] = unit(channels, channels)
    return nn.Sequential(OrderedDict(layers))


LAST_CONVOLUTIONS = tuple(f"conv{number}.0.conv3.conv" for number in (2, 3, 4))


def _channels(state: Mapping[str, Tensor], name: str, where: str) -> int:
    tensor = state.get(name)
    channels = tensor.shape[0] if tensor is not None and tensor.dim() == 4 else 0
    if not SMALLEST <= channels <= LARGEST or channels % 4 or channels // 4 < REDUCTION and "conv3" in name:
        raise InputError(
            f"{where}: expected an OSNet with {SMALLEST} to {LARGEST} channels, found none in {name}"
        )
    return channels
