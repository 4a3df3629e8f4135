"""Training images of two domains, unpaired: flip, resize, random crop, -1..1, on `tf.data`.

The order of the images, their flips and their crops depend on the seed and the step alone, so that a resumed
run sees the batches of an uninterrupted one. Released counterpart: `image_batch` of `SPGAN/Utils/data.py`,
whose order varies with its four threads and its shuffle queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from common.datasets.images import is_plain, read_image
from common.datasets.plans import random_stream
from common.errors import InputError
from common.job import Workspace
from spgan.config import GANConfig


def iterations(config: GANConfig, source: int, target: int) -> int:
    """Returns the number of training steps: `epochs` passes over the smaller domain, rounded down to a
    multiple of `round_down`. Raises `InputError` if no step is left, and for a domain of one image.
    """
    if min(source, target) < 2:
        raise InputError(f"{source} and {target} training images: expected at least two in each domain")
    steps = int(config.epochs * (min(source, target) // config.batch))
    steps = steps // config.round_down * config.round_down
    if steps < 1:
        raise InputError(
            f"--gan.epochs {config.epochs} with --gan.batch {config.batch} and --gan.round-down "
            f"{config.round_down}: no step is left of {min(source, target)} images; use more epochs or a "
            "smaller batch"
        )
    return steps


def plan(count: int, images: int, config: GANConfig, seed: int, stream: str) -> dict[str, np.ndarray]:
    """Returns `index`, `flip`, `top` and `left` `(images,)` of the first `images` training images of a domain
    with `count` images, in endless shuffled passes.
    """
    passes = -(-images // count)
    orders = [random_stream(seed, stream, number).permutation(count) for number in range(passes)]
    draw = random_stream(seed, f"{stream} crop")
    return {
        "index": np.concatenate(orders)[:images],
        "flip": draw.random(images) < 0.5,
        "top": draw.integers(0, config.load_height - config.height + 1, images),
        "left": draw.integers(0, config.load_width - config.width + 1, images),
    }


def resize(image: tf.Tensor, height: int, width: int, kind: str) -> tf.Tensor:
    """Resizes bilinearly to float32 `(height, width, 3)`. `legacy`: TF1's sampler without half-pixel centres,
    about half a source pixel off from today's.
    """
    if kind == "legacy":
        return tf.compat.v1.image.resize_bilinear(image[None], (height, width))[0]
    return tf.image.resize(image, (height, width))


def augment(
    image: tf.Tensor, flip: tf.Tensor, top: tf.Tensor, left: tf.Tensor, config: GANConfig
) -> tf.Tensor:
    """Flips, resizes and crops uint8 `(h, w, 3)` to float32 `(height, width, 3)` in -1..1."""
    image = tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)
    image = resize(image, config.load_height, config.load_width, config.resize)
    return image[top : top + config.height, left : left + config.width] / 127.5 - 1


def batches(
    paths: Sequence[str], drawn: Mapping[str, np.ndarray], config: GANConfig, threads: int
) -> tf.data.Dataset:
    """Returns the batches `(B, height, width, 3)` of the images that `drawn`, a part of a `plan`, lists.

    Pillow reads the files that TensorFlow cannot, or would show otherwise (16 bits, EXIF orientation).
    """
    files = tf.constant(list(paths))
    plain = [is_plain(path) for path in paths]

    def by_tensorflow(path: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)

    def by_pillow(path: tf.Tensor) -> tf.Tensor:
        read = lambda name: np.asarray(read_image(name.decode()))  # noqa: E731
        return tf.numpy_function(read, [path], tf.uint8, stateful=False)

    def decoded(index: tf.Tensor) -> tf.Tensor:
        path = files[index]
        if all(plain):
            return by_tensorflow(path)
        return tf.cond(tf.constant(plain)[index], lambda: by_tensorflow(path), lambda: by_pillow(path))

    def load(draw: dict[str, tf.Tensor]) -> tf.Tensor:
        image = tf.ensure_shape(decoded(draw["index"]), (None, None, 3))
        image = augment(image, draw["flip"], draw["top"], draw["left"], config)
        return tf.ensure_shape(image, (config.height, config.width, 3))

    parallel = {} if threads == 1 else {"num_parallel_calls": 4, "deterministic": True}
    dataset = tf.data.Dataset.from_tensor_slices(drawn).map(load, **parallel)
    options = tf.data.Options()
    if threads:
        options.threading.private_threadpool_size = threads
    return dataset.batch(config.batch, drop_remainder=True).prefetch(4).with_options(options)


def pairs(
    source: Sequence[str], target: Sequence[str], config: GANConfig, work: Workspace, steps: range
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields a source and a target batch for each of `steps`. Raises `InputError` with the name of a file
    that cannot be decoded.
    """
    domains = []
    for paths, stream in ((source, "source"), (target, "target")):
        all_steps = plan(len(paths), steps.stop * config.batch, config, work.seed, stream)
        drawn = {name: values[steps.start * config.batch :] for name, values in all_steps.items()}
        domains.append(batches(paths, drawn, config, work.options.threads))
    try:
        yield from tf.data.Dataset.zip(tuple(domains)).as_numpy_iterator()
    except tf.errors.OpError as error:
        for path in (*source, *target):
            read_image(path)
        raise InputError(
            f"an image of the training sets cannot be decoded: {' '.join(error.message.split())[:200]}"
        ) from None


def probe_images(paths: Sequence[str], config: GANConfig, count: int = 24) -> np.ndarray:
    """Returns up to `count` evenly spaced images of a list, resized without a crop: `(n, height, width, 3)`
    in -1..1.
    """
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))
    images = [tf.constant(np.asarray(read_image(paths[i]))) for i in chosen]
    rows = [resize(image, config.height, config.width, config.resize) for image in images]
    return np.stack(rows) / np.float32(127.5) - 1
