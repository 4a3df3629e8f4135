"""The terms of ARN as pure functions of codes, labels and maps: the sound readings, the blog's formulas as
printed and the released forms, all by name.

    L = L_class + alpha L_ctrs + beta L_rec + gamma L_diff   (Eq. 5; L_class, Eq. 1, is
    `torch.nn.functional.cross_entropy`)

Every form and its gradient are finite at zero distances, for equal codes, without a positive pair and for a
batch of one. Released counterpart: `reid_loss.py`, `mmd.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from arn.config import LossWeights

MMD_SIGMAS = (1.0, 2.0, 10.0)  # released code; the authors' best list is unpublished


def weighted_sum(weights: LossWeights, terms: Mapping[str, Tensor]) -> Tensor:
    """Returns L of Eq. 5. `terms`: by the names of their weights; a term that a row lacks is absent."""
    absent = torch.zeros(())
    return (
        weights.cls * terms.get("cls", absent)  # L_class, Eq. 1
        + weights.ctr * terms.get("ctr", absent)  # alpha L_ctrs, Eq. 2
        + weights.rec * terms.get("rec", absent)  # beta L_rec, Eq. 3
        + weights.diff * terms.get("diff", absent)  # gamma L_diff, Eq. 4
        + weights.mmd * terms.get("mmd", absent)  # L_MMD, released code
    )  # L, Eq. 5


def contrastive_loss(
    codes: Tensor,
    labels: Tensor,
    *,
    distance: str = "rms",
    margin: float = 2.0,
    square_hinge: bool = True,
    reduction: str = "sum",
) -> Tensor:
    """Returns L_ctrs (Eq. 2): y d^2 + (1 - y) max(0, margin - d)^2 over the pairs i < j of `codes` `(N, D)`,
    y = 1 where `labels` `(N,)` agree.

    `distance`: `l2`, the Euclidean d; `rms`, d / sqrt(D), on whose scale a margin of 2 means the same at
    every width; `l2norm`, between codes of length 1; `sq_mean`, released: d^2 / D replaces d^2 and, in the
    hinge, d; `signed`, Eq. 2 as printed: the signed difference of each of the D entries, over ordered pairs.
    `square_hinge=False`, released: max(0, .) is not squared. `reduction`: `sum`, or `mean` over the pairs.
    Zero for a batch of one.
    """
    if distance == "l2norm":
        codes = F.normalize(codes)
    first, second = torch.triu_indices(len(codes), len(codes), offset=1, device=codes.device)
    same = labels[first] == labels[second]  # y, printed as lambda
    difference = codes[first] - codes[second]
    if distance == "signed":
        both = torch.stack([difference, -difference])
        pull, gap = both.square().sum(dim=(0, 2)), (margin - both).clamp(min=0)
        push = (gap.square() if square_hinge else gap).sum(dim=(0, 2))
    else:
        pull = difference.square().sum(dim=1) / (codes.shape[1] if distance in ("rms", "sq_mean") else 1)
        gap = (margin - (pull if distance == "sq_mean" else safe_sqrt(pull))).clamp(min=0)
        push = gap.square() if square_hinge else gap
    total = torch.where(same, pull, push).sum()  # L_ctrs, Eq. 2
    return total / max(1, len(first)) if reduction == "mean" else total


def reconstruction_loss(
    rebuilt: Tensor, original: Tensor, *, norm: str = "squared", reduction: str = "mean"
) -> Tensor:
    """Returns L_rec (Eq. 3) of one domain: the distance of `rebuilt` from `original`, both `(B, C, H, W)`,
    maps X in `blog` and images in `released`.

    `norm`: `squared`, `l1` (released) or `frobenius`, the square root of the batch's squared error (an unused
    released branch). `reduction`: `sum` (Eq. 3 as printed), `mean` over all entries, or `pixel`: over B, H
    and W, but not over channels (released).
    """
    batch, channels, height, width = original.shape
    entries = {"sum": 1, "mean": batch * channels * height * width, "pixel": batch * height * width}
    error = rebuilt - original
    total = error.abs().sum() if norm == "l1" else error.square().sum()  # L_rec, Eq. 3
    if norm == "frobenius":
        total = safe_sqrt(total)
    return total / entries[reduction]


def difference_loss(
    common: Tensor,
    private: Tensor,
    *,
    form: str = "nxn",
    row_norm: bool = True,
    center: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Returns L_diff (Eq. 4) of one domain, 0 where the `common` and `private` codes `(N, D)` are orthogonal.

    `nxn`: images are the columns of H, so ||H_c^T H_p||_F^2 is the sum of (e_c,i . e_p,j)^2 over all pairs of
    images. `dxd`: images are the rows; the same norm of a D x D matrix, computed as trace(K_c K_p) with K = H
    H^T. It is as large for orthogonal codes as for equal ones, because ||e_c,i||^2 ||e_p,i||^2 does not see
    an angle. `dot`, released: the sum of e_c,i . e_p,i, not squared, and without `row_norm` unbounded below
    unless all codes are >= 0. `center` subtracts the batch's mean code, then `row_norm` scales every code to
    length 1. `reduction="mean"` divides by N^2 (nxn), D^2 (dxd) or N (dot).
    """
    if center:
        common, private = common - common.mean(dim=0), private - private.mean(dim=0)
    if row_norm:
        common, private = F.normalize(common), F.normalize(private)
    count, width = common.shape
    if form == "nxn":
        total, entries = (common @ private.t()).square().sum(), count**2  # L_diff, Eq. 4
    elif form == "dxd":
        total, entries = ((common @ common.t()) * (private @ private.t())).sum(), width**2  # L_diff, Eq. 4
    else:
        total, entries = (common * private).sum(), count  # L_diff, released code
    return total / entries if reduction == "mean" else total


def mmd_loss(target: Tensor, source: Tensor, sigmas: tuple[float, ...] = MMD_SIGMAS) -> Tensor:
    """Returns the released L_MMD: sqrt(MMD^2), biased, between codes `(N, D)` of both domains, with the sum
    of Gaussian kernels exp(-d^2 / 2 sigma^2).

    Where every kernel has vanished, it stays at sqrt(2 len(sigmas) / N), without a gradient. Raises
    `ValueError` if the domains differ in number.
    """
    if len(target) != len(source):
        raise ValueError(
            f"MMD: expected as many target as source codes, found {len(target)} and {len(source)}"
        )
    count = len(target)
    codes = torch.cat([target, source])
    products = codes @ codes.t()
    square = products.diagonal()
    distance = (square[:, None] + square[None, :] - 2 * products).clamp(min=0)
    kernel = sum((torch.exp(distance / (-2 * sigma**2)) for sigma in sigmas), torch.zeros_like(distance))
    within = kernel[:count, :count].sum() + kernel[count:, count:].sum()
    return safe_sqrt((within - 2 * kernel[:count, count:].sum()) / count**2)  # L_MMD, released code


def mean_cosine(common: Tensor, private: Tensor) -> Tensor:
    """Returns the mean over images of |cos(e_c, e_p)|, which L_diff should lower."""
    return F.cosine_similarity(common, private).abs().mean()


def safe_sqrt(x: Tensor) -> Tensor:
    """Returns the square root, with value and gradient 0 at x <= 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
