"""Reads and writes `images.csv`, the table that describes a dataset of any layout.

    path,person,camera,split,mask
    monday/0001.png,Alice,entrance,train,
    tuesday/0007.png,Bob,hall,query,masks/0007.png

`path` is relative to the table's folder. Without `person` images have no labels (in a gallery they are
distractors), without `camera` all are one camera's, without `split` all are training images, and a row whose
split is empty is left out. Columns may be in any order, separated by commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from common.content import read_text
from common.datasets.base import SPLITS, ReIDDataset
from common.datasets.layout import shorten
from common.datasets.own import ONE_CAMERA, Found
from common.errors import InputError
from common.files import write_atomic

COLUMNS = ("path", "person", "camera", "split", "mask")
LARGEST = 500_000_000  # bytes


def read_table(path: Path, problems: list[str]) -> list[Found]:
    """Reads a table; rows whose image is not on disk go to `problems`. Raises `InputError` with the line of
    a row that cannot be meant.
    """
    text = read_text(path, LARGEST, links=True).removeprefix("\ufeff")
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not a table with {delimiter!r} between its columns ({error})") from None
    columns = _columns(path, rows[0] if rows else [])
    found, absent, left_out = [], [], 0
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        where = f"{path}: line {number}"
        if len(row) != len(rows[0]):
            raise InputError(f"{where}: expected {len(rows[0])} columns, found {len(row)}")
        one = _found(path.parent, {name: row[place].strip() for name, place in columns.items()}, where)
        left_out += one is None
        if one is not None and one.path.is_file():
            found.append(one)
        elif one is not None:
            absent.append(one.path.name)
    _refuse_repeated(path, found)
    if absent:
        problems.append(
            f"{path}: {len(absent)} listed images are not on disk and left out: {shorten(absent)}"
        )
    if left_out:
        problems.append(f"{path}: {left_out} rows without a split left out")
    return found


def _columns(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Maps each known column to its place. Raises `InputError` for another header."""
    names = [name.strip().lower() for name in header]
    known = {name: names.index(name) for name in COLUMNS if names.count(name) == 1}
    repeated = [name for name in COLUMNS if names.count(name) > 1]
    if "path" not in known or repeated:
        found = shorten([*names], 8) if any(names) else "none"
        raise InputError(
            f"{path}: line 1: expected the names of the columns, path and any of "
            f"{', '.join(COLUMNS[1:])}, each once; found {found}"
        )
    return known


def _found(folder: Path, row: dict[str, str], where: str) -> Found | None:
    """Returns the image of a row; None if its split is empty."""
    split = row.get("split", "train").lower()
    if not split:
        return None
    if split not in SPLITS:
        raise InputError(f"{where}: split {split!r}: expected {', '.join(SPLITS)} or nothing")
    if not row["path"] or "\0" in row["path"]:
        raise InputError(f"{where}: expected the path of an image, found {row['path']!r}")
    camera = row.get("camera", ONE_CAMERA)
    if not camera:
        raise InputError(f"{where}: expected a camera, found nothing: name one in every row, or in none")
    person = row.get("person") or None
    if person is None and split == "query":
        raise InputError(f"{where}: expected the person of a query, found nothing")
    mask = row.get("mask")
    return Found(folder / row["path"], split, person, camera, folder / mask if mask else None)


def _refuse_repeated(path: Path, found: Sequence[Found]) -> None:
    seen: set[tuple[str, Path]] = set()
    for one in found:
        if (one.split, one.path) in seen:
            raise InputError(f"{path}: {one.path.name} is listed more than once in {one.split}")
        seen.add((one.split, one.path))


def write_table(path: Path, found: Sequence[Found]) -> None:
    """Writes the table of the images, paths relative to its folder where they are below it."""
    masks = any(one.mask for one in found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS if masks else COLUMNS[:-1])
    for one in found:
        row = [_relative(one.path, path.parent), one.person or "", one.camera, one.split]
        writer.writerow([*row, _relative(one.mask, path.parent) if one.mask else ""] if masks else row)
    write_atomic(path, text.getvalue())


def _relative(path: Path, folder: Path) -> str:
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def write_names(path: Path, dataset: ReIDDataset) -> None:
    """Writes which number each person and camera has: rows `kind,number,name`, cameras from 1."""
    rows = [("camera", camera + 1, name) for camera, name in enumerate(dataset.camera_names)]
    rows += [("person", pid, name) for pid, name in sorted(dataset.people.items())]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("kind", "number", "name"), *rows])
    write_atomic(path, text.getvalue())
