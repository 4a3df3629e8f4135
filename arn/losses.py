"""The terms of ARN as pure functions of codes, labels and maps: the sound readings, the blog's letter and the
released forms, all by name.

    L = L_class + 0.01 L_ctrs + 2 L_rec + 1500 L_diff   (Eq. 5; L_class, Eq. 1, is
    `torch.nn.functional.cross_entropy`)

Every form is finite, and so is its gradient, at zero distances, for equal codes, without a positive pair and
for a batch of one. Released counterpart: `reid_loss.py`, `mmd.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MMD_SIGMAS = (1.0, 2.0, 10.0)  # released code, whose authors keep the best list to themselves


def contrastive_loss(
    codes: Tensor,
    labels: Tensor,
    *,
    distance: str = "rms",
    margin: float = 2.0,
    square_hinge: bool = True,
    reduction: str = "sum",
) -> Tensor:
    """Eq. 2: y d^2 + (1 - y) max(0, margin - d)^2 over the pairs i < j of `codes` `(N, D)`, y = 1 where
    `labels` `(N,)` agree.

    `distance`: `l2`, the Euclidean d; `rms`, d / sqrt(D), on whose scale a margin of 2 means the same at
    every width; `l2norm`, between codes of length 1; `sq_mean`, released: d^2 / D takes the place of d^2 and,
    in the hinge, of d; `signed`, the letter of Eq. 2: the signed difference of each of the D entries, over
    ordered pairs. `square_hinge=False`, released: max(0, .) is not squared. `reduction`: `sum`, or `mean`
    over the pairs. Zero for a batch of one.
    """
    if distance == "l2norm":
        codes = F.normalize(codes)
    first, second = torch.triu_indices(len(codes), len(codes), offset=1, device=codes.device)
    same = labels[first] == labels[second]
    difference = codes[first] - codes[second]
    if distance == "signed":
        both = torch.stack([difference, -difference])
        pull, gap = both.square().sum(dim=(0, 2)), (margin - both).clamp(min=0)
        push = (gap.square() if square_hinge else gap).sum(dim=(0, 2))
    else:
        pull = difference.square().sum(dim=1) / (codes.shape[1] if distance in ("rms", "sq_mean") else 1)
        gap = (margin - (pull if distance == "sq_mean" else safe_sqrt(pull))).clamp(min=0)
        push = gap.square() if square_hinge else gap
    total = torch.where(same, pull, push).sum()
    return total / max(1, len(first)) if reduction == "mean" else total


def reconstruction_loss(
    rebuilt: Tensor, original: Tensor, *, norm: str = "squared", reduction: str = "mean"
) -> Tensor:
    """Eq. 3 for one domain: the distance of `rebuilt` from `original`, both `(B, C, H, W)`, maps X in `blog`
    and images in `released`.

    `norm`: `squared`, `l1` (released) or `frobenius`, the square root of the batch's squared error (a
    released branch that nothing calls). `reduction`: `sum` (the letter of Eq. 3), `mean` over all entries, or
    `pixel`: over B, H and W, but not over channels (released).
    """
    error = rebuilt - original
    total = error.abs().sum() if norm == "l1" else error.square().sum()
    if norm == "frobenius":
        total = safe_sqrt(total)
    batch, channels, height, width = original.shape
    return (
        total
        / {"sum": 1, "mean": batch * channels * height * width, "pixel": batch * height * width}[reduction]
    )


def difference_loss(
    common: Tensor,
    private: Tensor,
    *,
    form: str = "nxn",
    row_norm: bool = True,
    center: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Eq. 4 for one domain: how far the `common` and `private` codes `(N, D)` are from orthogonal.

    `nxn`: images are the columns of H, so ||H_c^T H_p||_F^2 is the sum of (e_c,i . e_p,j)^2 over all pairs of
    images. `dxd`: images are the rows; the same norm of a D x D matrix, computed as trace(K_c K_p) with K = H
    H^T. It is as large for orthogonal codes as for equal ones, because ||e_c,i||^2 ||e_p,i||^2 does not see
    an angle. `dot`, released: the sum of e_c,i . e_p,i, not squared; only codes >= 0 bound it. `center` takes
    the batch's mean code away, then `row_norm` makes every code of length 1. `mean`: over N^2, D^2 or N.
    """
    if center:
        common, private = common - common.mean(dim=0), private - private.mean(dim=0)
    if row_norm:
        common, private = F.normalize(common), F.normalize(private)
    count, width = common.shape
    if form == "nxn":
        total, entries = (common @ private.t()).square().sum(), count**2
    elif form == "dxd":
        total, entries = ((common @ common.t()) * (private @ private.t())).sum(), width**2
    else:
        total, entries = (common * private).sum(), count
    return total / entries if reduction == "mean" else total


def mmd_loss(target: Tensor, source: Tensor, sigmas: tuple[float, ...] = MMD_SIGMAS) -> Tensor:
    """Released L_MMD: sqrt(MMD^2), biased, between codes `(N, D)` of both domains, with the sum of Gaussian
    kernels exp(-d^2 / 2 sigma^2).

    Where every kernel has died away it ends at the floor sqrt(2 len(sigmas) / N), without a gradient.
    Raises `ValueError` if the domains differ in number.
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
    kernel = sum(torch.exp(distance / (-2 * sigma**2)) for sigma in sigmas)
    within = kernel[:count, :count].sum() + kernel[count:, count:].sum()
    return safe_sqrt((within - 2 * kernel[:count, count:].sum()) / count**2)


def mean_cosine(common: Tensor, private: Tensor) -> Tensor:
    """Mean over images of |cos(e_c, e_p)|, what L_diff is meant to lower."""
    return F.cosine_similarity(common, private).abs().mean()


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root with value and gradient 0 at x <= 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
