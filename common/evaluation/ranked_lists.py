"""Draws ranked lists: a query and its nearest gallery images; green is right, red wrong, grey junk."""

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
from common.evaluation.ranking import evaluate, ids_of

GREEN, RED, GREY = (0, 160, 60), (205, 30, 30), (150, 150, 150)
FRAMES = {"right": GREEN, "wrong": RED, "junk": GREY}
Cell = tuple[Image.Image, "tuple[int, int, int] | None"]  # picture and colour of its frame


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
    """Writes the sheet (PNG, at most 1 MB) and returns the query indices that it shows, one row each.

    `queries` selects the queries; the default is three of the best and three of the worst by AP. Junk (pid
    -1, or the query's person in the same camera) is shown in grey at its rank in the raw list. Raises
    `InputError` for an unknown index and for broken images.
    """
    query_x = as_features(query_features, "query features")
    gallery_x = as_features(gallery_features, "gallery features")
    if len(query_x) != len(query) or len(gallery_x) != len(gallery):
        raise InputError(
            f"{path}: expected one feature an image, found {len(query_x)} and {len(gallery_x)} "
            f"for {len(query)} query and {len(gallery)} gallery images"
        )
    if queries is None:
        ap = evaluate(query_x, *ids_of(query), gallery_x, *ids_of(gallery), metric=metric).ap
        queries = good_and_bad(ap, query)
    absent = [index for index in queries if not 0 <= index < len(query)]
    if absent:
        raise InputError(f"{path}: expected query indices from 0 to {len(query) - 1}, found {absent[0]}")
    scores = RankingScores(query_x, gallery_x, metric)
    rows = [_row(query[index], scores(index, index + 1)[0], gallery, top) for index in queries]
    image_grid(
        [[picture for picture, _ in row] for row in rows],
        path,
        column_titles=["query", *(str(rank + 1) for rank in range(min(top, len(gallery))))],
        row_titles=[str(query[index].pid) for index in queries],
        frames=[[frame for _, frame in row] for row in rows],
    )
    return list(queries)


def good_and_bad(ap: np.ndarray, query: Sequence[Sample], each: int = 3) -> list[int]:
    """Returns the `each` queries of highest and of lowest `ap` `(Q,)`, best first, of different people."""
    order = [int(index) for index in np.argsort(-ap, kind="stable") if not np.isnan(ap[index])]
    firsts = {query[index].pid: index for index in reversed(order)}  # each person's best query
    best = [index for index in order if firsts[query[index].pid] == index][:each]
    lasts = {query[index].pid: index for index in order}
    worst = [index for index in order if lasts[query[index].pid] == index and index not in best][-each:]
    return best + worst


def judge(query: Sample, candidate: Sample) -> str:
    """Classifies a gallery image for `query` as the evaluator does: `right`, `wrong` or `junk`."""
    if candidate.pid == JUNK or (candidate.pid, candidate.camid) == (query.pid, query.camid):
        return "junk"
    return "right" if candidate.pid == query.pid != DISTRACTOR else "wrong"


def _row(query: Sample, scores: np.ndarray, gallery: Sequence[Sample], top: int) -> list[Cell]:
    cells: list[Cell] = [(read_image(query.path), None)]
    for index in np.argsort(scores, kind="stable")[:top]:
        verdict = judge(query, gallery[index])
        picture = read_image(gallery[index].path)
        if verdict == "junk":
            picture = ImageOps.grayscale(picture).convert("RGB")
        cells.append((picture, FRAMES[verdict]))
    return cells
