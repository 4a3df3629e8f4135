"""The triplet losses of HHL and of Hermans et al. (2017), as pure functions of embeddings and labels.

Eq. 2 is `batch_hard_triplet`; HHL varies its images:

    L_T   (Eq. 2)  64 source images, 8 of each of 8 identities
    L_C   (Eq. 3)  16 target images and their camera styles, one pseudo-identity per target image
    L_D   (Eq. 4)  the 64 source images and the 16 target images, one pseudo-identity per target image
    L_CD  (Eq. 5)  the 64 source images, the 16 target images and all their camera styles

Source and target labels differ, so every pair across the domains is a negative. Released counterpart:
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
    """Returns the mean over anchors a of [max_p D(a, p) - min_n D(a, n) + margin]_+ (Eq. 2), and a precision.

    The precision is the share of anchors whose negatives are all farther than their positives. `embeddings`
    `(N, D)`, `labels` `(N,)`. The paper prints a sum (`reduction="sum"`) without the bracket (`hinge=False`);
    the released code takes this mean of hinges and counts the anchor itself as a positive, so that a single
    image still pushes its nearest negative away. `self_positive=False` is the usual rule, with D(a, p) = 0
    for a single image. `margin="soft"`: softplus(D(a, p) - D(a, n)) in place of the hinge. `anchors` `(N,)`,
    bool: the rows that are anchors; the others remain positives and negatives. Raises `ValueError` if there
    is no anchor, or one without a negative.
    """
    distance = pairwise_distance(embeddings)
    positive, negative = _pairs(labels, self_positive)
    if anchors is not None:
        distance, positive, negative = distance[anchors], positive[anchors], negative[anchors]
    if not len(distance) or not negative.any(dim=1).all():
        raise ValueError(
            f"batch-hard triplet loss: an anchor lacks a negative ({len(distance)} anchors, "
            f"{len(labels.unique())} identities)"
        )

    # amax and amin share the gradient among ties, as the released code's max() and min() do
    hardest_positive = torch.where(positive, distance, 0.0).amax(dim=1)  # max_p D(a, p), Eq. 2
    hardest_negative = torch.where(negative, distance, torch.inf).amin(dim=1)  # min_n D(a, n), Eq. 2
    precision = (hardest_negative > hardest_positive).float().mean()
    excess = _excess(hardest_positive - hardest_negative, margin, hinge)
    loss = {"mean": excess.mean, "sum": excess.sum}[reduction]()  # L_T, L_C, L_D or L_CD, Eqs. 2-5
    return loss, precision


def batch_all_triplet(
    embeddings: Tensor, labels: Tensor, *, margin: float | str = 0.3
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns means of [D(a, p) - D(a, n) + margin]_+ over all triplets (Hermans et al., Eq. 6), p != a.

    These are the mean over all triplets, the mean over the active ones, which are not zero (0 if there are
    none), and the share of active ones. Memory grows with N^3. Raises `ValueError` if there is no triplet.
    """
    distance = pairwise_distance(embeddings)
    positive, negative = _pairs(labels, self_positive=False)
    triplets = positive[:, :, None] & negative[:, None, :]
    excess = _excess((distance[:, :, None] - distance[:, None, :])[triplets], margin)  # L_BA, Eq. 6
    if not len(excess):
        raise ValueError(
            f"no triplet among {len(labels)} images of {len(labels.unique())} identities: expected two "
            "images of one identity and one of another"
        )
    active = (excess > 0).sum()
    return excess.mean(), excess.sum() / active.clamp(min=1), active / len(excess)


def pairwise_distance(embeddings: Tensor) -> Tensor:
    """Returns Euclidean distances `(N, N)` of the rows of `(N, D)`, by |a|^2 + |b|^2 - 2ab.

    Squares are clamped to at least 1e-12 and have no gradient there: the distance of a row to itself is 1e-6,
    or about 1e-4 by rounding.
    """
    norms = embeddings.pow(2).sum(dim=1)
    squares = torch.addmm(norms[:, None] + norms[None, :], embeddings, embeddings.t(), alpha=-2)
    return squares.clamp(min=1e-12).sqrt()


def _pairs(labels: Tensor, self_positive: bool) -> tuple[Tensor, Tensor]:
    same = labels[:, None] == labels[None, :]
    oneself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same if self_positive else same & ~oneself, ~same


def _excess(gap: Tensor, margin: float | str, hinge: bool = True) -> Tensor:
    if isinstance(margin, str):
        return {"soft": F.softplus}[margin](gap)
    return (gap + margin).clamp(min=0) if hinge else gap + margin
