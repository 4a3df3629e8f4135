"""The views of the target's training images in the triplet loss: the real images and their camera styles.

Styles are files `<stem>_fake_<k>.jpg`, k the camera counted from 1, as the released code names them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.datasets import ReIDDataset, Sample
from common.datasets.layout import refuse_equal_names
from common.errors import InputError
from hhl.config import HHLConfig


@dataclass(frozen=True)
class TargetViews:
    """First the N originals, then the N of style 1, ..., of style C: view k of image i is k * N + i."""

    samples: Sequence[Sample] = ()
    num_views: int = 0  # of each image; 0: the row has no target images
    # (height, width) to which every view is resized before its augmentation; None: its own size, as released
    first_size: tuple[int, int] | None = None

    @property
    def num_images(self) -> int:
        return len(self.samples) // max(1, self.num_views)

    @property
    def originals(self) -> Sequence[Sample]:
        return self.samples[: self.num_images]

    def of(self, images: np.ndarray) -> np.ndarray:
        """Returns the indices of all views of images `(n,)`, in the released order: `(num_views * n,)`."""
        return (self.num_images * np.arange(self.num_views)[:, None] + images[None, :]).ravel()

    def repeats_a_person(self, indices: np.ndarray) -> bool:
        """Returns whether two images of a batch (from `of`) show one person.

        Their pseudo-identities then differ wrongly; logged, not used in training.
        """
        originals = indices[: len(indices) // self.num_views]
        return len({self.samples[i].pid for i in originals}) < len(originals)


def target_views(config: HHLConfig, target: ReIDDataset, style_folder: Path | None) -> TargetViews:
    """Returns the views that the row trains on; empty for a row without target images."""
    method, gan = config.method, config.stargan
    if method.target_views == "none":
        return TargetViews()
    together = config.style.resize_real_first or config.recipe.shared_augmentation
    first_size = (gan.height, gan.width) if together else None
    if method.target_views == "real" or style_folder is None:
        return TargetViews(target.train, 1, first_size)
    samples = camera_style_views(target.train, style_folder, target.num_cameras, method.include_own_style)
    return TargetViews(samples, len(samples) // len(target.train), first_size)


def expected_views(config: HHLConfig, target: ReIDDataset) -> TargetViews:
    """Returns views to plan batches with before the styles exist: each fake is the image itself.

    Raises `InputError` for duplicate image names, which fakes would share, and for a folder of styles that
    belongs to another target.
    """
    if config.method.target_views == "camera" or config.style.measure:
        refuse_equal_names(target.train)
        if config.style.folder:
            camera_style_views(target.train, Path(config.style.folder), target.num_cameras)
    views = target_views(config, target, None)
    if config.method.target_views != "camera":
        return views
    num_views = target.num_cameras + config.method.include_own_style
    return replace(views, samples=[*target.train] * num_views, num_views=num_views)


def fake_path(folder: Path, stem: str, k: int) -> Path:
    """Returns the path of the image `stem` in the style of camera k, counted from 1."""
    return Path(folder) / f"{stem}_fake_{k}.jpg"


def camera_style_views(
    train: Sequence[Sample], folder: Path, num_cameras: int, include_own: bool = True
) -> list[Sample]:
    """Returns the N training images, then the N of style 1, ..., of style C.

    A fake keeps the person of its original and has the camera of its style. `include_own=False` leaves out
    the style of the image's own camera; view k is then the k-th other style. The folder may be one of the
    authors' code. Raises `InputError` unless it holds exactly all C styles of every image.
    """
    _check_style_folder(train, Path(folder), num_cameras)
    views = list(train)
    for k in range(num_cameras if include_own else num_cameras - 1):
        for sample in train:
            style = k if include_own or k < sample.camid else k + 1
            path = fake_path(folder, sample.path.stem, style + 1)
            views.append(replace(sample, path=path, camid=style, origin="translated"))
    return views


def _check_style_folder(train: Sequence[Sample], folder: Path, num_cameras: int) -> None:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder of camera-style images, found none: "
            "translate the target's training images first"
        )
    present = {path.name for path in folder.iterdir() if re.search(r"_fake_.*\.jpg$", path.name)}
    cameras = range(1, num_cameras + 1)
    expected = {fake_path(folder, sample.path.stem, k).name for sample in train for k in cameras}
    for fault, names in (
        ("missing", expected - present),
        ("not of these images and cameras", present - expected),
    ):
        if names:
            raise InputError(
                f"{folder}: expected {len(expected)} camera-style images ({len(train)} x {num_cameras} "
                f"cameras), {len(names)} are {fault}, the first is {min(names)}: translate this training set "
                "again, or name the right folder"
            )
