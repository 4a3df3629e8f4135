"""k-reciprocal re-ranking (Zhong, Zheng, Cao, Li: CVPR 2017), sparse and in blocks: O(N k) memory.

Query and gallery together are N points. With `d` the squared Euclidean distance, each row divided by its
maximum (the released code's convention; nothing is squared twice):

    R(i, k)   = the k-reciprocal neighbours: j among the k+1 nearest of i (including i), and vice versa
    R*(i)     = R(i, k1) and every R(c, k1/2), c in R(i, k1), of which more than 2/3 lies in R(i, k1)
    V[i, j]   = exp(-d(i, j)) for j in R*(i), rows sum to 1; then the mean row of the k2 nearest (including i)
    Jaccard   = 1 - s / (2 - s),  s = sum_c min(V[i, c], V[j, c])
    result    = (1 - lam) Jaccard + lam d

Products of features run on the features' device (NumPy, or PyTorch on CPU or CUDA); the rest uses NumPy and
SciPy. Imports without PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from common.errors import InputError
from common.evaluation.distances import (
    BlockProducts,
    as_features,
    centre,
    check_pair,
    library_of,
    row_blocks,
    squared_norms,
    to_numpy,
)


@dataclass(frozen=True)
class RerankOptions:
    """The paper's k1 and k2, and `lam`, the weight of the original distance."""

    k1: int = 20
    k2: int = 6
    lam: float = 0.3

    def __post_init__(self):
        if self.k1 < 1 or not 1 <= self.k2 <= self.k1 + 1 or not 0 <= self.lam <= 1:
            raise InputError(f"re-ranking {self}: expected k1 >= 1, 1 <= k2 <= k1 + 1 and 0 <= lam <= 1")


class RerankedDistances:
    """Re-ranked distances for `evaluate_distances`: `distances(start, stop) -> (stop - start, G)`.

    `queries` `(Q, D)` and `gallery` `(G, D)` are arrays or tensors. With `metric="cosine"` the rows are
    L2-normalised first, so that the squared Euclidean distance is 2 - 2 cos. Raises `InputError` if Q + G is
    not larger than k1.
    """

    def __init__(self, queries, gallery, options: RerankOptions | None = None, *, metric: str = "euclidean"):
        queries, gallery = as_features(queries, "query features"), as_features(gallery, "gallery features")
        check_pair(queries, gallery, metric)
        self.options = options or RerankOptions()
        self.num_queries = len(queries)
        self.points = _Points(queries, gallery, normalise=metric == "cosine")
        if len(self.points) <= self.options.k1:
            raise InputError(
                f"re-ranking: expected more images than k1 = {self.options.k1}, "
                f"found {len(self.points)} in query and gallery"
            )
        neighbours, self.farthest = nearest_and_farthest(self.points, self.options.k1 + 1)
        weights = _encode(self.points, neighbours, self.farthest, self.options)
        self.query_weights = weights[: self.num_queries]
        self.gallery_weights = weights[self.num_queries :].tocsc()

    def __call__(self, start: int, stop: int) -> np.ndarray:
        lam = self.options.lam
        result = self.points.distances(start, stop, first=self.num_queries) * (
            lam / self.farthest[start:stop, None]
        )
        for row, query in zip(result, range(start, stop), strict=True):
            shared = _shared_weight(self.query_weights, query, self.gallery_weights)
            row += (1 - lam) * (1 - shared / (2 - shared))
        return result


class _Points:
    """Query and gallery features as one `(N, D)`, with their squared Euclidean distances."""

    def __init__(self, queries, gallery, *, normalise: bool):
        self.features = library_of(queries).concatenate([queries, gallery])
        self.norms = squared_norms(self.features, "features")
        if normalise:
            self.features /= self.norms[:, None] ** 0.5
            self.norms = squared_norms(self.features, "features (a row of zeros has no cosine)")
        shift = centre(self.features, self.norms)
        if shift is not None:
            self.features -= shift
            self.norms = squared_norms(self.features, "features")
        self.products = BlockProducts(self.features, self.features, -2)

    def __len__(self) -> int:
        return len(self.features)

    def distances(self, start: int, stop: int, first: int = 0) -> np.ndarray:
        """Returns `(stop - start, N - first)` distances: points `start` to `stop`, to those from `first` on.

        The next call overwrites the block.
        """
        block = self.products(start, stop, first)
        block += self.norms[first:]
        block += self.norms[start:stop, None]
        return to_numpy(block)

    def pairs(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns the distance of point `rows[n]` to point `columns[n]` for each n."""
        result = np.empty(len(rows), dtype=np.float32)
        for start, stop in row_blocks(len(rows), 2 * self.features.shape[1]):
            difference = self.features[rows[start:stop]] - self.features[columns[start:stop]]
            result[start:stop] = to_numpy((difference * difference).sum(1))
        return result


def nearest_and_farthest(points: _Points, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each point's k nearest in ascending order, `(N, k)`, and its largest distance, `(N,)`.

    The point itself counts; equal distances are ordered by index.
    """
    nearest, farthest = np.empty((len(points), k), dtype=np.int32), np.empty(len(points), dtype=np.float32)
    for start, stop in row_blocks(len(points), len(points)):
        block = points.distances(start, stop)
        farthest[start:stop] = block.max(1)
        for i, (row, bound) in enumerate(zip(block, _upper_bounds(block, k), strict=True), start):
            candidates = np.flatnonzero(row <= bound)
            nearest[i] = candidates[np.argsort(row[candidates], kind="stable")[:k]]
    return nearest, np.maximum(farthest, np.finfo(np.float32).tiny)


def _upper_bounds(block: np.ndarray, k: int) -> np.ndarray:
    """Returns, for each row, a value close to the k-th smallest that at least k entries do not exceed.

    The row is divided into 64 k groups; the k-th smallest of their minima is such a value and needs one pass.
    """
    columns = block.shape[1]
    groups = 64 * k
    if columns < 2 * groups:
        return np.partition(block, k - 1, axis=1)[:, k - 1]
    whole = columns - columns % groups
    minima = block[:, :whole].reshape(len(block), -1, groups).min(axis=1)
    return np.partition(minima, k - 1, axis=1)[:, k - 1]


def _encode(
    points: _Points, neighbours: np.ndarray, farthest: np.ndarray, options: RerankOptions
) -> sparse.csr_array:
    """Returns the matrix V after local query expansion, `(N, N)` CSR."""
    near = _reciprocal(neighbours[:, : options.k1 + 1])
    half = _reciprocal(neighbours[:, : round(options.k1 / 2) + 1])
    members = _expand(near, half)
    rows = np.repeat(np.arange(len(points)), np.diff(members.indptr))
    weight = np.exp(-points.pairs(rows, members.indices.astype(np.intp)) / farthest[rows])
    weight /= np.bincount(rows, weight)[rows]
    weights = sparse.csr_array((weight, members.indices, members.indptr), shape=members.shape)
    return _incidence(neighbours[:, : options.k2], np.float32(1 / options.k2)) @ weights


def _incidence(neighbours: np.ndarray, value) -> sparse.csr_array:
    """Returns the `(N, N)` CSR matrix with `value` at (i, neighbours[i, :])."""
    n, k = neighbours.shape
    return sparse.csr_array((np.full(n * k, value), neighbours.ravel(), np.arange(n + 1) * k), shape=(n, n))


def _reciprocal(neighbours: np.ndarray) -> sparse.csr_array:
    """Returns 1 where each of two points is among the other's neighbours."""
    forward = _incidence(neighbours, np.int32(1))
    return forward.multiply(forward.T).tocsr()


def _expand(near: sparse.csr_array, half: sparse.csr_array) -> sparse.csr_array:
    """Adds each member's half-size set if more than 2/3 of it lies in `near`; non-zeros are members."""
    overlap = near.multiply(near @ half.T).tocoo()
    size = np.diff(half.indptr)
    kept = 3 * overlap.data > 2 * size[overlap.col]
    entries = (overlap.data[kept], (overlap.row[kept], overlap.col[kept]))
    return near + sparse.csr_array(entries, shape=near.shape) @ half


def _shared_weight(rows: sparse.csr_array, query: int, columns: sparse.csc_array) -> np.ndarray:
    """Sums min(rows[query, c], columns[:, c]) over c, `(Q, N)`, `(G, N)` -> `(G,)`; skips zeros."""
    entries = slice(rows.indptr[query], rows.indptr[query + 1])
    starts, stops = columns.indptr[rows.indices[entries]], columns.indptr[rows.indices[entries] + 1]
    lengths = stops - starts
    offsets = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    smaller = np.minimum(columns.data[offsets], np.repeat(rows.data[entries], lengths))
    return np.bincount(columns.indices[offsets], weights=smaller, minlength=columns.shape[0])
