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
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.checkpoints import load_strictly, read_state_dict, save_checkpoint
from common.datasets import Sample
from common.datasets.loading import SampleImages, normalise
from common.datasets.plans import Plan, epoch_plan, random_stream
from common.job import Workspace
from common.training import Loop, Stateful, seed_everything, under_autocast
from dcgan_lsro.config import GANConfig
from dcgan_lsro.dcgan.augment import AugmentedDiscriminator
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


class TensorFlowAdam(Adam):
    """Adam with TensorFlow's epsilon, which is added to sqrt(v) before the bias of v is corrected."""

    EPSILON = 1e-8

    def step(self, closure=None):  # type: ignore[override]
        steps = 1 + max((int(state["step"]) for state in self.state.values()), default=0)
        for group in self.param_groups:
            group["eps"] = self.EPSILON / (1 - group["betas"][1] ** steps) ** 0.5
        return super().step(closure)


ADAM: dict[str, type[Adam]] = {"pytorch": Adam, "tensorflow": TensorFlowAdam}


@dataclass(frozen=True)
class DCGAN:
    """Both networks, their optimisers and, if there is one, the running mean of the generator."""

    generator: Generator
    discriminator: Discriminator
    g_optimizer: Optimizer
    d_optimizer: Optimizer
    average: AveragedModel | None = None

    @property
    def state(self) -> dict[str, Stateful]:
        """What a resumed training needs."""
        return {name: part for name, part in vars(self).items() if part is not None}


def build_dcgan(config: GANConfig, device: torch.device) -> DCGAN:
    """Returns untrained networks on the device, with Adam."""
    generator = Generator(config).to(device)
    discriminator = (AugmentedDiscriminator if config.augment_d else Discriminator)(config).to(device)
    for network in (generator, discriminator):
        if config.upsampling == "resize":  # three times as fast on a CPU; other networks keep their rounding
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.precision == "bf16":
            network.__class__ = under_autocast(type(network), device.type)  # type: ignore[assignment]
    mean = get_ema_multi_avg_fn(config.average)
    return DCGAN(
        generator,
        discriminator,
        build_adam(config, generator),
        build_adam(config, discriminator),
        AveragedModel(generator, multi_avg_fn=mean) if config.average else None,
    )


def build_adam(config: GANConfig, network: nn.Module) -> Adam:
    """Returns a network's optimiser."""
    return ADAM[config.adam](network.parameters(), lr=config.lr, betas=(config.beta1, config.beta2))


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
    loop = Loop(work, config.epochs * steps_per_epoch, gan.state, label="DCGAN", save_every=steps_per_epoch)
    transform = GanTransform(config.height, config.width, config.flip)
    images = SampleImages(train, transform, seed=work.seed, stream="dcgan", cache=len(train) <= CACHED_IMAGES)

    for step, batch in loop.over(loop.load(images, plan)):
        z = draw_z(config.batch, config.z_dim, work.seed, "dcgan", step).to(work.device)
        real = batch.images.contiguous()  # NCHW, as the weights: channels-last kernels round differently
        loop.log(step, **train_step(gan, real, z, config.g_steps))
        evaluate_losses(gan.generator, z, config.extra_passes)

    generator = gan.average.module if gan.average else gan.generator
    save_checkpoint(work.folder / "generator.pt", generator.state_dict())
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
    if gan.average is not None:
        gan.average.update_parameters(generator)
    return {"d_real": loss_real, "d_fake": loss_fake, "g_loss": loss_g}


@torch.no_grad()
def evaluate_losses(generator: Generator, z: Tensor, passes: int) -> None:
    """Moves G's running statistics as the released code's evaluations of its losses do."""
    for _ in range(passes):
        generator(z)


def load_generator(config: GANConfig, path: Path, device: torch.device) -> Generator:
    """Returns the generator of a finished stage."""
    generator = Generator(config)
    load_strictly(generator, read_state_dict(path), path)
    return generator.to(device)
