"""Reads image files, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from common.errors import InputError


def read_image(path: str | Path) -> Image.Image:
    """Decodes an image to RGB. Raises `InputError` if the file is missing, truncated or not an image."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{path}: expected an image, found no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that Pillow can read; replace the file") from None
    # what Pillow raises for a broken file
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: broken image ({' '.join(str(error).split())}); replace the file") from None
