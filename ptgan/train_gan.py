"""Trains the two generators and discriminators on source and target images and their masks; no identity is
used.

Released counterpart: `model.py` (`cyclegan.train`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from common.checkpoints import load_checkpoint, save_checkpoint
from common.datasets import Sample
from common.datasets.loading import planned_loader
from common.errors import InputError
from common.runs import Workspace, rank_and_world
from common.training import Loop, average_gradients, gather, seed_everything
from ptgan.config import GANConfig
from ptgan.data import ImagePool, MaskedImages, PairPlans, gan_transform, pair_plans
from ptgan.losses import discriminator_losses, generator_losses, generator_total
from ptgan.masks import MaskSource
from ptgan.model import Generator, TransferNetworks, build_generator

log = logging.getLogger("run")
CACHED_IMAGES = 12_000  # a domain up to this size is decoded once and kept in memory


def learning_rate(config: GANConfig, lr: float, epoch: int) -> float:
    """Of an epoch, from 0: constant, then (released) linear, so that the epoch after the last would have 0."""
    if config.decay == "none" or epoch < config.decay_epoch:
        return lr
    return lr * (config.epochs - epoch) / (config.epochs - config.decay_epoch)


def build_optimizers(config: GANConfig, networks: TransferNetworks) -> tuple[Adam, Adam]:
    """One Adam for both generators, one for both discriminators, as released."""
    return (
        Adam(networks.generators, lr=config.lr, betas=(config.beta1, 0.999)),
        Adam(networks.discriminators, lr=config.lr_d, betas=(config.beta1, 0.999)),
    )


def check_gan(config: GANConfig, device: torch.device, *, deterministic: bool) -> None:
    """Warns of a weight that freezes the person; `InputError` for `deterministic` on CUDA, where PyTorch has
    no deterministic gradient of the generators' reflection padding.
    """
    if deterministic and device.type == "cuda":
        raise InputError(
            "--deterministic: the GAN's reflection padding has no deterministic gradient on CUDA: use --device cpu, or leave it out"
        )
    if config.id_loss == "l2" and config.lambda_id >= 1:
        log.warning(
            "--gan.id-loss l2 with --gan.lambda-id %g: the norm's gradient is some hundred times that of the cycle loss and freezes the "
            "person; the published pictures are softer",
            config.lambda_id,
        )


def train_gan(
    config: GANConfig,
    mask_aug: str,
    source: Sequence[Sample],
    target: Sequence[Sample],
    masks: tuple[MaskSource, MaskSource],
    seed: int,
    device: torch.device,
    workspace: Workspace,
    *,
    workers: int = 0,
    deterministic: bool = False,
) -> None:
    """Writes `generator.pt` (source to target) and `networks.pt` (all four) into the workspace. `masks`: of
    source and target.
    """
    seed_everything(seed, deterministic=deterministic)
    plans = pair_plans(len(source), len(target), config.batch, seed)
    networks = TransferNetworks(config).to(device)
    g_optimizer, d_optimizer = build_optimizers(config, networks)
    pool = ImagePool(config.pool_size)
    state = {"networks": networks, "g_optimizer": g_optimizer, "d_optimizer": d_optimizer, "pool": pool}
    loop = Loop(
        workspace, config.epochs * plans.steps_per_epoch, state, label="GAN", save_every=plans.steps_per_epoch
    )

    for step, (of_source, of_target) in loop.over(
        pair_batches(config, mask_aug, (source, target), masks, plans, seed, loop, workers)
    ):
        epoch = step // plans.steps_per_epoch
        set_rate(g_optimizer, learning_rate(config, config.lr, epoch))
        set_rate(d_optimizer, learning_rate(config, config.lr_d, epoch))
        terms = train_step(
            config,
            networks,
            g_optimizer,
            d_optimizer,
            pool,
            of_source.to(device),
            of_target.to(device),
            random.Random(f"{seed}/pool/{step}"),
        )
        loop.log(step, **terms)

    if loop.main:
        save_checkpoint(workspace.folder / "generator.pt", networks.g_s2t.state_dict())
        save_checkpoint(workspace.folder / "networks.pt", networks.state_dict())


def train_step(
    config: GANConfig,
    networks: TransferNetworks,
    g_optimizer: Optimizer,
    d_optimizer: Optimizer,
    pool: ImagePool,
    of_source: Tensor,
    of_target: Tensor,
    rng: random.Random,
) -> dict[str, Tensor]:
    """One step of both generators, then one of both discriminators, on images with masks `(B, 4, H, W)`; the
    terms of both losses.
    """
    (source, source_mask), (target, target_mask) = (
        channels.split((3, 1), dim=1) for channels in (of_source, of_target)
    )

    # G, both ways: pass for the other domain, come back, and leave the person alone (L_Style + lambda L_ID)
    networks.d_source.requires_grad_(False)
    networks.d_target.requires_grad_(False)
    fake_target, fake_source = networks.g_s2t(source), networks.g_t2s(target)
    g_terms = generator_losses(
        networks, config, source, target, fake_target, fake_source, source_mask, target_mask
    )
    g_optimizer.zero_grad()
    generator_total(g_terms, config).backward()
    average_gradients(networks.generators)
    g_optimizer.step()

    # D, both domains: real images against fakes of the generators before this step, or of earlier ones
    networks.d_source.requires_grad_(True)
    networks.d_target.requires_grad_(True)
    old_source, old_target = (
        own_part(half)
        for half in pool.query([gather(fake_source.detach()), gather(fake_target.detach())], rng)
    )
    d_terms = discriminator_losses(networks, config, source, target, old_target, old_source)
    d_optimizer.zero_grad()
    sum(d_terms.values()).backward()
    average_gradients(networks.discriminators)
    d_optimizer.step()
    return {**{f"g_{name}": term for name, term in g_terms.items()}, **d_terms}


def own_part(batch: Tensor) -> Tensor:
    """This process's share of a whole batch: every process keeps the whole history, so that it can be saved
    by one.
    """
    rank, world = rank_and_world()
    return batch.chunk(world)[rank]


def pair_batches(
    config: GANConfig,
    mask_aug: str,
    domains: tuple[Sequence[Sample], ...],
    masks: tuple[MaskSource, ...],
    plans: PairPlans,
    seed: int,
    loop: Loop,
    workers: int,
):
    """Batches `(B, 4, H, W)` of source and target, step by step; `shared_aug`: both draw the same crop and
    flip, as released.
    """
    rank, world = rank_and_world()
    loaders = []
    for name, samples, of_domain, plan in zip(
        ("source", "target"), domains, masks, (plans.source, plans.target)
    ):
        stream = "gan" if config.shared_aug else f"gan {name}"
        images = MaskedImages(
            samples,
            of_domain,
            gan_transform(config, mask_aug),
            seed=seed,
            stream=stream,
            cache=len(samples) <= CACHED_IMAGES,
        )
        loaders.append(
            planned_loader(images, plan, loop.start, loop.total, workers=workers, rank=rank, world=world)
        )
    for (of_source, _), (of_target, _) in zip(*loaders):
        yield of_source, of_target


def set_rate(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def load_generator(config: GANConfig, path: Path, device: torch.device) -> Generator:
    """The generator, source to target, of a finished stage."""
    generator = build_generator(config)
    generator.load_state_dict(load_checkpoint(path))
    return generator.to(device).eval()
