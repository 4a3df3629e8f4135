"""The seven loss terms of the camera StarGAN: four in a step of D, three in a step of G.

    L_D = -E[D_src(x)] + E[D_src(G(x, c'))] + lambda_cls CE(D_cls(x), c) + lambda_gp E[(|grad D_src(x_hat)| -
    1)^2]
    L_G = -E[D_src(G(x, c'))] + lambda_cls CE(D_cls(G(x, c')), c') + lambda_rec E|x - G(G(x, c'), c)|

x a real image of camera c, c' another image's camera. Means run over the batch and over patches, pixels or
both. Released counterpart: `stargan4reid/solver.py`; StarGAN's equations 1-6 with a Wasserstein critic (Choi
et al., 2018, Eq. 8).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hhl.stargan.model import camera_one_hot


def discriminator_losses(
    discriminator: nn.Module, real: Tensor, fake: Tensor, own_camera: Tensor, alpha: Tensor
) -> dict[str, Tensor]:
    """Terms `real`, `fake`, `cls`, `gp` of L_D.

    `real` `(B, 3, H, W)` and its `fake`, both in -1..1 (the fake is detached here); `own_camera` `(B,)`,
    0-based; `alpha` `(B, 1, 1, 1)`, uniform in 0..1: the share of the real image in x_hat.
    """
    fake = fake.detach()
    src_real, cls_real = discriminator(real)
    src_fake, _ = discriminator(fake)
    return {
        "real": -src_real.mean(),  # real patches score high
        "fake": src_fake.mean(),  # translated ones low
        "cls": F.cross_entropy(cls_real, own_camera),  # which camera took the real image
        "gp": gradient_penalty(discriminator, alpha * real + (1 - alpha) * fake),
    }


def generator_losses(
    generator: nn.Module,
    discriminator: nn.Module,
    real: Tensor,
    own_camera: Tensor,
    style: Tensor,
    *,
    identity: bool = False,
) -> dict[str, Tensor]:
    """Terms `fake`, `cls`, `rec` of L_G; `own_camera` (c) and `style` (c') are cameras `(B,)`, 0-based.

    `identity` adds the demo's term `idt`, E|x - G(x, c)|: an image is left alone in its own camera's style.
    The released code has none.
    """
    fake = generator(real, camera_one_hot(style, generator.num_cameras))
    src_fake, cls_fake = discriminator(fake)
    rebuilt = generator(fake, camera_one_hot(own_camera, generator.num_cameras))
    terms = {
        "fake": -src_fake.mean(),  # translated patches pass for real
        "cls": F.cross_entropy(cls_fake, style),  # and for the camera asked for
        "rec": (real - rebuilt).abs().mean(),  # the way back returns the image
    }
    if identity:
        terms["idt"] = (
            (real - generator(real, camera_one_hot(own_camera, generator.num_cameras))).abs().mean()
        )
    return terms


def total(
    terms: dict[str, Tensor],
    *,
    lambda_cls: float = 1.0,
    lambda_rec: float = 10.0,
    lambda_gp: float = 10.0,
    lambda_idt: float = 0.0,
) -> Tensor:
    """L_D or L_G: the weighted sum of its terms, with the released weights."""
    weights = {
        "real": 1.0,
        "fake": 1.0,
        "cls": lambda_cls,
        "rec": lambda_rec,
        "gp": lambda_gp,
        "idt": lambda_idt,
    }
    return sum(weights[name] * term for name, term in terms.items())


def gradient_penalty(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Mean of (|g| - 1)^2, g the gradient of an image's summed patch scores with respect to all its pixels.
    No epsilon under the root.
    """
    images = images.detach().requires_grad_(True)
    src, _ = discriminator(images)
    (gradient,) = torch.autograd.grad(src.sum(), images, create_graph=True)
    return (gradient.flatten(1).pow(2).sum(dim=1).sqrt() - 1).pow(2).mean()
