"""Trains the DCGAN on training images without their labels (Sec. 3.1).

Released counterpart: `DCGAN/model.py` and `DCGAN/utils.py` in the git history of the authors' repository
(commit 6621e2c).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.optim import Adam, Optimizer

from common.checkpoints import load_strictly, read_state_dict, save_checkpoint
from common.datasets import Sample
from common.datasets.loading import SampleImages, normalise
from common.datasets.plans import Plan, epoch_plan, random_stream
from common.job import Workspace
from common.training import Loop, seed_everything
from dcgan_lsro.config import GANConfig
from dcgan_lsro.dcgan.losses import discriminator_losses, generator_loss
from dcgan_lsro.dcgan.model import Discriminator, Generator

HALF = (0.5, 0.5, 0.5)
CACHED_IMAGES = 20_000  # a set up to this size is decoded once and kept in memory


@dataclass(frozen=True)
class GanTransform:
    """Flips at random and resizes without a crop: RGB image -> `(3, height, width)` in -1..1."""

    height: int
    width: int
    flip: bool = True

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        if self.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return normalise(image.resize((self.width, self.height), Image.Resampling.BILINEAR), HALF, HALF)


@dataclass(frozen=True)
class DCGAN:
    """Both networks and their optimisers."""

    generator: Generator
    discriminator: Discriminator
    g_optimizer: Optimizer
    d_optimizer: Optimizer


def build_dcgan(config: GANConfig, device: torch.device) -> DCGAN:
    """Returns untrained networks on the device, with Adam."""
    networks = Generator(config).to(device), Discriminator(config).to(device)
    betas = (config.beta1, config.beta2)
    return DCGAN(*networks, *(Adam(net.parameters(), lr=config.lr, betas=betas) for net in networks))


def draw_z(batch: int, z_dim: int, seed: int, stream: str, step: int) -> Tensor:
    """Returns noise `(batch, z_dim)`, uniform in -1..1, of one step of a random stream."""
    values = random_stream(seed, stream, step).uniform(-1, 1, (batch, z_dim))
    return torch.from_numpy(values.astype(np.float32))


def batches(config: GANConfig, count: int, seed: int) -> tuple[Plan, int]:
    """Returns the plan of the batches and the steps per epoch; without `shuffle`, epochs are in file order.

    Images that do not fill a batch are left out: 8 of Market-1501's, always the same ones without `shuffle`.
    """
    plan = epoch_plan(count, config.batch, seed=seed, stream="dcgan")
    steps = plan.steps_per_epoch
    if config.shuffle:
        return plan, steps
    return lambda step: step % steps * config.batch + np.arange(config.batch), steps


def train_dcgan(config: GANConfig, train: Sequence[Sample], work: Workspace) -> None:
    """Trains both networks and writes `generator.pt` and `discriminator.pt`."""
    seed_everything(work.seed, deterministic=work.options.deterministic)
    gan = build_dcgan(config, work.device)
    plan, steps_per_epoch = batches(config, len(train), work.seed)
    loop = Loop(work, config.epochs * steps_per_epoch, vars(gan), label="DCGAN", save_every=steps_per_epoch)
    transform = GanTransform(config.height, config.width, config.flip)
    images = SampleImages(train, transform, seed=work.seed, stream="dcgan", cache=len(train) <= CACHED_IMAGES)

    for step, batch in loop.over(loop.load(images, plan)):
        z = draw_z(config.batch, config.z_dim, work.seed, "dcgan", step).to(work.device)
        real = batch.images.contiguous()  # NCHW, as the weights: channels-last kernels round differently
        loop.log(step, **train_step(gan, real, z, config.g_steps))

    save_checkpoint(work.folder / "generator.pt", gan.generator.state_dict())
    save_checkpoint(work.folder / "discriminator.pt", gan.discriminator.state_dict())


def train_step(gan: DCGAN, real: Tensor, z: Tensor, g_steps: int = 2) -> dict[str, Tensor]:
    """Makes one step of D and `g_steps` of G, all with the same z, and returns the loss terms.

    D receives real and generated images in separate batches, so that batch norm sees one kind at a time.
    """
    generator, discriminator = gan.generator, gan.discriminator

    # D: real images above zero, generated ones below
    with torch.no_grad():
        fake = generator(z)
    loss_real, loss_fake = discriminator_losses(discriminator(real), discriminator(fake))  # L_D, two terms
    gan.d_optimizer.zero_grad()
    (loss_real + loss_fake).backward()  # L_D
    gan.d_optimizer.step()

    # G: the same noise, twice, so that D does not get too far ahead
    discriminator.requires_grad_(False)
    for _ in range(g_steps):
        loss_g = generator_loss(discriminator(generator(z)))  # L_G
        gan.g_optimizer.zero_grad()
        loss_g.backward()
        gan.g_optimizer.step()
    discriminator.requires_grad_(True)
    return {"d_real": loss_real, "d_fake": loss_fake, "g_loss": loss_g}


def load_generator(config: GANConfig, path: Path, device: torch.device) -> Generator:
    """Returns the generator of a finished stage."""
    generator = Generator(config)
    load_strictly(generator, read_state_dict(path), path)
    return generator.to(device)
