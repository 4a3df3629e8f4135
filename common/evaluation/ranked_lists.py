"""Ranked-list pictures: a query, then its nearest gallery images; right ones framed green, wrong ones red,
junk in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from common.datasets.base import DISTRACTOR, JUNK, Sample
from common.datasets.images import read_image
from common.errors import InputError
from common.evaluation.distances import RankingScores, as_features
from common.evaluation.pictures import image_grid
from common.evaluation.ranking import evaluate

GREEN, RED, GREY = (0, 160, 60), (205, 30, 30), (150, 150, 150)
FRAMES = {"right": GREEN, "wrong": RED, "junk": GREY}


def ranked_lists(
    query_features,
    query: Sequence[Sample],
    gallery_features,
    gallery: Sequence[Sample],
    path: str | Path,
    *,
    queries: Sequence[int] | None = None,
    top: int = 10,
    metric: str = "euclidean",
) -> list[int]:
    """Writes the sheet (PNG, at most 1 MB) and gives the query indices that it shows, one row each.

    `queries`: which ones; by default three of the best and three of the worst by AP. Junk (pid -1, or the
    query's person in its own camera) is shown in grey at its place in the raw list. Raises `InputError` for
    an index that does not exist and for broken images.
    """
    queries_x, gallery_x = (
        as_features(query_features, "query features"),
        as_features(gallery_features, "gallery features"),
    )
    if len(queries_x) != len(query) or len(gallery_x) != len(gallery):
        raise InputError(
            f"{path}: expected one feature an image, found {len(queries_x)} and {len(gallery_x)} "
            f"for {len(query)} query and {len(gallery)} gallery images"
        )
    if queries is None:
        queries = good_and_bad(queries_x, query, gallery_x, gallery, metric)
    absent = [index for index in queries if not 0 <= index < len(query)]
    if absent:
        raise InputError(f"{path}: expected query indices from 0 to {len(query) - 1}, found {absent[0]}")
    scores = RankingScores(queries_x, gallery_x, metric)
    rows = [_row(query[index], scores(index, index + 1)[0], gallery, top) for index in queries]
    image_grid(
        [[picture for picture, _ in row] for row in rows],
        path,
        column_titles=["query", *(str(rank + 1) for rank in range(min(top, len(gallery))))],
        row_titles=[str(query[index].pid) for index in queries],
        frames=[[frame for _, frame in row] for row in rows],
    )
    return list(queries)


def good_and_bad(
    query_features,
    query: Sequence[Sample],
    gallery_features,
    gallery: Sequence[Sample],
    metric: str,
    each: int = 3,
) -> list[int]:
    """Indices of `each` queries of the highest and of the lowest AP, the highest first, each of another
    person as far as there are any.
    """
    pids, camids = (
        [np.array([getattr(s, name) for s in samples]) for samples in (query, gallery)]
        for name in ("pid", "camid")
    )
    ap = evaluate(query_features, pids[0], camids[0], gallery_features, pids[1], camids[1], metric=metric).ap
    order = [int(index) for index in np.argsort(-ap, kind="stable") if not np.isnan(ap[index])]
    firsts = {query[index].pid: index for index in reversed(order)}  # each person's best query
    best = [index for index in order if firsts[query[index].pid] == index][:each]
    lasts = {query[index].pid: index for index in order}
    worst = [index for index in order if lasts[query[index].pid] == index and index not in best][-each:]
    return best + worst


def judge(query: Sample, found: Sample) -> str:
    """`right`, `wrong` or `junk`, as the evaluator sees `found` for `query`."""
    if found.pid == JUNK or (found.pid, found.camid) == (query.pid, query.camid):
        return "junk"
    return "right" if found.pid == query.pid != DISTRACTOR else "wrong"


def _row(
    query: Sample, scores: np.ndarray, gallery: Sequence[Sample], top: int
) -> list[tuple[Image.Image, tuple[int, int, int] | None]]:
    cells = [(read_image(query.path), None)]
    for index in np.argsort(scores, kind="stable")[:top]:
        verdict = judge(query, gallery[index])
        picture = read_image(gallery[index].path)
        cells.append(
            (ImageOps.grayscale(picture).convert("RGB") if verdict == "junk" else picture, FRAMES[verdict])
        )
    return cells
