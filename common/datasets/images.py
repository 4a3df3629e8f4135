"""Reads image files of any form as 8-bit pictures, with errors that name the file.

What a plain conversion would lose or misread is handled here: 16 bits a channel and floating point are scaled
to 0..255, EXIF orientation is applied, transparent pixels are shown on white, and a range that nothing states
(32-bit integers, floats beyond 0..255) is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import InputError
from common.files import regular_file

MAX_PIXELS = 50_000_000  # far above any picture of a person: a file may announce more than memory holds
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
DEEP = (*SIXTEEN_BITS, "I", "F")  # Pillow's modes of more than 8 bits a channel
ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
ORIENTATION = 0x0112  # the EXIF tag
# unusual forms of an image file, as the doctor counts them
DEEP_FORM = "more than 8 bits a channel, scaled to 8"
TURNED = "an EXIF orientation, turned upright"
TRANSPARENT = "transparent pixels, shown on white"
FRAMES = "several frames, of which the first is read"
GREY = "shades of grey only"
CONVERTED = "another colour space, converted to RGB"


def read_image(path: str | Path, mode: str = "RGB") -> Image.Image:
    """Decodes an image to `mode`. Raises `InputError` for anything but a whole image of at most 50 million
    pixels with a known range of values.
    """
    return decode(path, mode)[0]


def image_size(path: str | Path) -> tuple[int, int]:
    """Returns width and height as `read_image` would, in most cases without decoding."""
    regular_file(path, "an image")
    try:
        with Image.open(path) as image:
            if image.format != "TIFF":  # Pillow turns a TIFF while it decodes it
                turned = _orientation(image) in (5, 6, 7, 8)
                return image.size[::-1] if turned else image.size
    except Exception:  # read_image's message names the fault
        pass
    return read_image(path).size


def is_plain(path: str | Path) -> bool:
    """Returns whether any decoder reads a file as `read_image` does: 8 bits, upright, opaque, in a format
    that all know.
    """
    try:
        with Image.open(path) as image:
            known = image.format in ("JPEG", "PNG", "BMP") and image.mode in ("RGB", "L")
            return known and "transparency" not in image.info and _orientation(image) in (None, 1)
    except Exception:  # read_image's message names the fault
        return False


def decode(path: str | Path, mode: str = "RGB") -> tuple[Image.Image, tuple[str, ...]]:
    """Returns the image in `mode`, and the unusual forms of its file; raises as `read_image` does."""
    regular_file(path, "an image")
    try:
        with Image.open(path) as image:
            if image.width * image.height <= MAX_PIXELS:
                return _decoded(image, mode, str(path))
            size = f"{image.width} x {image.height}"
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that Pillow can read; replace the file") from None
    except Exception as error:  # Pillow raises anything for a broken file
        raise InputError(f"{path}: broken image ({' '.join(str(error).split())}); replace the file") from None
    raise InputError(f"{path}: expected at most {MAX_PIXELS:,} pixels, found {size}; replace the file")


def _decoded(file: Image.Image, mode: str, path: str) -> tuple[Image.Image, tuple[str, ...]]:
    forms, image = [], file
    if getattr(file, "is_animated", False):
        forms.append(FRAMES)
    turned = _orientation(file) not in (None, 1)  # read first: Pillow turns a TIFF while it decodes it
    file.load()
    if file.mode in DEEP:
        image = _to_8_bits(file, path)
        forms.append(DEEP_FORM)
    elif file.mode in ("CMYK", "LAB", "HSV", "YCbCr"):
        forms.append(CONVERTED)
    elif file.mode in ("1", "L", "LA", "La"):
        forms.append(GREY)
    if turned:
        image = ImageOps.exif_transpose(_with_exif(image, file))
        forms.append(TURNED)
    if image.mode in ALPHA or "transparency" in image.info:
        image, transparent = _on_white(image)
        forms += [TRANSPARENT] * transparent
    return image.convert(mode), tuple(forms)


def _orientation(file: Image.Image) -> int | None:
    try:
        return file.getexif().get(ORIENTATION)
    except Exception:  # a broken EXIF block leaves the picture readable
        return None


def _with_exif(image: Image.Image, file: Image.Image) -> Image.Image:
    """Returns a scaled image with the EXIF data of its file, so that it can be turned."""
    if image is not file and "exif" in file.info:
        image.info["exif"] = file.info["exif"]
    return image


def _to_8_bits(file: Image.Image, path: str) -> Image.Image:
    """Scales a single channel of 16-bit integers or floats to 0..255."""
    values = np.asarray(file, np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise InputError(f"{path}: expected numbers as pixels, found NaN or infinity; replace the file")
    if file.mode in SIXTEEN_BITS or (file.mode == "I" and file.format in ("PNG", "PPM")):
        values = values / 257
    elif file.mode == "F" and 0 <= low and high <= 1:
        values = values * 255
    elif not (file.mode == "F" and 0 <= low and high <= 255):
        kind = "floating-point" if file.mode == "F" else "32-bit"
        raise InputError(
            f"{path}: {kind} pixels from {low:g} to {high:g}, whose range nothing states: "
            "expected 8 or 16 bits a channel, or floats from 0 to 1 or 0 to 255; convert the file"
        )
    return Image.fromarray((values + 0.5).astype(np.uint8))


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """Returns the image without its alpha channel, and whether a pixel was transparent."""
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB"), False
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"), True
