"""Augmentation of whole batches with random factors per image: geometry, erasing, colour jitter."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ERASING = 0.3  # probability


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flips half of the images, shifts and scales all, erases a rectangle in some; float (B, 3, H, W)."""
    batch, _, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0] = uniform(0.9, 1.05) * (uniform(0, 1) < 0.5).float().mul(2).sub(1)
    theta[:, 1, 1] = uniform(0.9, 1.05)
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-0.12, 0.12), uniform(-0.08, 0.08)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    area, ratio = uniform(0.05, 0.25) * height * width, torch.exp(uniform(math.log(0.4), math.log(2.5)))
    h, w = (area * ratio).sqrt(), (area / ratio).sqrt()
    top, left = uniform(0, 1) * (height - h), uniform(0, 1) * (width - w)
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    inside = (rows >= top[:, None, None]) & (rows < (top + h)[:, None, None])
    inside = inside & (columns >= left[:, None, None]) & (columns < (left + w)[:, None, None])
    inside &= (uniform(0, 1) < ERASING)[:, None, None]
    return torch.where(inside[:, None], images.mean(dim=(2, 3), keepdim=True), images)


def colour_jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Applies torchvision's `ColorJitter(s, s, s, s / 3)`, s = `strength`, with separate factors per image.

    `images` is float (B, 3, H, W) in 0..1. The order of the four changes is drawn once per batch.
    """

    def factor(amount: float, middle: float) -> Tensor:
        return (middle + amount * (2 * torch.rand(len(images), generator=generator) - 1))[:, None, None, None]

    def grey(x: Tensor) -> Tensor:
        return (x * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)

    def towards(x: Tensor, other: Tensor) -> Tensor:
        ratio = factor(strength, 1.0)
        return (ratio * x + (1 - ratio) * other).clamp(0, 1)

    changes = (
        lambda x: towards(x, torch.zeros(())),
        lambda x: towards(x, grey(x).mean(dim=(1, 2, 3), keepdim=True)),
        lambda x: towards(x, grey(x)),
        lambda x: turn_hue(x, factor(strength / 3, 0.0)),
    )
    for index in torch.randperm(4, generator=generator).tolist():
        images = changes[index](images)
    return images


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Shifts the hue (HSV) by `turns` (B, 1, 1, 1), as torchvision's `adjust_hue` does."""
    high, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = (high - low).clamp(min=1e-8)
    red, green, blue = images.split(1, dim=1)
    sector = torch.where(
        high == red,
        (green - blue) / chroma,
        torch.where(high == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma),
    )
    sector = sector + 6 * turns
    # HSV -> RGB: v - c * clamp(min(k, 4 - k), 0, 1), k = (n + 6 h) mod 6
    offsets = torch.tensor([5.0, 3.0, 1.0])[None, :, None, None]
    k = (offsets + sector) % 6
    return high - (high - low) * torch.minimum(k, 4 - k).clamp(0, 1)
