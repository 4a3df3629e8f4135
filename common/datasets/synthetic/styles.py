"""Camera styles: the effect of a camera's place, lens and electronics on a scene.

A style consists of four parts, in the order of the light path: illumination (casts that vary from top to
bottom and from side to side, dappled shade), colour response (a 3-D lookup table: hue-dependent shifts, split
toning, a tone curve per channel, haze), optics (blur, resolution, sharpening), and sensor (noise, chroma
blotches, bands, JPEG quality). Most of them are not a global change of brightness, contrast, saturation or
hue, so colour jitter cannot replace them.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from common.datasets.synthetic.figure import HEIGHT, WIDTH

LUT_SIZE = 13
LIGHT_MARGIN = 32  # the shade pattern is larger than the image: each shot shows another part of it
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
WARM_COOL = np.array([1.0, 0.1, -1.0], np.float32)
GREEN_MAGENTA = np.array([-0.6, 1.0, -0.6], np.float32)
EFFECTS = (  # in the order of the random draws
    "exposure cast top_cast side_light dapple hue_twist hue_turn selective split tone curve haze "
    "softness noise blotches bands quality"
).split()


@dataclass(frozen=True)
class StyleRanges:
    """The differences between a domain's cameras: the largest amplitude of each effect (0 disables it)."""

    axis: str  # the main direction of colour casts: warm-cool | green-magenta
    exposure: float  # log gain of the whole image
    cast: float  # log gain of the cast of the whole image
    top_cast: float  # log gain of the cast at the upper edge, its opposite at the lower edge
    side_light: float  # log gain from one side to the other
    dapple: float  # log gain of the shade pattern
    hue_twist: float  # radians by which hues move apart or together
    hue_turn: float  # radians by which all hues turn
    selective: float  # relative saturation lost by one range of hues
    split: float  # tint of shadows, its opposite in highlights
    tone: float  # log gamma of each channel
    curve: float  # strength of the S-curve of all channels
    haze: float  # share of veiling light
    blur: float  # pixels
    shrink: float  # factor of the loss of resolution
    sharpen: float  # strength of over-sharpening
    noise: float  # deviation of the luminance noise
    blotches: float  # deviation of the chroma noise, in cells of 4 x 4 pixels
    bands: float  # amplitude of the sensor's row bands
    quality: tuple[int, int] = (60, 92)  # of the JPEG files


@dataclass(frozen=True)
class CameraStyle:
    """One camera's style, ready to be applied."""

    cast: np.ndarray  # (128, 1, 3) gain by row and channel
    across: np.ndarray  # (64,) gain by column
    shade: np.ndarray  # (128 + margin, 64 + margin) gain
    response: ImageFilter.Color3DLUT
    blur: float
    shrink: float
    sharpen: float
    noise: float
    blotches: float
    bands: float
    band_period: int
    quality: int


def draw_styles(rng: np.random.Generator, ranges: StyleRanges, num_cameras: int) -> list[CameraStyle]:
    """Draws the styles of a domain's cameras; each effect is spread evenly over them (a Latin hypercube)."""

    def spread() -> list[float]:
        cells = rng.permutation(num_cameras) + rng.uniform(0.25, 0.75, num_cameras)
        return (2 * cells / num_cameras - 1).tolist()

    table = {effect: spread() for effect in EFFECTS}
    return [
        _draw_style(rng, ranges, {effect: values[camid] for effect, values in table.items()})
        for camid in range(num_cameras)
    ]


def _draw_style(rng: np.random.Generator, ranges: StyleRanges, level: dict[str, float]) -> CameraStyle:
    """Draws the style of one camera; `level` holds the position of each effect in its range, -1..1."""
    axis = WARM_COOL if ranges.axis == "warm-cool" else GREEN_MAGENTA
    rows, columns = np.linspace(-1, 1, HEIGHT, dtype=np.float32), np.linspace(-1, 1, WIDTH, dtype=np.float32)
    cast = (
        ranges.exposure * level["exposure"]
        + (ranges.cast * level["cast"] - ranges.top_cast * level["top_cast"] * rows[:, None]) * axis
    )
    softness = level["softness"]
    return CameraStyle(
        cast=np.exp(cast, dtype=np.float32)[:, None, :],
        across=np.exp(ranges.side_light * level["side_light"] * columns),
        shade=_draw_shade(rng, ranges.dapple * _upper(level["dapple"])),
        response=_colour_response(rng, ranges, level, axis),
        blur=ranges.blur * max(0.0, softness) if rng.random() < 0.5 else 0.0,
        shrink=1 + (ranges.shrink - 1) * max(0.0, softness),
        sharpen=ranges.sharpen * max(0.0, -softness),
        noise=ranges.noise * _upper(level["noise"]),
        blotches=ranges.blotches * _upper(level["blotches"]),
        bands=ranges.bands * max(0.0, level["bands"]),
        band_period=int(rng.integers(5, 13)),
        quality=round(np.interp(level["quality"], (-1, 1), ranges.quality)),
    )


def _upper(level: float) -> float:
    """Maps -1..1 to 0..1."""
    return (1 + level) / 2


def _draw_shade(rng: np.random.Generator, amplitude: float) -> np.ndarray:
    """Draws dappled light, as under trees: soft-edged patches of two brightnesses."""
    size = (HEIGHT + LIGHT_MARGIN, WIDTH + LIGHT_MARGIN)
    cells = int(rng.integers(6, 13))
    coarse = Image.fromarray(rng.standard_normal((cells * 5 // 3, cells)).astype(np.float32))
    field = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
    return np.exp(amplitude * np.tanh(3 * field))


def _colour_response(
    rng: np.random.Generator, ranges: StyleRanges, level: dict[str, float], axis: np.ndarray
) -> ImageFilter.Color3DLUT:
    """Draws the camera's lookup table from input to output colours."""
    steps = np.linspace(0, 1, LUT_SIZE, dtype=np.float32)
    # red varies fastest in Pillow's table
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    colour: np.ndarray = np.stack([red, green, blue], axis=-1)
    colour = _bend_hues(colour, rng.uniform(0, 2 * np.pi, 2), ranges, level)
    luma = (colour @ LUMA)[..., None]
    colour = colour + ranges.split * level["split"] * axis * (luma**2 - (1 - luma) ** 2)
    colour = np.clip(colour, 0, 1) ** np.exp(ranges.tone * level["tone"] * rng.permutation([1.0, 0.0, -1.0]))
    colour = colour + ranges.curve * level["curve"] * np.sin(2 * np.pi * colour) / (2 * np.pi)
    haze = ranges.haze * _upper(level["haze"])
    colour = colour * (1 - haze) + haze * (0.6 + 0.1 * axis * level["cast"])
    return ImageFilter.Color3DLUT(LUT_SIZE, np.clip(colour, 0, 1).astype(np.float32).ravel())


def _bend_hues(
    colour: np.ndarray, phases: np.ndarray, ranges: StyleRanges, level: dict[str, float]
) -> np.ndarray:
    """Shifts hues by an angle that depends on the hue and dulls a range of hues; grey is kept."""
    basis = np.exp(2j * np.pi * np.arange(3) / 3)
    grey = colour.mean(axis=-1, keepdims=True)
    chroma = (colour @ basis)[..., None]
    hue = np.angle(chroma)
    twist = ranges.hue_twist * level["hue_twist"] * np.sin(2 * hue + phases[0])
    turn = ranges.hue_turn * level["hue_turn"] + twist
    dull = 1 - ranges.selective * _upper(level["selective"]) * _upper(np.cos(hue + phases[1]))
    chroma = chroma * dull * np.exp(1j * turn)
    return grey + (2 / 3) * np.real(chroma * basis.conj())


def photograph(scene: np.ndarray, style: CameraStyle, rng: np.random.Generator) -> bytes:
    """Returns a scene, float32 (128, 64, 3) in 0..1, as a JPEG file; `rng` draws what varies per shot."""
    y, x = rng.integers(0, LIGHT_MARGIN, 2)
    light = style.shade[y : y + HEIGHT, x : x + WIDTH] * (style.across * math.exp(rng.normal(0, 0.05)))
    image = as_image(scene * (style.cast * light[..., None])).filter(style.response)
    image = _apply_optics(image, style)
    stream = io.BytesIO()
    _apply_sensor(image, style, rng).save(stream, "JPEG", quality=style.quality)
    return stream.getvalue()


def as_image(scene: np.ndarray) -> Image.Image:
    """Converts floats to an RGB image, clipped to 0..1."""
    return Image.fromarray(np.clip(scene * 255 + 0.5, 0, 255).astype(np.uint8))


def _apply_optics(image: Image.Image, style: CameraStyle) -> Image.Image:
    if style.blur:
        image = image.filter(ImageFilter.BoxBlur(style.blur))
    if style.shrink > 1:
        small = (round(WIDTH / style.shrink), round(HEIGHT / style.shrink))
        image = image.resize(small, Image.Resampling.BILINEAR)
        image = image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    if style.sharpen:
        image = Image.blend(image.filter(ImageFilter.BoxBlur(1.5)), image, 1 + style.sharpen)
    return image


def _apply_sensor(image: Image.Image, style: CameraStyle, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float32) / 255
    rows = np.arange(HEIGHT) + rng.integers(0, style.band_period)
    bands = style.bands * np.sign(np.sin(2 * np.pi * (rows + 0.5) / style.band_period)).astype(np.float32)
    luminance = style.noise * rng.standard_normal((HEIGHT, WIDTH), dtype=np.float32) + bands[:, None]
    blotches = style.blotches * rng.standard_normal((HEIGHT // 4, WIDTH // 4, 3), dtype=np.float32)
    return as_image(pixels + luminance[..., None] + blotches.repeat(4, 0).repeat(4, 1))
