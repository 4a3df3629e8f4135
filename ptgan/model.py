"""The networks of PTGAN: two ResNet generators, one for each direction, and two patch discriminators.

The released ones use TensorFlow, whose SAME padding is not PyTorch's. With `pad_mode="tf_same"` its weights
produce the same outputs here; `symmetric` pads as PyTorch's CycleGAN does, which shifts features by a pixel.
No convolution has a bias. Released counterpart: `module.py` (`generator_resnet`, `discriminator`), `ops.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptgan.augment import augment
from ptgan.config import GANConfig


class InstanceNorm2d(nn.Module):
    """Normalises each channel of each image to mean 0 and variance 1 (biased, eps 1e-5), then applies a
    learned scale, initially from N(1, 0.02), and offset.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(channels).normal_(1.0, 0.02))
        self.offset = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        # group norm with one channel per group is equivalent, and faster on a CPU
        return F.group_norm(x, x.shape[1], self.scale, self.offset, eps=1e-5)


def convolution(channels_in: int, channels_out: int, kernel: int, stride: int, pad_mode: str) -> nn.Module:
    """Returns TensorFlow's SAME convolution of an even-sized map, or one with symmetric padding.

    SAME pads (0, 1) for kernel 3 stride 2, (1, 1) for kernel 4 stride 2, (1, 2) for kernel 4 stride 1: left
    and top, then right and bottom.
    """
    total = max(kernel - stride, 0)
    before, after = total // 2, total - total // 2
    if pad_mode == "symmetric":
        before = after = 1
    conv = nn.Conv2d(
        channels_in, channels_out, kernel, stride, padding=before if before == after else 0, bias=False
    )
    return conv if before == after else nn.Sequential(nn.ZeroPad2d((before, after, before, after)), conv)


class Deconvolution(nn.Module):
    """Transposed convolution, kernel 3, stride 2: `(B, C, H, W) -> (B, D, 2H, 2W)`. SAME drops the last row
    and column of the full result.
    """

    def __init__(self, channels_in: int, channels_out: int, pad_mode: str):
        super().__init__()
        padding = 1 if pad_mode == "symmetric" else 0
        self.conv = nn.ConvTranspose2d(
            channels_in, channels_out, 3, stride=2, padding=padding, output_padding=padding, bias=False
        )
        self.crop = pad_mode == "tf_same"

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x[:, :, :-1, :-1] if self.crop else x


def normed(layer: nn.Module, channels: int) -> list[nn.Module]:
    """Returns a layer with its instance norm and ReLU."""
    return [layer, InstanceNorm2d(channels), nn.ReLU(inplace=True)]


class ResidualBlock(nn.Module):
    """x + f(x); no ReLU after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.ReflectionPad2d(1),
            *normed(nn.Conv2d(channels, channels, 3, bias=False), channels),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x)


class Generator(nn.Module):
    """Translates images `(B, 3, H, W)` in -1..1 to the other domain, same shape and range; H and W are
    multiples of 2^downsamplings.

    `residual=True`, the demo's deviation, returns x + G(x), clamped to -1..1, and starts close to x, so that
    short training keeps the person.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        blocks: int = 9,
        downsamplings: int = 2,
        pad_mode: str = "tf_same",
        residual: bool = False,
    ):
        super().__init__()
        self.residual = residual
        width = channels
        layers = [nn.ReflectionPad2d(3), *normed(nn.Conv2d(3, width, 7, bias=False), width)]
        for _ in range(downsamplings):
            layers += normed(convolution(width, 2 * width, 3, 2, pad_mode), 2 * width)
            width *= 2
        layers += [ResidualBlock(width) for _ in range(blocks)]
        for _ in range(downsamplings):
            layers += normed(Deconvolution(width, width // 2, pad_mode), width // 2)
            width //= 2
        output = nn.Conv2d(width, 3, 7, bias=False)
        self.main = nn.Sequential(*layers, nn.ReflectionPad2d(3), output, nn.Tanh())

        initialise(self)
        if residual:
            nn.init.normal_(output.weight, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        output = self.main(x)
        return (x + output).clamp(-1, 1) if self.residual else output


class Discriminator(nn.Module):
    """Scores patches, of 70x70 for three layers: `(B, 3, H, W)` in -1..1 to `(B, 1, H / 2^layers, W /
    2^layers)` (symmetric: 2 cells less).

    `augmented=True`, the study's deviation, scores `augment(x)`: it sees no image as it is.
    """

    def __init__(
        self, *, channels: int = 64, layers: int = 3, pad_mode: str = "tf_same", augmented: bool = False
    ):
        super().__init__()
        self.augmented = augmented
        width = channels
        main: list[nn.Module] = [convolution(3, width, 4, 2, pad_mode), nn.LeakyReLU(0.2, inplace=True)]
        for stride in [2] * (layers - 1) + [1]:
            main += [
                convolution(width, 2 * width, 4, stride, pad_mode),
                InstanceNorm2d(2 * width),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            width *= 2
        self.main = nn.Sequential(*main, convolution(width, 1, 4, 1, pad_mode))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(augment(x) if self.augmented else x)


class TransferNetworks(nn.Module):
    """G (`g_s2t`), the opposite generator F (`g_t2s`), and the discriminators of both domains."""

    def __init__(self, config: GANConfig):
        super().__init__()
        self.g_s2t, self.g_t2s = (build_generator(config) for _ in range(2))
        self.d_source, self.d_target = (
            Discriminator(
                channels=config.d_channels,
                layers=config.d_layers,
                pad_mode=config.pad_mode,
                augmented=config.augment_d,
            )
            for _ in range(2)
        )

    @property
    def generators(self) -> list[nn.Parameter]:
        return [*self.g_s2t.parameters(), *self.g_t2s.parameters()]

    @property
    def discriminators(self) -> list[nn.Parameter]:
        return [*self.d_source.parameters(), *self.d_target.parameters()]


def build_generator(config: GANConfig) -> Generator:
    return Generator(
        channels=config.channels,
        blocks=config.blocks,
        downsamplings=config.downsamplings,
        pad_mode=config.pad_mode,
        residual=config.residual,
    )


def initialise(network: nn.Module) -> None:
    """Draws convolutions from N(0, 0.02^2), truncated at two standard deviations, as released."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
