"""Trains the two generators and discriminators on source and target images and their masks; no identity is
used.

Released counterpart: `model.py` (`cyclegan.train`).
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from common.checkpoints import load_strictly, read_state_dict, save_checkpoint
from common.datasets.plans import PairPlans, pair_plans
from common.errors import InputError
from common.job import Workspace
from common.runs import rank_and_world
from common.training import Loop, average_gradients, gather, seed_everything, under_autocast
from ptgan.config import GANConfig
from ptgan.data import Domain, GANTransform, ImagePool, MaskedImages
from ptgan.losses import Translated, discriminator_loss, generator_losses, generator_total
from ptgan.model import Generator, TransferNetworks, build_generator

log = logging.getLogger("run")
BETA2, ADAM_EPSILON = 0.999, 1e-8  # released code
CACHED_IMAGES = 12_000  # a domain up to this size is decoded once and kept in memory


@dataclass
class Training:
    """What a resumed GAN continues with; each part has a `state_dict`."""

    networks: TransferNetworks
    g_optimizer: Optimizer
    d_optimizer: Optimizer
    pool: ImagePool


def check_gan(config: GANConfig, device: torch.device, *, deterministic: bool) -> None:
    """Warns about a weight that freezes the person. Raises `InputError` for `deterministic` on CUDA, where
    PyTorch has no deterministic gradient of the generators' reflection padding.
    """
    if deterministic and device.type == "cuda":
        raise InputError(
            "--deterministic: the GAN's reflection padding has no deterministic gradient on CUDA: use "
            "--device cpu, or leave it out"
        )
    if config.id_loss == "l2" and config.lambda_id >= 1:
        log.warning(
            "--gan.id-loss l2 with --gan.lambda-id %g: the norm's gradient is some hundred times that of the "
            "cycle loss and freezes the person; the published pictures are softer",
            config.lambda_id,
        )


def start_training(config: GANConfig, device: torch.device) -> Training:
    """Builds the networks, one Adam for both generators and one for both discriminators, as released."""
    networks = TransferNetworks(config).to(device)
    if config.precision == "bf16":
        for network in networks.children():
            network.__class__ = under_autocast(type(network), device.type)
    betas = (config.beta1, BETA2)
    return Training(
        networks,
        Adam(networks.generators, lr=config.lr, betas=betas),
        Adam(networks.discriminators, lr=config.lr_d, betas=betas),
        ImagePool(config.pool_size),
    )


def train_gan(
    config: GANConfig, transform: GANTransform, source: Domain, target: Domain, work: Workspace
) -> None:
    """Writes `generator.pt` (source to target) and `networks.pt` (all four) into the stage's folder."""
    seed_everything(work.seed, deterministic=work.options.deterministic)
    plans = pair_plans(len(source.samples), len(target.samples), config.batch, work.seed)
    training = start_training(config, work.device)
    steps = plans.steps_per_epoch
    loop = Loop(work, config.epochs * steps, vars(training), label="GAN", save_every=steps)
    batches = pair_batches(loop, plans, config.shared_aug, transform, (source, target))
    for step, (of_source, of_target) in loop.over(batches):
        epoch = step // steps
        for optimizer, lr in ((training.g_optimizer, config.lr), (training.d_optimizer, config.lr_d)):
            set_rate(optimizer, learning_rate(config, lr, epoch), epsilon(config, step))
        rng = random.Random(f"{work.seed}/pool/{step}")
        loop.log(step, **train_step(config, training, of_source, of_target, rng))

    if loop.main:
        networks = training.networks
        save_checkpoint(work.folder / "generator.pt", networks.g_s2t.state_dict())
        save_checkpoint(work.folder / "networks.pt", networks.state_dict())


def train_step(
    config: GANConfig, training: Training, of_source: Tensor, of_target: Tensor, rng: random.Random
) -> dict[str, Tensor]:
    """Updates both generators, then both discriminators; returns the terms of both losses.

    `of_source` and `of_target`: images with masks `(B, 4, H, W)`.
    """
    networks, pool = training.networks, training.pool
    (source, source_mask), (target, target_mask) = (
        batch.split((3, 1), dim=1) for batch in (of_source, of_target)
    )

    # the generators: L_PTGAN
    networks.d_source.requires_grad_(False)
    networks.d_target.requires_grad_(False)
    fake_target, fake_source = networks.g_s2t(source), networks.g_t2s(target)
    g_terms = generator_losses(
        networks,
        config,
        Translated(source, fake_target, source_mask),
        Translated(target, fake_source, target_mask),
    )
    training.g_optimizer.zero_grad()
    generator_total(g_terms, config).backward()
    average_gradients(networks.generators)
    training.g_optimizer.step()

    # the discriminators: real images against fakes of the generators before this step, or of earlier ones
    networks.d_source.requires_grad_(True)
    networks.d_target.requires_grad_(True)
    fakes = pool.query([gather(fake_source.detach()), gather(fake_target.detach())], rng)
    old_source, old_target = map(own_part, fakes)
    d_terms = {
        "d_source": discriminator_loss(networks.d_source, source, old_source, config.adversarial),
        "d_target": discriminator_loss(networks.d_target, target, old_target, config.adversarial),
    }
    training.d_optimizer.zero_grad()
    (d_terms["d_source"] + d_terms["d_target"]).backward()
    average_gradients(networks.discriminators)
    training.d_optimizer.step()
    return {**{f"g_{name}": term for name, term in g_terms.items()}, **d_terms}


def own_part(batch: Tensor) -> Tensor:
    """Returns this process's part of a whole batch; each process keeps the whole history, so that one of them
    can save it.
    """
    rank, world = rank_and_world()
    return batch.chunk(world)[rank]


def pair_batches(
    loop: Loop, plans: PairPlans, shared_aug: bool, transform: GANTransform, domains: tuple[Domain, Domain]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields images with masks `(B, 4, H, W)` of source and target, step by step.

    `shared_aug`: both receive the same crop and flip, as released.
    """
    streams = ("gan", "gan") if shared_aug else ("gan source", "gan target")
    batches = []
    for domain, stream, plan in zip(domains, streams, (plans.source, plans.target)):
        cache, seed = len(domain.samples) <= CACHED_IMAGES, loop.workspace.seed
        images = MaskedImages(domain, transform, seed=seed, stream=stream, cache=cache)
        batches.append(loop.load(images, plan))
    for of_source, of_target in zip(*batches):
        yield of_source.images.contiguous(), of_target.images.contiguous()


def learning_rate(config: GANConfig, lr: float, epoch: int) -> float:
    """Returns the rate of an epoch (from 0): constant, then (released) linear, 0 after the last epoch."""
    if config.decay == "none" or epoch < config.decay_epoch:
        return lr
    return lr * (config.epochs - epoch) / (config.epochs - config.decay_epoch)


def epsilon(config: GANConfig, step: int) -> float:
    """Returns the epsilon of PyTorch's Adam at a step (from 0).

    PyTorch adds it to sqrt(v / (1 - beta2^t)), TensorFlow to sqrt(v): in PyTorch's place, TensorFlow's is the
    larger one by 1 / sqrt(1 - beta2^t).
    """
    return ADAM_EPSILON if config.adam == "pytorch" else ADAM_EPSILON / math.sqrt(1 - BETA2 ** (step + 1))


def set_rate(optimizer: Optimizer, lr: float, eps: float) -> None:
    for group in optimizer.param_groups:
        group["lr"], group["eps"] = lr, eps


def load_generator(config: GANConfig, path: Path, device: torch.device) -> Generator:
    """Returns the generator, source to target, of a finished stage."""
    generator = build_generator(config)
    load_strictly(generator, read_state_dict(path), path)
    return generator.to(device).eval()
