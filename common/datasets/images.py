"""Reads image files, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from common.errors import InputError
from common.files import regular_file

MAX_PIXELS = 50_000_000  # far above any picture of a person: a file may announce more than memory holds


def read_image(path: str | Path, mode: str = "RGB") -> Image.Image:
    """Decodes an image to `mode`. Raises `InputError` for anything but a whole image of at most 50 million
    pixels.
    """
    regular_file(path, "an image")
    try:
        with Image.open(path) as image:
            if image.width * image.height <= MAX_PIXELS:
                return image.convert(mode)
            size = f"{image.width} x {image.height}"
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that Pillow can read; replace the file") from None
    except Exception as error:  # Pillow raises anything for a broken file
        raise InputError(f"{path}: broken image ({' '.join(str(error).split())}); replace the file") from None
    raise InputError(f"{path}: expected at most {MAX_PIXELS:,} pixels, found {size}; replace the file")
