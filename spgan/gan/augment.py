"""Differentiable augmentation of all images that the discriminators see (Zhao et al., 2020): ours, for small
training sets.

It applies to real, translated and pooled images, in the generators' and the discriminators' step. Without it
the discriminators memorise the few thousand training images.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

NUMBERS = 5  # drawn for each image: flip, shift down and across, top and left of the hole


def limits(height: int, width: int) -> tuple[int, int, int, int]:
    """Returns the largest shift down and across, and the hole's height and width, in pixels."""
    return 3 * height // 16, width // 4, 5 * height // 16, 3 * width // 8


def draw_augmentations(rng: np.random.Generator, shape: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """Draws the numbers of `augment` for images of `size` (height, width): float32 `(*shape, 5)`."""
    (height, width), (down, across, tall, wide) = size, limits(*size)
    bounds = ((0, 1), (-down, down), (-across, across), (0, height - tall), (0, width - wide))
    drawn = [rng.integers(low, high, shape, endpoint=True) for low, high in bounds]
    return np.stack(drawn, axis=-1).astype(np.float32)


def augment(images: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
    """Flips, shifts with reflection and cuts one hole (0) into each image of `(B, H, W, 3)` by the numbers
    `drawn` `(B, 5)` of `draw_augmentations`; gradients pass.
    """
    height, width = images.shape[1:3]
    _, _, tall, wide = limits(height, width)
    flip, down, across, top, left = tf.unstack(tf.cast(drawn, tf.int32), axis=1)
    row, column = tf.range(height)[None], tf.range(width)[None]
    inside_rows = (row >= top[:, None]) & (row < top[:, None] + tall)
    inside_columns = (column >= left[:, None]) & (column < left[:, None] + wide)
    hole = inside_rows[:, :, None] & inside_columns[:, None, :]

    columns = tf.where(flip[:, None] == 1, width - 1 - column, column)
    shifted = tf.gather(images, _reflected(row + down[:, None], height), axis=1, batch_dims=1)
    shifted = tf.gather(shifted, _reflected(columns + across[:, None], width), axis=2, batch_dims=1)
    return tf.where(hole[..., None], tf.zeros((), images.dtype), shifted)


def _reflected(index: tf.Tensor, size: int) -> tf.Tensor:
    """Maps indices beyond the border to those of the mirrored image, without repeating the border."""
    last = size - 1
    return last - tf.abs(last - tf.abs(index))
