"""Camera StarGAN: a generator for any camera's style, and a patch discriminator that classifies cameras.

Released counterpart: `stargan4reid/model.py`; the layers keep its names, so that `<iteration>-G.ckpt` and
`<iteration>-D.ckpt` load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checkpoints import load_strictly, read_state_dict
from common.errors import InputError


def camera_one_hot(camera: Tensor, num_cameras: int) -> Tensor:
    """Encodes camera indices `(B,)`, 0-based, as float `(B, num_cameras)`."""
    return F.one_hot(camera, num_cameras).float()


class ImageNorm2d(nn.InstanceNorm2d):
    """Instance norm that always uses the image's own statistics.

    The released norm keeps running statistics but is never in evaluation mode, not even for translation; with
    them the images would be wrong. Here the mode makes no difference. The buffers exist for the checkpoints
    only: they are neither read nor updated.
    """

    def __init__(self, channels: int):
        super().__init__(channels, affine=True, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        # one group per channel is the same, and faster on a CPU
        return F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)


class CameraNorm2d(nn.Module):
    """Conditional instance norm (Dumoulin et al., 2017): gains and biases are those of the target camera.

    Ours. Instance norm cancels a constant label plane, so that in a small generator the target camera enters
    through the zero-padded border only; here it reaches every pixel.
    """

    def __init__(self, channels: int, num_cameras: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_cameras, channels))
        self.bias = nn.Parameter(torch.zeros(num_cameras, channels))

    def forward(self, x: Tensor, camera: Tensor) -> Tensor:
        """Normalises `(B, C, H, W)` with the affine maps of the cameras `(B, num_cameras)`, one-hot."""
        gain, bias = ((camera @ values)[:, :, None, None] for values in (self.weight, self.bias))
        return F.group_norm(x, x.shape[1]) * gain + bias


class CameraSequential(nn.Sequential):
    """Layers of which some need the target camera as well."""

    def forward(self, x: Tensor, camera: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, camera) if isinstance(layer, (CameraNorm2d, ResidualBlock)) else layer(x)
        return x


class ResidualBlock(nn.Module):
    """Adds two 3x3 convolutions to x; no ReLU after the sum."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.main = CameraSequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            norm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            norm(channels),
        )

    def forward(self, x: Tensor, camera: Tensor) -> Tensor:
        return x + self.main(x, camera)


class Generator(nn.Module):
    """G(x, c): 7x7 stem, strided convolutions, residual blocks, transposed convolutions, 7x7 output, tanh.

    Zero padding is part of the design: instance norm cancels a constant label plane except at the border.
    `residual=True`, a deviation of demo and scratch_cpu, returns x + G(x, c), clamped to -1..1, and starts
    close to x: short training then keeps the person. `conditional_norm=True`, ours: see `CameraNorm2d`.
    `uniform_gamma=True` draws the norms' gains from U(0, 1), as PyTorch 0.4 did; today's default is 1. It has
    no effect on `CameraNorm2d`.
    """

    def __init__(
        self,
        num_cameras: int,
        *,
        width: int = 64,
        blocks: int = 6,
        downsamplings: int = 2,
        residual: bool = False,
        conditional_norm: bool = False,
        uniform_gamma: bool = False,
    ):
        super().__init__()
        self.num_cameras, self.residual = num_cameras, residual

        def norm(channels: int) -> nn.Module:
            return CameraNorm2d(channels, num_cameras) if conditional_norm else ImageNorm2d(channels)

        layers: list[nn.Module] = [
            nn.Conv2d(3 + num_cameras, width, 7, padding=3, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
        ]
        for _ in range(downsamplings):
            layers += [
                nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
                norm(2 * width),
                nn.ReLU(inplace=True),
            ]
            width *= 2
        layers += [ResidualBlock(width, norm) for _ in range(blocks)]
        for _ in range(downsamplings):
            layers += [
                nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1, bias=False),
                norm(width // 2),
                nn.ReLU(inplace=True),
            ]
            width //= 2
        output = nn.Conv2d(width, 3, 7, padding=3, bias=False)
        self.main = CameraSequential(*layers, output, nn.Tanh())

        if residual:
            nn.init.normal_(output.weight, std=0.001)
        if uniform_gamma:
            for layer in (m for m in self.modules() if isinstance(m, ImageNorm2d)):
                nn.init.uniform_(layer.weight)

    def forward(self, images: Tensor, camera: Tensor) -> Tensor:
        """Translates images `(B, 3, H, W)` in -1..1 to the cameras `(B, num_cameras)`, one-hot."""
        planes = camera[:, :, None, None].expand(-1, -1, *images.shape[2:])
        output = self.main(torch.cat([images, planes], dim=1), camera)
        return (images + output).clamp(-1, 1) if self.residual else output


class Discriminator(nn.Module):
    """Scores patches and classifies the camera of the whole image; no normalisation.

    Raises `InputError` if height or width is not a multiple of 2^layers: the camera head covers the last map.
    """

    def __init__(self, num_cameras: int, height: int, width: int, *, base: int = 64, layers: int = 6):
        super().__init__()
        if min(height, width) < 1 or height % 2**layers or width % 2**layers:
            raise InputError(
                f"StarGAN discriminator of {layers} layers: height and width must be multiples of "
                f"{2**layers}, found {height}x{width}"
            )
        trunk: list[nn.Module] = []
        channels = 3
        for width_out in (base * 2**i for i in range(layers)):
            trunk += [nn.Conv2d(channels, width_out, 4, stride=2, padding=1), nn.LeakyReLU(0.01)]
            channels = width_out
        self.main = nn.Sequential(*trunk)
        self.conv1 = nn.Conv2d(channels, 1, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, num_cameras, (height // 2**layers, width // 2**layers), bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `(B, 3, H, W)` to patch scores `(B, 1, H/2^layers, W/2^layers)` and logits `(B, cameras)`."""
        features = self.main(images)
        return self.conv1(features), self.conv2(features).flatten(1)


def load_released_generator(generator: Generator, checkpoint: str | Path | Mapping) -> None:
    """Loads `<iteration>-G.ckpt` of the authors' code; `InputError` for another number of cameras, say."""
    load_strictly(generator, read_state_dict(checkpoint), checkpoint)


def load_released_discriminator(discriminator: Discriminator, checkpoint: str | Path | Mapping) -> None:
    """Loads `<iteration>-D.ckpt`; `InputError` for another image size, say."""
    load_strictly(discriminator, read_state_dict(checkpoint), checkpoint)
