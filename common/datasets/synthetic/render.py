"""Renders a key to pixels, mask and file bytes, optionally in another camera's style (the oracle)."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from common.datasets.base import DISTRACTOR, JUNK
from common.datasets.synthetic import scenes
from common.datasets.synthetic.domains import (
    CAMERAS,
    PANORAMA,
    PERSON,
    SENSOR,
    SHOT,
    TRACK,
    ImageKey,
    get_domain,
    stream,
)
from common.datasets.synthetic.figure import HEIGHT, WIDTH
from common.datasets.synthetic.people import Person, draw_person
from common.datasets.synthetic.styles import as_image, draw_styles, photograph
from common.errors import InputError

# share of distractors that show background only; the others show a person outside the ids
NOBODY = 0.4


class SyntheticDomain:
    """Renders the images of one domain as a function of data seed, domain, key and style camera."""

    def __init__(self, name: str, data_seed: int = 0):
        if data_seed < 0:
            raise InputError(f"data seed {data_seed}: expected 0 or more")
        self.domain, self.data_seed = get_domain(name), data_seed
        cameras = range(self.domain.num_cameras)
        self._people: dict[int, Person] = {}
        self._panoramas = [
            scenes.draw_panorama(self._stream(PANORAMA, camid), self.domain.scenery) for camid in cameras
        ]
        rng = self._stream(CAMERAS)
        self._yaws = rng.uniform(0, 2 * math.pi, self.domain.num_cameras)
        self._styles = draw_styles(rng, self.domain.style, self.domain.num_cameras)

    def _stream(self, purpose: int, *numbers: int) -> np.random.Generator:
        return stream(self.data_seed, self.domain, purpose, *numbers)

    def scene(self, key: ImageKey, panorama: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Renders the scene without style: colours (128, 64, 3) and coverage (128, 64), float32 in 0..1.

        `panorama`: behind the person, in place of the camera's own.
        """
        self._check_camera(key.camid)
        track = self._stream(TRACK, key.pid, key.camid, key.sequence, key.frame if key.pid <= 0 else 0)
        shot = self._stream(SHOT, *key)
        pose = scenes.draw_walk(track, shot, key.frame, self._yaws[key.camid])
        panorama = self._panoramas[key.camid] if panorama is None else panorama
        background = scenes.crop_background(panorama, track, shot)
        if key.pid == DISTRACTOR and track.random() < NOBODY:
            return background.copy(), np.zeros((HEIGHT, WIDTH), np.float32)
        if key.pid == JUNK:
            pose = scenes.misplace(pose, shot)
        scene, coverage = scenes.compose(self._person(key), pose, background, shot)
        if shot.random() < self.domain.occluded:
            scenes.occlude(scene, coverage, shot)
        return scene, coverage

    def _person(self, key: ImageKey) -> Person:
        if key.pid <= 0:
            return draw_person(self._stream(PERSON, *key), self.domain.wardrobe)
        if key.pid not in self._people:
            self._people[key.pid] = draw_person(self._stream(PERSON, key.pid), self.domain.wardrobe)
        return self._people[key.pid]

    def jpeg(self, key: ImageKey, style_camid: int | None = None) -> bytes:
        """Returns the image file that the camera writes, or that camera `style_camid` would write."""
        style_camid = key.camid if style_camid is None else style_camid
        self._check_camera(style_camid)
        scene, _ = self.scene(key)
        return photograph(scene, self._styles[style_camid], self._stream(SENSOR, *key, style_camid))

    def image(self, key: ImageKey, style_camid: int | None = None) -> np.ndarray:
        """Returns the pixels of `jpeg`, uint8 (128, 64, 3); by default those of the dataset's file."""
        return _decode(self.jpeg(key, style_camid))

    def image_elsewhere(self, key: ImageKey, other: SyntheticDomain, camid: int) -> np.ndarray:
        """Returns the pixels of the key's person before a camera of another domain, uint8 (128, 64, 3)."""
        other._check_camera(camid)
        scene, _ = self.scene(key, other._panoramas[camid])
        sensor = other._stream(SENSOR, *key, camid)
        return _decode(photograph(scene, other._styles[camid], sensor))

    def unstyled(self, key: ImageKey) -> np.ndarray:
        """Renders the scene without camera style, uint8 (128, 64, 3)."""
        return np.asarray(as_image(self.scene(key)[0]))

    def mask(self, key: ImageKey) -> np.ndarray:
        """Returns the foreground mask, uint8 (128, 64): 255 where the person covers half a pixel or more."""
        return as_mask(self.scene(key)[1])

    def files(self, key: ImageKey) -> tuple[bytes, bytes]:
        """Returns the image (JPEG) and its mask (PNG), drawn once."""
        scene, coverage = self.scene(key)
        png = io.BytesIO()
        Image.fromarray(as_mask(coverage)).save(png, "PNG", compress_level=1)
        jpeg = photograph(scene, self._styles[key.camid], self._stream(SENSOR, *key, key.camid))
        return jpeg, png.getvalue()

    def _check_camera(self, camid: int) -> None:
        if not 0 <= camid < self.domain.num_cameras:
            last = self.domain.num_cameras - 1
            raise InputError(f"camera {camid}: {self.domain.name} has the cameras 0..{last}")


def as_mask(coverage: np.ndarray) -> np.ndarray:
    """Converts coverage in 0..1 to uint8, 0 or 255."""
    return np.where(coverage >= 0.5, np.uint8(255), np.uint8(0))


def _decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))
