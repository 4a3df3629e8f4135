"""Generator, discriminator and SiaNet (`metric_net`) as Keras models of images `(B, H, W, 3)` in -1..1.

Layers carry the released scopes (`c1_conv`, `r1_instance_norm2`, ...), so that TF1 variables map by name.
Keras' initial values are slim's: Glorot uniform kernels, zero biases. Released counterpart:
`SPGAN/models/models_spgan.py`, `instance_norm` of `Utils/ops.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from common.errors import InputError
from spgan.config import GanConfig


class InstanceNorm(layers.Layer):
    """Each channel of each image to mean 0 and variance 1 (population variance, eps 1e-5), then `scale` ~
    N(1, 0.02) and `offset` 0.
    """

    def build(self, shape):
        self.scale = self.add_weight(
            name="scale", shape=(shape[-1],), initializer=keras.initializers.RandomNormal(1.0, 0.02)
        )
        self.offset = self.add_weight(name="offset", shape=(shape[-1],), initializer="zeros")

    def call(self, x):
        mean, variance = tf.nn.moments(x, axes=[1, 2], keepdims=True)
        return self.scale * (x - mean) * tf.math.rsqrt(variance + 1e-5) + self.offset


class ReflectPad(layers.Layer):
    """`width` reflected pixels on each side."""

    def __init__(self, width: int, **options):
        super().__init__(**options)
        self.width = width

    def call(self, x):
        return tf.pad(x, [[0, 0], [self.width] * 2, [self.width] * 2, [0, 0]], "REFLECT")


class AddChange(layers.Layer):
    """The demo's deviation: image + change, cut to -1..1."""

    def call(self, image, change):
        return tf.clip_by_value(image + change, -1.0, 1.0)


def _norm(x, name: str, activation: str | None = "relu"):
    x = InstanceNorm(name=name)(x)
    return (
        layers.ReLU()(x)
        if activation == "relu"
        else layers.LeakyReLU(negative_slope=0.2)(x)
        if activation == "leaky"
        else x
    )


def generator(
    name: str,
    height: int = 256,
    width: int = 256,
    *,
    channels: int = 64,
    blocks: int = 9,
    residual: bool = False,
) -> keras.Model:
    """7x7 stem, two strided convolutions, residual blocks, two transposed convolutions, 7x7 output, tanh:
    images to images of the same size.

    `residual` gives x + G(x) from a start close to x: short training then keeps the person (not in the
    released code).
    """
    image = keras.Input((height, width, 3))
    x = layers.Conv2D(channels, 7, name="c1_conv")(ReflectPad(3)(image))
    x = _norm(x, "c1_instance_norm")
    for stage in (2, 3):
        x = layers.Conv2D(channels * 2 ** (stage - 1), 3, strides=2, padding="same", name=f"c{stage}_conv")(x)
        x = _norm(x, f"c{stage}_instance_norm")
    for block in range(1, blocks + 1):
        y = layers.Conv2D(channels * 4, 3, name=f"r{block}_conv1")(ReflectPad(1)(x))
        y = _norm(y, f"r{block}_instance_norm1")
        y = layers.Conv2D(channels * 4, 3, name=f"r{block}_conv2")(ReflectPad(1)(y))
        x = layers.Add()([x, _norm(y, f"r{block}_instance_norm2", None)])
    for stage in (1, 2):
        x = layers.Conv2DTranspose(
            channels * 2 ** (2 - stage), 3, strides=2, padding="same", name=f"d{stage}_dconv"
        )(x)
        x = _norm(x, f"d{stage}_instance_norm")
    small = {"kernel_initializer": keras.initializers.RandomNormal(0.0, 0.001)} if residual else {}
    x = layers.Conv2D(3, 7, activation="tanh", name="pred_conv", **small)(ReflectPad(3)(x))
    return keras.Model(image, AddChange()(image, x) if residual else x, name=name)


def discriminator(name: str, height: int = 256, width: int = 256, *, channels: int = 64) -> keras.Model:
    """PatchGAN without a sigmoid: images to scores `(B, H / 8, W / 8, 1)`, each of a patch of 70x70."""
    image = keras.Input((height, width, 3))
    x = layers.LeakyReLU(negative_slope=0.2)(
        layers.Conv2D(channels, 4, strides=2, padding="same", name="h0_conv")(image)
    )
    for stage, stride in ((1, 2), (2, 2), (3, 1)):
        x = layers.Conv2D(channels * 2**stage, 4, strides=stride, padding="same", name=f"h{stage}_conv")(x)
        x = _norm(x, f"h{stage}_instance_norm", "leaky")
    return keras.Model(image, layers.Conv2D(1, 4, padding="same", name="h4_conv")(x), name=name)


def metric_net(
    name: str = "metric", size: int = 256, *, channels: int = 64, head: str = "released"
) -> keras.Model:
    """SiaNet before its normalisation: images `(B, size, size, 3)` to `(B, channels)`, `(B, 2 * channels)`
    for the head `fc128`.

    The released head takes a second input, the factors of its dropout `(B, 2 * channels)`: 0 and 2, or 1 for
    none (see `dropout_factors`). Below 256 pixels nothing is left after the last pooling.
    """
    image = keras.Input((size, size, 3))
    x = image
    for stage in range(4):
        x = layers.Conv2D(channels * 2**stage, 4, strides=2, padding="same", name=f"h{stage}_conv")(x)
        x = layers.MaxPool2D(2)(layers.LeakyReLU(negative_slope=0.2)(x))
    x = layers.Flatten()(x)
    if head != "released":
        return keras.Model(
            image, layers.Dense(channels * (2 if head == "fc128" else 1), name="fc1")(x), name=name
        )
    factors = keras.Input((channels * 2,))
    x = layers.LeakyReLU(negative_slope=0.2)(layers.Dense(channels * 2, name="fc1")(x))
    x = layers.Multiply()([x, factors])
    return keras.Model([image, factors], layers.Dense(channels, name="fc2")(x), name=name)


def embed(sianet: keras.Model, images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Unit embeddings `(B, D)` of images `(B, H, W, 3)` in -1..1; images of another size are resized
    (bilinear), and gradients pass.
    """
    size, images, factors = (
        sianet.inputs[0].shape[1],
        tf.convert_to_tensor(images),
        tf.convert_to_tensor(factors),
    )
    if images.shape[1] != size or images.shape[2] != size:
        images = tf.image.resize(images, (size, size))
    return tf.math.l2_normalize(sianet([images, factors] if len(sianet.inputs) == 2 else images), axis=1)


def dropout_factors(
    kind: str, towers: int, batch: int, width: int, generator: np.random.Generator
) -> np.ndarray:
    """Factors `(towers, batch, width)` of SiaNet's dropout (keep 0.5, inverted): of each tower and image,
    shared by the towers, or all 1.
    """
    if kind == "off":
        return np.ones((towers, batch, width), np.float32)
    factors = 2.0 * generator.integers(0, 2, (towers if kind == "independent" else 1, batch, width))
    return np.broadcast_to(factors, (towers, batch, width)).astype(np.float32)


@dataclass(frozen=True)
class Networks:
    """The five networks; `sianet` is None for CycleGAN."""

    g_s2t: keras.Model
    g_t2s: keras.Model
    d_source: keras.Model
    d_target: keras.Model
    sianet: keras.Model | None

    def items(self) -> list[tuple[str, keras.Model]]:
        return [(name, network) for name, network in vars(self).items() if network is not None]


def build_networks(config: GanConfig, seed: int) -> Networks:
    """Fresh networks; the same seed gives the same weights."""
    keras.utils.set_random_seed(seed)
    size, of_g = (
        (config.height, config.width),
        {"channels": config.g_channels, "blocks": config.blocks, "residual": config.residual},
    )
    sianet = (
        metric_net("sianet", config.sia_size, channels=config.sia_channels, head=config.sia_head)
        if config.lambda3 > 0
        else None
    )
    d_source, d_target = (
        discriminator(name, *size, channels=config.d_channels) for name in ("d_source", "d_target")
    )
    return Networks(
        generator("g_s2t", *size, **of_g), generator("g_t2s", *size, **of_g), d_source, d_target, sianet
    )


def named_variables(network: keras.Model) -> dict[str, keras.Variable]:
    """`<layer>/<kernel, bias, scale, offset>` -> variable."""
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in network.layers
        for variable in layer.trainable_variables
    }


def load_variables(network: keras.Model, arrays: Mapping[str, np.ndarray], origin: str) -> None:
    """Sets every variable of `network` from arrays of the same names; raises `InputError` if one is missing
    or has another shape.
    """
    for name, variable in named_variables(network).items():
        found = arrays.get(name)
        if found is None or found.shape != tuple(variable.shape):
            raise InputError(
                f"{origin}: {network.name}'s {name} should be {tuple(variable.shape)}, found "
                f"{'nothing' if found is None else found.shape}: a checkpoint of another width or depth"
            )
        variable.assign(found)
