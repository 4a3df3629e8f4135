"""Trains the DCGAN on training images without their labels (Sec. 3.1).

Released counterpart: `DCGAN/model.py` and `DCGAN/utils.py` in the git history of the authors' repository
(commit 6621e2c).
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from common.checkpoints import load_checkpoint, save_checkpoint
from common.datasets import Sample
from common.datasets.loading import EpochPlan, SampleImages, epoch_plan, normalise, planned_loader
from common.runs import Workspace
from common.training import Loop, seed_everything
from dcgan_lsro.config import DCGANConfig
from dcgan_lsro.dcgan.losses import discriminator_losses, generator_loss
from dcgan_lsro.dcgan.model import Generator, build_discriminator, build_generator

HALF = (0.5, 0.5, 0.5)
CACHED_IMAGES = 20_000  # a set up to this size is decoded once and kept in memory


@dataclass(frozen=True)
class GanTransform:
    """Squeezed to the network's size, mirrored half the time: RGB image -> `(3, height, width)` in -1..1. No
    crop.
    """

    height: int
    width: int
    flip: bool = True

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        if self.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return normalise(image.resize((self.width, self.height), Image.Resampling.BILINEAR), HALF, HALF)


def draw_z(batch: int, z_dim: int, seed: int, stream: str, step: int) -> Tensor:
    """Noise `(batch, z_dim)`, uniform in -1..1, float32: a function of the seed, the stream's name and the
    step.
    """
    generator = np.random.default_rng((seed, zlib.crc32(stream.encode()), step))
    return torch.from_numpy(generator.uniform(-1, 1, (batch, z_dim)).astype(np.float32))


def batches(config: DCGANConfig, count: int, seed: int) -> tuple[Callable[[int], np.ndarray], EpochPlan]:
    """Which images each step sees, and the plan that knows the epochs' length; without `shuffle`, file order,
    the same batches in every epoch.

    What does not fill a batch is left out: 8 of Market-1501's images, always the same ones without `shuffle`.
    """
    plan = epoch_plan(count, config.batch, seed=seed, stream="dcgan")
    if config.shuffle:
        return plan, plan
    return lambda step: step % plan.steps_per_epoch * config.batch + np.arange(config.batch), plan


def train_dcgan(
    config: DCGANConfig,
    train: Sequence[Sample],
    seed: int,
    device: torch.device,
    workspace: Workspace,
    *,
    workers: int = 0,
    deterministic: bool = False,
) -> None:
    """Writes `generator.pt` and `discriminator.pt` into the workspace."""
    seed_everything(seed, deterministic=deterministic)
    generator, discriminator = build_generator(config).to(device), build_discriminator(config).to(device)
    g_optimizer, d_optimizer = (
        Adam(net.parameters(), lr=config.lr, betas=(config.beta1, config.beta2))
        for net in (generator, discriminator)
    )
    indices, plan = batches(config, len(train), seed)
    state = {
        "generator": generator,
        "discriminator": discriminator,
        "g_optimizer": g_optimizer,
        "d_optimizer": d_optimizer,
    }
    loop = Loop(
        workspace, config.epochs * plan.steps_per_epoch, state, label="DCGAN", save_every=plan.steps_per_epoch
    )
    images = SampleImages(
        train,
        GanTransform(config.height, config.width, config.flip),
        seed=seed,
        stream="dcgan",
        cache=len(train) <= CACHED_IMAGES,
    )
    for step, (real, _) in loop.over(
        planned_loader(images, indices, loop.start, loop.total, workers=workers)
    ):
        z = draw_z(len(real), config.z_dim, seed, "dcgan", step).to(device)
        loop.log(
            step,
            **train_step(
                generator, discriminator, g_optimizer, d_optimizer, real.to(device), z, config.g_steps
            ),
        )
    save_checkpoint(workspace.folder / "generator.pt", generator.state_dict())
    save_checkpoint(workspace.folder / "discriminator.pt", discriminator.state_dict())


def train_step(
    generator: nn.Module,
    discriminator: nn.Module,
    g_optimizer: Optimizer,
    d_optimizer: Optimizer,
    real: Tensor,
    z: Tensor,
    g_steps: int = 2,
) -> dict[str, Tensor]:
    """One step of D and `g_steps` of G, all with the same z; the loss terms. Real and generated images pass
    through D apart, as batch norm sees.
    """
    # D: real images above zero, generated ones below
    with torch.no_grad():
        fake = generator(z)
    loss_real, loss_fake = discriminator_losses(discriminator(real), discriminator(fake))
    d_optimizer.zero_grad()
    (loss_real + loss_fake).backward()
    d_optimizer.step()

    # G: the same noise, twice, so that D does not run ahead
    discriminator.requires_grad_(False)
    for _ in range(g_steps):
        loss_g = generator_loss(discriminator(generator(z)))
        g_optimizer.zero_grad()
        loss_g.backward()
        g_optimizer.step()
    discriminator.requires_grad_(True)
    return {"d_real": loss_real, "d_fake": loss_fake, "g_loss": loss_g}


def load_generator(config: DCGANConfig, path: Path, device: torch.device) -> Generator:
    """The generator of a finished stage."""
    generator = build_generator(config)
    generator.load_state_dict(load_checkpoint(path))
    return generator.to(device)
