"""Training images decoded once into one uint8 file, which every worker and every later run maps into memory.

    <cache>/<hash of paths and size>.npy    the images' pixels, one image after the other, each at its own
    size (or all at one)
    <cache>/<hash of paths and size>.json   heights and widths, and hashes of the sources' contents and of
    their names, sizes and times

Images keep their own sizes, so that crops are drawn in the same frame as without the file: DukeMTMC-reID's
boxes differ in size, and so do real images and their camera styles in HHL.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.datasets.base import Sample
from common.datasets.contents import settled, stamp_of
from common.datasets.images import read_image
from common.errors import InputError
from common.files import atomic_file, locked, regular_file, write_atomic

log = logging.getLogger("run")
INTERPOLATION = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, eq=False)
class PackedImages:
    """`packed[i]` is image i, uint8 `(H, W, 3)`: a read-only view of the file."""

    pixels: np.ndarray  # uint8 (bytes,), mapped
    sizes: np.ndarray  # (N, 2): height, width
    starts: np.ndarray  # (N,): where an image begins

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> np.ndarray:
        height, width = self.sizes[index]
        start = self.starts[index]
        return self.pixels[start : start + 3 * height * width].reshape(height, width, 3)


def pack(
    samples: Sequence[Sample | str | Path],
    cache: Path,
    *,
    size: tuple[int, int] | None = None,
    interpolation: str = "bilinear",
) -> PackedImages:
    """Returns the packed images of samples (or paths), from `cache` if they are there and match, otherwise
    decoded now.

    `size`, (height, width): every image of another size is resized to it first. A file matches if the
    contents of its sources are the present ones and nothing of it is missing; sources whose sizes and times
    have not changed are not read again. Of several processes one decodes. Raises `InputError` for a
    broken image, `OSError` for a full disk; neither leaves a part of a file.
    """
    paths = [(s.path if isinstance(s, Sample) else Path(s)).absolute() for s in samples]
    form = f"{size} {interpolation}" if size else "own sizes"
    name = _digest([form, *map(str, paths)])[:16]
    pixels, about = cache / f"{name}.npy", cache / f"{name}.json"
    with locked(cache / f"{name}.lock", f"{pixels.name}, {len(paths)} images,"):
        packed = _open(pixels, about, paths)
        if packed is None:
            log.info("%s: decoding %d images", pixels.name, len(paths))
            _write(pixels, about, paths, size, interpolation)
            packed = _open(pixels, about, paths)
    if packed is None:
        raise InputError(
            f"{pixels}: source images changed while they were decoded: "
            "run the command again when no process writes to them"
        )
    return packed


def _open(pixels: Path, about: Path, paths: Sequence[Path]) -> PackedImages | None:
    """Returns the images on disk, or None if there are none, if a part is missing, or if they are not those
    of the sources.
    """
    try:
        saved = json.loads(about.read_text(encoding="utf-8"))
        complete = pixels.stat().st_size == saved["bytes"]
        if not complete or not _unchanged(saved, about, paths):
            return None
        mapped, sizes = np.load(pixels, mmap_mode="r"), np.array(saved["sizes"], np.int64).reshape(-1, 2)
        if mapped.dtype != np.uint8 or mapped.ndim != 1 or (sizes < 1).any():
            return None
    except InputError:  # of a source
        raise
    except Exception:  # not there, or damaged
        return None
    ends = np.cumsum(3 * sizes.prod(axis=1))
    return (
        PackedImages(mapped, sizes, ends - 3 * sizes.prod(axis=1))
        if len(mapped) == (ends[-1] if len(ends) else 0)
        else None
    )


def _write(
    pixels: Path, about: Path, paths: Sequence[Path], size: tuple[int, int] | None, interpolation: str
) -> None:
    """Writes the pixels by ordinary writes, not through a memory map, in which a full disk would kill the
    process; the description is written last and marks the file as complete.
    """
    about.unlink(missing_ok=True)
    files, contents = _files(paths), _contents(paths)  # before they are decoded
    sizes, total = [], 0
    with atomic_file(pixels) as file:
        _write_header(file, 0)
        for path in paths:
            image = read_image(path)
            if size is not None and image.size != size[::-1]:
                image = image.resize(size[::-1], INTERPOLATION[interpolation])
            sizes.append([image.height, image.width])
            total += file.write(np.asarray(image).tobytes())
        file.seek(0)
        _write_header(file, total)
    description = {"files": files, "contents": contents, "sizes": sizes, "bytes": pixels.stat().st_size}
    write_atomic(about, json.dumps(description))


def _write_header(file, total: int) -> None:
    """NumPy's header of `(total,)` uint8: 128 bytes for every total, so that it can be written again when the
    total is known.
    """
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (total,)})


def _unchanged(saved: dict, about: Path, paths: Sequence[Path]) -> bool:
    """Returns whether the sources' contents are those that were decoded; notes their times if they are."""
    files = _files(paths)
    if files and files == saved["files"]:
        return True
    if saved["contents"] != _contents(paths):
        return False
    if files:
        write_atomic(about, json.dumps({**saved, "files": files}))
    return True


def _files(paths: Sequence[Path]) -> str:
    """Returns a hash of names, sizes and times; "" for files whose next write might leave no trace there."""
    now = time.time()
    files = [(path.name, regular_file(path, "an image")) for path in paths]
    if not all(settled(status, now) for _, status in files):
        return ""
    return _digest(f"{name} {stamp_of(status)}" for name, status in files)


def _contents(paths: Sequence[Path]) -> str:
    return _digest(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


def _digest(lines) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode(errors="surrogateescape"))  # a folder's name is any bytes
    return digest.hexdigest()
