"""Trains two generators, two discriminators and SiaNet in the released order: G, then D_T, D_S and SiaNet on
the translations made before G's step.

Released counterpart: `SPGAN/train_spgan_demo.py`. One training serves both directions of translation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from common.errors import InputError
from common.runs import Workspace
from spgan.config import GanConfig
from spgan.gan.data import generator_for, iterations, pairs, probe_images
from spgan.gan.loop import Loop, save_arrays
from spgan.gan.losses import absolute, adversarial, contrastive, discriminator_loss
from spgan.gan.model import build_networks, dropout_factors, embed, load_variables, named_variables
from spgan.gan.pool import ImagePool

PROBES = 25  # times that SiaNet's distances are measured in a training


class Trainer:
    """Networks, their four Adams and the image pools, with the two halves of a step as compiled graphs.

    Under `tf.distribute` each replica takes its part of the batch, and gradients are averaged.
    """

    def __init__(self, config: GanConfig, seed: int, strategy: tf.distribute.Strategy | None = None):
        self.config, self.strategy = config, strategy or tf.distribute.get_strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        if config.batch % self.replicas:
            raise InputError(
                f"--gan.batch {config.batch}: does not divide into {self.replicas} equal parts, one a device"
            )
        with self.strategy.scope():
            self.networks = build_networks(config, seed)
            nets = self.networks
            self.variables = {
                "g": nets.g_s2t.trainable_variables + nets.g_t2s.trainable_variables,
                "d_target": nets.d_target.trainable_variables,
                "d_source": nets.d_source.trainable_variables,
                **({"sianet": nets.sianet.trainable_variables} if nets.sianet else {}),
            }
            self.optimizers = {
                name: keras.optimizers.Adam(config.lr, config.beta1, 0.999, epsilon=1e-8)
                for name in self.variables
            }
            for name, optimizer in self.optimizers.items():
                optimizer.build(self.variables[name])
        self.pools = {name: ImagePool(config.pool, config.pool_size) for name in ("target", "source")}
        self.generator_step = tf.function(lambda *batch: self.strategy.run(self.step_generators, batch))
        self.others_step = tf.function(lambda *batch: self.strategy.run(self.step_others, batch))

    def __call__(self, source: np.ndarray, target: np.ndarray, seed: int, step: int) -> dict[str, float]:
        """One iteration on images `(B, H, W, 3)` in -1..1; its terms, all from before the updates."""
        width, batch = 2 * self.config.sia_channels, len(source)
        draws = generator_for(seed, "gan step", step)
        factors = [
            np.moveaxis(dropout_factors(self.config.sia_dropout, 4, batch, width, draws), 0, 1)
            for _ in ("G", "SiaNet")
        ]
        *fakes, g_terms = self.generator_step(*map(self.split, (source, target, factors[0])))
        fakes = [
            np.concatenate([part.numpy() for part in self.strategy.experimental_local_results(images)])
            for images in fakes
        ]
        pooled = [self.pools[name](images, draws) for name, images in zip(("target", "source"), fakes)]
        terms = self.others_step(*map(self.split, (source, target, *fakes, *pooled, factors[1])))
        return {
            name: float(self.strategy.reduce("MEAN", value, axis=None))
            for name, value in (g_terms | terms).items()
        }

    def step_generators(
        self, source: tf.Tensor, target: tf.Tensor, factors: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Updates both generators by one Adam; gives G(x_S) and F(x_T) as they were before."""
        config, nets = self.config, self.networks
        with tf.GradientTape() as tape:
            fake_target, fake_source = nets.g_s2t(source), nets.g_t2s(target)
            terms = {
                "g_adv_target": adversarial(nets.d_target(fake_target), 1.0),
                "g_adv_source": adversarial(nets.d_source(fake_source), 1.0),
            }
            terms["cycle_source"] = absolute(nets.g_t2s(fake_target), source)
            terms["cycle_target"] = absolute(nets.g_s2t(fake_source), target)
            loss = (
                terms["g_adv_target"]
                + terms["g_adv_source"]
                + config.lambda1 * (terms["cycle_source"] + terms["cycle_target"])
            )

            if config.lambda2 > 0:  # identity mapping: an image of the wanted style stays as it is
                terms["identity_target"] = absolute(nets.g_s2t(target), target)
                terms["identity_source"] = absolute(nets.g_t2s(source), source)
                loss += config.lambda2 * (terms["identity_target"] + terms["identity_source"])
            if nets.sianet is not None:  # self-similarity and domain-dissimilarity
                terms |= self.contrastive_terms(
                    (source, fake_target, target, fake_source), factors, for_generator=True
                )
                loss += config.lambda3 * terms["contrastive"]
        self.update("g", loss, tape)
        return fake_target, fake_source, terms | {"g_loss": loss}

    def step_others(
        self,
        source: tf.Tensor,
        target: tf.Tensor,
        fake_target: tf.Tensor,
        fake_source: tf.Tensor,
        pooled_target: tf.Tensor,
        pooled_source: tf.Tensor,
        factors: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Updates D_T, D_S and SiaNet; all images are constants."""
        nets, terms = self.networks, {}
        for name, network, real, fake in (
            ("d_target", nets.d_target, target, pooled_target),
            ("d_source", nets.d_source, source, pooled_source),
        ):
            with tf.GradientTape() as tape:
                terms[name] = discriminator_loss(network(real), network(fake))
            self.update(name, terms[name], tape)
        if nets.sianet is not None:
            with tf.GradientTape() as tape:
                terms["sianet"] = self.contrastive_terms(
                    (source, fake_target, target, fake_source), factors, for_generator=False
                )["contrastive"]
            self.update("sianet", terms["sianet"], tape)
        return terms

    def contrastive_terms(
        self, images: Sequence[tf.Tensor], factors: tf.Tensor, *, for_generator: bool
    ) -> dict[str, tf.Tensor]:
        config = self.config
        embeddings = [
            embed(self.networks.sianet, batch, factors[:, tower]) for tower, batch in enumerate(images)
        ]
        return contrastive(
            *embeddings,
            margin=config.margin,
            neg=config.neg,
            divisor=config.con_div,
            dist=config.dist,
            for_generator=for_generator,
        )

    def update(self, name: str, loss: tf.Tensor, tape: tf.GradientTape) -> None:
        gradients = tape.gradient(loss, self.variables[name])
        # it adds up the replicas' shares
        self.optimizers[name].apply(
            [gradient / self.replicas for gradient in gradients], self.variables[name]
        )

    def split(self, batch: np.ndarray):
        """A batch as what `strategy.run` takes: equal contiguous parts, one a replica."""
        if self.replicas == 1:
            return tf.constant(batch, tf.float32)
        parts = np.split(np.asarray(batch, np.float32), self.replicas)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    def distances(self, source: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """What SiaNet makes of fixed images without dropout: cosines of an image and its translation, mean
        distances within and across domains.
        """
        nets = self.networks
        none = np.ones((max(len(source), len(target)), 2 * self.config.sia_channels), np.float32)
        codes = [
            embed(nets.sianet, images, none[: len(images)]).numpy()
            for images in (source, nets.g_s2t(source), target, nets.g_t2s(target))
        ]
        e_source, e_fake_target, e_target, e_fake_source = codes

        def mean_distance(a: np.ndarray, b: np.ndarray) -> float:
            distance = np.sqrt(np.maximum(2 - 2 * a @ b.T, 0))
            return distance[~np.eye(len(a), dtype=bool)].mean() if a is b else distance.mean()

        return {
            "sia_cos_source": (e_source * e_fake_target).sum(1).mean(),
            "sia_cos_target": (e_target * e_fake_source).sum(1).mean(),
            "sia_within_source": mean_distance(e_source, e_source),
            "sia_within_target": mean_distance(e_target, e_target),
            "sia_across": mean_distance(e_source, e_target),
        }

    def weights(self) -> dict[str, np.ndarray]:
        return {
            f"{role}/{name}": variable.numpy()
            for role, network in self.networks.items()
            for name, variable in named_variables(network).items()
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Networks, optimisers and pools; the order of the images and all draws follow from the step."""
        adams = {
            f"adam {name}/{i}": v.numpy()
            for name, adam in self.optimizers.items()
            for i, v in enumerate(adam.variables)
        }
        pools = {f"pool {name}": np.stack(pool.items) for name, pool in self.pools.items() if pool.items}
        return self.weights() | adams | pools

    def restore(self, arrays: Mapping[str, np.ndarray], origin: str) -> None:
        for role, network in self.networks.items():
            load_variables(
                network,
                {name[len(role) + 1 :]: a for name, a in arrays.items() if name.startswith(f"{role}/")},
                origin,
            )
        for name, adam in self.optimizers.items():
            for i, variable in enumerate(adam.variables):
                variable.assign(arrays[f"adam {name}/{i}"])
        for name, pool in self.pools.items():
            pool.items = list(arrays.get(f"pool {name}", ()))


def train_gan(
    config: GanConfig,
    source: Sequence[str],
    target: Sequence[str],
    seed: int,
    workspace: Workspace,
    *,
    threads: int = 0,
    strategy: tf.distribute.Strategy | None = None,
    save_every: int = 1000,
) -> None:
    """Trains on two lists of image files and writes `networks.npz` into the workspace; curves hold every term
    and SiaNet's distances.
    """
    total = iterations(config, len(source), len(target))
    trainer = Trainer(config, seed, strategy)
    loop = Loop(workspace, total, trainer, label="GAN", save_every=min(save_every, max(1, total // 4)))
    probes = [probe_images(paths, config) for paths in (source, target)] if trainer.networks.sianet else None
    every = max(1, total // PROBES)
    for step, (real_source, real_target) in zip(
        loop, pairs(source, target, config, seed, loop.start, total, threads)
    ):
        terms = trainer(real_source, real_target, seed, step)
        if probes and ((step + 1) % every == 0 or step == 0):
            terms |= trainer.distances(*probes)
        loop.log(step, terms)
    save_arrays(workspace.folder / "networks.npz", trainer.weights())
    loop.checkpoint.unlink(missing_ok=True)
