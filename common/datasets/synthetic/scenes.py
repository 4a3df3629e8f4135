"""Composes the scene before any camera style: background, person, occluder, and the detector's failures."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from common.datasets.synthetic.figure import HEIGHT, WIDTH, Pose, draw_figure
from common.datasets.synthetic.people import Person, hsv, shade

PANORAMA_HEIGHT, PANORAMA_WIDTH = 192, 256
TURNED_BACK = 0.35  # share of tracks that walk against the camera's main direction


@lru_cache(maxsize=1)
def texture() -> np.ndarray:
    """Returns soft noise with zero mean and unit deviation, float32 (256, 256): cloth, walls, ground."""
    rng = np.random.default_rng(0)
    noise = np.zeros((256, 256), np.float32)
    for cells, weight in ((8, 0.5), (16, 0.3), (32, 0.2)):
        coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        noise += weight * np.asarray(coarse.resize((256, 256), Image.Resampling.BICUBIC))
    return (noise - noise.mean()) / noise.std()


def draw_panorama(rng: np.random.Generator, scenery: str) -> np.ndarray:
    """Draws the place that a camera overlooks, float32 (192, 256, 3) in 0..1; images show a part of it."""
    horizon = int(PANORAMA_HEIGHT * rng.uniform(0.3, 0.5))
    if scenery == "paved":
        wall = hsv(rng.uniform(0.02, 0.15), rng.uniform(0.05, 0.3), rng.uniform(0.5, 0.8))
        ground = hsv(rng.uniform(0.05, 0.15), rng.uniform(0.02, 0.15), rng.uniform(0.5, 0.75))
    else:
        wall = hsv(rng.uniform(0.15, 0.4), rng.uniform(0.1, 0.35), rng.uniform(0.4, 0.65))
        ground_hue = rng.uniform(0.2, 0.33) if rng.random() < 0.6 else rng.uniform(0.55, 0.65)
        ground = hsv(ground_hue, rng.uniform(0.05, 0.25), rng.uniform(0.45, 0.7))
    image = Image.new("RGB", (PANORAMA_WIDTH, PANORAMA_HEIGHT), ground)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, PANORAMA_WIDTH, horizon), fill=wall)
    _draw_things(draw, rng, wall, horizon, rounded=0.6 if scenery == "park" else 0.0)
    _draw_ground(draw, rng, ground, horizon)
    place = np.asarray(image.filter(ImageFilter.GaussianBlur(1.0)), np.float32) / 255
    rough = 1 + rng.uniform(0.03, 0.1) * texture()[:PANORAMA_HEIGHT, :PANORAMA_WIDTH]
    return np.clip(place * rough[..., None], 0, 1)


def _draw_things(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, wall: tuple, horizon: int, rounded: float
) -> None:
    """Draws windows, doors, parked objects and trees in front of the wall."""
    for _ in range(int(rng.integers(6, 13))):
        x, y = rng.uniform(0, PANORAMA_WIDTH), rng.uniform(0, horizon)
        width, height = rng.uniform(8, 50), rng.uniform(10, 50)
        if rng.random() < 0.7:
            colour = shade(wall, rng.uniform(0.55, 1.3))
        else:
            colour = hsv(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.25, 0.8))
        if rng.random() < rounded:
            draw.ellipse((x, y - 10, x + width, y + height), fill=colour)
        else:
            draw.rectangle((x, y, x + width, min(y + height, horizon + 12)), fill=colour)


def _draw_ground(draw: ImageDraw.ImageDraw, rng: np.random.Generator, ground: tuple, horizon: int) -> None:
    """Draws kerbs, markings and paving."""
    for _ in range(int(rng.integers(3, 8))):
        colour = shade(ground, rng.uniform(0.7, 1.3))
        if rng.random() < 0.5:
            start, end = rng.uniform(-50, PANORAMA_WIDTH + 50), rng.uniform(-50, PANORAMA_WIDTH + 50)
            draw.line([(start, horizon), (end, PANORAMA_HEIGHT)], fill=colour, width=int(rng.integers(1, 5)))
        else:
            y = rng.uniform(horizon, PANORAMA_HEIGHT)
            draw.rectangle((0, y, PANORAMA_WIDTH, y + rng.uniform(1, 8)), fill=colour)


def draw_walk(track: np.random.Generator, shot: np.random.Generator, frame: int, camera_yaw: float) -> Pose:
    """Draws the pose in one frame: direction and gait from the track, the detector's jitter from the shot."""
    yaw = camera_yaw + (math.pi if track.random() < TURNED_BACK else 0) + track.normal(0, 0.45)
    phase = track.uniform(0, 2 * math.pi) + 0.11 * frame
    return Pose(
        yaw=yaw + shot.normal(0, 0.12),
        phase=phase,
        size=shot.uniform(0.90, 1.02),
        dx=float(np.clip(shot.normal(0, 0.03), -0.08, 0.08)),
        dy=float(np.clip(shot.normal(0, 0.01), -0.03, 0.015)),
        side_light=shot.uniform(-1, 1),
    )


def crop_background(
    panorama: np.ndarray, track: np.random.Generator, shot: np.random.Generator
) -> np.ndarray:
    """Crops the panorama behind one box, (128, 64, 3); the crop shifts slightly within a track."""
    x = int(track.integers(0, PANORAMA_WIDTH - WIDTH)) + int(shot.integers(-12, 13))
    y = int(track.integers(20, PANORAMA_HEIGHT - HEIGHT))
    x = min(max(x, 0), PANORAMA_WIDTH - WIDTH)
    return panorama[y : y + HEIGHT, x : x + WIDTH]


def compose(
    person: Person, pose: Pose, background: np.ndarray, shot: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the person on the background: colours (128, 64, 3) and coverage (128, 64), float32 in 0..1."""
    colour, coverage = draw_figure(person, pose)
    y, x = shot.integers(0, 128), shot.integers(0, 192)
    folds = 1 + 0.09 * texture()[y : y + HEIGHT, x : x + WIDTH]
    ground = background * (1 - 0.35 * _shadow(pose))[..., None]
    return colour * folds[..., None] + ground * (1 - coverage)[..., None], coverage


def _shadow(pose: Pose) -> np.ndarray:
    """Returns the shadow of the feet on the ground, 0..1, (128, 64)."""
    across = np.exp(-(((np.arange(WIDTH, dtype=np.float32) / WIDTH - 0.5 - pose.dx) / 0.22) ** 2))
    down = np.exp(-(((np.arange(HEIGHT, dtype=np.float32) / HEIGHT - 0.97 - pose.dy) / 0.022) ** 2))
    return down[:, None] * across[None, :]


def occlude(scene: np.ndarray, coverage: np.ndarray, rng: np.random.Generator) -> None:
    """Draws a low wall, a pole or an object at the side over the person, in place in both arrays."""
    colour = np.array(hsv(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.15, 0.7)), np.float32) / 255
    kind = rng.random()
    if kind < 0.4:
        rows, columns = slice(int(HEIGHT * rng.uniform(0.68, 0.9)), HEIGHT), slice(0, WIDTH)
    elif kind < 0.7:
        width = int(rng.integers(4, 12))
        x = int(rng.integers(0, WIDTH - width))
        rows, columns = slice(0, HEIGHT), slice(x, x + width)
    else:
        width = int(WIDTH * rng.uniform(0.2, 0.38))
        rows = slice(int(HEIGHT * rng.uniform(0.3, 0.6)), HEIGHT)
        columns = slice(0, width) if rng.random() < 0.5 else slice(WIDTH - width, WIDTH)
    fade = np.linspace(1.1, 0.85, rows.stop - rows.start, dtype=np.float32)
    scene[rows, columns] = colour * fade[:, None, None]
    coverage[rows, columns] = 0


def misplace(pose: Pose, rng: np.random.Generator) -> Pose:
    """Returns the pose in a box that contains only a part of the person."""
    side = 1 if rng.random() < 0.5 else -1
    if rng.random() < 0.5:
        return replace(pose, dx=side * rng.uniform(0.3, 0.55), size=pose.size * rng.uniform(0.9, 1.3))
    dy, dx = side * rng.uniform(0.3, 0.55), rng.uniform(-0.25, 0.25)
    return replace(pose, dy=dy, dx=dx, size=pose.size * rng.uniform(0.9, 1.3))
