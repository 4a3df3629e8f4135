"""Differentiable augmentation of all images that D sees (Zhao et al., 2020): ours, for small training sets.

It applies to real, translated and interpolated images, in D's and in G's step. Without it D memorises the few
thousand training images, and G satisfies it with smudges in the corners.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def augment(images: Tensor) -> Tensor:
    """Flips, shifts with reflection and cuts one hole into each image of `(B, 3, H, W)`; gradients pass.

    Shifts are up to 3/16 of the height and 1/4 of the width; the hole, of colour 0, measures 5/16 of the
    height by 3/8 of the width.
    """
    count, _, height, width = images.shape
    device = images.device
    down, across = 3 * height // 16, width // 4
    padded = F.pad(images, (across, across, down, down), "reflect")
    flip = torch.rand(count) < 0.5
    columns = torch.arange(width) + torch.randint(0, 2 * across + 1, (count, 1))
    columns = torch.where(flip[:, None], columns.flip(1), columns).to(device)
    rows = (torch.arange(height) + torch.randint(0, 2 * down + 1, (count, 1))).to(device)
    crop = padded[torch.arange(count, device=device)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return crop.permute(0, 3, 1, 2) * _holes(count, height, width).to(device)


def _holes(count: int, height: int, width: int) -> Tensor:
    """Returns masks `(B, 1, H, W)`: 0 within a hole at a random place, 1 elsewhere."""
    tall, wide = 5 * height // 16, 3 * width // 8
    top = torch.randint(0, height - tall, (count, 1))
    left = torch.randint(0, width - wide, (count, 1))
    row, column = torch.arange(height), torch.arange(width)
    inside_rows = (row >= top) & (row < top + tall)
    inside_columns = (column >= left) & (column < left + wide)
    return (~(inside_rows[:, :, None] & inside_columns[:, None, :])).float()[:, None]


class AugmentedDiscriminator(nn.Module):
    """A discriminator that sees augmented images only."""

    def __init__(self, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.discriminator(augment(images))
