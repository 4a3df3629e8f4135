"""The two networks of the DCGAN, in the paper's depth and in the fork's.

    paper (the authors' git history, 2017)        fork (`layumi/DCGAN-tensorflow`, linked from their README)
    z -> linear -> 4x4x1024                       z -> linear -> 8x8x512
    5 deconvolutions, stride 2 -> 128x128x3       4 deconvolutions, stride 2 -> 128x128x3, tanh
    BN, ReLU, one 5x5 deconvolution, tanh
    D: 5 convolutions, 64 .. 1024                 D: 4 convolutions, 64 .. 512

The paper's "4 x 4 x 16" is 16 times the generator's 64 channels. All kernels are 5x5 with TensorFlow's
padding `SAME`, which differs from PyTorch's `padding=2` at a stride of 2: a convolution pads one row before
the image and two after it, a deconvolution the reverse. Maps are `(C, H, W)`; TensorFlow's checkpoints have
`(H, W, C)`, so their two linear layers must be permuted. Batch norm as in TensorFlow: eps 1e-5, running
statistics with momentum 0.1 (PyTorch divides the variance by n - 1, TensorFlow by n).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from dcgan_lsro.config import GANConfig

DEPTHS = {"paper": 5, "fork": 4}  # layers of stride 2 in each network


class SameConv2d(nn.Conv2d):
    """A 5x5 convolution of stride 2, padded as `SAME`: `(B, C, H, W) -> (B, C', H / 2, W / 2)`."""

    def __init__(self, channels: int, channels_out: int):
        super().__init__(channels, channels_out, 5, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 2, 1, 2)))


class SameDeconv2d(nn.ConvTranspose2d):
    """A 5x5 deconvolution of stride 2, padded as `SAME`: `(B, C, H, W) -> (B, C', 2H, 2W)`."""

    def __init__(self, channels: int, channels_out: int):
        super().__init__(channels, channels_out, 5, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[:, :, :-1, :-1]


class ResizeConv2d(nn.Sequential):
    """Nearest neighbour x 2, then a 3x3 convolution (Odena et al., 2016): `(B, C, H, W) -> (B, C', 2H, 2W)`.

    Every output pixel has the same number of contributions; in a 5x5 deconvolution of stride 2 they alternate
    between 4, 6 and 9, which shows as a checkerboard.
    """

    def __init__(self, channels: int, channels_out: int):
        super().__init__(nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels_out, 3, padding=1))


UPSAMPLING: dict[str, type[nn.Module]] = {"deconvolution": SameDeconv2d, "resize": ResizeConv2d}


class Generator(nn.Module):
    """Maps z `(B, z_dim)`, uniform in -1..1, to images `(B, 3, height, width)` in -1..1.

    The paper's network ends with batch norm and ReLU over the three output channels and a deconvolution of
    stride 1. In training mode batch norm uses the batch's statistics: an image depends on the rest of its
    batch.
    """

    def __init__(self, config: GANConfig):
        super().__init__()
        layers, order = _layers(config), config.order
        self.z_dim = config.z_dim
        widths = [config.g_channels * 2**i for i in reversed(range(layers))]
        self.base = (widths[0], config.height // 2**layers, config.width // 2**layers)
        self.project = nn.Linear(config.z_dim, widths[0] * self.base[1] * self.base[2])
        self.start = _norm_and_relu(widths[0], order)
        upsample = UPSAMPLING[config.upsampling]
        stages: list[nn.Module] = []
        for before, after in zip(widths, widths[1:]):
            stages += [upsample(before, after), _norm_and_relu(after, order)]
        stages.append(upsample(widths[-1], 3))
        if config.network == "paper":
            stages += [_norm_and_relu(3, order), nn.ConvTranspose2d(3, 3, 5, padding=2)]
        self.deconvolutions = nn.Sequential(*stages)
        self.apply(_initialise)

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(z).view(-1, *self.base)
        return self.deconvolutions(self.start(x)).tanh()


class Discriminator(nn.Module):
    """Maps images `(B, 3, height, width)` in -1..1 to logits `(B,)`, positive for real.

    There is no batch norm after the first convolution.
    """

    def __init__(self, config: GANConfig):
        super().__init__()
        layers = _layers(config)
        widths = [config.d_channels * 2**i for i in range(layers)]
        stages: list[nn.Module] = [SameConv2d(3, widths[0]), nn.LeakyReLU(0.2)]
        for before, after in zip(widths, widths[1:]):
            stages += [SameConv2d(before, after), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        self.convolutions = nn.Sequential(*stages)
        self.judge = nn.Linear(widths[-1] * (config.height // 2**layers) * (config.width // 2**layers), 1)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        return self.judge(self.convolutions(images).flatten(1))[:, 0]


def _layers(config: GANConfig) -> int:
    """Returns the layers of stride 2. Raises `InputError` for an image size that they do not divide."""
    layers = DEPTHS[config.network]
    if config.height % 2**layers or config.width % 2**layers:
        raise InputError(
            f"DCGAN of {layers} layers: expected a height and width that are multiples of {2**layers}, "
            f"found {config.height}x{config.width}"
        )
    return layers


def _norm_and_relu(channels: int, order: str) -> nn.Sequential:
    norm: Sequence[nn.Module] = (nn.BatchNorm2d(channels), nn.ReLU())
    return nn.Sequential(*(norm if order == "bn_relu" else reversed(norm)))


def _initialise(module: nn.Module) -> None:
    """Draws weights from N(0, 0.02^2), in D's convolutions truncated at 0.04, and sets biases to zero."""
    if isinstance(module, SameConv2d):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)
