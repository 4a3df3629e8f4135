"""The losses of PTGAN, as pure functions.

    L_G = adv(D_t, G(a)) + adv(D_s, F(b)) + lambda_cyc L_cyc + lambda_id L_ID       (L_Style + lambda 1 L_ID
    of the paper)
    L_D = (adv(D_s, a, 1) + adv(D_s, F(b)', 0)) / 2 + (adv(D_t, b, 1) + adv(D_t, G(a)', 0)) / 2

a is a source image with mask M(a), b a target image with mask M(b), G = `g_s2t`, F = `g_t2s`; ' marks a fake
out of the history pool. Released counterpart: `model.py` (`_build_model`) and the criteria at the end of
`module.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ptgan.config import GANConfig
from ptgan.model import Discriminator, TransferNetworks


def adversarial_loss(score: Tensor, real: bool, kind: str = "lsgan") -> Tensor:
    """Mean over batch and patches: (D(x) - 1)^2 or D(x)^2 (`lsgan`), or the sigmoid cross-entropy with 1 or
    0.
    """
    wanted = torch.full_like(score, float(real))
    return F.mse_loss(score, wanted) if kind == "lsgan" else F.binary_cross_entropy_with_logits(score, wanted)


def identity_loss(
    image: Tensor, translated: Tensor, mask: Tensor, kind: str = "mse", reduce: str = "all"
) -> Tensor:
    """L_ID of one direction: how far the masked part of `image` `(B, 3, H, W)` has moved; `mask` `(B, 1, H,
    W)` in 0..1, of `image` itself.

    `mse`: mean of M d^2 over all N = 3HW values of an image, background included (released). `l2`: the norm
    |M d| of an image (paper, blog). `l2_rms`: that norm over sqrt(N). All are means over the batch.
    `reduce="mask"` puts 3 sum(M) for N; an empty mask gives 0, and gradients of 0.
    """
    difference = image - translated
    n = difference[0].numel() if reduce == "all" else (image.shape[1] * mask.flatten(1).sum(1)).clamp(min=1.0)
    if kind == "mse":
        return ((mask * difference**2).flatten(1).sum(1) / n).mean()
    # its gradient at 0 is 0; a square root's would be NaN
    norm = torch.linalg.vector_norm((mask * difference).flatten(1), dim=1)
    return (
        norm.mean()
        if kind == "l2"
        else (norm / torch.as_tensor(n, dtype=norm.dtype, device=norm.device).sqrt()).mean()
    )


def generator_losses(
    networks: TransferNetworks,
    config: GANConfig,
    source: Tensor,
    target: Tensor,
    fake_target: Tensor,
    fake_source: Tensor,
    source_mask: Tensor,
    target_mask: Tensor,
) -> dict[str, Tensor]:
    """Terms of L_G before their weights; each identity term has the mask of its own input. `idt` only if it
    has a weight.
    """
    terms = {
        "adv_s2t": adversarial_loss(networks.d_target(fake_target), True, config.adversarial),
        "adv_t2s": adversarial_loss(networks.d_source(fake_source), True, config.adversarial),
        "cyc": (source - networks.g_t2s(fake_target)).abs().mean()
        + (target - networks.g_s2t(fake_source)).abs().mean(),
        "id": identity_loss(source, fake_target, source_mask, config.id_loss, config.id_reduce)
        + identity_loss(target, fake_source, target_mask, config.id_loss, config.id_reduce),
    }
    if config.lambda_idt > 0:  # identity mapping, neither paper nor released code
        terms["idt"] = (target - networks.g_s2t(target)).abs().mean() + (
            source - networks.g_t2s(source)
        ).abs().mean()
    return terms


def discriminator_losses(
    networks: TransferNetworks,
    config: GANConfig,
    source: Tensor,
    target: Tensor,
    fake_target: Tensor,
    fake_source: Tensor,
) -> dict[str, Tensor]:
    """`d_source` and `d_target`, each half the sum over real images and (pooled) fakes, which are detached
    here.
    """

    def loss(discriminator: Discriminator, real: Tensor, fake: Tensor) -> Tensor:
        return (
            adversarial_loss(discriminator(real), True, config.adversarial)
            + adversarial_loss(discriminator(fake.detach()), False, config.adversarial)
        ) / 2

    return {
        "d_source": loss(networks.d_source, source, fake_source),
        "d_target": loss(networks.d_target, target, fake_target),
    }


def generator_total(terms: dict[str, Tensor], config: GANConfig) -> Tensor:
    """L_G: the weighted sum of its terms."""
    weights = {
        "adv_s2t": 1.0,
        "adv_t2s": 1.0,
        "cyc": config.lambda_cyc,
        "id": config.lambda_id,
        "idt": config.lambda_idt,
    }
    return sum(weights[name] * term for name, term in terms.items())
