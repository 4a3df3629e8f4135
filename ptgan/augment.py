"""Differentiable augmentation of all images that the discriminators see (Zhao et al., 2020): ours, for small
training sets.

It applies to real images, fakes and fakes of the history, in the generators' and the discriminators' step.
Without it the discriminators memorise the few thousand training images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor) -> Tensor:
    """Flips, shifts with reflection and cuts one hole into each image of `(B, 3, H, W)`; gradients pass.

    Shifts are up to 3/16 of the height and 1/4 of the width; the hole, of colour 0, measures 5/16 of the
    height by 3/8 of the width.
    """
    count, _, height, width = images.shape
    down, across = 3 * height // 16, width // 4
    padded = F.pad(images, (across, across, down, down), "reflect")
    columns = torch.arange(width) + torch.randint(0, 2 * across + 1, (count, 1))
    flip = torch.rand(count, 1) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    rows = torch.arange(height) + torch.randint(0, 2 * down + 1, (count, 1))
    image = torch.arange(count)[:, None, None]
    seen = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return seen * holes(count, height, width).to(images)


def holes(count: int, height: int, width: int) -> Tensor:
    """Returns masks `(B, 1, H, W)`: 0 within a hole at a random place, 1 elsewhere."""
    inside = []
    for side, length in ((height, 5 * height // 16), (width, 3 * width // 8)):
        start = torch.randint(0, side - length + 1, (count, 1))
        inside.append((torch.arange(side) >= start) & (torch.arange(side) < start + length))
    return 1.0 - (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()
