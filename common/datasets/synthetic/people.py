"""Draws the identity attributes of one synthetic person from a domain's wardrobe."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Colour = tuple[int, int, int]
T = TypeVar("T")

HAIR_COLOURS = ((25, 20, 18), (60, 40, 25), (110, 75, 40), (190, 160, 95), (120, 120, 120))
DARKEST_SKIN, LIGHTEST_SKIN = np.array((92, 62, 48)), np.array((240, 205, 180))


@dataclass(frozen=True)
class Wardrobe:
    """Clothing of a domain: probabilities of garments, saturation and value (HSV, 0..1) of the colours."""

    short_sleeves: float
    shorts: float
    skirt: float
    coat: float
    hat: float
    backpack: float
    handbag: float
    neutral: float  # black, grey, white or navy instead of a colour
    saturation: tuple[float, float]
    value: tuple[float, float]


@dataclass(frozen=True)
class Person:
    """The attributes that cameras share. Lengths are relative to an average body; `None`: not worn."""

    height: float
    build: float
    shoulders: float
    leg_ratio: float
    skin: Colour
    hair: Colour
    hair_style: str  # short | long | bun | bald
    coat: bool
    open_coat: bool
    long_sleeves: bool
    top: Colour
    accent: Colour  # the second colour of the top's pattern
    pattern: str  # plain | hoops | stripes | check | logo | two_tone
    period: float  # of the pattern, in pixels of a 128-pixel-high image
    shirt: Colour  # under an open coat
    legwear: str  # trousers | shorts | skirt
    bottom: Colour
    side_stripe: Colour | None
    shoes: Colour
    boots: bool
    hat: Colour | None
    backpack: Colour | None
    handbag: Colour | None
    handbag_side: int  # +1 the person's left hand, -1 the right one
    handbag_size: float


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Converts hue (turns), saturation and value (0..1) to RGB, 0..255."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return int(255 * red), int(255 * green), int(255 * blue)


def shade(colour: Colour, factor: float) -> Colour:
    """Darkens (`factor` < 1) or lightens (> 1) a colour."""
    red, green, blue = (min(255, int(channel * factor)) for channel in colour)
    return red, green, blue


def draw_cloth(rng: np.random.Generator, wardrobe: Wardrobe) -> Colour:
    """Draws the colour of one garment."""
    if rng.random() >= wardrobe.neutral:
        return hsv(rng.random(), rng.uniform(*wardrobe.saturation), rng.uniform(*wardrobe.value))
    kind = _choose(rng, {"black": 0.4, "grey": 0.25, "white": 0.2, "navy": 0.15})
    if kind == "black":
        return hsv(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.08, 0.2))
    if kind == "grey":
        return hsv(rng.random(), rng.uniform(0, 0.12), rng.uniform(0.3, 0.6))
    if kind == "white":
        return hsv(rng.random(), rng.uniform(0, 0.08), rng.uniform(0.8, 0.97))
    return hsv(rng.uniform(0.58, 0.68), rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.4))


def draw_person(rng: np.random.Generator, wardrobe: Wardrobe) -> Person:
    """Draws a person; the same generator state yields the same person."""

    def worn(probability: float) -> Colour | None:
        colour = draw_cloth(rng, wardrobe)
        return colour if rng.random() < probability else None

    coat = rng.random() < wardrobe.coat
    denim = hsv(rng.uniform(0.57, 0.64), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.65))
    red, green, blue = DARKEST_SKIN + (LIGHTEST_SKIN - DARKEST_SKIN) * rng.beta(2, 2)
    trousers = 1 - wardrobe.shorts - wardrobe.skirt
    return Person(
        height=rng.uniform(0.88, 1.0),
        build=float(np.clip(rng.normal(1.0, 0.13), 0.75, 1.4)),
        shoulders=rng.uniform(0.9, 1.12),
        leg_ratio=rng.uniform(0.46, 0.50),
        skin=(int(red), int(green), int(blue)),
        hair=_choose(rng, dict(zip(HAIR_COLOURS, (0.45, 0.25, 0.12, 0.12, 0.06), strict=True))),
        hair_style=_choose(rng, {"short": 0.5, "long": 0.32, "bun": 0.1, "bald": 0.08}),
        coat=coat,
        open_coat=coat and rng.random() < 0.5,
        long_sleeves=coat or rng.random() >= wardrobe.short_sleeves,
        top=draw_cloth(rng, wardrobe),
        accent=draw_cloth(rng, wardrobe),
        pattern=_choose(
            rng, {"plain": 0.42, "hoops": 0.14, "stripes": 0.08, "check": 0.1, "logo": 0.14, "two_tone": 0.12}
        ),
        period=rng.uniform(5, 9),
        shirt=draw_cloth(rng, wardrobe),
        legwear=_choose(rng, {"trousers": trousers, "shorts": wardrobe.shorts, "skirt": wardrobe.skirt}),
        bottom=draw_cloth(rng, wardrobe) if rng.random() < 0.7 else denim,
        side_stripe=worn(0.12),
        shoes=draw_cloth(rng, wardrobe),
        boots=rng.random() < 0.15,
        hat=worn(wardrobe.hat),
        backpack=worn(wardrobe.backpack),
        handbag=worn(wardrobe.handbag),
        handbag_side=1 if rng.random() < 0.5 else -1,
        handbag_size=rng.uniform(0.7, 1.3),
    )


def _choose(rng: np.random.Generator, weights: dict[T, float]) -> T:
    """Draws one key of `weights` with a probability proportional to its value."""
    threshold = rng.random() * sum(weights.values())
    *others, last = weights
    for choice in others:
        threshold -= weights[choice]
        if threshold < 0:
            return choice
    return last
