"""The losses of PTGAN, as pure functions.

    L_PTGAN = L_Style + lambda_1 L_ID,    L_Style = L_GAN(G, D_B) + L_GAN(F, D_A) + lambda_2 L_cyc

a is a source image (domain A) with mask M(a), b a target image (domain B) with mask M(b). G is `g_s2t`, F is
`g_t2s`, D_A is `d_source`, D_B is `d_target`, lambda_1 is `lambda_id` and lambda_2 is `lambda_cyc`. The
paper's equation numbers are not known; Sec. 4.1 of the blog quotes L_ID. Released counterpart: `model.py`
(`_build_model`) and the criteria at the end of `module.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ptgan.config import GANConfig
from ptgan.model import Discriminator, TransferNetworks

ADVERSARIAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "lsgan": F.mse_loss,
    "sigmoid": F.binary_cross_entropy_with_logits,
}


class Translated(NamedTuple):
    """A batch of one domain, its translation to the other domain, and its masks."""

    real: Tensor  # (B, 3, H, W) in -1..1
    fake: Tensor  # (B, 3, H, W) in -1..1
    mask: Tensor  # (B, 1, H, W) in 0..1, of the real images


def adversarial_loss(score: Tensor, real: bool, kind: str = "lsgan") -> Tensor:
    """Returns the mean over batch and patches of (D(x) - 1)^2 or D(x)^2, or the cross-entropy with 1 or 0."""
    return ADVERSARIAL[kind](score, torch.full_like(score, float(real)))


def identity_loss(
    image: Tensor, translated: Tensor, mask: Tensor, kind: str = "mse", reduce: str = "all"
) -> Tensor:
    """Returns L_ID of one direction: the change of the masked part of `image` `(B, 3, H, W)`.

    `mask` `(B, 1, H, W)` in 0..1 belongs to `image`. `mse` is the mean of M d^2 over all N = 3HW values of an
    image, background included (released). `l2` is the norm |M d| of an image (paper, blog). `l2_rms` is that
    norm divided by sqrt(N). All are means over the batch. `reduce="mask"` replaces N by 3 sum(M). An empty
    mask results in 0 and in gradients of 0.
    """
    change = image - translated
    n = change[0].numel() if reduce == "all" else (image.shape[1] * mask.flatten(1).sum(1)).clamp(min=1.0)
    if kind == "mse":
        return ((mask * change**2).flatten(1).sum(1) / n).mean()  # L_ID as released
    # the gradient of this norm at 0 is 0; that of a square root would be NaN
    norm = torch.linalg.vector_norm((mask * change).flatten(1), dim=1)
    if kind == "l2":
        return norm.mean()  # L_ID, blog Sec. 4.1
    if kind == "l2_rms":
        return (norm / torch.as_tensor(n, dtype=norm.dtype, device=norm.device).sqrt()).mean()
    raise ValueError(f"unknown identity loss {kind!r}")


def generator_losses(
    networks: TransferNetworks, config: GANConfig, source: Translated, target: Translated
) -> dict[str, Tensor]:
    """Returns the terms of L_PTGAN before their weights; `idt` only if it has a weight."""
    d_source, d_target, g_s2t, g_t2s = networks.d_source, networks.d_target, networks.g_s2t, networks.g_t2s
    a, b, form = source.real, target.real, (config.id_loss, config.id_reduce)
    terms = {
        "adv_s2t": adversarial_loss(d_target(source.fake), True, config.adversarial),  # L_GAN(G, D_B)
        "adv_t2s": adversarial_loss(d_source(target.fake), True, config.adversarial),  # L_GAN(F, D_A)
        "cyc": (a - g_t2s(source.fake)).abs().mean() + (b - g_s2t(target.fake)).abs().mean(),  # L_cyc
        "id": identity_loss(*source, *form) + identity_loss(*target, *form),  # L_ID, blog Sec. 4.1
    }
    if config.lambda_idt > 0:
        terms["idt"] = (b - g_s2t(b)).abs().mean() + (a - g_t2s(a)).abs().mean()  # L_ide, SPGAN's
    return terms


def generator_total(terms: dict[str, Tensor], config: GANConfig) -> Tensor:
    """Returns L_PTGAN, the weighted sum of its terms."""
    adversarial = config.lambda_adv * (terms["adv_s2t"] + terms["adv_t2s"])
    total = adversarial + config.lambda_cyc * terms["cyc"]  # L_Style
    total = total + config.lambda_id * terms["id"]  # L_PTGAN = L_Style + lambda_1 L_ID
    if "idt" in terms:
        total = total + config.lambda_idt * terms["idt"]
    return total


def discriminator_loss(
    discriminator: Discriminator, real: Tensor, fake: Tensor, kind: str = "lsgan"
) -> Tensor:
    """Returns half the sum over real images and (pooled) fakes, which are detached here; released code."""
    loss_real = adversarial_loss(discriminator(real), True, kind)
    loss_fake = adversarial_loss(discriminator(fake.detach()), False, kind)
    return (loss_real + loss_fake) / 2  # L_GAN(G, D_B) of D_B, or L_GAN(F, D_A) of D_A
