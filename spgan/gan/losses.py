"""SPGAN's losses as pure functions: scalars, means over the batch. Released counterpart: the graph of
`SPGAN/train_spgan_demo.py`.

Equation numbers count the paper's formulas in the blog's order: L_adv of the target domain (T) 1 and of the
source domain (S) 2, L_cyc 3, L_ide 4, L_con 5, and their weighted sum L_sp 6.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from spgan.config import GANConfig


class Quadruple(NamedTuple):
    """Both domains and their translations: images `(B, H, W, 3)`, or their unit embeddings `(B, D)`."""

    source: Any  # x_S
    fake_target: Any  # G(x_S)
    target: Any  # x_T
    fake_source: Any  # F(x_T)


def adversarial(scores: tf.Tensor, label: float) -> tf.Tensor:
    """Returns a term of L_adv (LSGAN), the mean over images and patches.

    Labels: 1 for real and 0 for translated images in a discriminator's loss, 1 for translated images in a
    generator's. The blog's Eq. 1 has (D(G(x)) - 1)^2 for the discriminator too: a misprint, which would train
    it to output 1 everywhere.
    """
    return tf.reduce_mean(tf.square(scores - label))  # a term of L_adv, Eqs. 1, 2


def discriminator_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """Returns a discriminator's loss from its scores of real and translated images, halved as released."""
    return (adversarial(real, 1.0) + adversarial(fake, 0.0)) / 2  # L_adv, Eqs. 1, 2


def cycle_loss(image: tf.Tensor, there_and_back: tf.Tensor) -> tf.Tensor:
    """Returns the mean absolute difference of an image and its translation back."""
    return tf.reduce_mean(tf.abs(there_and_back - image))  # a term of L_cyc, Eq. 3


def identity_loss(image: tf.Tensor, translated: tf.Tensor) -> tf.Tensor:
    """Returns the mean absolute change of an image that already has the style of the generator's output."""
    return tf.reduce_mean(tf.abs(translated - image))  # a term of L_ide, Eq. 4


def positive_pair(a: tf.Tensor, b: tf.Tensor, dist: str = "euclid") -> tf.Tensor:
    """Returns d^2 `(B,)` of unit embeddings `(B, D)` that should be close.

    `euclid`: as released. `onecos`: d = 1 - cos as the blog prints it, which is half the squared distance.
    """
    squared = tf.reduce_sum(tf.square(a - b), axis=1)
    if dist == "euclid":
        return squared  # L_con of a positive pair, Eq. 5 with i = 1
    if dist == "onecos":
        return tf.square(squared / 2)  # L_con of a positive pair, Eq. 5 with i = 1
    raise ValueError(f"unknown distance {dist!r}")


def negative_pair(a: tf.Tensor, b: tf.Tensor, margin: float, dist: str = "euclid") -> tf.Tensor:
    """Returns max(m - d, 0)^2 `(B,)` of unit embeddings `(B, D)` that should be far apart.

    The Euclidean distance has 1e-6 under its root, as released. Both distances are in 0..2, so that the hinge
    is always active with m = 2.
    """
    squared = tf.reduce_sum(tf.square(a - b), axis=1)
    if dist == "euclid":
        distance = tf.sqrt(squared + 1e-6)
    elif dist == "onecos":
        distance = squared / 2
    else:
        raise ValueError(f"unknown distance {dist!r}")
    return tf.square(tf.maximum(margin - distance, 0.0))  # L_con of a negative pair, Eq. 5 with i = 0


def contrastive(e: Quadruple, config: GANConfig, *, for_generator: bool) -> dict[str, tf.Tensor]:
    """Returns L_con as `contrastive`, and its parts.

    Positive pairs: an image and its translation (self-similarity). Negative pairs, by `config.neg`:

        real_real   (x_S, x_T), as released: without a translation, so that the generators receive no gradient
        fake_real   (G(x_S), x_T) and (F(x_T), x_S), the paper's domain-dissimilarity
        espgan      the first author's later code: for the generators fake_real at half weight and divisor 4,
                    for SiaNet real_real and divisor 3
    """
    positive_s = tf.reduce_mean(positive_pair(e.source, e.fake_target, config.dist))
    positive_t = tf.reduce_mean(positive_pair(e.target, e.fake_source, config.dist))
    divisor = config.con_div
    if config.neg == "real_real":
        negative = _real_negatives(e, config)
    elif config.neg == "fake_real":
        negative = _fake_negatives(e, config)
    elif config.neg == "espgan":
        negative = _fake_negatives(e, config) / 2 if for_generator else _real_negatives(e, config)
        divisor = 4.0 if for_generator else 3.0
    else:
        raise ValueError(f"unknown negative pairs {config.neg!r}")
    return {
        "contrastive": (positive_s + positive_t + negative) / divisor,  # L_con, Eq. 5
        "positive_s": positive_s,
        "positive_t": positive_t,
        "negative": negative,
    }


def _real_negatives(e: Quadruple, config: GANConfig) -> tf.Tensor:
    """Returns the term of the pair of real images, which counts twice, as released."""
    return 2 * tf.reduce_mean(negative_pair(e.source, e.target, config.margin, config.dist))


def _fake_negatives(e: Quadruple, config: GANConfig) -> tf.Tensor:
    return tf.reduce_mean(
        negative_pair(e.fake_target, e.target, config.margin, config.dist)
        + negative_pair(e.fake_source, e.source, config.margin, config.dist)
    )
