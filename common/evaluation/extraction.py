"""Extracts the features of images with the network of any checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common.datasets.base import Sample
from common.evaluation.features import FeatureFile
from common.evaluation.folders import folder_samples
from common.evaluation.networks import FeatureNetwork, load_feature_network
from common.files import regular_file
from common.hashing import digest

log = logging.getLogger("run")


class Extraction(NamedTuple):
    """How images become features."""

    checkpoint: Path
    device: torch.device
    size: tuple[int, int] | None = None  # height and width of the images; None: as the checkpoint says
    flip: bool | None = None  # add the mirrored image's feature; None: as the checkpoint's program does
    adabn: Path | None = None  # folder of images on which batch norm is re-estimated
    workers: int = 0  # processes that load images
    batch: int = 128


def extract(how: Extraction, samples: Sequence[Sample], folder: Path) -> FeatureFile:
    """Returns the features of the samples, which are in `folder` or below it."""
    changed = regular_file(how.checkpoint, "a checkpoint").st_mtime_ns
    network = _loaded(how.checkpoint, how.size, how.flip, changed)
    embedder = network.embedder(how.device, workers=how.workers, batch=how.batch)
    model = network.network.to(how.device)
    name = network.name
    if how.adabn is not None:
        seen = folder_samples(how.adabn, "none")
        model = embedder.adapt(model, seen)
        name += f" adabn {digest([(s.path.name, s.path.stat().st_size) for s in seen])}"
    start = time.perf_counter()
    rows = embedder.embed(model, samples)["feature"]
    seconds = time.perf_counter() - start
    log.info("%d images in %.1f s: %.0f a minute", len(samples), seconds, 60 * len(samples) / seconds)
    root = folder.expanduser().absolute()
    return FeatureFile(
        rows,
        np.array([s.pid for s in samples], np.int64),
        np.array([s.camid for s in samples], np.int64),
        tuple(s.path.expanduser().absolute().relative_to(root).as_posix() for s in samples),
        network.normalise,
        name,
        str(root),
    )


@lru_cache(maxsize=1)
def _loaded(
    checkpoint: Path, size: tuple[int, int] | None, flip: bool | None, changed: int
) -> FeatureNetwork:
    """Loads and describes a network once for query and gallery; `changed`: the file's time of change."""
    network = load_feature_network(checkpoint, size=size, flip=flip)
    log.info("%s", "\n".join(describe(network)))
    return network


def describe(network: FeatureNetwork) -> list[str]:
    """Returns what was recognised and loaded, and how the features are computed."""
    neck = network.found.program.neck.rstrip(".")
    after = f"after {neck}" if network.found.neck else "of the pooled map"
    extras = [
        *(["with the mirrored image"] if network.flip else []),
        "L2-normalised" if network.normalise else "not normalised",
    ]
    return [
        *network.found.lines(),
        f"  features: {after}, {', '.join(extras)}; images {network.height}x{network.width}, "
        f"{network.interpolation}",
    ]
