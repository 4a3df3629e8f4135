"""Computes CMC and mean average precision by counting ranks instead of sorting. Imports without PyTorch.

For each query, junk (pid -1) and gallery images of the same person from the same camera are removed;
distractors (pid 0) are always misses. Only the ranks of the correct matches are needed, and a rank is a count
of nearer images. Nothing is sorted in full, and no Q x G matrix is ever in memory.

Ties are resolved pessimistically: at equal distance, wrong images precede correct matches. A score therefore
does not depend on the order of the gallery, and a network whose features have collapsed to one point scores 0
instead of chance. Other code differs: scikit-learn, and therefore HHL's released evaluator, treats equal
distances as one threshold; MATLAB's stable sort keeps gallery order; a plain `np.argsort` leaves the order
undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.datasets.base import DISTRACTOR, JUNK, ReIDDataset, Sample
from common.errors import InputError
from common.evaluation.distances import (
    RankingScores,
    as_features,
    refuse_other_than,
    row_blocks,
    to_numpy,
)
from common.evaluation.rerank import RerankedDistances, RerankOptions

NO_MATCH = ("skip", "zero")
SAME_CAMERA = ("remove", "keep")
Distances = Callable[[int, int], np.ndarray]  # (start, stop) -> rows of queries, (stop - start, G)


@dataclass(frozen=True, eq=False)
class RankingResult:
    """Scores of one ranking, all as fractions in 0..1.

    `cmc` maps a rank to the fraction of queries with a correct match at that rank or before. `mAP` and `ap`
    `(Q,)` are areas under precision-recall by trapezoids from (recall 0, precision 1): Market-1501's rule
    (`compute_AP.m`), which papers of 2017-18 report. `mAP_step` and `ap_step` are means of the precisions at
    the hits, which torchreid and scikit-learn >= 0.19 report; they are never smaller. A query without a
    correct match in another camera is invalid: NaN in `ap` and excluded from the means (`skip`), or 0 and
    counted as a miss (`zero`). `first_rank` `(Q,)` is the rank of the first correct match, from 1; 0 if there
    is none.
    """

    cmc: dict[int, float]
    mAP: float
    mAP_step: float
    ap: np.ndarray
    ap_step: np.ndarray
    first_rank: np.ndarray
    num_valid_queries: int

    def scores(self) -> dict[str, float]:
        """Returns the scores under their names in records: `R-1`, ..., `mAP`, `mAP_step`."""
        ranks = {f"R-{rank}": value for rank, value in self.cmc.items()}
        return {**ranks, "mAP": self.mAP, "mAP_step": self.mAP_step}


class Identities(NamedTuple):
    """Ids and cameras of the query or the gallery, integers `(N,)` each."""

    pids: np.ndarray
    camids: np.ndarray

    @classmethod
    def checked(cls, name: str, count: int, pids, camids) -> Identities:
        """Converts both to NumPy. Raises `InputError` unless they are `count` signed integers, at least one.

        Unsigned integers cannot hold junk (-1).
        """
        try:
            identities = cls(to_numpy(pids), to_numpy(camids))
        except ValueError as error:  # rows of different lengths
            raise InputError(f"{name}: expected ids and cameras as integers, found {error}") from None
        for field, values in zip(cls._fields, identities):
            if values.shape != (count,) or count == 0 or values.dtype.kind != "i":
                raise InputError(
                    f"{name}_{field}: expected {count or 'at least one'} signed integers, "
                    f"found shape {values.shape} of {values.dtype}"
                )
        return identities


def ids_of(samples: Sequence[Sample]) -> Identities:
    """Returns ids and cameras of the samples, in their order."""
    return Identities(np.array([s.pid for s in samples]), np.array([s.camid for s in samples]))


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
    same_camera: str = "remove",
) -> RankingResult:
    """Ranks the gallery `(G, D)` for every query `(Q, D)`; both are NumPy arrays or tensors (CPU or CUDA).

    Ids and cameras are `(Q,)` and `(G,)`. Features are not normalised here: normalise them first if the paper
    does (`extract_features` does). `metric` is `euclidean`, `sqeuclidean` (the same ranking) or `cosine`.
    `rerank` applies k-reciprocal re-ranking; `True` means (20, 6, 0.3). `no_match` is `skip` (HHL's code) or
    `zero` (Market-1501's MATLAB code). With `cut`, only the first `cut` images of the raw list, including
    junk and same-camera images, can be hits (2,000 in the released LSRO and Duke scripts). `same_camera`:
    `remove` the query's person in its own camera, as all protocols here do, or `keep` it as a match. Raises
    `InputError` for NaN, wrong shapes, empty sets, query ids below 1, and if `skip` leaves no query.
    """
    queries = as_features(query_features, "query features")
    gallery = as_features(gallery_features, "gallery features")
    query_ids = Identities.checked("query", len(queries), query_pids, query_camids)
    gallery_ids = Identities.checked("gallery", len(gallery), gallery_pids, gallery_camids)
    distances: Distances
    if not isinstance(rerank, (bool, RerankOptions, type(None))):
        raise InputError(f"rerank: expected True, False or RerankOptions, found a {type(rerank).__name__}")
    if rerank:
        options = RerankOptions() if rerank is True else rerank
        distances = RerankedDistances(queries, gallery, options, metric=metric)
    else:
        distances = RankingScores(queries, gallery, metric)
    return evaluate_distances(
        distances,
        *query_ids,
        *gallery_ids,
        ranks=ranks,
        no_match=no_match,
        cut=cut,
        same_camera=same_camera,
    )


def evaluate_dataset(dataset: ReIDDataset, query_features, gallery_features, **options) -> RankingResult:
    """Applies `evaluate` to the features of a dataset's query and gallery, in their order; same options."""
    query, gallery = ids_of(dataset.query), ids_of(dataset.gallery)
    return evaluate(query_features, *query, gallery_features, *gallery, **options)


def evaluate_distances(
    distances: np.ndarray | Distances,
    query_pids,
    query_camids,
    gallery_pids,
    gallery_camids,
    *,
    ranks: Sequence[int] = (1, 5, 10, 20),
    no_match: str = "skip",
    cut: int | None = None,
    same_camera: str = "remove",
) -> RankingResult:
    """Applies `evaluate` to distances: `(Q, G)`, or a function of (start, stop) that returns these rows.

    Smaller is nearer.
    """
    queries = Identities.checked("query", np.size(to_numpy(query_pids)), query_pids, query_camids)
    gallery = Identities.checked("gallery", np.size(to_numpy(gallery_pids)), gallery_pids, gallery_camids)
    _check_options(queries.pids, ranks, no_match, cut)
    if not callable(distances):
        matrix, shape = to_numpy(distances), (len(queries.pids), len(gallery.pids))
        refuse_other_than("biuf", matrix, "distances")
        if matrix.shape != shape:
            raise InputError(f"distances: expected shape {shape}, found {matrix.shape}")
        distances = lambda start, stop: matrix[start:stop]  # noqa: E731
    if same_camera not in SAME_CAMERA:
        raise InputError(f"same_camera {same_camera!r}: expected 'remove' or 'keep'")
    if same_camera == "keep":  # no camera of the gallery is then a query's
        gallery = gallery._replace(camids=np.full_like(gallery.camids, queries.camids.min() - 1))
    hits = _hit_places(distances, queries, gallery, cut)
    return summarise(*_average_precisions(hits), _first_ranks(hits), ranks, no_match)


@dataclass(frozen=True)
class _Hits:
    """All correct matches within the cut, over all queries."""

    query: np.ndarray  # index of the query
    number: np.ndarray  # number among the query's matches, from 0
    place: np.ndarray  # place in the query's list, from 0
    positives: np.ndarray  # (Q,): correct matches per query, within the cut or not


def _hit_places(distances: Distances, queries: Identities, gallery: Identities, cut: int | None) -> _Hits:
    images_of = _images_by_pid(gallery.pids)
    junk = np.flatnonzero(gallery.pids == JUNK)
    nothing = np.empty(0, dtype=np.intp)
    places, positives = [], np.zeros(len(queries.pids), dtype=np.intp)
    for start, stop in row_blocks(len(queries.pids), len(gallery.pids)):
        for query, row in enumerate(_checked_block(distances, start, stop, len(gallery.pids)), start):
            same_person = images_of.get(queries.pids[query], nothing)
            same_camera = gallery.camids[same_person] == queries.camids[query]
            matches, removed = same_person[~same_camera], np.concatenate([same_person[same_camera], junk])
            positives[query] = len(matches)
            places.append(_places(row, matches, removed, cut))
    counts = [len(p) for p in places]
    number = np.concatenate([np.arange(n) for n in counts])
    return _Hits(np.repeat(np.arange(len(places)), counts), number, np.concatenate(places), positives)


def _images_by_pid(pids: np.ndarray) -> dict[int, np.ndarray]:
    """Maps each person's pid to gallery indices in ascending order."""
    order = np.argsort(pids, kind="stable")
    people, starts = np.unique(pids[order], return_index=True)
    groups = np.split(order, starts[1:])
    index = dict(zip(people.tolist(), groups, strict=True))
    return {pid: group for pid, group in index.items() if pid not in (JUNK, DISTRACTOR)}


def _checked_block(distances: Distances, start: int, stop: int, columns: int) -> np.ndarray:
    block, rows = to_numpy(distances(start, stop)), f"distances of queries {start} to {stop}"
    if block.shape != (stop - start, columns):
        raise InputError(f"{rows}: expected shape {(stop - start, columns)}, found {block.shape}")
    if not (np.isfinite(block.min()) and np.isfinite(block.max())):
        raise InputError(f"{rows}: expected finite numbers, found NaN or infinity")
    return block


def _places(row: np.ndarray, matches: np.ndarray, removed: np.ndarray, cut: int | None) -> np.ndarray:
    """Returns the ascending places of `matches` in the list without `removed`.

    With `cut`, only of those among the first `cut` of the raw list.
    """
    if len(matches) == 0:
        return matches
    values = np.sort(row[matches])
    own = np.searchsorted(values, values, side="right") - np.arange(len(values))
    reached = len(values) if cut is None else np.count_nonzero(_count_within(row, values) - own < cut)
    row = row.copy()
    row[removed] = np.inf
    return (_count_within(row, values) - own)[:reached]


def _count_within(row: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Counts, for each of the ascending `values`, the entries of `row` that are not greater."""
    near = row <= values[-1]
    # sorting the near part is then cheaper than one sweep per value
    if np.count_nonzero(near) * 100 < len(row) * len(values):
        return np.searchsorted(np.sort(row[near]), values, side="right")
    return np.array([np.count_nonzero(within) for within in row <= values[:, None]])


def summarise(
    ap: np.ndarray, ap_step: np.ndarray, first_rank: np.ndarray, ranks: Sequence[int], no_match: str
) -> RankingResult:
    """Averages over queries; `ap` and `ap_step` `(Q,)` are NaN where a query has no match.

    Raises `InputError` if `skip` leaves no query.
    """
    valid = ~np.isnan(ap)
    if no_match == "zero":
        ap, ap_step = np.where(valid, ap, 0.0), np.where(valid, ap_step, 0.0)
    counted = valid if no_match == "skip" else np.ones_like(valid)
    if not counted.any():
        raise InputError(
            "no query has an image of the same person from another camera in the gallery: "
            "check ids and cameras"
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
    """Returns AP by trapezoids and by steps, `(Q,)` each, NaN for a query without a match."""
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


def _check_options(query_pids: np.ndarray, ranks: Sequence[int], no_match: str, cut: int | None) -> None:
    if query_pids.min() < 1:
        raise InputError(
            f"query_pids: expected ids of people, from 1, found {query_pids.min()} "
            "(-1 is junk, 0 a distractor)"
        )
    listed = ranks.ndim == 1 if isinstance(ranks, np.ndarray) else isinstance(ranks, Sequence)
    if not listed or len(ranks) == 0 or not all(_is_whole(rank) for rank in ranks):
        raise InputError(f"ranks {ranks}: expected whole numbers from 1")
    if not isinstance(no_match, str) or no_match not in NO_MATCH:
        raise InputError(f"no_match {no_match!r}: expected 'skip' or 'zero'")
    if cut is not None and not _is_whole(cut):
        raise InputError(f"cut {cut}: expected a whole number from 1, or None")


def _is_whole(number: object) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool) and int(number) >= 1
