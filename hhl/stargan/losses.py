"""The seven loss terms of the camera StarGAN: four in a step of D, three in a step of G.

    L_D = L_adv + lambda_cls L_cls^r + lambda_gp L_gp     L_adv = -E[D_src(x)] + E[D_src(G(x, c'))]
    L_G = L_adv + lambda_cls L_cls^f + lambda_rec L_rec   L_adv = -E[D_src(G(x, c'))]

x is a real image of camera c, c' the camera of another image. Means run over the batch and over patches or
pixels. The paper refers to StarGAN (Choi et al., 2018) for these terms: the equations below are StarGAN's,
with the Wasserstein critic of its Eq. 8. Released counterpart: `stargan4reid/solver.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hhl.stargan.model import Generator, camera_one_hot


def discriminator_losses(
    discriminator: nn.Module, real: Tensor, fake: Tensor, own_camera: Tensor, alpha: Tensor
) -> dict[str, Tensor]:
    """Returns the terms `real`, `fake`, `cls` and `gp` of L_D.

    `real` `(B, 3, H, W)` and its `fake`, both in -1..1 (the fake is detached here); `own_camera` `(B,)`,
    0-based; `alpha` `(B, 1, 1, 1)`, uniform in 0..1: the share of the real image in x_hat.
    """
    fake = fake.detach()
    src_real, cls_real = discriminator(real)
    src_fake, _ = discriminator(fake)
    return {
        "real": -src_real.mean(),  # L_adv, Eq. 8 of StarGAN: real patches score high
        "fake": src_fake.mean(),  # L_adv, Eq. 8: translated ones low
        "cls": F.cross_entropy(cls_real, own_camera),  # L_cls^r, Eq. 2: the camera of the real image
        "gp": gradient_penalty(discriminator, alpha * real + (1 - alpha) * fake),  # L_gp, Eq. 8
    }


def generator_losses(
    generator: Generator,
    discriminator: nn.Module,
    real: Tensor,
    own_camera: Tensor,
    style: Tensor,
    *,
    identity: bool = False,
) -> dict[str, Tensor]:
    """Returns the terms `fake`, `cls` and `rec` of L_G.

    `own_camera` (c) and `style` (c') are cameras `(B,)`, 0-based. `identity` adds the term `idt` of the
    presets demo and scratch_cpu: an image does not change in its own camera's style. The released code has
    none.
    """
    own = camera_one_hot(own_camera, generator.num_cameras)
    fake = generator(real, camera_one_hot(style, generator.num_cameras))
    src_fake, cls_fake = discriminator(fake)
    rebuilt = generator(fake, own)
    terms = {
        "fake": -src_fake.mean(),  # L_adv, Eq. 8 of StarGAN: translated patches look real
        "cls": F.cross_entropy(cls_fake, style),  # L_cls^f, Eq. 3: and like the target camera's
        "rec": (real - rebuilt).abs().mean(),  # L_rec, Eq. 4: translating back returns the image
    }
    if identity:
        terms["idt"] = (real - generator(real, own)).abs().mean()  # ours: E|x - G(x, c)|
    return terms


def total(
    terms: dict[str, Tensor],
    *,
    lambda_cls: float = 1.0,
    lambda_rec: float = 10.0,
    lambda_gp: float = 10.0,
    lambda_idt: float = 0.0,
) -> Tensor:
    """Returns L_D or L_G (Eqs. 5 and 6 of StarGAN), the sum of the terms; defaults: the released weights."""
    weights = {
        "real": 1.0,
        "fake": 1.0,
        "cls": lambda_cls,
        "rec": lambda_rec,
        "gp": lambda_gp,
        "idt": lambda_idt,
    }
    return sum(weights[name] * term for name, term in terms.items())  # type: ignore[return-value]


def gradient_penalty(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Returns the mean of (|g| - 1)^2, g the gradient of an image's summed patch scores by all its pixels.

    There is no epsilon under the root, as released.
    """
    images = images.detach().requires_grad_(True)
    src, _ = discriminator(images)
    (gradient,) = torch.autograd.grad(src.sum(), images, create_graph=True)
    return (gradient.flatten(1).pow(2).sum(dim=1).sqrt() - 1).pow(2).mean()
