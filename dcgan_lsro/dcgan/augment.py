"""Differentiable augmentation of all images that D sees (Zhao et al., 2020): ours, for small training sets.

It applies to real and generated images alike, in D's and in G's step, so that G cannot learn to produce the
augmentation itself: only undistorted images look real after it. Colours stay as they are; flips are left to
`dcgan.flip`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcgan_lsro.dcgan.model import Discriminator


def augment(images: Tensor) -> Tensor:
    """Shifts each image of `(B, 3, H, W)` with reflection and cuts one hole into it; gradients pass.

    Shifts are up to 1/8 of height and width. The hole is half as high and half as wide as the image, grey
    (0), and its centre lies anywhere in the image (Zhao et al.: the same sizes).
    """
    count, _, height, width = images.shape
    rows, columns = (
        _reflected(torch.arange(side) + torch.randint(-(side // 8), side // 8 + 1, (count, 1)), side)
        for side in (height, width)
    )
    image = torch.arange(count)[:, None, None]
    shifted = images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return shifted.permute(0, 3, 1, 2) * holes(count, height, width).to(images)


def _reflected(places: Tensor, side: int) -> Tensor:
    """Mirrors places outside of 0..side-1 at the first and the last of them: -1 is 1, side is side - 2."""
    return side - 1 - (side - 1 - places.abs()).abs()


def holes(count: int, height: int, width: int) -> Tensor:
    """Returns masks `(B, 1, H, W)`: 0 within a hole at a random place, 1 elsewhere."""
    in_rows, in_columns = (
        (torch.arange(side) - torch.randint(0, side, (count, 1)) + side // 4).div(
            side // 2, rounding_mode="floor"
        )
        == 0
        for side in (height, width)
    )
    return 1.0 - (in_rows[:, None, :, None] & in_columns[:, None, None, :]).float()


class AugmentedDiscriminator(Discriminator):
    """A discriminator that sees augmented images only."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(augment(images))
