"""Three other protocols: multi-query, tracklets, and single-shot galleries drawn repeatedly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from common.datasets.base import DISTRACTOR, JUNK
from common.errors import InputError
from common.evaluation.distances import as_features, to_numpy
from common.evaluation.ranking import RankingResult, evaluate, summarise

POOLINGS = ("mean", "max")


def multi_query(
    query_pids, query_camids, features, pids, camids, *, pooling: str = "mean", normalise: bool = True
) -> np.ndarray:
    """Pools, for each query, the features of all images of its person and camera: `(Q, D)` float32.

    `features` `(N, D)`, `pids` and `camids` describe Market-1501's `gt_bbox`, which includes the queries.
    LSRO pools by mean or by max and normalises again; layumi's code takes the unnormalised mean
    (`normalise=False`). Raises `InputError` for a query without an image.
    """
    if pooling not in POOLINGS:
        raise InputError(f"pooling {pooling!r}: expected 'mean' or 'max'")
    rows = to_numpy(as_features(features, "multi-query features"))
    pids, camids = to_numpy(pids), to_numpy(camids)
    groups = np.stack([to_numpy(query_pids), to_numpy(query_camids)], axis=1)
    unique, which = np.unique(groups, axis=0, return_inverse=True)
    pooled = np.empty((len(unique), rows.shape[1]), dtype=np.float32)
    for n, (pid, camid) in enumerate(unique):
        group = rows[(pids == pid) & (camids == camid)]
        if len(group) == 0:
            raise InputError(
                f"multi-query features: expected images of person {pid} in camera {camid}, found none"
            )
        pooled[n] = group.mean(axis=0) if pooling == "mean" else group.max(axis=0)
    if normalise:
        pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    return pooled[which.reshape(-1)]


def pool_tracklets(
    features, pids, camids, *, pooling: str = "mean", normalise: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pools the features of each person and camera to one: features `(T, D)` float32, pids and camids `(T,)`,
    and the index of the first image of each, in the order of these.

    Junk, distractors and images without a label are no person: each stays alone.
    """
    if pooling not in POOLINGS:
        raise InputError(f"pooling {pooling!r}: expected 'mean' or 'max'")
    rows = to_numpy(as_features(features, "features of tracklets"))
    pids, camids = to_numpy(pids), to_numpy(camids)
    alone = np.where(pids > DISTRACTOR, 0, np.arange(1, len(pids) + 1))
    _, firsts, which = np.unique(
        np.stack([pids, camids, alone], axis=1), axis=0, return_index=True, return_inverse=True
    )
    by_tracklet = np.argsort(which.reshape(-1), kind="stable")
    counts = np.bincount(which.reshape(-1))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    reduce = np.add if pooling == "mean" else np.maximum
    pooled = reduce.reduceat(rows[by_tracklet], starts, axis=0).astype(np.float32)
    if pooling == "mean":
        pooled /= counts[:, None]
    if normalise:
        pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    order = np.argsort(firsts, kind="stable")
    firsts = firsts[order]
    return pooled[order], pids[firsts], camids[firsts], firsts


def evaluate_single_shot(
    query_features,
    query_pids,
    query_camids,
    gallery_features,
    gallery_pids,
    gallery_camids,
    *,
    repeats: int = 10,
    seed: int = 0,
    metric: str = "euclidean",
    ranks: Sequence[int] = (1, 5, 10, 20),
    no_match: str = "skip",
) -> RankingResult:
    """Evaluates CUHK03's first protocol: one random gallery image per person, averaged over `repeats` draws.

    For the queries of each camera the images are drawn from the other cameras, as CUHK03's two views are;
    junk is never drawn, and the distractors (pid 0) count as one person. The same seed yields the same draws.
    `first_rank` is averaged as well. Raises the errors of `evaluate`.
    """
    if repeats < 1:
        raise InputError(f"repeats {repeats}: expected at least 1")
    query = _Images.of(as_features(query_features, "query features"), query_pids, query_camids)
    gallery = _Images.of(as_features(gallery_features, "gallery features"), gallery_pids, gallery_camids)
    generator = np.random.default_rng(seed)
    draws = [
        summarise(*_one_draw(query, gallery, metric, generator), ranks, no_match) for _ in range(repeats)
    ]

    def mean(name: str) -> np.ndarray:
        return np.mean([getattr(draw, name) for draw in draws], axis=0)

    return RankingResult(
        cmc={rank: float(np.mean([draw.cmc[rank] for draw in draws])) for rank in draws[0].cmc},
        mAP=float(mean("mAP")),
        mAP_step=float(mean("mAP_step")),
        ap=mean("ap"),
        ap_step=mean("ap_step"),
        first_rank=mean("first_rank"),
        num_valid_queries=draws[0].num_valid_queries,
    )


class _Images(NamedTuple):
    """Features `(N, D)`, ids and cameras `(N,)`, in the order of `evaluate`'s arguments."""

    features: Any  # array or tensor
    pids: np.ndarray
    camids: np.ndarray

    @classmethod
    def of(cls, features, pids, camids) -> _Images:
        return cls(features, to_numpy(pids), to_numpy(camids))

    def take(self, indices: np.ndarray) -> _Images:
        return _Images(*(values[indices] for values in self))


def _one_draw(
    query: _Images, gallery: _Images, metric: str, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns `ap`, `ap_step`, `first_rank` `(Q,)` of one draw; NaN, NaN, 0 for a query without a match."""
    merits = np.zeros((3, len(query.pids)))
    for camid in np.unique(query.camids):
        probe = np.flatnonzero(query.camids == camid)
        drawn = _one_each(gallery.pids, (gallery.camids != camid) & (gallery.pids != JUNK), generator)
        if len(drawn):
            result = evaluate(*query.take(probe), *gallery.take(drawn), metric=metric, no_match="zero")
            merits[:, probe] = result.ap, result.ap_step, result.first_rank
    merits[:2, merits[2] == 0] = np.nan
    return merits[0], merits[1], merits[2].astype(np.intp)


def _one_each(pids: np.ndarray, allowed: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draws one index per person among `allowed`, in ascending order of pid."""
    shuffled = generator.permutation(np.flatnonzero(allowed))
    return shuffled[np.unique(pids[shuffled], return_index=True)[1]]
