"""Generator, discriminator and SiaNet (`metric_net`) as Keras models of images `(B, H, W, 3)` in -1..1.

Layers carry the released scopes (`c1_conv`, `r1_instance_norm2`, ...), so that TF1 variables map by name.
Keras initialises as slim does: Glorot uniform kernels, zero biases. Released counterpart:
`SPGAN/models/models_spgan.py`, `instance_norm` of `Utils/ops.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from common.errors import InputError
from spgan.config import GANConfig


class InstanceNorm(layers.Layer):
    """Normalises each channel of each image (population variance, eps 1e-5), then scales and shifts it.

    `scale` starts at N(1, 0.02), `offset` at 0.
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
    """Pads an image with `width` reflected pixels on each side."""

    def __init__(self, width: int, **options: Any):
        super().__init__(**options)
        self.width = width

    def call(self, x):
        return tf.pad(x, [[0, 0], [self.width] * 2, [self.width] * 2, [0, 0]], "REFLECT")


class AddChange(layers.Layer):
    """Adds the generator's output to its image and clips to -1..1: the demo's deviation."""

    def call(self, image, change):
        return tf.clip_by_value(image + change, -1.0, 1.0)


def _leaky(x):
    return layers.LeakyReLU(negative_slope=0.2)(x)


def _norm(x, name: str, kind: str):
    return InstanceNorm(name=name)(x) if kind == "instance" else x


def _norm_relu(x, name: str, kind: str):
    return layers.ReLU()(_norm(x, name, kind))


def generator(name: str, config: GANConfig) -> keras.Model:
    """Builds a generator: images to images of the same size.

    7x7 stem, two strided convolutions, residual blocks, two transposed convolutions, 7x7 output, tanh. With
    `config.residual` it returns x + G(x), initially close to x: short training then preserves the person (not
    in the released code).
    """
    channels, norm = config.g_channels, config.g_norm
    # without norms Glorot's kernels would halve the variance in each layer
    start = {"kernel_initializer": "he_uniform"} if norm == "none" else {}
    image = keras.Input((config.height, config.width, 3))
    x = layers.Conv2D(channels, 7, name="c1_conv", **start)(ReflectPad(3)(image))
    x = _norm_relu(x, "c1_instance_norm", norm)
    for stage in (2, 3):
        x = layers.Conv2D(
            channels * 2 ** (stage - 1), 3, strides=2, padding="same", name=f"c{stage}_conv", **start
        )(x)
        x = _norm_relu(x, f"c{stage}_instance_norm", norm)
    for block in range(1, config.blocks + 1):
        y = layers.Conv2D(channels * 4, 3, name=f"r{block}_conv1", **start)(ReflectPad(1)(x))
        y = _norm_relu(y, f"r{block}_instance_norm1", norm)
        y = layers.Conv2D(channels * 4, 3, name=f"r{block}_conv2", **start)(ReflectPad(1)(y))
        x = layers.Add()([x, _norm(y, f"r{block}_instance_norm2", norm)])
    for stage in (1, 2):
        width = channels * 2 ** (2 - stage)
        x = layers.Conv2DTranspose(width, 3, strides=2, padding="same", name=f"d{stage}_dconv", **start)(x)
        x = _norm_relu(x, f"d{stage}_instance_norm", norm)
    small = {"kernel_initializer": keras.initializers.RandomNormal(0.0, 0.001)} if config.residual else {}
    x = layers.Conv2D(3, 7, activation="tanh", name="pred_conv", **small)(ReflectPad(3)(x))
    return keras.Model(image, AddChange()(image, x) if config.residual else x, name=name)


def discriminator(name: str, config: GANConfig) -> keras.Model:
    """Builds a PatchGAN without a sigmoid: images to scores `(B, H / 8, W / 8, 1)` of 70x70 patches."""
    image = keras.Input((config.height, config.width, 3))
    x = _leaky(layers.Conv2D(config.d_channels, 4, strides=2, padding="same", name="h0_conv")(image))
    for stage, stride in ((1, 2), (2, 2), (3, 1)):
        width = config.d_channels * 2**stage
        x = layers.Conv2D(width, 4, strides=stride, padding="same", name=f"h{stage}_conv")(x)
        x = _leaky(_norm(x, f"h{stage}_instance_norm", config.d_norm))
    return keras.Model(image, layers.Conv2D(1, 4, padding="same", name="h4_conv")(x), name=name)


def metric_net(name: str, config: GANConfig) -> keras.Model:
    """Builds SiaNet before its normalisation: square images to `(B, sia_channels)`; `fc128`: twice as wide.

    The released head takes a second input, the factors of its dropout `(B, 2 * sia_channels)`: 0 and 2, or 1
    for none (see `dropout_factors`). Images below 256 pixels vanish before the last pooling.
    """
    channels = config.sia_channels
    image = x = keras.Input((config.sia_size, config.sia_size, 3))
    for stage in range(4):
        x = layers.Conv2D(channels * 2**stage, 4, strides=2, padding="same", name=f"h{stage}_conv")(x)
        x = layers.MaxPool2D(2)(_leaky(x))
    x = layers.Flatten()(x)
    if config.sia_head != "released":
        width = channels * (2 if config.sia_head == "fc128" else 1)
        return keras.Model(image, layers.Dense(width, name="fc1")(x), name=name)
    factors = keras.Input((channels * 2,))
    x = layers.Multiply()([_leaky(layers.Dense(channels * 2, name="fc1")(x)), factors])
    return keras.Model([image, factors], layers.Dense(channels, name="fc2")(x), name=name)


def embed(sianet: keras.Model, images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Returns unit embeddings `(B, D)` of images `(B, H, W, 3)` in -1..1.

    Images of another size are resized bilinearly; gradients pass through the resize.
    """
    size = sianet.inputs[0].shape[1]
    images, factors = tf.convert_to_tensor(images), tf.convert_to_tensor(factors)
    if images.shape[1] != size or images.shape[2] != size:
        images = tf.image.resize(images, (size, size))
    return tf.math.l2_normalize(sianet([images, factors] if len(sianet.inputs) == 2 else images), axis=1)


def dropout_factors(
    kind: str, towers: int, batch: int, width: int, generator: np.random.Generator
) -> np.ndarray:
    """Returns factors `(towers, batch, width)` of SiaNet's dropout (keep 0.5, inverted).

    `independent`: drawn for each tower and image; `shared`: for each image; `off`: all 1.
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


def build_networks(config: GANConfig, seed: int) -> Networks:
    """Builds all networks; the same seed leads to the same weights."""
    keras.utils.set_random_seed(seed)
    sianet = metric_net("sianet", config) if config.lambda3 > 0 else None
    d_source, d_target = (discriminator(name, config) for name in ("d_source", "d_target"))
    return Networks(generator("g_s2t", config), generator("g_t2s", config), d_source, d_target, sianet)


def named_variables(network: keras.Model) -> dict[str, keras.Variable]:
    """Returns `<layer>/<kernel, bias, scale, offset>` -> variable."""
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in network.layers
        for variable in layer.trainable_variables
    }


def load_variables(network: keras.Model, arrays: Mapping[str, np.ndarray], origin: str) -> None:
    """Sets the variables of `network` from the arrays `<network>/<layer>/<kind>`. Raises `InputError` for one
    that is missing or has another shape.
    """
    for name, variable in named_variables(network).items():
        array = arrays.get(f"{network.name}/{name}")
        if array is None or array.shape != tuple(variable.shape):
            raise InputError(
                f"{origin}: {network.name}'s {name} should be {tuple(variable.shape)}, found "
                f"{'nothing' if array is None else array.shape}: a checkpoint of another width or depth"
            )
        variable.assign(array)
