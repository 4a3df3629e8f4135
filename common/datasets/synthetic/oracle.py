"""The oracle: renders any image of a synthetic dataset in another camera's style, without style, or with its
person in the other domain.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from common.datasets.base import Sample
from common.datasets.synthetic.build import read_manifest
from common.datasets.synthetic.domains import ImageKey
from common.datasets.synthetic.render import SyntheticDomain


def oracle(image: Sample | str | Path, style_camid: int) -> np.ndarray:
    """Renders an image's scene in the style of a camera of its domain (from 0): uint8 (128, 64, 3).

    With the image's original camera, the result equals the file's pixels. Domain and data seed are read from
    the folder's manifest. Raises `InputError` for a file of another dataset and for a camera that the domain
    lacks.
    """
    path = _path(image)
    return _domain_of(path.parent.parent).image(ImageKey.parse(path), style_camid)


def unstyled(image: Sample | str | Path) -> np.ndarray:
    """Renders an image's scene without camera style, uint8 (128, 64, 3)."""
    path = _path(image)
    return _domain_of(path.parent.parent).unstyled(ImageKey.parse(path))


def moved(image: Sample | str | Path, folder: Path, camid: int) -> np.ndarray:
    """Renders an image's person, pose and occluder before a camera of another domain (from 0), with its
    background and style: uint8 (128, 64, 3).

    `folder`: of the other domain's dataset. Raises `InputError` like `oracle`.
    """
    path = _path(image)
    return _domain_of(path.parent.parent).image_elsewhere(ImageKey.parse(path), _domain_of(folder), camid)


def _path(image: Sample | str | Path) -> Path:
    return Path(image.path if isinstance(image, Sample) else image)


@lru_cache(maxsize=8)
def _domain_of(folder: Path) -> SyntheticDomain:
    manifest = read_manifest(folder)
    return SyntheticDomain(manifest["domain"], manifest["data_seed"])
