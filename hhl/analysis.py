"""Measures what a trained network is robust to: Table 1's distances, and the blog's closing questions.

These are in its Sec. 2.6. *Does the network recognise people across the source's cameras only?* Each query is
ranked against the gallery of one camera at a time, its own or another, so that both results come from
single-camera lists. *Do the two feature spaces overlap already?* Measured by how often nearest neighbours
belong to the other domain, and by how well a linear rule separates the domains.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.backbones import extract_features
from common.datasets import Sample
from common.datasets.loading import SampleImages, normalise, ordered_loader
from common.evaluation.features import load_features
from common.evaluation.ranking import evaluate
from common.files import write_atomic
from common.job import Job, Workspace
from hhl.augmentation import crop_box
from hhl.config import TestConfig
from hhl.evaluate import embedder
from hhl.model import HHLNet
from hhl.views import StyleFolder

DISTANCE_IMAGES = 200  # target training images whose copies are measured; Table 1 names no number
SPACE_IMAGES = 500  # training images of each domain in `overlap` and in the picture
NEIGHBOURS = 10
BATCH = 128


def analyse(job: Job, work: Workspace, model: HHLNet, style_folder: Path | None, scored: Path) -> None:
    """Writes `measures.json` and `feature_spaces.npz`; `scored` is the folder of the feature files."""
    source, target = (spread(data.train, SPACE_IMAGES) for data in (job.source, job.target))
    pool5 = embedder(model, TestConfig(), work.device, work.options.workers)
    of_source, of_target = (pool5.embed(model, samples)["pool5"] for samples in (source, target))
    originals = spread(job.target.train, DISTANCE_IMAGES)
    fakes = other_styles(originals, style_folder, job.target.num_cameras) if style_folder else []
    measures = copy_distances(model, originals, fakes, work)
    measures |= retrieval_by_camera(scored) | overlap(of_source, of_target)
    work.write_json("measures.json", {name: round(float(value), 5) for name, value in measures.items()})
    buffer = io.BytesIO()
    np.savez(
        buffer,
        plane=principal_plane(np.concatenate([of_source, of_target])).astype(np.float32),
        is_target=np.repeat([False, True], [len(source), len(target)]),
        camera=np.array([sample.camid for sample in source + target]),
    )
    write_atomic(work.folder / "feature_spaces.npz", buffer.getvalue())


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Returns at most `count` samples, evenly spaced."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int)
    return [samples[i] for i in np.unique(places)]


# ---------------------------------------------------------------- Table 1


def other_styles(samples: Sequence[Sample], style_folder: Path, num_cameras: int) -> list[tuple[int, Path]]:
    """Returns (index of the sample, fake) for every camera but the sample's own."""
    styles = StyleFolder(style_folder)
    return [
        (i, styles.path(sample, k))
        for i, sample in enumerate(samples)
        for k in range(num_cameras)
        if k != sample.camid
    ]


def copy_distances(
    model: HHLNet, samples: Sequence[Sample], fakes: Sequence[tuple[int, Path]], work: Workspace
) -> dict[str, float]:
    """Returns mean distances of an image's L2-normalised pool5 to those of its crop, mirror image and fakes.

    `<copy>_l2`, `<copy>_l2_squared` and `<copy>_cosine` (1 - cos): the paper does not name its metric.
    Without fakes there are no distances to camera styles.
    """

    def pool5(paths: Sequence, change: Change | None = None) -> np.ndarray:
        images = SampleImages(paths, _Copy(*model.image_size, change), stream="table 1")
        loader = ordered_loader(images, BATCH, workers=work.options.workers)
        return extract_features(lambda x: model(x, "pool5"), loader, work.device).numpy()

    original = pool5(samples)
    distances = distance_metrics("crop", original, pool5(samples, random_crop))
    distances |= distance_metrics("flip", original, pool5(samples, mirror))
    if fakes:
        rows, paths = zip(*fakes)
        distances |= distance_metrics("camstyle", original[list(rows)], pool5(paths))
    return distances


def distance_metrics(name: str, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Returns mean distances between the rows of two arrays `(N, D)` of norm 1."""
    squared = ((a.astype(np.float64) - b) ** 2).sum(axis=1)
    return {
        f"{name}_l2": np.sqrt(squared).mean(),
        f"{name}_l2_squared": squared.mean(),
        f"{name}_cosine": squared.mean() / 2,
    }


Change = Callable[[Image.Image, random.Random], Image.Image]


class _Copy:
    """Changes an image and resizes it to the network's size (bicubic, as the test images)."""

    def __init__(self, height: int, width: int, change: Change | None):
        self.height, self.width, self.change = height, width, change

    def __call__(self, image: Image.Image, rng: random.Random) -> torch.Tensor:
        image = image if self.change is None else self.change(image, rng)
        return normalise(image.resize((self.width, self.height), Image.Resampling.BICUBIC))


def random_crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """Crops as the training augmentation does (64 to 100 % of the area)."""
    return image.crop(crop_box(image.width, image.height, rng))


def mirror(image: Image.Image, rng: random.Random) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


# ---------------------------------------------------------------- the closing questions


def retrieval_by_camera(folder: Path) -> dict[str, float]:
    """Returns `same_camera_mAP`, `cross_camera_mAP` and both rank-1s.

    Each query is ranked against the gallery of one camera at a time, its own or another. The means run over
    all (query, camera) pairs whose camera saw the person. The query itself is never in the gallery.
    """
    query, gallery = (load_features(folder / f"{name}.npz") for name in ("query", "gallery"))
    results: dict[str, list[np.ndarray]] = {"same_camera": [], "cross_camera": []}
    for camera in np.unique(gallery.camids):
        inside = gallery.camids == camera
        for name, rows in (("same_camera", query.camids == camera), ("cross_camera", query.camids != camera)):
            rows = rows & np.isin(query.pids, gallery.pids[inside])
            if rows.any():
                # different camera ids: no pair is excluded for its camera
                result = evaluate(
                    query.features[rows],
                    query.pids[rows],
                    np.zeros(rows.sum(), int),
                    gallery.features[inside],
                    gallery.pids[inside],
                    np.ones(inside.sum(), int),
                )
                results[name].append(np.stack([result.ap, result.first_rank == 1]))
    means = {name: np.concatenate(rows, axis=1).mean(axis=1) for name, rows in results.items() if rows}
    return {
        f"{name}_{score}": value for name, mean in means.items() for score, value in zip(("mAP", "R-1"), mean)
    }


def overlap(source: np.ndarray, target: np.ndarray, k: int = NEIGHBOURS) -> dict[str, float]:
    """Measures how far two sets of features `(N, D)` and `(M, D)` of norm 1 overlap.

    `domain_mixing`: the share of an image's k nearest neighbours that come from the other domain, relative to
    chance: 1 if the sets coincide, 0 if they are separate. `domain_accuracy`: accuracy of a linear rule
    (ridge regression on half of the images) on the other half: 0.5 by chance, 1 if the domains are separable.
    """
    features = np.concatenate([source, target]).astype(np.float64)
    is_target = np.repeat([False, True], [len(source), len(target)])
    similarity = features @ features.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argpartition(-similarity, k, axis=1)[:, :k]
    other = is_target[nearest] != is_target[:, None]
    chance = np.where(is_target, len(source), len(target)) / (len(features) - 1)
    train, test = np.arange(len(features)) % 2 == 0, np.arange(len(features)) % 2 == 1
    centre = features[train].mean(axis=0)
    design, domain = features[train] - centre, np.where(is_target[train], 1.0, -1.0)
    weights = np.linalg.solve(
        design.T @ design + 1e-3 * len(design) * np.eye(features.shape[1]),
        design.T @ (domain - domain.mean()),
    )
    guess = (features[test] - centre) @ weights + domain.mean() > 0
    return {
        "domain_mixing": (other.mean(axis=1) / chance).mean(),
        "domain_accuracy": (guess == is_target[test]).mean(),
    }


def principal_plane(features: np.ndarray) -> np.ndarray:
    """Projects `(N, D)` on its first two principal components `(N, 2)`."""
    centred = features - features.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T
