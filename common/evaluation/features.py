"""Feature files: one `.npz` holds the features of a query or a gallery with ids, cameras, names, and how they
were made. Imports without PyTorch.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.evaluation.distances import to_numpy
from common.evaluation.ranking import RankingResult, evaluate
from common.files import write_atomic

ARRAYS = ("features", "pids", "camids", "names", "normalised", "model")


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """`features` `(N, D)` float32, `pids` and `camids` `(N,)`, image names, whether the rows have norm 1, and
    which model and layer.
    """

    features: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    names: tuple[str, ...]
    normalised: bool
    model: str


def save_features(
    path: str | Path,
    features,
    pids: Sequence[int],
    camids: Sequence[int],
    names: Sequence[str],
    *,
    normalised: bool,
    model: str,
) -> None:
    """Writes a feature file, whole or not at all. `features` `(N, D)`, array or tensor. Raises `InputError`
    if the lengths differ.
    """
    rows = to_numpy(features).astype(np.float32)
    content = FeatureFile(
        rows, np.asarray(pids), np.asarray(camids), tuple(map(str, names)), bool(normalised), model
    )
    _check(content, path)
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(content, name) for name in ARRAYS})
    write_atomic(Path(path), buffer.getbuffer())


def load_features(path: str | Path) -> FeatureFile:
    """Reads what `save_features` wrote. Raises `InputError` for a file that is missing, damaged, or something
    else.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: expected a feature file (.npz), found no such file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in ARRAYS}
    except KeyError as error:
        raise InputError(
            f"{path}: expected a feature file with the arrays {', '.join(ARRAYS)}; {error.args[0]}"
        ) from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{path}: damaged, or no feature file; write it again with save_features") from None
    names = tuple(values["names"].tolist())
    content = FeatureFile(
        values["features"],
        values["pids"],
        values["camids"],
        names,
        bool(values["normalised"]),
        str(values["model"]),
    )
    _check(content, path)
    return content


def evaluate_files(query: str | Path, gallery: str | Path, **options) -> RankingResult:
    """`evaluate` on two feature files; `options` as there. Raises `InputError` if they do not come from one
    model.
    """
    a, b = load_features(query), load_features(gallery)
    if (a.model, a.normalised) != (b.model, b.normalised):
        raise InputError(
            f"{query} and {gallery}: expected features of one model, found {_about(a)} and {_about(b)}"
        )
    return evaluate(a.features, a.pids, a.camids, b.features, b.pids, b.camids, **options)


def _about(content: FeatureFile) -> str:
    return f"{content.model!r} ({'normalised' if content.normalised else 'not normalised'})"


def _check(content: FeatureFile, path: str | Path) -> None:
    count = len(content.features)
    lengths = [count, len(content.pids), len(content.camids), len(content.names)]
    if content.features.ndim != 2 or len(set(lengths)) != 1:
        raise InputError(
            f"{path}: expected features (N, D) with N ids, cameras and names, "
            f"found {content.features.shape} with {lengths[1:]}"
        )
