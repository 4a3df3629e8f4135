"""From a key to pixels, mask and file bytes; and the oracle: the same scene under another camera's style."""

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

# share of distractors that show background only; the others show a whole person who is nobody of the ids
NOBODY = 0.4


class SyntheticDomain:
    """Renders the images of one domain. Every result is a function of the data seed, the domain, the key and
    the style camera.
    """

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

    def scene(self, key: ImageKey) -> tuple[np.ndarray, np.ndarray]:
        """What stands before the camera, without its style: colours, float32 (128, 64, 3), and the person's
        coverage, (128, 64), in 0..1.
        """
        self._check_camera(key.camid)
        track = self._stream(TRACK, key.pid, key.camid, key.sequence, key.frame if key.pid <= 0 else 0)
        shot = self._stream(SHOT, *key)
        pose = scenes.draw_walk(track, shot, key.frame, self._yaws[key.camid])
        background = scenes.crop_background(self._panoramas[key.camid], track, shot)
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
        """The image file as the camera writes it; `style_camid` puts another camera's style on the same
        scene.
        """
        style_camid = key.camid if style_camid is None else style_camid
        self._check_camera(style_camid)
        scene, _ = self.scene(key)
        return photograph(scene, self._styles[style_camid], self._stream(SENSOR, *key, style_camid))

    def image(self, key: ImageKey, style_camid: int | None = None) -> np.ndarray:
        """The pixels of that file, uint8 (128, 64, 3): with the own camera's style exactly those of the
        dataset's file.
        """
        return _decode(self.jpeg(key, style_camid))

    def unstyled(self, key: ImageKey) -> np.ndarray:
        """The scene without any camera's style, uint8 (128, 64, 3)."""
        return np.asarray(as_image(self.scene(key)[0]))

    def mask(self, key: ImageKey) -> np.ndarray:
        """The person's foreground mask, uint8 (128, 64): 255 where the person covers at least half of the
        pixel, 0 elsewhere.
        """
        return as_mask(self.scene(key)[1])

    def files(self, key: ImageKey) -> tuple[bytes, bytes]:
        """The image (JPEG) and its mask (PNG), from one drawing."""
        scene, coverage = self.scene(key)
        png = io.BytesIO()
        Image.fromarray(as_mask(coverage)).save(png, "PNG", compress_level=1)
        return photograph(
            scene, self._styles[key.camid], self._stream(SENSOR, *key, key.camid)
        ), png.getvalue()

    def _check_camera(self, camid: int) -> None:
        if not 0 <= camid < self.domain.num_cameras:
            raise InputError(
                f"camera {camid}: {self.domain.name} has the cameras 0..{self.domain.num_cameras - 1}"
            )


def as_mask(coverage: np.ndarray) -> np.ndarray:
    """Coverage 0..1 -> uint8, 0 or 255."""
    return np.where(coverage >= 0.5, np.uint8(255), np.uint8(0))


def _decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))
