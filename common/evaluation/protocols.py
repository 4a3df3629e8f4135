"""Two older protocols: queries of several images, and a gallery of one image a person drawn again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.datasets.base import JUNK
from common.errors import InputError
from common.evaluation.distances import as_features, to_numpy
from common.evaluation.ranking import RankingResult, evaluate, summarise

POOLINGS = ("mean", "max")


def multi_query(
    query_pids, query_camids, features, pids, camids, *, pooling: str = "mean", normalise: bool = True
) -> np.ndarray:
    """Features `(Q, D)` float32 of multi-query evaluation: for each query all images of its person and
    camera, pooled.

    `features` `(N, D)`, `pids`, `camids`: Market-1501's `gt_bbox`, the queries among them. LSRO pools by mean
    or by max and normalises again; layumi's code takes the mean and leaves it (`normalise=False`). Raises
    `InputError` for a query without an image.
    """
    if pooling not in POOLINGS:
        raise InputError(f"pooling {pooling!r}: expected 'mean' or 'max'")
    rows, pids, camids = (
        to_numpy(as_features(features, "multi-query features")),
        to_numpy(pids),
        to_numpy(camids),
    )
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
    """CUHK03's first protocol: one random gallery image a person, everything averaged over `repeats` draws
    (`first_rank` too).

    For the queries of each camera the images are drawn from the other cameras, as CUHK03's two views are;
    junk is never drawn, and the distractors (pid 0) count as one person. The same seed gives the same draws.
    Errors as in `evaluate`.
    """
    if repeats < 1:
        raise InputError(f"repeats {repeats}: expected at least 1")
    queries, gallery = (
        as_features(query_features, "query features"),
        as_features(gallery_features, "gallery features"),
    )
    ids = [to_numpy(values) for values in (query_pids, query_camids, gallery_pids, gallery_camids)]
    generator = np.random.default_rng(seed)
    draws = [
        summarise(*_one_draw(queries, gallery, *ids, metric, generator), ranks, no_match)
        for _ in range(repeats)
    ]
    return RankingResult(
        cmc={rank: float(np.mean([draw.cmc[rank] for draw in draws])) for rank in draws[0].cmc},
        num_valid_queries=draws[0].num_valid_queries,
        **{name: float(np.mean([getattr(draw, name) for draw in draws])) for name in ("mAP", "mAP_step")},
        **{
            name: np.mean([getattr(draw, name) for draw in draws], axis=0)
            for name in ("ap", "ap_step", "first_rank")
        },
    )


def _one_draw(
    queries, gallery, query_pids, query_camids, gallery_pids, gallery_camids, metric: str, generator
) -> list[np.ndarray]:
    """`ap`, `ap_step` and `first_rank` `(Q,)` of one draw; NaN, NaN, 0 for a query without a match."""
    merits = np.zeros((3, len(queries)))
    for camid in np.unique(query_camids):
        probe = np.flatnonzero(query_camids == camid)
        drawn = _one_each(gallery_pids, (gallery_camids != camid) & (gallery_pids != JUNK), generator)
        if len(drawn):
            result = evaluate(
                queries[probe],
                query_pids[probe],
                query_camids[probe],
                gallery[drawn],
                gallery_pids[drawn],
                gallery_camids[drawn],
                metric=metric,
                no_match="zero",
            )
            merits[:, probe] = result.ap, result.ap_step, result.first_rank
    merits[:2, merits[2] == 0] = np.nan
    return [merits[0], merits[1], merits[2].astype(np.intp)]


def _one_each(pids: np.ndarray, allowed: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One index a person among `allowed`, in ascending order of pid."""
    shuffled = generator.permutation(np.flatnonzero(allowed))
    return shuffled[np.unique(pids[shuffled], return_index=True)[1]]
