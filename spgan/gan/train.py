"""Trains two generators, two discriminators and SiaNet in the released order: the generators first, then D_T,
D_S and SiaNet on the translations from before the generators' update.

Released counterpart: `SPGAN/train_spgan_demo.py`. One training serves both directions of translation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common.datasets.plans import random_stream
from common.errors import InputError
from common.job import Workspace
from spgan.config import GANConfig
from spgan.gan.augment import augment, draw_augmentations
from spgan.gan.data import iterations, pairs, probe_images
from spgan.gan.loop import Loop, save_arrays
from spgan.gan.losses import (
    Quadruple,
    adversarial,
    contrastive,
    cycle_loss,
    discriminator_loss,
    identity_loss,
)
from spgan.gan.model import build_networks, dropout_factors, embed, load_variables, named_variables
from spgan.gan.pool import ImagePool

PROBES = 25  # measurements of SiaNet's distances during a training
Terms = dict[str, tf.Tensor]


class Trainer:
    """Networks, their four Adam optimisers and the image pools; both halves of a step are compiled graphs.

    Under `tf.distribute` each replica takes its part of the batch, and gradients are averaged.
    """

    def __init__(self, config: GANConfig, seed: int, strategy: tf.distribute.Strategy | None = None):
        self.config, self.strategy = config, strategy or tf.distribute.get_strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        if config.batch % self.replicas:
            raise InputError(
                f"--gan.batch {config.batch}: does not divide into {self.replicas} equal parts, one a device"
            )
        with self.strategy.scope():
            self.networks = nets = build_networks(config, seed)
            self.variables = {
                "g": nets.g_s2t.trainable_variables + nets.g_t2s.trainable_variables,
                "d_target": nets.d_target.trainable_variables,
                "d_source": nets.d_source.trainable_variables,
            }
            if nets.sianet is not None:
                self.variables["sianet"] = nets.sianet.trainable_variables
            self.optimizers = {}
            for name, variables in self.variables.items():
                self.optimizers[name] = keras.optimizers.Adam(config.lr, config.beta1, 0.999, epsilon=1e-8)
                self.optimizers[name].build(variables)
        self.pools = {name: ImagePool(config.pool, config.pool_size) for name in ("target", "source")}
        self.generator_step = tf.function(lambda *batch: self.strategy.run(self.step_generators, batch))
        self.others_step = tf.function(lambda *batch: self.strategy.run(self.step_others, batch))

    def __call__(self, source: np.ndarray, target: np.ndarray, seed: int, step: int) -> dict[str, float]:
        """Runs one iteration on images `(B, H, W, 3)` in -1..1; returns its terms from before the updates."""
        draws = random_stream(seed, "gan step", step)
        of_generators, of_sianet = (self.dropout(len(source), draws) for _ in ("G", "SiaNet"))
        seen_by_d = self.augmentations(len(source), random_stream(seed, "gan augmentation", step))
        *fakes, g_terms = self.generator_step(*self.split((source, target, of_generators, *seen_by_d[:1])))
        fake_target, fake_source = map(self.joined, fakes)
        pooled = self.pools["target"](fake_target, draws), self.pools["source"](fake_source, draws)
        images = Quadruple(source, fake_target, target, fake_source)
        terms = g_terms | self.others_step(*self.split((images, *pooled, of_sianet, *seen_by_d[1:])))
        return {name: float(self.strategy.reduce("MEAN", value, axis=None)) for name, value in terms.items()}

    def step_generators(
        self, source: tf.Tensor, target: tf.Tensor, factors: tf.Tensor, drawn: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, Terms]:
        """Updates both generators with one Adam step; returns G(x_S), F(x_T) and the terms from before it.

        `drawn` `(B, 2, 5)`: of the discriminators' augmentation of G(x_S) and F(x_T).
        """
        config, nets, terms = self.config, self.networks, {}
        with tf.GradientTape() as tape:
            # adversarial: the discriminators should score translations as real
            fake_target, fake_source = nets.g_s2t(source), nets.g_t2s(target)
            seen_target, seen_source = seen((fake_target, fake_source), drawn)
            terms["g_adv_target"] = adversarial(nets.d_target(seen_target), 1.0)  # L_adv (T), Eq. 1
            terms["g_adv_source"] = adversarial(nets.d_source(seen_source), 1.0)  # L_adv (S), Eq. 2
            loss = terms["g_adv_target"] + terms["g_adv_source"]

            # cycle consistency
            terms["cycle_source"] = cycle_loss(source, nets.g_t2s(fake_target))  # L_cyc, Eq. 3
            terms["cycle_target"] = cycle_loss(target, nets.g_s2t(fake_source))  # L_cyc, Eq. 3
            loss += config.lambda1 * (terms["cycle_source"] + terms["cycle_target"])

            # identity mapping: an image of a generator's output domain should not change
            if config.lambda2 > 0:
                terms["identity_target"] = identity_loss(target, nets.g_s2t(target))  # L_ide, Eq. 4
                terms["identity_source"] = identity_loss(source, nets.g_t2s(source))  # L_ide, Eq. 4
                loss += config.lambda2 * (terms["identity_target"] + terms["identity_source"])

            # SiaNet: self-similarity and domain-dissimilarity
            if nets.sianet is not None:
                images = Quadruple(source, fake_target, target, fake_source)
                terms |= self.contrastive_terms(images, factors, for_generator=True)
                loss += config.lambda3 * terms["contrastive"]  # L_con, Eq. 5
            terms["g_loss"] = loss  # L_sp, Eq. 6
        self.update("g", loss, tape)
        return fake_target, fake_source, terms

    def step_others(
        self,
        images: Quadruple,
        pooled_target: tf.Tensor,
        pooled_source: tf.Tensor,
        factors: tf.Tensor,
        drawn: tf.Tensor | None = None,
    ) -> Terms:
        """Updates D_T, D_S and SiaNet; all images are constants.

        `drawn` `(B, 4, 5)`: of the augmentation of x_T, pooled G(x_S), x_S and pooled F(x_T).
        """
        nets, terms = self.networks, {}
        batches = (images.target, pooled_target, images.source, pooled_source)
        seen_target, seen_fake_target, seen_source, seen_fake_source = seen(batches, drawn)
        with tf.GradientTape() as tape:
            scores = nets.d_target(seen_target), nets.d_target(seen_fake_target)
            terms["d_target"] = discriminator_loss(*scores)  # L_adv (T), Eq. 1
        self.update("d_target", terms["d_target"], tape)

        with tf.GradientTape() as tape:
            scores = nets.d_source(seen_source), nets.d_source(seen_fake_source)
            terms["d_source"] = discriminator_loss(*scores)  # L_adv (S), Eq. 2
        self.update("d_source", terms["d_source"], tape)

        if nets.sianet is not None:
            with tf.GradientTape() as tape:
                con = self.contrastive_terms(images, factors, for_generator=False)
                terms["sianet"] = con["contrastive"]  # L_con, Eq. 5
            self.update("sianet", terms["sianet"], tape)
        return terms

    def contrastive_terms(self, images: Quadruple, factors: tf.Tensor, *, for_generator: bool) -> Terms:
        """Returns L_con and its parts; `factors` `(B, 4, D)`: of SiaNet's dropout, for each image."""
        embeddings = [
            embed(self.networks.sianet, batch, factors[:, tower]) for tower, batch in enumerate(images)
        ]
        return contrastive(Quadruple(*embeddings), self.config, for_generator=for_generator)

    def set_rate(self, factor: float) -> None:
        """Sets the learning rates of the next steps to `factor` times the configured one."""
        for optimizer in self.optimizers.values():
            optimizer.learning_rate = self.config.lr * factor

    def update(self, name: str, loss: tf.Tensor, tape: tf.GradientTape) -> None:
        gradients = tape.gradient(loss, self.variables[name])
        # the optimiser sums the replicas' gradients
        self.optimizers[name].apply(
            [gradient / self.replicas for gradient in gradients], self.variables[name]
        )

    def dropout(self, batch: int, draws: np.random.Generator) -> np.ndarray:
        """Returns the factors `(batch, 4, D)` of SiaNet's dropout for the four images of a quadruple."""
        width = 2 * self.config.sia_channels
        return np.moveaxis(dropout_factors(self.config.sia_dropout, 4, batch, width, draws), 0, 1)

    def augmentations(self, batch: int, draws: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Returns the numbers of the discriminators' augmentation in the generators' step `(batch, 2, 5)` and
        in their own `(batch, 4, 5)`; nothing without `augment_d`.
        """
        if not self.config.augment_d:
            return ()
        size = self.config.height, self.config.width
        return tuple(draw_augmentations(draws, (batch, images), size) for images in (2, 4))

    def split(self, arrays: Any) -> Any:
        """Returns nested batches as `strategy.run` takes them: equal contiguous parts, one a replica."""
        return tf.nest.map_structure(self._split, arrays)

    def _split(self, batch: np.ndarray) -> Any:
        if self.replicas == 1:
            return tf.constant(batch, keras.config.floatx())
        parts = np.split(np.asarray(batch, keras.config.floatx()), self.replicas)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    def joined(self, images: Any) -> np.ndarray:
        """Returns the replicas' parts of a batch as one array."""
        return np.concatenate([part.numpy() for part in self.strategy.experimental_local_results(images)])

    def distances(self, source: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Measures SiaNet on fixed images without dropout: cosines of an image and its translation, mean
        distances within and across domains.
        """
        nets = self.networks
        ones = np.ones((max(len(source), len(target)), 2 * self.config.sia_channels), np.float32)
        images = Quadruple(source, nets.g_s2t(source), target, nets.g_t2s(target))
        e = Quadruple(*(embed(nets.sianet, batch, ones[: len(batch)]).numpy() for batch in images))
        return {
            "sia_cos_source": (e.source * e.fake_target).sum(1).mean(),
            "sia_cos_target": (e.target * e.fake_source).sum(1).mean(),
            "sia_within_source": mean_distance(e.source, e.source),
            "sia_within_target": mean_distance(e.target, e.target),
            "sia_across": mean_distance(e.source, e.target),
        }

    def weights(self) -> dict[str, np.ndarray]:
        return {
            f"{role}/{name}": variable.numpy()
            for role, network in self.networks.items()
            for name, variable in named_variables(network).items()
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns networks, optimisers and pools; image order and random draws follow from the step."""
        adams = {
            f"adam {name}/{i}": variable.numpy()
            for name, adam in self.optimizers.items()
            for i, variable in enumerate(adam.variables)
        }
        pools = {f"pool {name}": np.stack(pool.items) for name, pool in self.pools.items() if pool.items}
        return self.weights() | adams | pools

    def restore(self, arrays: Mapping[str, np.ndarray], origin: str) -> None:
        for _, network in self.networks.items():
            load_variables(network, arrays, origin)
        for name, adam in self.optimizers.items():
            for i, variable in enumerate(adam.variables):
                variable.assign(arrays[f"adam {name}/{i}"])
        for name, pool in self.pools.items():
            pool.items = list(arrays.get(f"pool {name}", ()))


def seen(batches: Sequence[tf.Tensor], drawn: tf.Tensor | None) -> list[tf.Tensor]:
    """Returns the images as the discriminators see them; `drawn` `(B, len(batches), 5)` of `augment`."""
    if drawn is None:
        return list(batches)
    return [augment(images, drawn[:, i]) for i, images in enumerate(batches)]


def mean_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the mean Euclidean distance of unit embeddings `(N, D)`; within one set if `a is b`."""
    distance = np.sqrt(np.maximum(2 - 2 * a @ b.T, 0))
    return distance[~np.eye(len(a), dtype=bool)].mean() if a is b else distance.mean()


def train_gan(
    work: Workspace,
    config: GANConfig,
    source: Sequence[str],
    target: Sequence[str],
    strategy: tf.distribute.Strategy | None = None,
) -> None:
    """Trains on two lists of image files; writes `networks.npz` and the curves of all terms and distances."""
    total = iterations(config, len(source), len(target))
    trainer = Trainer(config, work.seed, strategy)
    loop = Loop(work, total, trainer, save_every=min(1000, max(1, total // 4)))
    probes = [probe_images(paths, config) for paths in (source, target)] if trainer.networks.sianet else None
    every = max(1, total // PROBES)
    steps = range(loop.start, total)
    for step, (real_source, real_target) in zip(loop, pairs(source, target, config, work, steps)):
        if config.lr_decay == "linear":
            trainer.set_rate(min(1.0, 2 * (1 - step / total)))
        terms = trainer(real_source, real_target, work.seed, step)
        if probes and ((step + 1) % every == 0 or step == 0):
            terms |= trainer.distances(*probes)
        loop.log(step, terms)
    save_arrays(work.folder / "networks.npz", trainer.weights())
    loop.checkpoint.unlink(missing_ok=True)
