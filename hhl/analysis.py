"""What a trained network is robust to: Table 1's distances, and the blog's two closing questions (its Sec.
2.6) as numbers.

*Does the network know people across the source's cameras only?* -> retrieval on the target among images of
the query's own camera, and of one other camera at a time, each camera's gallery on its own, so that both
sides search lists of one kind. *Do the two feature spaces overlap already?* -> how far the nearest neighbours
of a source and of a target image are mixed, and how well a linear rule tells the two sets apart.
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
from common.datasets import ReIDDataset, Sample
from common.datasets.loading import SampleImages, normalise, ordered_loader
from common.evaluation.features import load_features
from common.evaluation.ranking import evaluate
from common.files import write_atomic
from common.runs import Workspace
from hhl.config import TestConfig
from hhl.data import crop_box, fake_path
from hhl.evaluate import BATCH, embed
from hhl.model import HHLNet

DISTANCE_IMAGES = 200  # target training images whose copies are measured; Table 1 does not say how many
SPACE_IMAGES = 500  # training images of each domain whose neighbourhoods are looked at
NEIGHBOURS = 10


def analyse(
    model: HHLNet,
    source: ReIDDataset,
    target: ReIDDataset,
    style_folder: Path | None,
    features: Path,
    device: torch.device,
    workspace: Workspace,
    workers: int = 0,
) -> None:
    """Writes `measures.json` and the plane of `feature_spaces.npz`; `features` is the folder of the scores'
    feature files.
    """
    spaces = [
        embed(model, spread(dataset.train, SPACE_IMAGES), TestConfig(), device, workers)
        for dataset in (source, target)
    ]
    measures = copy_distances(
        model, spread(target.train, DISTANCE_IMAGES), style_folder, target.num_cameras, device, workers
    )
    measures |= retrieval_by_camera(features) | overlap(*spaces)
    workspace.write_json("measures.json", {name: round(float(value), 5) for name, value in measures.items()})
    plane = principal_plane(np.concatenate(spaces))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        plane=plane.astype(np.float32),
        is_target=np.repeat([False, True], [len(spaces[0]), len(spaces[1])]),
        camera=np.array(
            [s.camid for dataset in (source, target) for s in spread(dataset.train, SPACE_IMAGES)]
        ),
    )
    write_atomic(workspace.folder / "feature_spaces.npz", buffer.getvalue())


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` samples at even distances."""
    return [
        samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int))
    ]


# ---------------------------------------------------------------- Table 1


def copy_distances(
    model: HHLNet,
    samples: Sequence[Sample],
    style_folder: Path | None,
    num_cameras: int,
    device: torch.device,
    workers: int = 0,
) -> dict[str, float]:
    """Mean distances of an image's pool5, L2-normalised, to that of its random crop, its mirror image and its
    copies in the other cameras' styles.

    `<copy>_l2`, `<copy>_l2_squared` and `<copy>_cosine` (1 - cos): the paper does not name its metric. No
    style folder, no distance to styles.
    """
    size = model.image_size

    def features(
        paths: Sequence, change: Callable[[Image.Image, random.Random], Image.Image] | None = None
    ) -> np.ndarray:
        images = SampleImages(paths, _Copy(*size, change), stream="table 1")
        return extract_features(
            lambda x: model(x, "pool5"), ordered_loader(images, BATCH, workers=workers), device
        ).numpy()

    original = features(samples)
    distances = distance_metrics("crop", original, features(samples, random_crop))
    distances |= distance_metrics("flip", original, features(samples, mirror))
    if style_folder is not None:
        others = [
            (i, fake_path(style_folder, s.path.stem, k + 1))
            for i, s in enumerate(samples)
            for k in range(num_cameras)
            if k != s.camid
        ]
        distances |= distance_metrics(
            "camstyle", original[[i for i, _ in others]], features([path for _, path in others])
        )
    return distances


def distance_metrics(name: str, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Means over the rows of two `(N, D)` of norm 1."""
    squared = ((a.astype(np.float64) - b) ** 2).sum(axis=1)
    return {
        f"{name}_l2": np.sqrt(squared).mean(),
        f"{name}_l2_squared": squared.mean(),
        f"{name}_cosine": squared.mean() / 2,
    }


class _Copy:
    """An image, changed, at the network's size (bicubic, as the test images)."""

    def __init__(self, height: int, width: int, change: Callable | None):
        self.height, self.width, self.change = height, width, change

    def __call__(self, image: Image.Image, rng: random.Random) -> torch.Tensor:
        image = image if self.change is None else self.change(image, rng)
        return normalise(image.resize((self.width, self.height), Image.Resampling.BICUBIC))


def random_crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """The training augmentation's crop (64 to 100 % of the area)."""
    return image.crop(crop_box(image.width, image.height, rng))


def mirror(image: Image.Image, rng: random.Random) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


# ---------------------------------------------------------------- the closing questions


def retrieval_by_camera(folder: Path) -> dict[str, float]:
    """`same_camera_mAP`, `cross_camera_mAP` and rank-1s: each query against the gallery of one camera at a
    time, its own or another.

    Means over all (query, camera) pairs in which the camera saw the person. The query itself is never in the
    gallery.
    """
    query, gallery = (load_features(folder / f"{name}.npz") for name in ("query", "gallery"))
    found: dict[str, list[np.ndarray]] = {"same_camera": [], "cross_camera": []}
    for camera in np.unique(gallery.camids):
        inside = gallery.camids == camera
        for name, rows in (("same_camera", query.camids == camera), ("cross_camera", query.camids != camera)):
            rows = rows & np.isin(query.pids, gallery.pids[inside])
            if rows.any():
                # no pair is left out for its camera
                result = evaluate(
                    query.features[rows],
                    query.pids[rows],
                    np.zeros(rows.sum(), int),
                    gallery.features[inside],
                    gallery.pids[inside],
                    np.ones(inside.sum(), int),
                )
                found[name].append(np.stack([result.ap, result.first_rank == 1]))
    means = {name: np.concatenate(rows, axis=1).mean(axis=1) for name, rows in found.items() if rows}
    return {
        f"{name}_{score}": value for name, mean in means.items() for score, value in zip(("mAP", "R-1"), mean)
    }


def overlap(source: np.ndarray, target: np.ndarray, k: int = NEIGHBOURS) -> dict[str, float]:
    """How far two clouds `(N, D)` and `(M, D)` of norm 1 share their space.

    `domain_mixing`: the share of an image's k nearest neighbours that come from the other domain, over the
    share that chance would give: 1 if the clouds are one, 0 if they are apart. `domain_accuracy`: how many
    images a linear rule (ridge regression on half of them) puts into the right domain on the other half: 0.5
    if it has to guess, 1 if the clouds can be cut apart.
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
    design, wanted = features[train] - centre, np.where(is_target[train], 1.0, -1.0)
    weights = np.linalg.solve(
        design.T @ design + 1e-3 * len(design) * np.eye(features.shape[1]),
        design.T @ (wanted - wanted.mean()),
    )
    guess = (features[test] - centre) @ weights + wanted.mean() > 0
    return {
        "domain_mixing": (other.mean(axis=1) / chance).mean(),
        "domain_accuracy": (guess == is_target[test]).mean(),
    }


def principal_plane(features: np.ndarray) -> np.ndarray:
    """The first two principal components `(N, 2)` of `(N, D)`."""
    centred = features - features.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T
