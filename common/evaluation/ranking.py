"""CMC and mean average precision of person re-ID, by counting ranks instead of sorting. Imports without
PyTorch.

For each query, gallery images of the same person from the same camera and junk (pid -1) are taken out;
distractors (pid 0) are always misses. Only the places of the right images are needed, and a place is a count:
how many images are nearer. So nothing is sorted in full, and no Q x G matrix is ever held.

Ties count against: at equal distance the wrong images stand before the right ones. So a score does not depend
on the order of the gallery, and a network whose features have collapsed to one point scores 0, not chance.
Elsewhere: scikit-learn, and so HHL's released evaluator, takes equal distances as one threshold; MATLAB's
stable sort keeps gallery order; `np.argsort` as others call it leaves the order open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.datasets.base import DISTRACTOR, JUNK, ReIDDataset
from common.errors import InputError
from common.evaluation.distances import RankingScores, as_features, row_blocks, to_numpy
from common.evaluation.rerank import RerankedDistances, RerankOptions

NO_MATCH = ("skip", "zero")


@dataclass(frozen=True, eq=False)
class RankingResult:
    """Scores of one ranking, all as fractions in 0..1.

    `cmc`: rank -> fraction of queries with a right image at that rank or before. `mAP`, `ap` `(Q,)`: area
    under precision-recall by trapezoids from (recall 0, precision 1), Market-1501's own rule
    (`compute_AP.m`), which papers of 2017-18 report. `mAP_step`, `ap_step`: mean of the precisions at the
    hits, what torchreid and scikit-learn >= 0.19 report; never smaller. A query without a right image in
    another camera is not valid: NaN in `ap` and left out of the means (`skip`), or 0 and counted as a miss
    (`zero`). `first_rank` `(Q,)`: rank of the first right image, from 1; 0 if there is none.
    """

    cmc: dict[int, float]
    mAP: float
    mAP_step: float
    ap: np.ndarray
    ap_step: np.ndarray
    first_rank: np.ndarray
    num_valid_queries: int

    def scores(self) -> dict[str, float]:
        """The scores as records hold them: `R-1`, ..., `mAP`, `mAP_step`."""
        return {
            **{f"R-{rank}": value for rank, value in self.cmc.items()},
            "mAP": self.mAP,
            "mAP_step": self.mAP_step,
        }


def evaluate(
    query_features,
    query_pids,
    query_camids,
    gallery_features,
    gallery_pids,
    gallery_camids,
    *,
    metric: str = "euclidean",
    ranks: Sequence[int] = (1, 5, 10, 20),
    rerank: RerankOptions | bool | None = None,
    no_match: str = "skip",
    cut: int | None = None,
) -> RankingResult:
    """Ranks the gallery `(G, D)` for every query `(Q, D)`; NumPy arrays or tensors (CPU or CUDA), ids and
    cameras `(Q,)` and `(G,)`.

    Features are used as they are: normalise them first if the paper does (`extract_features` has done it).
    `metric`: `euclidean`, `sqeuclidean` (the same ranking) or `cosine`. `rerank`: k-reciprocal re-ranking;
    `True` for (20, 6, 0.3). `no_match`: `skip` (HHL's code) or `zero` (Market-1501's MATLAB code). `cut`:
    only the first `cut` images of the raw list, junk and same-camera images among them, can be hits (2,000 in
    the released LSRO and Duke scripts). Raises `InputError` for NaN, wrong shapes, empty sets, query ids
    below 1, and if `skip` leaves no query.
    """
    queries, gallery = (
        as_features(query_features, "query features"),
        as_features(gallery_features, "gallery features"),
    )
    _check_lengths(len(queries), len(gallery), query_pids, query_camids, gallery_pids, gallery_camids)
    if rerank:
        distances = RerankedDistances(
            queries, gallery, RerankOptions() if rerank is True else rerank, metric=metric
        )
    else:
        distances = RankingScores(queries, gallery, metric)
    return evaluate_distances(
        distances,
        query_pids,
        query_camids,
        gallery_pids,
        gallery_camids,
        ranks=ranks,
        no_match=no_match,
        cut=cut,
    )


def evaluate_dataset(dataset: ReIDDataset, query_features, gallery_features, **options) -> RankingResult:
    """`evaluate` for the features of a dataset's query and gallery, in their order, with the same options."""
    ids = (
        [getattr(sample, name) for sample in samples]
        for samples in (dataset.query, dataset.gallery)
        for name in ("pid", "camid")
    )
    query_pids, query_camids, gallery_pids, gallery_camids = map(np.asarray, ids)
    return evaluate(
        query_features, query_pids, query_camids, gallery_features, gallery_pids, gallery_camids, **options
    )


def evaluate_distances(
    distances: np.ndarray | Callable[[int, int], np.ndarray],
    query_pids,
    query_camids,
    gallery_pids,
    gallery_camids,
    *,
    ranks: Sequence[int] = (1, 5, 10, 20),
    no_match: str = "skip",
    cut: int | None = None,
) -> RankingResult:
    """`evaluate` for distances made elsewhere: `(Q, G)`, or a function of (start, stop) that gives those
    rows; smaller is nearer.
    """
    query_pids, query_camids, gallery_pids, gallery_camids = map(
        to_numpy, (query_pids, query_camids, gallery_pids, gallery_camids)
    )
    shape = (len(query_pids), len(gallery_pids))
    _check_lengths(*shape, query_pids, query_camids, gallery_pids, gallery_camids)
    _check_options(query_pids, ranks, no_match, cut)
    if not callable(distances):
        matrix = to_numpy(distances)
        if matrix.shape != shape:
            raise InputError(f"distances: expected shape {shape}, found {matrix.shape}")
        distances = lambda start, stop: matrix[start:stop]  # noqa: E731
    hits = _hit_places(distances, query_pids, query_camids, gallery_pids, gallery_camids, cut)
    return summarise(*_average_precisions(hits), _first_ranks(hits), ranks, no_match)


@dataclass(frozen=True)
class _Hits:
    """Every right image of every query that the ranking reaches: its query, its number among them (from 0),
    its place in the list (from 0).
    """

    query: np.ndarray
    number: np.ndarray
    place: np.ndarray
    positives: np.ndarray  # (Q,): right images per query, reached or not


def _hit_places(distances, query_pids, query_camids, gallery_pids, gallery_camids, cut) -> _Hits:
    images_of = _images_by_pid(gallery_pids)
    junk = np.flatnonzero(gallery_pids == JUNK)
    nothing = np.empty(0, dtype=np.intp)
    places, positives = [], np.zeros(len(query_pids), dtype=np.intp)
    for start, stop in row_blocks(len(query_pids), len(gallery_pids)):
        for query, row in enumerate(_checked_block(distances, start, stop, len(gallery_pids)), start):
            same_person = images_of.get(query_pids[query], nothing)
            same_camera = gallery_camids[same_person] == query_camids[query]
            right, removed = same_person[~same_camera], np.concatenate([same_person[same_camera], junk])
            positives[query] = len(right)
            places.append(_places(row, right, removed, cut))
    counts = [len(p) for p in places]
    number = np.concatenate([np.arange(n) for n in counts])
    return _Hits(np.repeat(np.arange(len(places)), counts), number, np.concatenate(places), positives)


def _images_by_pid(pids: np.ndarray) -> dict[int, np.ndarray]:
    """pid -> gallery indices in ascending order, people only."""
    order = np.argsort(pids, kind="stable")
    people, starts = np.unique(pids[order], return_index=True)
    groups = np.split(order, starts[1:])
    return {
        pid: group
        for pid, group in zip(people.tolist(), groups, strict=True)
        if pid not in (JUNK, DISTRACTOR)
    }


def _checked_block(distances, start: int, stop: int, columns: int) -> np.ndarray:
    block = to_numpy(distances(start, stop))
    if block.shape != (stop - start, columns):
        raise InputError(
            f"distances of queries {start} to {stop}: expected shape {(stop - start, columns)}, found {block.shape}"
        )
    if not (np.isfinite(block.min()) and np.isfinite(block.max())):
        raise InputError(
            f"distances of queries {start} to {stop}: expected finite numbers, found NaN or infinity"
        )
    return block


def _places(row: np.ndarray, right: np.ndarray, removed: np.ndarray, cut: int | None) -> np.ndarray:
    """Ascending places of the images `right` in the list without `removed`; with `cut`, of those among the
    first `cut` of the raw list.
    """
    if len(right) == 0:
        return right
    values = np.sort(row[right])
    own = np.searchsorted(values, values, side="right") - np.arange(len(values))
    reached = len(values) if cut is None else np.count_nonzero(_count_within(row, values) - own < cut)
    row = row.copy()
    row[removed] = np.inf
    return (_count_within(row, values) - own)[:reached]


def _count_within(row: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each of the ascending `values`, how many entries of `row` are not greater."""
    near = row <= values[-1]
    # sorting the near part is then cheaper than one sweep a value
    if np.count_nonzero(near) * 100 < len(row) * len(values):
        return np.searchsorted(np.sort(row[near]), values, side="right")
    return np.array([np.count_nonzero(within) for within in row <= values[:, None]])


def summarise(
    ap: np.ndarray, ap_step: np.ndarray, first_rank: np.ndarray, ranks: Sequence[int], no_match: str
) -> RankingResult:
    """Means over queries. `ap`, `ap_step` `(Q,)`: NaN where a query has no match. Raises `InputError` if
    `skip` leaves no query.
    """
    valid = ~np.isnan(ap)
    if no_match == "zero":
        ap, ap_step = np.where(valid, ap, 0.0), np.where(valid, ap_step, 0.0)
    counted = valid if no_match == "skip" else np.ones_like(valid)
    if not counted.any():
        raise InputError(
            "no query has an image of the same person from another camera in the gallery: check ids and cameras"
        )
    hit_rank = first_rank[first_rank > 0]
    return RankingResult(
        cmc={int(rank): float(np.count_nonzero(hit_rank <= rank) / counted.sum()) for rank in ranks},
        mAP=float(ap[counted].mean()),
        mAP_step=float(ap_step[counted].mean()),
        ap=ap,
        ap_step=ap_step,
        first_rank=first_rank,
        num_valid_queries=int(valid.sum()),
    )


def _average_precisions(hits: _Hits) -> tuple[np.ndarray, np.ndarray]:
    """By trapezoids and by steps, `(Q,)` each, NaN for a query without a match."""
    precision = (hits.number + 1) / (hits.place + 1)
    precision_before = np.where(hits.place == 0, 1.0, hits.number / np.maximum(hits.place, 1))
    positives = np.where(hits.positives > 0, hits.positives, np.nan)
    sums = (
        np.bincount(hits.query, weights=values, minlength=len(positives))
        for values in ((precision_before + precision) / 2, precision)
    )
    trapezoid, step = (total / positives for total in sums)
    return trapezoid, step


def _first_ranks(hits: _Hits) -> np.ndarray:
    first = hits.number == 0
    ranks = np.zeros(len(hits.positives), dtype=np.intp)
    ranks[hits.query[first]] = hits.place[first] + 1
    return ranks


def _check_lengths(
    num_queries: int, num_gallery: int, query_pids, query_camids, gallery_pids, gallery_camids
) -> None:
    named = {
        "query_pids": query_pids,
        "query_camids": query_camids,
        "gallery_pids": gallery_pids,
        "gallery_camids": gallery_camids,
    }
    for name, values in named.items():
        expected = (num_queries if name.startswith("query") else num_gallery,)
        found = to_numpy(values)
        if found.shape != expected or expected[0] == 0 or found.dtype.kind not in "iu":
            raise InputError(
                f"{name}: expected {expected[0] or 'at least one'} integers, found shape {found.shape} of {found.dtype}"
            )


def _check_options(query_pids: np.ndarray, ranks: Sequence[int], no_match: str, cut: int | None) -> None:
    if query_pids.min() < 1:
        raise InputError(
            f"query_pids: expected ids of people, from 1, found {query_pids.min()} (-1 is junk, 0 a distractor)"
        )
    if not ranks or min(ranks) < 1:
        raise InputError(f"ranks {tuple(ranks)}: expected whole numbers from 1")
    if no_match not in NO_MATCH:
        raise InputError(f"no_match {no_match!r}: expected 'skip' or 'zero'")
    if cut is not None and cut < 1:
        raise InputError(f"cut {cut}: expected a whole number from 1, or None")
