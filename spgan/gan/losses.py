"""SPGAN's losses as pure functions; scalars, means over the batch. Released counterpart: the graph of
`SPGAN/train_spgan_demo.py`.
"""

from __future__ import annotations

import tensorflow as tf


def adversarial(scores: tf.Tensor, wanted: float) -> tf.Tensor:
    """LSGAN: mean of (D(x) - wanted)^2 over images and patches. D wants 1 of real and 0 of translated images,
    G wants 1 of its own.

    The blog's L_Tadv has (D(G(x)) - 1)^2 for D too, a misprint: D would be trained to say 1 of everything.
    """
    return tf.reduce_mean(tf.square(scores - wanted))


def discriminator_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """Scores of real and of translated images to D's loss, halved as released."""
    return (adversarial(real, 1.0) + adversarial(fake, 0.0)) / 2


def absolute(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """L1 per value: of the cycle and of the identity mapping."""
    return tf.reduce_mean(tf.abs(a - b))


def positive_pair(a: tf.Tensor, b: tf.Tensor, dist: str = "euclid") -> tf.Tensor:
    """d^2 of unit embeddings `(B, D)` that should be near: `(B,)`. `onecos`: d = 1 - cos, as the blog prints
    it, half the squared distance.
    """
    squared = tf.reduce_sum(tf.square(a - b), axis=1)
    return squared if dist == "euclid" else tf.square(squared / 2)


def negative_pair(a: tf.Tensor, b: tf.Tensor, margin: float, dist: str = "euclid") -> tf.Tensor:
    """max(m - d, 0)^2 of unit embeddings `(B, D)` that should be far: `(B,)`; Euclid has 1e-6 under its root,
    as released.

    Both distances lie in 0..2, so with m = 2 the hinge never switches off.
    """
    squared = tf.reduce_sum(tf.square(a - b), axis=1)
    distance = tf.sqrt(squared + 1e-6) if dist == "euclid" else squared / 2
    return tf.square(tf.maximum(margin - distance, 0.0))


def contrastive(
    source: tf.Tensor,
    fake_target: tf.Tensor,
    target: tf.Tensor,
    fake_source: tf.Tensor,
    *,
    margin: float,
    neg: str = "real_real",
    divisor: float = 3.0,
    dist: str = "euclid",
    for_generator: bool = True,
) -> dict[str, tf.Tensor]:
    """`contrastive` and its parts from unit embeddings `(B, D)` of x_S, G(x_S), x_T and F(x_T).

    Positives: an image and its translation (self-similarity). Negatives, by `neg`:

        real_real   (x_S, x_T), released: no translation is in them, so they give the generators no gradient,
        whatever the margin
        fake_real   (G(x_S), x_T) and (F(x_T), x_S), the paper's domain-dissimilarity
        espgan      fake_real at half weight over 4 for the generators, real_real over 3 for SiaNet (the first
        author's later code)
    """
    positive_s, positive_t = (
        tf.reduce_mean(positive_pair(a, b, dist)) for a, b in ((source, fake_target), (target, fake_source))
    )
    if neg == "real_real" or (neg == "espgan" and not for_generator):
        negative = 2 * tf.reduce_mean(negative_pair(source, target, margin, dist))
    else:
        negative = tf.reduce_mean(
            negative_pair(fake_target, target, margin, dist)
            + negative_pair(fake_source, source, margin, dist)
        )
    if neg == "espgan":
        negative, divisor = (negative / 2, 4.0) if for_generator else (negative, 3.0)
    return {
        "contrastive": (positive_s + positive_t + negative) / divisor,
        "positive_s": positive_s,
        "positive_t": positive_t,
        "negative": negative,
    }
