"""The views of the target's training images in the triplet loss: the real images and their camera styles.

Styles are files `<stem>_fake_<k>.jpg`, k the camera counted from 1, as the released code names them. A
folder made elsewhere may use the names of CamStyle and ECN, `<stem>_fake_<own>to<k>.jpg`, whose own style is
the image itself, and other image formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.datasets import ReIDDataset, Sample
from common.datasets.layout import list_images, refuse_equal_names
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
    method = config.method
    if method.target_views == "camera" or config.style.measure:
        refuse_equal_names(target.train)
        check_cameras(target)
        if config.style.folder:
            own = method.include_own_style
            camera_style_views(target.train, Path(config.style.folder), target.num_cameras, own)
    views = target_views(config, target, None)
    if config.method.target_views != "camera":
        return views
    num_views = target.num_cameras + config.method.include_own_style
    return replace(views, samples=[*target.train] * num_views, num_views=num_views)


def check_cameras(target: ReIDDataset) -> None:
    """Raises `InputError` unless the target has training images of every camera, two at least: a style whose
    camera has none would be learned from nothing.
    """
    seen = sorted({sample.camid + 1 for sample in target.train})
    if len(seen) < 2:
        raise InputError(
            f"{target.root}: the training images are of one camera: camera styles need at least two "
            "(--method.target-views none or real trains without them)"
        )
    if len(seen) < target.num_cameras:
        numbers = ("," if max(seen) > 9 else "").join(map(str, seen))
        folder = "" if target.own else f", or the folder itself, --target {target.root}, if it has no others"
        raise InputError(
            f"{target.root}: expected training images of all {target.num_cameras} cameras of {target.name}, "
            f"found cameras {', '.join(map(str, seen))} only: use those, --target "
            f"{target.root if target.own else target.name}@c{numbers}{folder}"
        )


def fake_path(folder: Path, stem: str, k: int) -> Path:
    """Returns the path of the image `stem` in the style of camera k, counted from 1."""
    return Path(folder) / f"{stem}_fake_{k}.jpg"


def camera_style_views(
    train: Sequence[Sample], folder: Path, num_cameras: int, include_own: bool = True
) -> list[Sample]:
    """Returns the N training images, then the N of style 1, ..., of style C.

    A fake keeps the person of its original and has the camera of its style. `include_own=False` leaves out
    the style of the image's own camera; view k is then the k-th other style. The folder may be one of the
    authors' code, or of CamStyle's and ECN's. Raises `InputError` unless it holds exactly all C styles of
    every image; those of the own camera may be absent if they are not read, or from all images, whose place
    the images themselves then take.
    """
    styles = StyleFolder(Path(folder))
    styles.check(train, num_cameras, include_own)
    views = list(train)
    for k in range(num_cameras if include_own else num_cameras - 1):
        for sample in train:
            style = k if include_own or k < sample.camid else k + 1
            path = styles.find(sample, style)
            views.append(replace(sample, path=path, camid=style, origin="translated") if path else sample)
    return views


class StyleFolder:
    """The files of a camera-style folder, by image and camera."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise InputError(
                f"{folder}: expected a folder of camera-style images, found none: "
                "translate the target's training images first"
            )
        self.folder = folder
        # the released name with .jpg -> the file's own name
        self.files = {_released_name(name): name for name in list_images(folder) if "_fake_" in name}

    def find(self, sample: Sample, camera: int) -> Path | None:
        """Returns the image in the style of a camera, from 0; None if there is none."""
        for name in (_style_name(sample, camera), _style_name(sample, camera, sample.camid)):
            if name in self.files:
                return self.folder / self.files[name]
        return None

    def path(self, sample: Sample, camera: int) -> Path:
        """Returns the image in the style of a camera; for its own the image itself if there is no other."""
        return self.find(sample, camera) or (
            sample.path
            if camera == sample.camid
            else fake_path(self.folder, sample.stem, camera + 1)  # whose absence its reader names
        )

    def check(self, train: Sequence[Sample], num_cameras: int, include_own: bool) -> None:
        """Raises `InputError` unless the folder holds the styles of these images and cameras alone."""
        needs_own = include_own and any(self.find(sample, sample.camid) for sample in train)
        missing, known = [], set()
        for sample in train:
            for camera in range(num_cameras):
                name = _style_name(sample, camera)
                known |= {name, _style_name(sample, camera, sample.camid)}
                if (camera != sample.camid or needs_own) and not self.find(sample, camera):
                    missing.append(name)
        others = [file for name, file in self.files.items() if name not in known]
        expected = len(train) * (num_cameras if needs_own else num_cameras - 1)
        cameras = f"{num_cameras} cameras{'' if needs_own else ' but their own'}"
        for fault, names in (("missing", missing), ("not of these images and cameras", others)):
            if names:
                raise InputError(
                    f"{self.folder}: expected {expected} camera-style images ({len(train)} x {cameras}), "
                    f"{len(names)} are {fault}, the first is {min(names)}: translate this training set "
                    "again, or name the right folder"
                )


def _style_name(sample: Sample, camera: int, own: int | None = None) -> str:
    """Returns the released name; with `own` the one of CamStyle and ECN."""
    between = "" if own is None else f"{own + 1}to"
    return f"{sample.stem}_fake_{between}{camera + 1}.jpg"


def _released_name(name: str) -> str:
    """`0002_c1s1_000451_03.jpg_fake_2.png` -> `0002_c1s1_000451_03_fake_2.jpg`."""
    stem, _, style = Path(name).stem.rpartition("_fake_")
    return f"{stem[:-4] if stem.lower().endswith(('.jpg', '.png')) else stem}_fake_{style}.jpg"
