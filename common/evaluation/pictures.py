"""Draws grids of small images with titles."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.datasets.images import read_image
from common.errors import InputError
from common.files import write_atomic

MAX_BYTES = 1_000_000
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
GAP = 4  # pixels between cells and around the grid


def image_grid(
    rows: Sequence[Sequence[Image.Image | np.ndarray | str | Path | None]],
    path: str | Path,
    *,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    cell_height: int = 128,
    frames: Sequence[Sequence[tuple[int, int, int] | None]] = (),
) -> None:
    """Writes a PNG of at most 1 MB; a cell is a picture, a file name, a `uint8` array `(H, W, 3)`, or None.

    Every picture is scaled to `cell_height` pixels and the aspect ratio of the first one; `frames` holds a
    colour or None for each cell. A sheet above 1 MB is written with smaller cells. Raises `InputError` for a
    grid without a picture and for broken image files.
    """
    pictures = [[None if cell is None else _picture(cell) for cell in row] for row in rows]
    first = next((cell for row in pictures for cell in row if cell is not None), None)
    if first is None:
        raise InputError(f"{path}: expected at least one picture in the grid, found none")
    while True:
        size = (max(1, round(cell_height * first.width / first.height)), cell_height)
        content = _png(_sheet(pictures, size, column_titles, row_titles, frames))
        if len(content) <= MAX_BYTES or cell_height <= 16:
            break
        cell_height = int(0.8 * cell_height)
    write_atomic(Path(path), content)


def _picture(cell: Image.Image | np.ndarray | str | Path) -> Image.Image:
    if isinstance(cell, (str, Path)):
        return read_image(cell)
    return (cell if isinstance(cell, Image.Image) else Image.fromarray(cell)).convert("RGB")


def _sheet(
    pictures, size: tuple[int, int], column_titles: Sequence[str], row_titles: Sequence[str], frames
) -> Image.Image:
    font = ImageFont.load_default()
    top = GAP + (_text_size(column_titles, font)[1] + GAP if column_titles else 0)
    left = GAP + (_text_size(row_titles, font)[0] + GAP if row_titles else 0)
    step = (max(size[0], _text_size(column_titles, font)[0]) + GAP, size[1] + GAP)
    columns = max(map(len, pictures))
    sheet = Image.new("RGB", (left + columns * step[0], top + len(pictures) * step[1]), WHITE)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(column_titles):
        draw.text((left + column * step[0] + (size[0] - font.getlength(title)) / 2, GAP), title, BLACK, font)
    for number, row in enumerate(pictures):
        y = top + number * step[1]
        if number < len(row_titles):
            middle = y + (size[1] - _text_size(row_titles, font)[1]) / 2
            draw.text((GAP, middle), row_titles[number], BLACK, font)
        for column, cell in enumerate(row):
            if cell is not None:
                x = left + column * step[0]
                sheet.paste(cell.resize(size, Image.Resampling.BICUBIC), (x, y))
                if frames and frames[number][column]:
                    box = (x, y, x + size[0] - 1, y + size[1] - 1)
                    draw.rectangle(box, outline=frames[number][column], width=3)
    return sheet


def _text_size(titles: Sequence[str], font) -> tuple[int, int]:
    boxes = [font.getbbox(title) for title in titles] or [(0, 0, 0, 0)]
    return round(max(box[2] for box in boxes)), round(max(box[3] for box in boxes))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
