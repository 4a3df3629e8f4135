"""The GAN's loop, written a second time in float64: three steps with all settings different from each other,
weights and second moments compared; and the augmentation that D sees.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.datasets.plans import random_stream
from spgan.config import GANConfig
from spgan.gan.augment import augment, draw_augmentations, limits
from spgan.gan.model import build_networks
from spgan.gan.train import Trainer

SEED, STEPS, BATCH, CHANNELS = 5, 3, 2, 2
CONFIG = GANConfig(
    height=16,
    width=16,
    g_channels=2,
    blocks=1,
    d_channels=2,
    sia_channels=CHANNELS,
    batch=BATCH,
    pool_size=1,
    lambda1=3.0,
    lambda2=2.0,
    lambda3=1.5,
    con_div=2.5,
    margin=1.25,
    lr=1e-3,
    beta1=0.3,
)
SETTINGS = {
    "released": {},
    "augmented": {"augment_d": True},
    "paper": {"neg": "fake_real", "dist": "onecos", "sia_dropout": "shared"},
    "espgan": {"neg": "espgan", "pool": "lag1", "pool_size": 2, "residual": True},
}


def bilinear(size: int, pixels: int) -> np.ndarray:
    """The matrix `(size, pixels)` of a bilinear resize with half-pixel centres along one side."""
    place = np.clip((np.arange(size) + 0.5) * pixels / size - 0.5, 0, pixels - 1)
    return np.maximum(1 - np.abs(place[:, None] - np.arange(pixels)), 0)


def resize_in_float64(images, size: tuple[int, int]):
    """`tf.image.resize`, which returns float32 whatever it is given."""
    height, width = (bilinear(new, old) for new, old in zip(size, images.shape[1:3]))
    return tf.einsum("hy,byxc,wx->bhwc", height, tf.cast(images, tf.float64), width)


def use(precision: str) -> None:
    keras.config.set_floatx(precision)
    keras.config.set_dtype_policy(precision)


@pytest.fixture(autouse=True)
def eager_float64(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(tf.image, "resize", resize_in_float64)
    use("float64")
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
    use("float32")


def photos(formulas, step: int) -> list[np.ndarray]:
    return [formulas.scatter(f"{domain} {step}", BATCH, 16, 16, 3) for domain in ("source", "target")]


class Reference:
    """The same training, without a line of the trainer, the losses, the pools or the augmentation."""

    def __init__(self, config: GANConfig):
        self.config, self.networks = config, build_networks(config, SEED)
        nets = self.networks
        self.owners = {
            "g": [nets.g_s2t, nets.g_t2s],
            "d_target": [nets.d_target],
            "d_source": [nets.d_source],
            "sianet": [nets.sianet],
        }
        variables = {name: self.of(name) for name in self.owners}
        self.first = {name: [np.zeros(v.shape) for v in listed] for name, listed in variables.items()}
        self.second = {name: [np.zeros(v.shape) for v in listed] for name, listed in variables.items()}
        self.earlier: dict[str, list[np.ndarray]] = {"target": [], "source": []}
        self.steps = 0

    def of(self, name: str) -> list:
        return [v for network in self.owners[name] for v in network.trainable_variables]

    def step(self, source: np.ndarray, target: np.ndarray) -> None:
        config, nets = self.config, self.networks
        rng = random_stream(SEED, "gan step", self.steps)
        masks = [self.masks(rng), self.masks(rng)]
        shaken = random_stream(SEED, "gan augmentation", self.steps)
        in_g, in_d = (draw_augmentations(shaken, (BATCH, n), (16, 16)) for n in (2, 4))
        self.steps += 1

        with tf.GradientTape() as tape:
            fake_target, fake_source = nets.g_s2t(source), nets.g_t2s(target)
            loss = tf.reduce_mean((nets.d_target(self.look(fake_target, in_g[:, 0])) - 1) ** 2)
            loss += tf.reduce_mean((nets.d_source(self.look(fake_source, in_g[:, 1])) - 1) ** 2)
            cycles = abs(nets.g_t2s(fake_target) - source), abs(nets.g_s2t(fake_source) - target)
            same = abs(nets.g_s2t(target) - target), abs(nets.g_t2s(source) - source)
            loss += 3.0 * (tf.reduce_mean(cycles[0]) + tf.reduce_mean(cycles[1]))
            loss += 2.0 * (tf.reduce_mean(same[0]) + tf.reduce_mean(same[1]))
            loss += 1.5 * self.similarity(source, fake_target, target, fake_source, masks[0], of_g=True)
        self.adam("g", tape.gradient(loss, self.of("g")))

        fakes = {"target": fake_target.numpy(), "source": fake_source.numpy()}
        shown = {domain: self.swap(domain, fakes[domain], rng) for domain in ("target", "source")}
        for place, (domain, real) in enumerate((("target", target), ("source", source))):
            discriminator = getattr(nets, f"d_{domain}")
            with tf.GradientTape() as tape:
                on_real = discriminator(self.look(real, in_d[:, 2 * place]))
                on_fake = discriminator(self.look(shown[domain], in_d[:, 2 * place + 1]))
                loss = 0.5 * tf.reduce_mean((on_real - 1) ** 2) + 0.5 * tf.reduce_mean(on_fake**2)
            self.adam(f"d_{domain}", tape.gradient(loss, self.of(f"d_{domain}")))

        with tf.GradientTape() as tape:
            current = source, fakes["target"], target, fakes["source"]
            loss = self.similarity(*current, masks[1], of_g=False)
        self.adam("sianet", tape.gradient(loss, self.of("sianet")))
        assert config.lambda1 != config.lambda2 != config.lambda3

    def masks(self, rng: np.random.Generator) -> np.ndarray:
        towers = 1 if self.config.sia_dropout == "shared" else 4
        drawn = 2.0 * rng.integers(0, 2, (towers, BATCH, 2 * CHANNELS))
        return np.concatenate([drawn] * (4 // towers))

    def look(self, images, numbers: np.ndarray):
        """Mirrors, shifts and covers image by image, by padding and slicing."""
        if not self.config.augment_d:
            return images
        (down, across, tall, wide), seen = limits(16, 16), []
        for image, (flip, y, x, top, left) in zip(
            tf.unstack(tf.convert_to_tensor(images)), numbers.astype(int)
        ):
            padded = tf.pad(image, [[down, down], [across, across], [0, 0]], "REFLECT")
            image = padded[down + y : down + y + 16, across + x : across + x + 16]
            image = image[:, ::-1] if flip else image
            keep = np.ones((16, 16, 1))
            keep[top : top + tall, left : left + wide] = 0
            seen.append(image * keep)
        return tf.stack(seen)

    def similarity(self, source, fake_target, target, fake_source, masks, *, of_g: bool):
        """L_con, with 1 - cos or the Euclidean distance of unit vectors."""
        units = []
        for images, mask in zip((source, fake_target, target, fake_source), masks):
            large = resize_in_float64(images, (256, 256))
            raw = self.networks.sianet([large, tf.constant(mask)])
            units.append(raw / tf.sqrt(tf.reduce_sum(raw**2, axis=1, keepdims=True)))
        s, ft, t, fs = units

        def distance(a, b, root: float = 0.0):
            if self.config.dist == "onecos":
                return 1 - tf.reduce_sum(a * b, axis=1)
            return tf.sqrt(tf.reduce_sum((a - b) ** 2, axis=1) + root)

        def apart(a, b):
            return tf.maximum(1.25 - distance(a, b, 1e-6), 0) ** 2

        near = distance(s, ft) ** 2 + distance(t, fs) ** 2
        crossed, real = apart(ft, t) + apart(fs, s), 2 * apart(s, t)
        total = {
            "real_real": (near + real) / 2.5,
            "fake_real": (near + crossed) / 2.5,
            "espgan": (near + crossed / 2) / 4 if of_g else (near + real) / 3,
        }[self.config.neg]
        return tf.reduce_mean(total)

    def swap(self, domain: str, fakes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A pool of `pool_size` images; the lag-1 kind returns the image of the previous step."""
        kept, shown = self.earlier[domain], []
        for place, image in enumerate(fakes):
            if len(kept) < self.config.pool_size:
                kept.append(image)
                shown.append(image)
            elif self.config.pool == "lag1":
                shown.append(kept[place])
                kept[place] = image
            else:
                swap, slot = rng.random() > 0.5, rng.integers(self.config.pool_size)
                shown.append(kept[slot] if swap else image)
                kept[slot] = image if swap else kept[slot]
        return np.stack(shown)

    def adam(self, name: str, gradients) -> None:
        """lr 1e-3, beta1 0.3, beta2 0.999; epsilon 1e-8 beside the uncorrected root, as TensorFlow's. Keras
        rounds the two betas of the bias correction to float32.
        """
        first, second = float(np.float32(0.3)), float(np.float32(0.999))
        for i, (variable, gradient) in enumerate(zip(self.of(name), gradients)):
            gradient = gradient.numpy()
            self.first[name][i] = 0.3 * self.first[name][i] + 0.7 * gradient
            self.second[name][i] = 0.999 * self.second[name][i] + 0.001 * gradient**2
            rate = 1e-3 * np.sqrt(1 - second**self.steps) / (1 - first**self.steps)
            variable.assign(
                variable.numpy() - rate * self.first[name][i] / (np.sqrt(self.second[name][i]) + 1e-8)
            )


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_loop_is_the_loop_written_again(formulas, settings):
    config = GANConfig(**{**vars(CONFIG), **SETTINGS[settings]})
    trainer, reference = Trainer(config, SEED), Reference(config)
    for step in range(STEPS):
        trainer(*photos(formulas, step), SEED, step)
        reference.step(*photos(formulas, step))
        for name, optimizer in trainer.optimizers.items():
            pairs = list(zip(reference.of(name), trainer.variables[name], strict=True))
            gaps = [np.abs(a.numpy() - b.numpy()).max() for a, b in pairs]
            assert max(gaps) < 1e-9, (settings, step, name)
            moments = [v.numpy() for v in optimizer.variables if v.name.endswith("velocity")]
            for ours, theirs in zip(moments, reference.second[name], strict=True):
                assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-15), (settings, step, name)
    shown = reference.earlier["target"]
    assert len(shown) == config.pool_size and np.abs(shown[0]).max() > 0


def test_the_resize_of_this_file_is_tensorflows(formulas, monkeypatch):
    images = tf.constant(formulas.scatter("resized", 1, 16, 8, 3))
    ours = resize_in_float64(images, (256, 250))
    monkeypatch.undo()
    assert np.abs(ours.numpy() - tf.image.resize(images, (256, 250)).numpy()).max() < 1e-6


def test_augmented_images_are_shifted_mirrored_and_have_one_hole(formulas):
    rng = np.random.default_rng(1)
    images = tf.constant(
        formulas.scatter("augmented", 16, 64, 32, 3) * 0.4 + 0.55
    )  # above 0: only the hole is 0
    drawn = draw_augmentations(rng, (16,), (64, 32))
    with tf.GradientTape() as tape:
        tape.watch(images)
        seen = augment(images, tf.constant(drawn))
    assert seen.shape == images.shape and seen.dtype == images.dtype
    assert (np.all(seen.numpy() == 0, axis=3).sum((1, 2)) == 20 * 12).all()
    gradient = tape.gradient(seen, images)
    assert (gradient.numpy().sum((1, 2, 3)) == 3 * (64 * 32 - 20 * 12)).all()
    assert set(drawn[:, 0]) == {0, 1} and np.abs(drawn[:, 1]).max() <= 12 and np.abs(drawn[:, 2]).max() <= 8
    many = draw_augmentations(rng, (2000,), (64, 32))
    assert (many.min(0) == [0, -12, -8, 0, 0]).all() and (many.max(0) == [1, 12, 8, 44, 20]).all()
