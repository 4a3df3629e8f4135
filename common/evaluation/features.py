"""Feature files: one `.npz` holds the features of a query or a gallery with ids, cameras, names, and how they
were made. Imports without PyTorch.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.errors import InputError
from common.evaluation.distances import to_numpy
from common.evaluation.ranking import RankingResult, evaluate
from common.files import regular_file, write_atomic

# dimensions and kinds of dtype; ids are signed, because junk is -1
ARRAYS = {
    "features": (2, "biuf"),
    "pids": (1, "i"),
    "camids": (1, "i"),
    "names": (1, "U"),
    "normalised": (0, "b"),
    "model": (0, "U"),
}
OPTIONAL = {"folder": (0, "U")}
# an archive may be compressed: features hardly shrink, names do
MOST_EXPANSION, SMALL = 20, 64 << 20


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """`features` `(N, D)` float32, `pids` and `camids` `(N,)` (-2: the person is not known), image names,
    whether the rows have norm 1, which model and layer, and the folder of the names (both empty if unknown).
    """

    features: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    names: tuple[str, ...]
    normalised: bool
    model: str
    folder: str = ""


def save_features(
    path: str | Path,
    features,
    pids: Sequence[int],
    camids: Sequence[int],
    names: Sequence[str],
    *,
    normalised: bool,
    model: str,
    folder: str = "",
) -> None:
    """Writes a feature file, whole or not at all. `features` `(N, D)`, array or tensor; `folder` holds the
    images `names`. Raises `InputError` if the lengths or the kinds of numbers differ.
    """
    # an empty array of integers would be one of floats
    ids, cameras = (np.asarray(values, None if len(values) else int) for values in (pids, camids))
    arrays: dict[str, Any] = {
        "features": to_numpy(features),
        "pids": ids,
        "camids": cameras,
        "names": np.asarray(tuple(map(str, names)), np.str_),
        "normalised": np.asarray(bool(normalised)),
        "model": np.asarray(model),
    }
    arrays |= {"folder": np.asarray(folder)} if folder else {}
    _check(arrays, path)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays | {"features": arrays["features"].astype(np.float32)})
    write_atomic(Path(path), buffer.getbuffer())


def load_features(path: str | Path) -> FeatureFile:
    """Reads what `save_features` wrote. Raises `InputError` for a file that is missing, damaged, or something
    else.
    """
    size = regular_file(path, "a feature file (.npz)").st_size
    try:
        with zipfile.ZipFile(path) as archive:
            values = _read_arrays(archive, size)
    except KeyError as error:
        raise InputError(
            f"{path}: expected a feature file with the arrays {', '.join(ARRAYS)}; {error.args[0]}"
        ) from None
    except Exception as error:  # a damaged or foreign file raises anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: damaged, or no feature file ({reason}); write it again with save_features"
        ) from None
    _check(values, path)
    return FeatureFile(
        values["features"],
        values["pids"],
        values["camids"],
        tuple(values["names"].tolist()),
        bool(values["normalised"]),
        str(values["model"]),
        str(values.get("folder", "")),
    )


def _read_arrays(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    """Reads the arrays of an archive of `size` bytes; checks what they announce before memory is reserved."""
    members = {name: archive.getinfo(f"{name}.npy") for name in ARRAYS}
    present = set(archive.namelist())
    members |= {name: archive.getinfo(f"{name}.npy") for name in OPTIONAL if f"{name}.npy" in present}
    announced = sum(member.file_size for member in members.values())
    if announced > max(MOST_EXPANSION * size, SMALL):
        raise ValueError(f"{size:,} bytes announce {announced:,}")
    values = {}
    for name, member in members.items():
        with archive.open(member) as file:
            nbytes = _announced_bytes(file)
            if nbytes != member.file_size - file.tell():
                raise ValueError(f"the header of {name} announces {nbytes:,} bytes")
            file.seek(0)
            values[name] = np.lib.format.read_array(file, allow_pickle=False)
    return values


def _announced_bytes(file: IO[bytes]) -> int:
    """Reads the header of an array and returns the size of its numbers in bytes."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"arrays of format {version}")
    shape, _, dtype = readers[version](file)
    return math.prod(shape) * dtype.itemsize


def evaluate_files(query: str | Path, gallery: str | Path, **options) -> RankingResult:
    """Returns `evaluate` of two feature files; `options` as there. Raises `InputError` if they do not come
    from one model.
    """
    a, b = load_features(query), load_features(gallery)
    check_one_model(a, b, f"{query} and {gallery}")
    return evaluate(a.features, a.pids, a.camids, b.features, b.pids, b.camids, **options)


def check_one_model(a: FeatureFile, b: FeatureFile, where: str) -> None:
    """Raises `InputError` for features of two models; a file that does not name its model is accepted."""
    if a.model and b.model and (a.model, a.normalised) != (b.model, b.normalised):
        raise InputError(f"{where}: expected features of one model, found {_about(a)} and {_about(b)}")


def _about(content: FeatureFile) -> str:
    return f"{content.model!r} ({'normalised' if content.normalised else 'not normalised'})"


def _check(arrays: dict[str, np.ndarray], path: str | Path) -> None:
    """Raises `InputError` unless all arrays have the dimensions and kinds of `ARRAYS`, and one length."""
    for name, (ndim, kinds) in (ARRAYS | OPTIONAL).items():
        array = arrays.get(name, np.asarray(""))
        if array.ndim != ndim or array.dtype.kind not in kinds:
            raise InputError(
                f"{path}: expected features (N, D) of real numbers with N signed integer ids and cameras and "
                f"N names, one flag and one text; found {name} of {array.dtype}, shape {array.shape}"
            )
    lengths = [len(arrays[name]) for name in ("features", "pids", "camids", "names")]
    if len(set(lengths)) != 1:
        raise InputError(
            f"{path}: expected features (N, D) with N ids, cameras and names, "
            f"found {arrays['features'].shape} with {lengths[1:]}"
        )
