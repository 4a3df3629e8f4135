"""Computes distances in blocks of rows, in NumPy or PyTorch like the features. Imports without PyTorch.

Products of features run on the features' device; the rest is NumPy. A block takes `BLOCK_BYTES` at most.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from common.errors import InputError

METRICS = ("euclidean", "sqeuclidean", "cosine")
BLOCK_BYTES = 48 << 20
# of the mean's square in that of the features: below, float32 orders the first twenty as float64 does
FAR = 0.9


def is_tensor(x) -> bool:
    """Returns whether `x` is a `torch.Tensor`, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def library_of(x):
    """Returns `torch` for a tensor, else `numpy`."""
    return sys.modules["torch"] if is_tensor(x) else np


def to_numpy(x) -> np.ndarray:
    return x.detach().cpu().numpy() if is_tensor(x) else np.asarray(x)


def as_features(x, name: str):
    """Converts features `(N, D)` to a float32 or float64 array or tensor; half precision becomes float32.

    Raises `InputError` for another shape, for empty features, and for anything but real numbers.
    """
    try:
        x = x.detach() if is_tensor(x) else np.asarray(x)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name}: expected features of shape (N, D), found {error}") from None
    refuse_other_than("biuf", x, name)
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(
            f"{name}: expected features of shape (N, D) with at least one row, found {tuple(x.shape)}"
        )
    if is_tensor(x):
        x = x if x.dtype.is_floating_point and x.dtype.itemsize >= 4 else x.float()
    else:
        x = x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)
    return x


def refuse_other_than(kinds: str, x, name: str) -> None:
    """Raises `InputError` unless the dtype of an array or a tensor is one of NumPy's `kinds`."""
    if is_tensor(x):
        kind = "c" if x.dtype.is_complex else "f" if x.dtype.is_floating_point else "i"
        kind = "quantized" if x.is_quantized else kind
    else:
        kind = x.dtype.kind
    if kind not in kinds:
        numbers = "real numbers" if "f" in kinds else "signed integers"
        raise InputError(f"{name}: expected {numbers}, found {x.dtype}")


def check_pair(queries, gallery, metric: str) -> None:
    """Raises `InputError` unless the two sets of features can be compared under `metric`."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise InputError(f"metric {metric!r}: expected one of {', '.join(METRICS)}")
    if is_tensor(queries) != is_tensor(gallery):
        raise InputError(
            "query and gallery features: expected both NumPy arrays or both tensors, found one of each"
        )
    pairs = {"the same width": (queries.shape[1], gallery.shape[1])}
    if is_tensor(queries):
        pairs["one device"] = (queries.device, gallery.device)
    pairs["one dtype"] = (queries.dtype, gallery.dtype)
    for expected, (left, right) in pairs.items():
        if left != right:
            raise InputError(f"query and gallery features: expected {expected}, found {left} and {right}")


def row_blocks(rows: int, columns: int, itemsize: int = 4) -> Iterator[tuple[int, int]]:
    """Splits `rows` into ranges (start, stop) such that `(stop - start, columns)` fits into `BLOCK_BYTES`."""
    step = max(1, min(rows, BLOCK_BYTES // (columns * itemsize)))
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def squared_norms(x, name: str):
    """Sums the squares of each row, `(N, D) -> (N,)`. Raises `InputError` if a sum is NaN or infinite."""
    norms = library_of(x).einsum("nd,nd->n", x, x)
    if not np.isfinite(float(norms.max())):
        raise InputError(
            f"{name}: expected finite numbers, found NaN, infinity or a norm out of range; "
            "check the model that produced them"
        )
    return norms


class BlockProducts:
    """Computes `factor * left[start:stop] @ right.T` into one buffer, which the next call overwrites."""

    def __init__(self, left, right, factor: float):
        self.left, self.right, self.factor = left, right, factor
        self.buffer = right[:0]

    def __call__(self, start: int, stop: int, first: int = 0):
        """Returns the block of the columns from `first` on: `(stop - start, N - first)`."""
        shape = (stop - start, len(self.right) - first)
        if len(self.buffer) < shape[0] or self.buffer.shape[1] != shape[1]:
            self.buffer = (
                self.right.new_empty(shape) if is_tensor(self.right) else np.empty(shape, self.right.dtype)
            )
        out = self.buffer[: shape[0]]
        library_of(out).matmul(self.left[start:stop] * self.factor, self.right[first:].T, out=out)
        return out


def centre(x, norms):
    """Returns the mean of features `(N, D)` with squared norms `(N,)`, each dimension rounded to the power of
    two at its deviation; None unless the mean's square is more than `FAR` of the features'.

    Subtracting it from all points leaves their distances as they are, but not the rounding: `|g|^2 - 2 q.g`
    loses those digits by which the square of a large mean exceeds the distances. The mean is rounded so that
    whole numbers stay whole: equal distances stay equal.
    """
    wide = {"dtype": library_of(x).float64}
    parts = (x[start : start + 4096] for start in range(0, len(x), 4096))  # of a tensor, a part is copied
    mean = sum(to_numpy(part.sum(0, **wide)) for part in parts) / len(x)
    if mean @ mean <= FAR * float(norms.mean()):
        return None
    deviation = to_numpy(x[:: max(1, len(x) // 1000)]).std(0, dtype=np.float64)
    grid = 2.0 ** np.ceil(np.log2(np.maximum(deviation, 1e-30)))
    rounded = np.round(mean / grid) * grid
    return x.new_tensor(rounded) if is_tensor(x) else rounded.astype(x.dtype)


class RankingScores:
    """Orders the gallery for each query as the metric does: `scores(start, stop) -> (stop - start, G)`.

    Smaller is nearer. Euclidean: `|g|^2 - 2 q.g`, the squared distance without the query's norm, which is in
    `query_norms` `(Q,)`; both after subtracting the gallery's `centre`, if it has one. Cosine: `-q.g / |g|`.
    The next call overwrites the array.
    """

    def __init__(self, queries, gallery, metric: str):
        check_pair(queries, gallery, metric)
        self.cosine = metric == "cosine"
        self.query_norms = squared_norms(queries, "query features")
        self.norms = squared_norms(gallery, "gallery features")
        smallest = min(float(self.query_norms.min()), float(self.norms.min()))
        shift = None if self.cosine else centre(gallery, self.norms)
        if shift is not None:
            queries, gallery = queries - shift, gallery - shift
            self.query_norms = squared_norms(queries, "query features")
            self.norms = squared_norms(gallery, "gallery features")
        self.products = BlockProducts(queries, gallery, -1 if self.cosine else -2)
        if self.cosine:
            if smallest == 0:
                raise InputError(
                    "features: the cosine of a row of zeros is undefined; "
                    "use metric 'euclidean' or check the features"
                )
            self.norms = self.norms**0.5

    def __call__(self, start: int, stop: int) -> np.ndarray:
        scores = self.products(start, stop)
        if self.cosine:
            scores /= self.norms
        else:
            scores += self.norms
        return to_numpy(scores)
