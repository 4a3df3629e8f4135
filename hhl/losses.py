"""The triplet losses of HHL and of Hermans et al. (2017), as pure functions of embeddings and labels.

Eq. 2 is `batch_hard_triplet`; what HHL varies is the set that goes in:

    L_T   (Eq. 2)  64 source images, 8 of each of 8 identities
    L_C   (Eq. 3)  16 target images and their camera styles, one pseudo-identity for each tuple
    L_D   (Eq. 4)  the 64 source images and the 16 target images, each of these an identity of its own
    L_CD  (Eq. 5)  the 64 source images, the 16 target images and all their camera styles

Source and target labels never coincide, so every pair across the domains is a negative. Released counterpart:
`reid/loss/triplet.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_hard_triplet(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float | str = 0.3,
    self_positive: bool = True,
    anchors: Tensor | None = None,
    hinge: bool = True,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """Eq. 2: the mean over anchors a of [max_p D(a, p) - min_n D(a, n) + margin]_+, and the share of anchors
    with every negative farther.

    `embeddings` `(N, D)`, `labels` `(N,)`. The paper prints a sum (`reduction="sum"`) without the bracket
    (`hinge=False`); the released code takes this mean of hinges and counts the anchor itself as a positive,
    so that a lone image still pushes its nearest negative away. `self_positive=False` is the usual rule, with
    D(a, p) = 0 for a lone image. `margin="soft"`: softplus(D(a, p) - D(a, n)) in place of the hinge.
    `anchors` `(N,)`, bool: the rows that act as anchors; the others stay positives and negatives. Raises
    `ValueError` if there is no anchor, or one without a negative.
    """
    distance = pairwise_distance(embeddings)
    positive, negative = _pairs(labels, self_positive)
    if anchors is not None:
        distance, positive, negative = distance[anchors], positive[anchors], negative[anchors]
    if not len(distance) or not negative.any(dim=1).all():
        raise ValueError(
            f"batch-hard triplet loss: an anchor lacks a negative ({len(distance)} anchors, {len(labels.unique())} identities)"
        )

    # amax and amin share the gradient among ties, as the released code's max() and min() do
    hardest_positive = torch.where(positive, distance, 0.0).amax(dim=1)
    hardest_negative = torch.where(negative, distance, torch.inf).amin(dim=1)
    precision = (hardest_negative > hardest_positive).float().mean()
    return _reduce(_excess(hardest_positive - hardest_negative, margin, hinge), reduction), precision


def batch_all_triplet(
    embeddings: Tensor, labels: Tensor, *, margin: float | str = 0.3
) -> tuple[Tensor, Tensor, Tensor]:
    """[D(a, p) - D(a, n) + margin]_+ over all triplets of the batch (Hermans et al., Eq. 6), p != a.

    Returns its mean over all triplets, its mean over those that are not zero (0 if there are none), and their
    share. Memory grows with N^3. Raises `ValueError` if the batch holds no triplet.
    """
    distance = pairwise_distance(embeddings)
    positive, negative = _pairs(labels, self_positive=False)
    triplets = positive[:, :, None] & negative[:, None, :]
    excess = _excess((distance[:, :, None] - distance[:, None, :])[triplets], margin)
    if not len(excess):
        raise ValueError(
            f"no triplet among {len(labels)} images of {len(labels.unique())} identities: needs two of one and one of another"
        )
    active = (excess > 0).sum()
    return excess.mean(), excess.sum() / active.clamp(min=1), active / len(excess)


def pairwise_distance(embeddings: Tensor) -> Tensor:
    """Euclidean distances `(N, N)` of the rows of `(N, D)`, from the expansion |a|^2 + |b|^2 - 2ab.

    Squares below 1e-12 are raised to it and pass no gradient: the distance of a row to itself is 1e-6, or
    about 1e-4 where rounding is in the way.
    """
    square = embeddings.pow(2).sum(dim=1)
    return (
        torch.addmm(square[:, None] + square[None, :], embeddings, embeddings.t(), alpha=-2)
        .clamp(min=1e-12)
        .sqrt()
    )


def _pairs(labels: Tensor, self_positive: bool) -> tuple[Tensor, Tensor]:
    same = labels[:, None] == labels[None, :]
    oneself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same if self_positive else same & ~oneself, ~same


def _excess(gap: Tensor, margin: float | str, hinge: bool = True) -> Tensor:
    if margin == "soft":
        return F.softplus(gap)
    return (gap + margin).clamp(min=0) if hinge else gap + margin


def _reduce(terms: Tensor, reduction: str) -> Tensor:
    return terms.mean() if reduction == "mean" else terms.sum()
