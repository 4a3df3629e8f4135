"""The losses of the DCGAN: sigmoid cross-entropy of logits `(B,)`, means over the batch; no smoothing, no
penalty (git history).

    L_D = -E[log D(x)] - E[log(1 - D(G(z)))]
    L_G = -E[log D(G(z))]                         non-saturating
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def discriminator_losses(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of L_D, their sum without a half: logits of real and of generated images."""
    return F.softplus(-real).mean(), F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """L_G, of the logits of generated images."""
    return F.softplus(-fake).mean()
