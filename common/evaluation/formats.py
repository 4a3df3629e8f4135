"""Reads and writes features as `.npz`, `.mat` and `.csv`. Imports without PyTorch.

Read are also the `.mat` files of other programs: layumi's `pytorch_result.mat`, which holds query and
gallery, and those of the Market-1501 MATLAB code: one matrix of features (an image a row or a column) beside
`queryID.mat`, `queryCam.mat`, `testID.mat` and `testCam.mat`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from common.evaluation.features import MOST_EXPANSION, SMALL, FeatureFile, load_features, save_features
from common.evaluation.matlab import read_matlab
from common.files import regular_file, write_atomic

SUFFIXES = (".npz", ".mat", ".csv")
COLUMNS = ("name", "pid", "camid")  # of a csv, before the numbers f0, f1, ...
MARKET_LABELS = {"query": ("queryID", "queryCam"), "gallery": ("testID", "testCam")}
MOST_BYTES = 8 << 30  # of a file


def read_features(path: str | Path, role: str, labels: str | Path | None = None) -> FeatureFile:
    """Reads the features of the `query` or the `gallery` (`role`) from any known file.

    `labels`: the folder of `queryID.mat` and the others; by default the file's own, `data` in it or beside
    it.
    Raises `InputError` for a file that is missing, damaged or something else.
    """
    suffix = _suffix(path)
    if suffix == ".npz":
        return load_features(path)
    if suffix == ".csv":
        return _read_csv(Path(path))
    return _read_mat(Path(path), role, Path(labels) if labels else None)


def write_features(path: str | Path, content: FeatureFile) -> None:
    """Writes features in the format of the file's ending, whole or not at all."""
    suffix, path = _suffix(path), Path(path)
    if suffix == ".npz":
        save_features(
            path,
            content.features,
            content.pids.tolist(),
            content.camids.tolist(),
            content.names,
            normalised=content.normalised,
            model=content.model,
            folder=content.folder,
        )
    elif suffix == ".csv":
        _write_csv(path, content)
    else:
        _write_mat(path, content)


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path}: expected a file of features, {', '.join(SUFFIXES)}, found {suffix or 'none'}"
        )
    return suffix


def unit_rows(features: np.ndarray) -> bool:
    """Returns whether the rows of `(N, D)` have norm 1."""
    norms = np.linalg.norm(features.astype(np.float64), axis=1)
    return bool(np.abs(norms - 1).max(initial=0) < 1e-3)


# ---------------------------------------------------------------- csv


def _write_csv(path: Path, content: FeatureFile) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"f{i}" for i in range(content.features.shape[1]))])
    for name, pid, camid, row in zip(content.names, content.pids, content.camids, content.features):
        writer.writerow([name, pid, camid, *(f"{value:.8g}" for value in row)])
    write_atomic(path, buffer.getvalue())


def _read_csv(path: Path) -> FeatureFile:
    if regular_file(path, "features (.csv)").st_size > MOST_BYTES:
        raise InputError(f"{path}: expected at most {MOST_BYTES:,} bytes")
    names, ids, rows = [], [], []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            header = next(lines, [])
            if tuple(header[:3]) != COLUMNS or len(header) < 4:
                raise ValueError(f"the columns are {', '.join(header[:4])}")
            for number, line in enumerate(lines, 2):
                if len(line) != len(header):
                    raise ValueError(f"line {number} has {len(line)} of {len(header)} columns")
                names.append(line[0])
                ids.append((int(line[1]), int(line[2])))
                rows.append(np.array(line[3:], np.float32))
        if not rows:
            raise ValueError("no line holds an image")
        identities = np.array(ids, np.int64)
    except (ValueError, OverflowError, csv.Error) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: expected a table of {', '.join(COLUMNS)}, f0, f1, ... ({reason})"
        ) from None
    features = np.stack(rows)
    return FeatureFile(features, identities[:, 0], identities[:, 1], tuple(names), unit_rows(features), "")


# ---------------------------------------------------------------- mat


def _write_mat(path: Path, content: FeatureFile) -> None:
    """Writes `features` (an image a row), `pids`, `camids` from 0, `names`, and how they were made."""
    from scipy.io import savemat

    names = np.empty(len(content.names), dtype=object)  # a cell array
    names[:] = content.names
    buffer = io.BytesIO()
    savemat(
        buffer,
        {
            "features": content.features,
            "pids": content.pids,
            "camids": content.camids,
            "names": names,
            "normalised": content.normalised,
            "model": content.model,
            "folder": content.folder,
        },
        do_compression=True,
    )
    write_atomic(path, buffer.getvalue())


def _read_mat(path: Path, role: str, labels: Path | None) -> FeatureFile:
    content = _mat_arrays(path)
    if f"{role}_f" in content:  # layumi
        return _of_arrays(path, content, f"{role}_f", f"{role}_label", f"{role}_cam")
    if "features" in content:  # this project
        return _own_mat(path, content)
    matrices = [name for name, value in content.items() if value.ndim == 2 and min(value.shape) > 1]
    if len(matrices) != 1:
        raise InputError(
            f"{path}: expected {role}_f, {role}_label and {role}_cam, or features, pids and camids, or one "
            f"matrix of features; found {', '.join(content) or 'nothing'}"
        )
    return _market_mat(path, content[matrices[0]], role, labels)


def _own_mat(path: Path, content: Mapping[str, np.ndarray]) -> FeatureFile:
    found = _of_arrays(path, content, "features", "pids", "camids")
    texts = {name: _text(content[name]) for name in ("model", "folder") if name in content}
    names = tuple(map(_text, content["names"].ravel())) if "names" in content else found.names
    normalised = bool(content["normalised"].any()) if "normalised" in content else found.normalised
    if len(names) != len(found.pids):
        raise InputError(f"{path}: expected {len(found.pids)} names, found {len(names)}")
    model, folder = texts.get("model", ""), texts.get("folder", "")
    return FeatureFile(found.features, found.pids, found.camids, names, normalised, model, folder)


def _of_arrays(path: Path, content: Mapping[str, np.ndarray], *fields: str) -> FeatureFile:
    missing = [name for name in fields if name not in content]
    if missing:
        raise InputError(f"{path}: has {fields[0]}, but no {' and no '.join(missing)}")
    features, pids, camids = (content[name] for name in fields)
    return _checked(path, features, pids.ravel(), camids.ravel())


def _market_mat(path: Path, matrix: np.ndarray, role: str, labels: Path | None) -> FeatureFile:
    pids, camids = (_market_labels(path, name, labels) for name in MARKET_LABELS[role])
    if matrix.shape[0] != len(pids) and matrix.shape[1] == len(pids):
        matrix = matrix.T  # an image a column
    return _checked(path, matrix, pids, camids)


def _market_labels(path: Path, name: str, labels: Path | None) -> np.ndarray:
    """Returns the numbers `(N,)` of `queryID.mat` and the like, whatever the case of the name."""
    folders = [labels] if labels else [path.parent, path.parent / "data", path.parent.parent / "data"]
    wanted = f"{name}.mat".lower()
    for folder in folders:
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.name.lower() == wanted:
                vectors = [value for value in _mat_arrays(file).values() if value.size]
                if len(vectors) == 1:
                    return vectors[0].ravel()
                raise InputError(f"{file}: expected one array, found {len(vectors)}")
    raise InputError(
        f"{path}: holds features without ids: expected {name}.mat in "
        f"{' or '.join(map(str, folders))}; name its folder with --labels DIR"
    )


def _checked(path: Path, features: np.ndarray, pids: np.ndarray, camids: np.ndarray) -> FeatureFile:
    if features.ndim != 2 or not len(pids) == len(camids) == len(features) or not len(pids):
        raise InputError(
            f"{path}: expected features (N, D) with N ids and cameras, found {features.shape} with "
            f"{len(pids)} ids and {len(camids)} cameras"
        )
    numbers = [np.asarray(values, np.float64) for values in (pids, camids)]
    if not all(np.isfinite(values).all() and (values == np.rint(values)).all() for values in numbers):
        raise InputError(f"{path}: expected whole numbers as ids and cameras")
    ids, cameras = (np.rint(values).astype(np.int64) for values in numbers)
    rows = np.ascontiguousarray(features, np.float32)
    names = tuple(f"image {i + 1}" for i in range(len(ids)))
    return FeatureFile(rows, ids, cameras, names, unit_rows(rows), "")


def _mat_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of numbers and texts of a `.mat`. Raises `InputError` for anything else."""
    size = regular_file(path, "features (.mat)").st_size
    try:
        with path.open("rb") as file:
            hdf5 = b"MATLAB 7.3" in file.read(128) or file.read(8) == b"\x89HDF\r\n\x1a\n"
        return _read_hdf5(path) if hdf5 else _read_mat5(path, size)
    except InputError:
        raise
    except Exception as error:  # a damaged or foreign file raises anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: damaged, or no MATLAB file ({reason})") from None


def _read_mat5(path: Path, size: int) -> dict[str, np.ndarray]:
    if size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES:,} bytes")
    return read_matlab(path.read_bytes(), max(MOST_EXPANSION * size, SMALL))


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Reads MATLAB 7.3, whose arrays are stored transposed."""
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path}: MATLAB 7.3 files need the package h5py: pip install h5py") from None
    with h5py.File(path, "r") as file:
        sets = {name: value for name, value in file.items() if isinstance(value, h5py.Dataset)}
        return {name: value[()].T for name, value in sets.items() if value.dtype.kind in "biuf"}


def _text(value: Any) -> str:
    """Returns the text in MATLAB's nested arrays."""
    while isinstance(value, np.ndarray):
        if value.size == 0:
            return ""
        value = value.ravel()[0]
    return str(value)
