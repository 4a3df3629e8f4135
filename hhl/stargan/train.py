"""Trains the camera StarGAN on the target's training images; no identity is used, only which camera took an
image.

Released counterpart: `stargan4reid/solver.py` and `data_loader.py`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.optim import Adam

from common.checkpoints import load_checkpoint, save_checkpoint
from common.datasets import ReIDDataset
from common.datasets.loading import SampleImages, epoch_plan, normalise, planned_loader
from common.runs import Workspace
from common.training import Loop, seed_everything
from hhl.config import StarGANConfig
from hhl.stargan.losses import discriminator_losses, generator_losses, total
from hhl.stargan.model import Discriminator, Generator, camera_one_hot

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class GanTransform:
    """Flip, resize to 9/8 of the size, random crop: RGB image -> `(3, height, width)` in -1..1. Released:
    288x144, then 256x128.
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


def learning_rate(config: StarGANConfig, iteration: int) -> float:
    """Of G and D at a 0-based iteration.

    The released decay subtracts lr / (N / 2) only at every 1000th iteration of the second half, so that
    220,000 iterations end at 0.999 lr.
    """
    half = config.iterations / 2
    if config.lr_decay == "true_linear":
        return config.lr * min(1.0, (config.iterations - iteration) / half)
    decrements = max(0, iteration // 1000 - int(half) // 1000)
    return config.lr * (1 - decrements / half)


def build_generator(config: StarGANConfig, num_cameras: int) -> Generator:
    return Generator(
        num_cameras,
        width=config.channels,
        blocks=config.blocks,
        downsamplings=config.downsamplings,
        residual=config.residual,
        uniform_gamma=config.uniform_gamma,
    )


def train_stargan(
    config: StarGANConfig,
    target: ReIDDataset,
    seed: int,
    device: torch.device,
    workspace: Workspace,
    *,
    workers: int = 0,
    deterministic: bool = False,
) -> None:
    """Writes `generator.pt` and `discriminator.pt` into the workspace; `config.iterations` steps (see
    `StarGANConfig.on`).
    """
    seed_everything(seed, deterministic=deterministic)
    generator = build_generator(config, target.num_cameras).to(device)
    discriminator = Discriminator(
        target.num_cameras, config.height, config.width, base=config.d_channels, layers=config.d_layers
    )
    discriminator.to(device, memory_format=torch.channels_last)
    g_optimizer = Adam(generator.parameters(), lr=config.lr, betas=(config.beta1, 0.999))
    d_optimizer = Adam(discriminator.parameters(), lr=config.lr, betas=(config.beta1, 0.999))
    state = {
        "generator": generator,
        "discriminator": discriminator,
        "g_optimizer": g_optimizer,
        "d_optimizer": d_optimizer,
    }
    loop = Loop(
        workspace,
        config.iterations,
        state,
        label="StarGAN",
        save_every=min(10_000, max(1, config.iterations // 4)),
    )

    images = SampleImages(
        target.train,
        GanTransform(config.height, config.width),
        seed=seed,
        stream="stargan",
        cache=len(target.train) <= 12_000,
    )
    plan = epoch_plan(len(target.train), config.batch, seed=seed, stream="stargan")
    camera_of = torch.tensor([sample.camid for sample in target.train])
    weights = {
        "lambda_cls": config.lambda_cls,
        "lambda_rec": config.lambda_rec,
        "lambda_gp": config.lambda_gp,
        "lambda_idt": config.lambda_idt,
    }

    for step, (real, index) in loop.over(
        planned_loader(images, plan, loop.start, loop.total, workers=workers)
    ):
        for optimizer in (g_optimizer, d_optimizer):
            optimizer.param_groups[0]["lr"] = learning_rate(config, step)
        real, own = real.to(device, memory_format=torch.channels_last), camera_of[index].to(device)
        style = own[torch.randperm(len(own)).to(device)]  # the cameras of the batch, dealt anew

        # D: real images score high, translated ones low, and the camera of a real one is known
        with torch.no_grad():
            fake = generator(real, camera_one_hot(style, target.num_cameras))
        alpha = torch.rand(len(real), 1, 1, 1).to(device)
        d_terms = discriminator_losses(discriminator, real, fake, own, alpha)
        d_optimizer.zero_grad()
        total(d_terms, **weights).backward()
        d_optimizer.step()
        loop.log(step, **{f"d_{name}": value for name, value in d_terms.items()})

        # G, every n_critic-th step: pass for real, in the style asked for, with a way back
        if (step + 1) % config.n_critic == 0:
            g_terms = generator_losses(
                generator, discriminator, real, own, style, identity=config.lambda_idt > 0
            )
            g_optimizer.zero_grad()
            total(g_terms, **weights).backward()
            g_optimizer.step()
            loop.log(step, **{f"g_{name}": value for name, value in g_terms.items()})

    save_checkpoint(workspace.folder / "generator.pt", generator.state_dict())
    save_checkpoint(workspace.folder / "discriminator.pt", discriminator.state_dict())


def load_generator(config: StarGANConfig, num_cameras: int, path: Path, device: torch.device) -> Generator:
    generator = build_generator(config, num_cameras)
    generator.load_state_dict(load_checkpoint(path))
    return generator.to(device)
