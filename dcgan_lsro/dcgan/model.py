"""The two networks of the DCGAN, in the paper's depth and in the fork's.

    paper (the authors' git history, 2017)        fork (`layumi/DCGAN-tensorflow`, what the authors' README
    names today)
    z -> linear -> 4x4x1024                       z -> linear -> 8x8x512
    5 deconvolutions, stride 2 -> 128x128x3       4 deconvolutions, stride 2 -> 128x128x3, tanh
    BN, ReLU, one 5x5 deconvolution, tanh
    D: 5 convolutions, 64 .. 1024                 D: 4 convolutions, 64 .. 512

The paper's "4 x 4 x 16" is 16 times the generator's 64 channels. All kernels are 5x5 and padded as
TensorFlow's `SAME`, which is not PyTorch's `padding=2` for a stride of 2: a convolution sees one row before
the image and two after it, a deconvolution the reverse. The maps are laid out `(C, H, W)`; TensorFlow's
checkpoints have `(H, W, C)`, so the two linear layers must be permuted. Batch norm as there: eps 1e-5,
running statistics that move by 0.1 (PyTorch counts the variance with n - 1, TensorFlow with n).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from dcgan_lsro.config import DCGANConfig

DEPTHS = {"paper": 5, "fork": 4}  # layers of stride 2 in each network


class SameConv2d(nn.Conv2d):
    """5x5, stride 2, TensorFlow's `SAME`: `(B, C, H, W) -> (B, C', H / 2, W / 2)` for even H and W."""

    def __init__(self, channels: int, channels_out: int):
        super().__init__(channels, channels_out, 5, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 2, 1, 2)))


class SameDeconv2d(nn.ConvTranspose2d):
    """5x5, stride 2, TensorFlow's `SAME`: `(B, C, H, W) -> (B, C', 2H, 2W)`."""

    def __init__(self, channels: int, channels_out: int):
        super().__init__(channels, channels_out, 5, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, :-1, :-1]


class Generator(nn.Module):
    """z `(B, z_dim)`, uniform in -1..1, to images `(B, 3, height, width)` in -1..1.

    `extra` ends with a stride-1 deconvolution after batch norm and ReLU over the three output channels, as
    the paper's network does. In training mode batch norm uses the batch's statistics, so that an image
    depends on the others of its batch.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        z_dim: int = 100,
        channels: int = 64,
        layers: int = 5,
        extra: bool = True,
        order: str = "bn_relu",
    ):
        super().__init__()
        _check_size(height, width, layers)
        widths = [channels * 2**i for i in reversed(range(layers))]
        self.base = (widths[0], height // 2**layers, width // 2**layers)
        self.project = nn.Linear(z_dim, widths[0] * self.base[1] * self.base[2])
        self.start = _norm_and_relu(widths[0], order)
        stages: list[nn.Module] = []
        for before, after in zip(widths, widths[1:]):
            stages += [SameDeconv2d(before, after), _norm_and_relu(after, order)]
        stages.append(SameDeconv2d(widths[-1], 3))
        if extra:
            stages += [_norm_and_relu(3, order), nn.ConvTranspose2d(3, 3, 5, padding=2)]
        self.deconvolutions = nn.Sequential(*stages)
        self.apply(_initialise)

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(z).view(-1, *self.base)
        return self.deconvolutions(self.start(x)).tanh()


class Discriminator(nn.Module):
    """Images `(B, 3, height, width)` in -1..1 to logits `(B,)`: above zero, real. No batch norm after the
    first convolution.
    """

    def __init__(self, height: int, width: int, *, channels: int = 64, layers: int = 5):
        super().__init__()
        _check_size(height, width, layers)
        widths = [channels * 2**i for i in range(layers)]
        stages: list[nn.Module] = [SameConv2d(3, widths[0]), nn.LeakyReLU(0.2)]
        for before, after in zip(widths, widths[1:]):
            stages += [SameConv2d(before, after), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        self.convolutions = nn.Sequential(*stages)
        self.judge = nn.Linear(widths[-1] * (height // 2**layers) * (width // 2**layers), 1)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        return self.judge(self.convolutions(images).flatten(1))[:, 0]


def build_generator(config: DCGANConfig) -> Generator:
    return Generator(
        config.height,
        config.width,
        z_dim=config.z_dim,
        channels=config.g_channels,
        layers=DEPTHS[config.network],
        extra=config.network == "paper",
        order=config.order,
    )


def build_discriminator(config: DCGANConfig) -> Discriminator:
    return Discriminator(
        config.height, config.width, channels=config.d_channels, layers=DEPTHS[config.network]
    )


def _norm_and_relu(channels: int, order: str) -> nn.Sequential:
    norm: Sequence[nn.Module] = (nn.BatchNorm2d(channels), nn.ReLU())
    return nn.Sequential(*(norm if order == "bn_relu" else reversed(norm)))


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02^2), cut at two standard deviations in D's convolutions; zero biases."""
    if isinstance(module, SameConv2d):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    elif isinstance(module, (nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
        nn.init.zeros_(module.bias)


def _check_size(height: int, width: int, layers: int) -> None:
    if height < 1 or width < 1 or height % 2**layers or width % 2**layers:
        raise InputError(
            f"DCGAN of {layers} layers: height and width must be multiples of {2**layers}, found {height}x{width}"
        )
