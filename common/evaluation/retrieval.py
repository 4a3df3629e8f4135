"""Ranks a gallery for queries without scoring: tables, pictures and pages. Imports without PyTorch."""

from __future__ import annotations

import base64
import csv
import html
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from common.datasets.base import DISTRACTOR, JUNK, UNLABELLED, Sample
from common.datasets.images import read_image
from common.errors import InputError
from common.evaluation.distances import RankingScores, as_features, row_blocks
from common.evaluation.features import FeatureFile
from common.evaluation.pictures import image_grid
from common.evaluation.protocols import pool_tracklets
from common.evaluation.ranked_lists import FRAMES, judge
from common.files import write_atomic

OUTPUTS = (".png", ".csv", ".html")
MOST_ROWS = 20  # queries of a picture
THUMBNAIL = 128  # pixels, height of an image on a page


@dataclass(frozen=True, eq=False)
class Rankings:
    """For each query the indices of its nearest gallery images `(Q, top)`, nearest first, and distances.

    An index of -1 is no image: the gallery of that query has fewer.
    """

    query: FeatureFile
    gallery: FeatureFile
    nearest: np.ndarray
    distances: np.ndarray

    def found(self, query: int) -> list[tuple[int, float]]:
        """Returns the index and the distance of each image in a query's list."""
        pairs = zip(self.nearest[query].tolist(), self.distances[query].tolist())
        return [(index, distance) for index, distance in pairs if index >= 0]

    def verdict(self, query: int, candidate: int) -> str:
        """Returns `right`, `wrong`, `junk` (same person and camera) or `` (a person is not known)."""
        pair = _sample(self.query, query), _sample(self.gallery, candidate)
        return "" if UNLABELLED in (pair[0].pid, pair[1].pid) or pair[0].pid <= DISTRACTOR else judge(*pair)


def _sample(content: FeatureFile, index: int) -> Sample:
    path = Path(content.folder) / content.names[index]
    return Sample(path, int(content.pids[index]), int(content.camids[index]))


def rank(query: FeatureFile, gallery: FeatureFile, *, top: int = 10, metric: str = "euclidean") -> Rankings:
    """Ranks the gallery for every query. An image does not find itself: equal files are left out, and so is
    junk. Raises `InputError` for features of different widths and for a gallery without other images.
    """
    queries, images = (
        as_features(part.features, name)
        for part, name in ((query, "query features"), (gallery, "gallery features"))
    )
    scores = RankingScores(queries, images, metric)
    files = {file: index for index, file in enumerate(_files(gallery)) if gallery.folder}
    own_files = _files(query)
    junk = np.flatnonzero(gallery.pids == JUNK)
    top = min(top, len(images) - len(junk))
    nearest, distances = np.empty((len(queries), top), np.intp), np.empty((len(queries), top))
    for start, stop in row_blocks(len(queries), len(images)):
        block = np.array(scores(start, stop))
        block[:, junk] = np.inf
        for number in range(start, stop):
            itself = files.get(own_files[number])
            if itself is not None:
                block[number - start, itself] = np.inf
        nearest[start:stop] = order = _smallest(block, top)
        values = np.take_along_axis(block, order, axis=1)
        own = scores.query_norms[start:stop, None]
        distances[start:stop] = (
            1 + values / np.sqrt(own) if metric == "cosine" else np.sqrt(np.maximum(values + own, 0))
        )
    nearest[~np.isfinite(distances)] = -1
    return Rankings(query, gallery, nearest, distances)


def _files(content: FeatureFile) -> list[str]:
    return [f"{content.folder}/{name}" for name in content.names]


def _smallest(block: np.ndarray, top: int) -> np.ndarray:
    """Returns the columns of the `top` smallest values of each row, ascending; ties in order of columns."""
    if top < 1:
        raise InputError("the gallery: expected images beside the query and junk, found none")
    if top < block.shape[1]:
        bound = np.partition(block, top - 1, axis=1)[:, top - 1 : top]
        block = np.where(block <= bound, block, np.inf)
    return np.argsort(block, axis=1, kind="stable")[:, :top]


def pooled(content: FeatureFile, pooling: str) -> FeatureFile:
    """Returns one row for each person and camera, named like its first image."""
    rows, pids, camids, firsts = pool_tracklets(
        content.features, content.pids, content.camids, pooling=pooling, normalise=content.normalised
    )
    names = tuple(content.names[index] for index in firsts)
    return replace(content, features=rows, pids=pids, camids=camids, names=names)


def write_rankings(path: str | Path, rankings: Rankings) -> int:
    """Writes a `.png` (20 queries at most), `.csv` or `.html`; returns the number of queries in it."""
    path = Path(path)
    writers = dict(zip(OUTPUTS, (_write_png, _write_csv, _write_html)))
    if path.suffix.lower() not in writers:
        raise InputError(f"{path}: expected {', '.join(OUTPUTS)}, found {path.suffix or 'no ending'}")
    return writers[path.suffix.lower()](path, rankings)


def _write_csv(path: Path, rankings: Rankings) -> int:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["query", "rank", "image", "distance", "pid", "camid", "verdict"])
    for query in range(len(rankings.nearest)):
        for rank, (index, distance) in enumerate(rankings.found(query), 1):
            found = _sample(rankings.gallery, index)
            person = "" if found.pid == UNLABELLED else found.pid
            row = [rankings.query.names[query], rank, rankings.gallery.names[index], f"{distance:.6g}"]
            writer.writerow([*row, person, found.camid, rankings.verdict(query, index)])
    write_atomic(path, buffer.getvalue())
    return len(rankings.nearest)


def _write_png(path: Path, rankings: Rankings) -> int:
    shown = min(MOST_ROWS, len(rankings.nearest))
    rows = [_cells(rankings, query) for query in range(shown)]
    image_grid(
        [[picture for picture, _ in row] for row in rows],
        path,
        column_titles=["query", *(str(rank + 1) for rank in range(rankings.nearest.shape[1]))],
        frames=[[FRAMES.get(verdict) for _, verdict in row] for row in rows],
    )
    return shown


def _cells(rankings: Rankings, query: int) -> list[tuple[Image.Image, str]]:
    """Returns the pictures of a row with their verdicts, the query first."""
    found = [(_picture(rankings.gallery, i), rankings.verdict(query, i)) for i, _ in rankings.found(query)]
    return [(_picture(rankings.query, query), ""), *found]


def _picture(content: FeatureFile, index: int) -> Image.Image:
    path = Path(content.folder) / content.names[index]
    if not content.folder:
        raise InputError(
            f"{path}: the feature file does not name the folder of its images: give --images DIR"
        )
    return read_image(path)


def _write_html(path: Path, rankings: Rankings) -> int:
    rows = []
    for query in range(len(rankings.nearest)):
        captions = [f"query<br>{html.escape(rankings.query.names[query])}"]
        for index, distance in rankings.found(query):
            captions.append(f"{distance:.3f}<br>{html.escape(rankings.gallery.names[index])}")
        cells = zip(_cells(rankings, query), captions)
        rows.append("".join(_figure(picture, verdict, caption) for (picture, verdict), caption in cells))
    body = "\n".join(f"<div>{row}</div>" for row in rows)
    write_atomic(path, PAGE.replace("BODY", body))
    return len(rankings.nearest)


def _figure(picture: Image.Image, verdict: str, caption: str) -> str:
    width = max(1, round(THUMBNAIL * picture.width / picture.height))
    buffer = io.BytesIO()
    picture.resize((width, THUMBNAIL), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure class="{verdict}"><img src="data:image/jpeg;base64,{data}" alt="{verdict or "image"}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Ranked images</title>
<style>
body { font: 11px sans-serif; margin: 1em }
div { display: flex; border-bottom: 1px solid #ddd; padding: 4px 0 }
figure { margin: 2px; max-width: 110px; overflow-wrap: anywhere } img { border: 4px solid transparent }
.right img { border-color: #00a03c } .wrong img { border-color: #cd1e1e } .junk img { border-color: #969696 }
</style>
<p>Nearest first. Green: the query's person; red: another; grey: the same person in the same camera.</p>
BODY
</html>
"""


def with_folder(content: FeatureFile, folder: str | None) -> FeatureFile:
    """Returns the content with another folder of its images."""
    if folder is None:
        return content
    return replace(content, folder=str(Path(folder).expanduser().absolute()))
