"""LSRO and its competitors: how a softmax classifier of K identities learns from an image without a label.

    CE           -log p(y)                                                   a real image of identity y
    LSR          -(1 - eps) log p(y) - eps/K sum_k log p(k)    (Eqs. 4-5)    a real image, smoothed label
    LSRO         -1/K sum_k log p(k)                           (Eqs. 6-7)    a generated image, uniform label
    all in one   -log p(K + 1)                                 (Sec. 4.2)    a generated image, one more class
    pseudo       -0.1 log p(argmax_k p(k))                     (Sec. 4.2)    a generated image, pseudo-label

Every function returns one loss per image, so that all rows share one reduction: the mean over the whole
mixed batch, real and generated. A separate mask marks the generated images, because label 0 is an identity.
Released counterpart: the branch `labelsmooth` of `matlab/vl_nnloss.m`, which marks a generated image by
label 0 (its labels start at 1), sums over the batch, and leaves the division to the solver.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

UNLABELLED = -1  # label of a generated image


def lsro_loss(
    logits: Tensor, labels: Tensor, is_gan: Tensor, eps: float = 0.0, gan_weight: float = 1.0
) -> Tensor:
    """Returns the mean of `lsro_losses` over the batch, a scalar."""
    return lsro_losses(logits, labels, is_gan, eps, gan_weight).mean()


def lsro_losses(
    logits: Tensor, labels: Tensor, is_gan: Tensor, eps: float = 0.0, gan_weight: float = 1.0
) -> Tensor:
    """Returns one loss per image, `(B,)`: Eq. 7, with LSR on the real images if `eps` > 0.

    `logits` `(B, K)`; `labels` `(B,)`, 0..K-1, ignored where the mask `is_gan` `(B,)` (Z in Eq. 7) is true.
    """
    log_p = F.log_softmax(logits, dim=1)
    uniform = -log_p.mean(dim=1)  # -1/K sum_k log p(k): q_LSRO(k) = 1/K, Eq. 6
    true_class = -log_p.gather(1, labels.where(~is_gan, torch.zeros_like(labels))[:, None])[:, 0]  # -log p(y)
    real = (1 - eps) * true_class + eps * uniform  # l_LSR, Eq. 5, of the label q_LSR, Eq. 4; CE for eps = 0
    return torch.where(is_gan, gan_weight * uniform, real)  # l_LSRO, Eq. 7


def all_in_one_losses(logits: Tensor, labels: Tensor, is_gan: Tensor, eps: float = 0.0) -> Tensor:
    """Returns one loss per image, `(B,)`: cross-entropy over K + 1 classes, `logits` `(B, K + 1)`."""
    classes = labels.masked_fill(is_gan, logits.shape[1] - 1)
    return F.cross_entropy(logits, classes, label_smoothing=eps, reduction="none")  # all in one, Sec. 4.2


def pseudo_losses(
    logits: Tensor, labels: Tensor, is_gan: Tensor, weight: float = 0.1, eps: float = 0.0
) -> Tensor:
    """Returns one loss per image, `(B,)`; a generated one is labelled by its logits and counts `weight`."""
    classes = torch.where(is_gan, logits.detach().argmax(dim=1), labels)
    losses = F.cross_entropy(logits, classes, label_smoothing=eps, reduction="none")
    return torch.where(is_gan, weight * losses, losses)  # pseudo label, Sec. 4.2


@torch.no_grad()
def loss_parts(logits: Tensor, labels: Tensor, is_gan: Tensor) -> dict[str, Tensor]:
    """Returns the parts of the loss that are logged separately, scalars.

    `real_ce` and `accuracy` of the real images; `gan_kl` and `gan_confidence` of the generated ones, if the
    batch has any: KL(uniform || p), which is the loss of Eq. 6 minus its minimum log K, and the largest
    p(k).
    """
    parts: dict[str, Tensor] = {}
    if not is_gan.all():
        real, identities = logits[~is_gan], labels[~is_gan]
        parts |= {
            "real_ce": F.cross_entropy(real, identities),
            "accuracy": (real.argmax(1) == identities).float().mean(),
        }
    if is_gan.any():
        log_p = F.log_softmax(logits[is_gan], dim=1)
        parts |= {
            "gan_kl": -log_p.mean() - math.log(logits.shape[1]),
            "gan_confidence": log_p.amax(dim=1).exp().mean(),
        }
    return parts
