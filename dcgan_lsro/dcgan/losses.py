"""The losses of the DCGAN (Sec. 3.1, no equation there): sigmoid cross-entropy of logits `(B,)`, batch means.

There is no label smoothing and no gradient penalty (git history).

    L_D = -E[log D(x)] - E[log(1 - D(G(z)))]
    L_G = -E[log D(G(z))]                         non-saturating
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def discriminator_losses(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the two terms of L_D, which are added without a factor of one half."""
    loss_real = F.softplus(-real).mean()  # L_D: -E[log D(x)]
    loss_fake = F.softplus(fake).mean()  # L_D: -E[log(1 - D(G(z)))]
    return loss_real, loss_fake


def generator_loss(fake: Tensor) -> Tensor:
    """Returns L_G of the logits of generated images."""
    return F.softplus(-fake).mean()  # L_G: -E[log D(G(z))]
