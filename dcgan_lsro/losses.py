"""LSRO and its rivals: what a softmax classifier of K people is told about an image without a label.

    CE          -log p(y)                                                        a real image of person y
    LSR         -(1 - eps) log p(y) - eps/K sum_k log p(k)      (Eq. 4-5)        a real image, smoothed; eps =
    0 in the paper
    LSRO        -1/K sum_k log p(k)                             (Eq. 6-7)        a generated image: it is
    nobody, or everybody alike
    all in one  -log p(K)                                       (Sec. 4.2)       a generated image, as a class
    of its own beside the K
    pseudo      -0.1 log p(argmax_k p(k))                       (Sec. 4.2)       a generated image, as whom
    the network takes it for now

Every function gives one loss an image, so that all rows share one reduction: the mean over the whole mixed
batch, real and generated. "Generated" is a mask of its own, never a label: label 0 is a person. Released
counterpart: the branch `labelsmooth` of `matlab/vl_nnloss.m`, which marks a generated image by label 0 (its
labels start at 1), sums over the batch, and leaves the division to the solver.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def lsro_loss(
    logits: Tensor, labels: Tensor, is_gan: Tensor, eps: float = 0.0, gan_weight: float = 1.0
) -> Tensor:
    """Eq. 7, with LSR on the real images if `eps` > 0: the mean over the batch, a scalar. Arguments as in
    `lsro_losses`.
    """
    return lsro_losses(logits, labels, is_gan, eps, gan_weight).mean()


def lsro_losses(
    logits: Tensor, labels: Tensor, is_gan: Tensor, eps: float = 0.0, gan_weight: float = 1.0
) -> Tensor:
    """One loss an image, `(B,)`: LSR (cross-entropy for `eps` = 0) for real images, `gan_weight` times Eq. 6
    for generated ones.

    `logits` `(B, K)`; `labels` `(B,)`, 0..K-1, not read where the mask `is_gan` `(B,)` is true.
    """
    log_p = F.log_softmax(logits, dim=1)
    uniform = -log_p.mean(dim=1)
    true_class = -log_p.gather(1, labels.where(~is_gan, torch.zeros_like(labels))[:, None])[:, 0]
    return torch.where(is_gan, gan_weight * uniform, (1 - eps) * true_class + eps * uniform)


def all_in_one_losses(logits: Tensor, labels: Tensor, is_gan: Tensor, eps: float = 0.0) -> Tensor:
    """One loss an image, `(B,)`: cross-entropy over K + 1 classes, `logits` `(B, K + 1)`, every generated
    image of class K.
    """
    classes = labels.masked_fill(is_gan, logits.shape[1] - 1)
    return F.cross_entropy(logits, classes, label_smoothing=eps, reduction="none")


def pseudo_losses(
    logits: Tensor, labels: Tensor, is_gan: Tensor, weight: float = 0.1, eps: float = 0.0
) -> Tensor:
    """One loss an image, `(B,)`: a generated image is labelled by the same logits `(B, K)`, and counts
    `weight`. The batch mean divides by B.
    """
    classes = torch.where(is_gan, logits.detach().argmax(dim=1), labels)
    losses = F.cross_entropy(logits, classes, label_smoothing=eps, reduction="none")
    return torch.where(is_gan, weight * losses, losses)


@torch.no_grad()
def loss_parts(logits: Tensor, labels: Tensor, is_gan: Tensor) -> dict[str, Tensor]:
    """What the curves show, apart: `real_ce` and `accuracy` of the real images; of the generated ones, if
    there are any in the batch, `gan_kl`, KL(uniform || p) = the loss of Eq. 6 less its floor log K, and
    `gan_confidence`, the largest p(k). Scalars.
    """
    parts = {}
    if not is_gan.all():
        real, of_whom = logits[~is_gan], labels[~is_gan]
        parts |= {
            "real_ce": F.cross_entropy(real, of_whom),
            "accuracy": (real.argmax(1) == of_whom).float().mean(),
        }
    if is_gan.any():
        log_p = F.log_softmax(logits[is_gan], dim=1)
        parts |= {
            "gan_kl": -log_p.mean() - math.log(logits.shape[1]),
            "gan_confidence": log_p.amax(dim=1).exp().mean(),
        }
    return parts
