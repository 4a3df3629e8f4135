"""Distances in blocks of rows, with NumPy or with PyTorch, whichever holds the features. Imports without
PyTorch.

The product of features runs where they are (CPU or CUDA); everything after it is NumPy. A block takes
`BLOCK_BYTES` at most.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from common.errors import InputError

METRICS = ("euclidean", "sqeuclidean", "cosine")
BLOCK_BYTES = 48 << 20


def is_tensor(x) -> bool:
    """True for a `torch.Tensor`; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def library_of(x):
    """`torch` for a tensor, else `numpy`."""
    return sys.modules["torch"] if is_tensor(x) else np


def to_numpy(x) -> np.ndarray:
    return x.detach().cpu().numpy() if is_tensor(x) else np.asarray(x)


def as_features(x, name: str):
    """`x` as a float32 or float64 array or tensor `(N, D)`, N and D at least 1; half precision becomes
    float32. Raises `InputError`.
    """
    x = x.detach() if is_tensor(x) else np.asarray(x)
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(
            f"{name}: expected features of shape (N, D) with at least one row, found {tuple(x.shape)}"
        )
    if is_tensor(x):
        x = x if x.dtype.is_floating_point and x.dtype.itemsize >= 4 else x.float()
    else:
        x = x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)
    return x


def check_pair(queries, gallery, metric: str) -> None:
    """Raises `InputError` unless the two sets of features can be compared under `metric`."""
    if metric not in METRICS:
        raise InputError(f"metric {metric!r}: expected one of {', '.join(METRICS)}")
    if is_tensor(queries) != is_tensor(gallery):
        raise InputError(
            "query and gallery features: expected both NumPy arrays or both tensors, found one of each"
        )
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(
            f"query and gallery features: expected the same width, found {queries.shape[1]} and {gallery.shape[1]}"
        )
    if is_tensor(queries) and queries.device != gallery.device:
        raise InputError(
            f"query and gallery features: expected one device, found {queries.device} and {gallery.device}"
        )
    if queries.dtype != gallery.dtype:
        raise InputError(
            f"query and gallery features: expected one dtype, found {queries.dtype} and {gallery.dtype}"
        )


def row_blocks(rows: int, columns: int, itemsize: int = 4) -> Iterator[tuple[int, int]]:
    """(start, stop) over `rows` so that `(stop - start, columns)` stays within `BLOCK_BYTES`."""
    step = max(1, min(rows, BLOCK_BYTES // (columns * itemsize)))
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def squared_norms(x, name: str):
    """Sum of squares of each row, `(N, D) -> (N,)`, of the type of `x`. Raises `InputError` if one is NaN or
    infinite.
    """
    norms = library_of(x).einsum("nd,nd->n", x, x)
    if not np.isfinite(float(norms.max())):
        raise InputError(
            f"{name}: expected finite numbers, found NaN, infinity or a norm out of range; check the model that made them"
        )
    return norms


class BlockProducts:
    """`products(start, stop) = factor * left[start:stop] @ right.T`, `(stop - start, N)`, in one buffer: the
    next call overwrites it.
    """

    def __init__(self, left, right, factor: float):
        self.left, self.right, self.factor = left, right, factor
        self.buffer = right[:0]

    def __call__(self, start: int, stop: int, first: int = 0):
        """Of the columns from `first` on."""
        shape = (stop - start, len(self.right) - first)
        if len(self.buffer) < shape[0] or self.buffer.shape[1] != shape[1]:
            self.buffer = (
                self.right.new_empty(shape) if is_tensor(self.right) else np.empty(shape, self.right.dtype)
            )
        out = self.buffer[: shape[0]]
        library_of(out).matmul(self.left[start:stop] * self.factor, self.right[first:].T, out=out)
        return out


class RankingScores:
    """Numbers that order the gallery for each query as the metric does, smaller is nearer: `scores(start,
    stop) -> (stop - start, G)`.

    Euclidean: `|g|^2 - 2 q.g`, the squared distance without the query's own norm. Cosine: `-q.g / |g|`. The
    next call overwrites the array.
    """

    def __init__(self, queries, gallery, metric: str):
        check_pair(queries, gallery, metric)
        self.cosine = metric == "cosine"
        self.products = BlockProducts(queries, gallery, -1 if self.cosine else -2)
        self.norms = squared_norms(gallery, "gallery features")
        smallest = min(float(squared_norms(queries, "query features").min()), float(self.norms.min()))
        if self.cosine:
            if smallest == 0:
                raise InputError(
                    "features: the cosine of a row of zeros is not defined; use metric 'euclidean' or check the features"
                )
            self.norms = self.norms**0.5

    def __call__(self, start: int, stop: int) -> np.ndarray:
        scores = self.products(start, stop)
        if self.cosine:
            scores /= self.norms
        else:
            scores += self.norms
        return to_numpy(scores)
