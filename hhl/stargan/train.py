"""Trains the camera StarGAN on the target's training images, without identities: only cameras are known.

Released counterpart: `stargan4reid/solver.py` and `data_loader.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.optim import Adam

from common.checkpoints import load_strictly, read_state_dict, save_checkpoint
from common.datasets import ReIDDataset
from common.datasets.loading import Batch, SampleImages, normalise
from common.datasets.plans import epoch_plan
from common.job import Workspace
from common.training import Loop, Stateful, seed_everything, under_autocast
from hhl.config import GANConfig
from hhl.stargan.augment import AugmentedDiscriminator
from hhl.stargan.losses import discriminator_losses, generator_losses, total
from hhl.stargan.model import Discriminator, Generator, camera_one_hot

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class GanTransform:
    """Flips, resizes to 9/8 of the size and crops: RGB image -> `(3, height, width)` in -1..1.

    Released: to 288x144, then 256x128.
    """

    height: int
    width: int

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        height, width = round(self.height * 9 / 8), round(self.width * 9 / 8)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = rng.randint(0, width - self.width), rng.randint(0, height - self.height)
        return normalise(image.crop((left, top, left + self.width, top + self.height)), HALF, HALF)


def learning_rate(gan: GANConfig, iteration: int) -> float:
    """Returns the rate of G and D at a 0-based iteration.

    The released decay subtracts lr / (N / 2) only at every 1000th iteration of the second half, so that
    220,000 iterations end at 0.999 lr.
    """
    half = gan.iterations / 2
    if gan.lr_decay == "true_linear":
        return gan.lr * min(1.0, (gan.iterations - iteration) / half)
    decrements = max(0, iteration // 1000 - int(half) // 1000)
    return gan.lr * (1 - decrements / half)


def train_stargan(work: Workspace, gan: GANConfig, target: ReIDDataset) -> None:
    """Writes `generator.pt` and `discriminator.pt` after `gan.iterations` steps (see `GANConfig.on`)."""
    seed_everything(work.seed, deterministic=work.options.deterministic)
    generator, discriminator = build_networks(gan, target.num_cameras, work.device)
    g_optimizer, d_optimizer = (
        Adam(model.parameters(), lr=gan.lr, betas=(gan.beta1, 0.999)) for model in (generator, discriminator)
    )
    state: dict[str, Stateful] = {
        "generator": generator,
        "discriminator": discriminator,
        "g_optimizer": g_optimizer,
        "d_optimizer": d_optimizer,
    }
    critic = AugmentedDiscriminator(discriminator) if gan.augment_d else discriminator
    save_every = min(10_000, max(1, gan.iterations // 4))
    loop = Loop(work, gan.iterations, state, label="StarGAN", save_every=save_every)
    weights = {name: getattr(gan, name) for name in ("lambda_cls", "lambda_rec", "lambda_gp", "lambda_idt")}

    for step, batch in loop.over(load_batches(loop, gan, target)):
        for optimizer in (g_optimizer, d_optimizer):
            optimizer.param_groups[0]["lr"] = learning_rate(gan, step)
        real, own = batch.images, batch.labels
        style = own[torch.randperm(len(own)).to(work.device)]  # the cameras of the batch, shuffled

        # D: real images score high, translated ones low; the camera of a real image is recognised
        with torch.no_grad():
            fake = generator(real, camera_one_hot(style, target.num_cameras))
        alpha = torch.rand(len(real), 1, 1, 1).to(work.device)
        d_terms = discriminator_losses(critic, real, fake, own, alpha)
        d_optimizer.zero_grad()
        total(d_terms, **weights).backward()  # L_D
        d_optimizer.step()
        loop.log(step, **{f"d_{name}": value for name, value in d_terms.items()})

        # G, every n_critic-th step: realistic, in the target style, and reversible
        if (step + 1) % gan.n_critic == 0:
            g_terms = generator_losses(generator, critic, real, own, style, identity=gan.lambda_idt > 0)
            g_optimizer.zero_grad()
            total(g_terms, **weights).backward()  # L_G
            g_optimizer.step()
            loop.log(step, **{f"g_{name}": value for name, value in g_terms.items()})

    save_checkpoint(work.folder / "generator.pt", generator.state_dict())
    save_checkpoint(work.folder / "discriminator.pt", discriminator.state_dict())


def build_networks(gan: GANConfig, num_cameras: int, device: torch.device) -> tuple[Generator, Discriminator]:
    """Returns untrained networks on the device."""
    generator = build_generator(gan, num_cameras).to(device)
    discriminator = Discriminator(
        num_cameras, gan.height, gan.width, base=gan.d_channels, layers=gan.d_layers
    ).to(device)
    if gan.precision == "bf16":
        for network in (generator, discriminator):
            network.__class__ = under_autocast(type(network), device.type)  # type: ignore[assignment]
    else:  # slower under bf16
        discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return generator, discriminator


def load_batches(loop: Loop, gan: GANConfig, target: ReIDDataset) -> Iterator[Batch]:
    """Yields shuffled training images with their cameras as labels."""
    seed, few = loop.workspace.seed, len(target.train) <= 12_000
    transform = GanTransform(gan.height, gan.width)
    images = SampleImages(target.train, transform, seed=seed, stream="stargan", cache=few)
    plan = epoch_plan(len(target.train), gan.batch, seed=seed, stream="stargan")
    return loop.load(images, plan, [sample.camid for sample in target.train])


def build_generator(gan: GANConfig, num_cameras: int) -> Generator:
    return Generator(
        num_cameras,
        width=gan.channels,
        blocks=gan.blocks,
        downsamplings=gan.downsamplings,
        residual=gan.residual,
        conditional_norm=gan.conditional_norm,
        uniform_gamma=gan.uniform_gamma,
    )


def load_generator(gan: GANConfig, num_cameras: int, path: Path) -> Generator:
    """Returns the trained generator."""
    generator = build_generator(gan, num_cameras)
    load_strictly(generator, read_state_dict(path), path)
    return generator
