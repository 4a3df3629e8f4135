"""Defines the two domains: their fixed parameters, the keys of their images, and which person is seen where.

Everything is a function of the data seed, the domain and the key, through one random stream per purpose
(`stream`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.datasets.base import DISTRACTOR, JUNK
from common.datasets.synthetic.people import Wardrobe
from common.datasets.synthetic.styles import StyleRanges
from common.errors import InputError

# part of the folder's name: increase it when the code draws other images for the same parameters
GENERATOR_VERSION = 1
TRAIN_IDS, TEST_IDS = 150, 100
DISTRACTOR_SHARE, JUNK_SHARE = 0.15, 0.05  # relative to the gallery images of the test ids
FIRST_SEQUENCE, LAST_SEQUENCE = 1, 6

# purposes of random streams
PERSON, TRACK, SHOT, SENSOR, PANORAMA, CAMERAS, PLAN = range(7)

FILE_NAME = re.compile(r"(-1|\d{4})_c(\d)s(\d)_(\d{6})_00\.jpg")


@dataclass(frozen=True)
class Domain:
    """The parameters that distinguish the domains."""

    name: str
    code: int  # number in the random streams
    num_cameras: int
    cameras_per_id: tuple[int, int]  # both ends included
    frames_per_camera: tuple[int, int]
    scenery: str  # paved | park
    wardrobe: Wardrobe
    style: StyleRanges
    occluded: float = 0.08  # share of images with an occluder


class ImageKey(NamedTuple):
    """Identifies one image: `camid` from 0, `frame` as in the file name; pid -1 is junk, 0 a distractor."""

    pid: int
    camid: int
    sequence: int
    frame: int

    @property
    def file_name(self) -> str:
        pid = "-1" if self.pid == JUNK else f"{self.pid:04d}"
        return f"{pid}_c{self.camid + 1}s{self.sequence}_{self.frame:06d}_00.jpg"

    @classmethod
    def parse(cls, path: str | Path) -> ImageKey:
        """Parses a file name. Raises `InputError` if it is not a name of these domains."""
        match = FILE_NAME.fullmatch(Path(path).name)
        if match is None:
            example = "0007_c2s1_000451_00.jpg"
            raise InputError(f"{path}: not a file name of the synthetic domains (expected e.g. {example})")
        pid, camera, sequence, frame = (int(text) for text in match.groups())
        return cls(pid, camera - 1, sequence, frame)


MARKET = Domain(
    name="synthetic-market",
    code=1,
    num_cameras=6,
    cameras_per_id=(4, 6),
    frames_per_camera=(2, 4),
    scenery="paved",
    wardrobe=Wardrobe(  # a warm season
        short_sleeves=0.65,
        shorts=0.35,
        skirt=0.2,
        coat=0.05,
        hat=0.12,
        backpack=0.35,
        handbag=0.2,
        neutral=0.25,
        saturation=(0.35, 0.95),
        value=(0.35, 0.95),
    ),
    style=StyleRanges(
        axis="warm-cool",
        exposure=0.065,
        cast=0.05,
        top_cast=0.22,
        side_light=0.2,
        dapple=0.1,
        hue_twist=0.06,
        hue_turn=0.065,
        selective=0.12,
        split=0.06,
        tone=0.25,
        curve=0.2,
        haze=0.065,
        blur=0.5,
        shrink=1.5,
        sharpen=1.0,
        noise=0.015,
        blotches=0.015,
        bands=0.04,
    ),
)
DUKE = Domain(
    name="synthetic-duke",
    code=2,
    num_cameras=8,
    cameras_per_id=(4, 7),
    frames_per_camera=(2, 4),
    scenery="park",
    wardrobe=Wardrobe(  # a cold season
        short_sleeves=0.2,
        shorts=0.08,
        skirt=0.12,
        coat=0.28,
        hat=0.25,
        backpack=0.4,
        handbag=0.25,
        neutral=0.22,
        saturation=(0.3, 0.95),
        value=(0.35, 0.95),
    ),
    style=StyleRanges(
        axis="green-magenta",
        exposure=0.04,
        cast=0.03,
        top_cast=0.18,
        side_light=0.12,
        dapple=0.08,
        hue_twist=0.09,
        hue_turn=0.04,
        selective=0.11,
        split=0.06,
        tone=0.23,
        curve=0.12,
        haze=0.06,
        blur=0.3,
        shrink=1.3,
        sharpen=0.6,
        noise=0.015,
        blotches=0.015,
        bands=0.03,
    ),
)
DOMAINS = {domain.name: domain for domain in (MARKET, DUKE)}


def get_domain(name: str) -> Domain:
    """Returns the domain of this name. Raises `InputError` if there is none."""
    if name not in DOMAINS:
        raise InputError(f"unknown synthetic domain {name!r}: expected one of {', '.join(DOMAINS)}")
    return DOMAINS[name]


def stream(data_seed: int, domain: Domain, purpose: int, *numbers: int) -> np.random.Generator:
    """Returns the generator for one purpose and one person, track or image, independent of all others."""
    return np.random.default_rng([data_seed, domain.code, purpose, *(number + 1 for number in numbers)])


@dataclass(frozen=True)
class Plan:
    """The images of a dataset: one list of keys per folder, in sorted file order."""

    train: list[ImageKey] = field(default_factory=list)
    query: list[ImageKey] = field(default_factory=list)
    gallery: list[ImageKey] = field(default_factory=list)


def make_plan(domain: Domain, data_seed: int, train_ids: int, test_ids: int) -> Plan:
    """Plans which person is seen where. Train ids are 1..train_ids; test ids follow.

    The first image of a test id in each camera is a query. At least four cameras see each id, with at least
    two images each, so every query has a match in another camera.
    """
    plan = Plan()
    for pid in range(1, train_ids + test_ids + 1):
        for track in _tracks(domain, data_seed, pid):
            if pid <= train_ids:
                plan.train.extend(track)
            else:
                plan.query.append(track[0])
                plan.gallery.extend(track[1:])
    plan.gallery.extend(_false_detections(domain, data_seed, len(plan.gallery)))
    for keys in (plan.train, plan.query, plan.gallery):
        keys.sort(key=lambda key: key.file_name)
    return plan


def _tracks(domain: Domain, data_seed: int, pid: int) -> list[list[ImageKey]]:
    """Draws one short track for each camera that sees `pid`."""
    rng = stream(data_seed, domain, PLAN, pid)
    count = rng.integers(*domain.cameras_per_id, endpoint=True)
    tracks = []
    for camid in rng.permutation(domain.num_cameras)[:count].tolist():
        sequence = int(rng.integers(FIRST_SEQUENCE, LAST_SEQUENCE, endpoint=True))
        frame, step = int(rng.integers(1, 90_000)), int(rng.integers(8, 25))
        length = int(rng.integers(*domain.frames_per_camera, endpoint=True))
        tracks.append([ImageKey(pid, camid, sequence, frame + step * n) for n in range(length)])
    return tracks


def _false_detections(domain: Domain, data_seed: int, gallery: int) -> list[ImageKey]:
    """Draws distractors and junk; frame numbers increase, so that keys are unique."""
    rng = stream(data_seed, domain, PLAN, DISTRACTOR)
    pids = [DISTRACTOR] * round(gallery * DISTRACTOR_SHARE) + [JUNK] * round(gallery * JUNK_SHARE)
    return [
        ImageKey(
            pid,
            int(rng.integers(domain.num_cameras)),
            int(rng.integers(FIRST_SEQUENCE, LAST_SEQUENCE, endpoint=True)),
            1 + 20 * number,
        )
        for number, pid in enumerate(pids)
    ]
