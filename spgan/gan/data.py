"""Training images of two domains, unpaired: flip, resize, random crop, -1..1, on `tf.data`.

Which image comes when, its flip and its crop are a pure function of the seed and the step, so that a resumed
run sees what an unbroken one sees. Released counterpart: `image_batch` of `SPGAN/Utils/data.py`, whose four
threads and shuffle queue give no fixed order.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from common.datasets.images import read_image
from common.errors import InputError
from spgan.config import GanConfig


def iterations(config: GanConfig, source: int, target: int) -> int:
    """Steps of a whole training: `epochs` passes of the smaller domain, rounded down to a multiple of
    `round_down`.
    """
    if min(source, target) < 2:
        raise InputError(f"{source} and {target} training images: expected at least two in each domain")
    steps = int(config.epochs * (min(source, target) // config.batch))
    steps = steps // config.round_down * config.round_down
    if steps < 1:
        raise InputError(
            f"--gan.epochs {config.epochs} with --gan.batch {config.batch} and --gan.round-down {config.round_down}: no step is left "
            f"of {min(source, target)} images"
        )
    return steps


def generator_for(seed: int, stream: str, *place: int) -> np.random.Generator:
    """NumPy's generator of one place of a named random stream."""
    return np.random.default_rng((seed, zlib.crc32(stream.encode()), *place))


def plan(count: int, images: int, config: GanConfig, seed: int, stream: str) -> dict[str, np.ndarray]:
    """`index`, `flip`, `top` and `left` of the first `images` training images of a domain of `count`:
    shuffled passes without an end.
    """
    passes = -(-images // count)
    index = np.concatenate(
        [generator_for(seed, stream, number).permutation(count) for number in range(passes)]
    )[:images]
    draw = generator_for(seed, f"{stream} crop")
    return {
        "index": index,
        "flip": draw.random(images) < 0.5,
        "top": draw.integers(0, config.load_height - config.height + 1, images),
        "left": draw.integers(0, config.load_width - config.width + 1, images),
    }


def resize(image: tf.Tensor, height: int, width: int, kind: str) -> tf.Tensor:
    """Bilinear, float32 `(height, width, 3)`. `legacy`: TF1's sampler (no half-pixel centres), about half a
    source pixel off from today's.
    """
    if kind == "legacy":
        return tf.compat.v1.image.resize_bilinear(image[None], (height, width))[0]
    return tf.image.resize(image, (height, width))


def augment(
    image: tf.Tensor, flip: tf.Tensor, top: tf.Tensor, left: tf.Tensor, config: GanConfig
) -> tf.Tensor:
    """uint8 `(h, w, 3)` to float32 `(height, width, 3)` in -1..1."""
    image = tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)
    image = resize(image, config.load_height, config.load_width, config.resize)
    return image[top : top + config.height, left : left + config.width] / 127.5 - 1


def batches(
    paths: Sequence[str], config: GanConfig, seed: int, stream: str, start: int, total: int, threads: int = 0
) -> tf.data.Dataset:
    """Batches `(B, height, width, 3)` of steps start..total-1 of one domain."""
    drawn = {
        name: rows[start * config.batch :]
        for name, rows in plan(len(paths), total * config.batch, config, seed, stream).items()
    }
    files = tf.constant(list(paths))

    def load(draw: dict[str, tf.Tensor]) -> tf.Tensor:
        image = tf.io.decode_image(tf.io.read_file(files[draw["index"]]), channels=3, expand_animations=False)
        image = augment(
            tf.ensure_shape(image, (None, None, 3)), draw["flip"], draw["top"], draw["left"], config
        )
        return tf.ensure_shape(image, (config.height, config.width, 3))

    parallel = {} if threads == 1 else {"num_parallel_calls": 4, "deterministic": True}
    dataset = tf.data.Dataset.from_tensor_slices(drawn).map(load, **parallel)
    options = tf.data.Options()
    if threads:
        options.threading.private_threadpool_size = threads
    return dataset.batch(config.batch, drop_remainder=True).prefetch(4).with_options(options)


def pairs(
    source: Sequence[str],
    target: Sequence[str],
    config: GanConfig,
    seed: int,
    start: int,
    total: int,
    threads: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A source and a target batch a step. A file that TensorFlow cannot decode is looked for and named in an
    `InputError`.
    """
    domains = [
        batches(paths, config, seed, stream, start, total, threads)
        for paths, stream in ((source, "source"), (target, "target"))
    ]
    try:
        yield from tf.data.Dataset.zip(tuple(domains)).as_numpy_iterator()
    except tf.errors.OpError as error:
        for path in (*source, *target):
            read_image(path)
        raise InputError(
            f"an image of the training sets cannot be decoded: {' '.join(error.message.split())[:200]}"
        ) from None


def probe_images(paths: Sequence[str], config: GanConfig, count: int = 24) -> np.ndarray:
    """At most `count` images at even distances in the list, resized without a crop: `(n, height, width, 3)`
    in -1..1.
    """
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))
    rows = [
        resize(tf.constant(np.asarray(read_image(paths[i]))), config.height, config.width, config.resize)
        for i in chosen
    ]
    return np.stack(rows) / np.float32(127.5) - 1
