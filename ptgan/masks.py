"""Foreground masks: a function from a sample to the mask of its image, whatever the kind.

The released code reads `.npy` files made elsewhere (by PSPNet, according to the paper) and cannot make them.
"""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from tqdm import tqdm

from common.checkpoints import fetched_weights
from common.datasets import ReIDDataset, Sample
from common.datasets.images import image_size, read_image
from common.datasets.loading import normalise
from common.errors import InputError
from common.files import regular_file, write_atomic
from common.hashing import digest
from common.job import Workspace
from ptgan.config import MaskConfig
from ptgan.selfie import load_selfie_network, selfie_mask

log = logging.getLogger("run")
# to float32 (H, W) in 0..1, of the image's size or, as released, 256x256
MaskSource = Callable[[Sample], np.ndarray]

SEGMENTED = ("torchvision", "selfie")  # kinds that a network makes
RELEASED_SIZE = 256  # a .npy of the released kind contains 256 x 256 values
SEGMENTED_SIZE = (512, 256)  # height and width at which a segmentation network sees a person's box
PERSON = 15  # of the 21 VOC classes
CHECKED = 500  # the coverage is measured on at least so many masks, evenly spaced, or all of a smaller set


class Masks(NamedTuple):
    """The masks of one domain, and what identifies them in a stage's key."""

    of: MaskSource
    key: Any = None


def file_masks(kind: str, samples: Sequence[Sample], folder: str = "") -> Masks:
    """Returns the masks of these samples, identified by their files if the kind has any.

    Raises `InputError` for the first file that is missing or that two images share.
    """
    key = None if kind in COMPUTED else file_key(kind, samples, folder)
    return Masks(mask_source(kind, folder), key)


def mask_source(kind: str, folder: str | Path = "") -> MaskSource:
    """Returns the masks of one kind. `folder`: that of `disk` and of `SEGMENTED`, see `mask_path`.

    The function raises `InputError` for a mask that is missing, of another size or with other values than 0
    and 1 (PNG: or 255).
    """
    return COMPUTED[kind] if kind in COMPUTED else partial(_stored, kind=kind, folder=str(folder))


def gaussian(sample: Sample) -> np.ndarray:
    """Returns a soft mask: 1 at the centre, standard deviations of a quarter of the height and of the width.

    SyRI (Bak et al., ECCV 2018) weights with a Gaussian, too.
    """
    height, width = _size(sample)
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in (height, width))
    return np.exp(-8 * (y[:, None] ** 2 + x[None, :] ** 2)).astype(np.float32)


def _constant(sample: Sample, value: float) -> np.ndarray:
    return np.full(_size(sample), value, np.float32)


# kinds that need no file
COMPUTED: dict[str, MaskSource] = {
    "gaussian": gaussian,
    "ones": partial(_constant, value=1.0),
    "zeros": partial(_constant, value=0.0),
}


# ---------------------------------------------------------------- files


def mask_path(sample: Sample, kind: str = "disk", folder: str = "") -> Path:
    """Returns the file of a sample's mask: in `folder`, else the dataset's own, else in `<split>_mask` beside
    the images.

    In `folder` it is `<the image's own folder>/<stem>.png` or, for names that occur once, `<stem>.png`.
    `.npy` replaces `.png` everywhere.
    """
    if kind == "oracle" or (sample.mask is not None and not folder):
        if sample.mask is None:
            raise InputError(
                f"{sample.path}: only the synthetic domains have true masks: use --masks.kind disk, "
                "torchvision, selfie or gaussian"
            )
        return sample.mask
    images, stem = sample.path.parent, sample.path.stem
    own = [Path(folder) / images.name, Path(folder)] if folder else []
    folders = own or [images.with_name(f"{images.name}_mask")]
    stems = dict.fromkeys((sample.stem, stem)) if folder else (stem,)
    names = [f"{name}{suffix}" for name in stems for suffix in (".png", ".npy")]
    for path in (place / name for place in folders for name in names):
        if path.is_file():
            return path
    raise InputError(
        f"{sample.path}: expected its mask {folders[-1] / stem}.png or .npy, found none: make the masks, or "
        "use --masks.kind torchvision, selfie, gaussian, ones or zeros"
    )


def file_key(kind: str, samples: Sequence[Sample], folder: str) -> str:
    """Identifies mask files by names and contents, those of synthetic domains by names and sizes: their
    manifest describes how they were drawn.
    """
    masks = by_file((mask_path(sample, kind, folder), sample) for sample in samples)
    return digest(
        [
            (path.name, path.stat().st_size if path == sample.mask else zlib.crc32(path.read_bytes()))
            for path, sample in masks.items()
        ]
    )


def by_file(masks: Iterable[tuple[Path, Sample]]) -> dict[Path, Sample]:
    """Returns the samples by the files of their masks.

    Raises `InputError` if two samples share a file, as PRID2011's equal names in two folders would.
    """
    owners: dict[Path, Sample] = {}
    for path, sample in masks:
        if path in owners:
            raise InputError(
                f"{path}: the mask of both {owners[path].path} and {sample.path}: expected one for each "
                f"image, for example in {sample.path.parent.name}/{path.name} of the folder of masks"
            )
        owners[path] = sample
    return owners


def _stored(sample: Sample, kind: str, folder: str) -> np.ndarray:
    return read_mask(mask_path(sample, kind, folder), _size(sample))


def _size(sample: Sample) -> tuple[int, int]:
    """Returns height and width of a sample's image."""
    width, height = image_size(sample.path)
    return height, width


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Reads a binary mask for an image of `size` (height, width): float32 of that shape or 256x256.

    PNG: 0 and 255, or 0 and 1, of the image's size. NPY: 0 and 1, of the image's size or, as released, 256 x
    256 = 65,536 values of any shape, the whole image squeezed into a square, which stay as they are: only
    their user resizes them.
    """
    sizes = [size]
    if path.suffix == ".npy":
        values = _npy(path, size)
        sizes.append((RELEASED_SIZE, RELEASED_SIZE))
    else:
        values = _png(path)
        values = values / 255 if values.max() > 1 else values
    wrong = values[~np.isin(values, (0.0, 1.0))]
    if wrong.size:
        raise InputError(
            f"{path}: expected a mask of 0 and 1 (PNG: or 0 and 255), found values such as {wrong[0]:g}"
        )
    if values.shape not in sizes:
        raise InputError(
            f"{path}: a mask of {values.shape[0]}x{values.shape[1]} for an image of {size[0]}x{size[1]}: "
            "expected the same size"
        )
    return values.astype(np.float32)


def _png(path: Path) -> np.ndarray:
    try:
        return np.asarray(read_image(path, "L"), np.float64)
    except InputError as error:
        raise InputError(f"expected a mask as PNG: {error}") from None


def _npy(path: Path, size: tuple[int, int]) -> np.ndarray:
    regular_file(path, "a mask")
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: its header may lie
        if stored.dtype.kind not in "biuf":
            raise TypeError(f"numbers of {stored.dtype}")
        values = stored.astype(np.float64)
    except Exception as error:  # a damaged or foreign file raises anything
        problem = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: expected a mask as .npy array, found {problem}") from None
    if values.size == RELEASED_SIZE**2 and values.shape != size:
        return values.reshape(RELEASED_SIZE, RELEASED_SIZE)
    if values.ndim == 3 and values.shape[2] == 1:
        return values.reshape(values.shape[:2])
    return np.atleast_2d(values)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes to (height, width) by the nearest pixel: a binary mask stays binary."""
    if mask.shape == size:
        return mask
    image = Image.fromarray(np.asarray(mask, np.float32))
    return np.asarray(image.resize(size[::-1], Image.Resampling.NEAREST))


def log_coverage(masks: MaskSource, samples: Sequence[Sample], domain: str) -> float:
    """Returns and logs the mean coverage of `CHECKED` masks or more; warns outside 0.05..0.95, where the
    identity loss hardly distinguishes person and background.
    """
    mean = float(np.mean([masks(sample).mean() for sample in samples[:: max(1, len(samples) // CHECKED)]]))
    log.info("masks of %s: mean coverage %.2f", domain, mean)
    if not 0.05 <= mean <= 0.95:
        log.warning(
            "masks of %s cover %.0f %% of the image on average: expected 5 to 95 %%, unless that is intended",
            domain,
            100 * mean,
        )
    return mean


# ---------------------------------------------------------------- by a segmentation network


def load_segmenter(name: str) -> nn.Module:
    """Returns torchvision's network with its VOC-labelled weights, fetched into torch's cache if absent.

    Raises `InputError` if they are unavailable.
    """
    weights = torchvision.models.get_model_weights(name).COCO_WITH_VOC_LABELS_V1
    if weights.meta["categories"].index("person") != PERSON:
        raise InputError(
            f"{name}: expected class {PERSON} of its weights to be person, found "
            f"{weights.meta['categories'][PERSON]}"
        )
    auxiliary = None if name.startswith("lraspp") else True
    model = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=21, aux_loss=auxiliary
    )
    model.load_state_dict(
        fetched_weights(weights, f"weights of {name}", "make the masks elsewhere and use --masks.kind disk")
    )
    return model.eval()


@torch.inference_mode()
def segment(
    model: nn.Module, image: Image.Image, classes: str = "person", device: torch.device | str = "cpu"
) -> np.ndarray:
    """Returns uint8 `(H, W)` of the image's size: 1 where the likeliest class is person, or (`any_fg`) is not
    background.
    """
    height, width = SEGMENTED_SIZE
    batch = normalise(image.resize((width, height), Image.Resampling.BILINEAR))[None].to(device)
    likeliest = model(batch)["out"][0].argmax(0).cpu().numpy()
    mask = likeliest == PERSON if classes == "person" else likeliest > 0
    return resize_mask(mask.astype(np.float32), (image.height, image.width)).astype(np.uint8)


def write_masks(config: MaskConfig, datasets: Sequence[ReIDDataset], work: Workspace) -> None:
    """Writes the masks of all training images as `<dataset>/<the image's folder>/<stem>.png` of the stage.

    Masks that an interrupted build left there are kept.
    """
    owners: dict[Path, Sample] = {}
    for dataset in datasets:
        folder = work.folder / dataset.name
        owners |= by_file((folder / s.path.parent.name / f"{s.stem}.png", s) for s in dataset.train)
    segmented = segmentation_by(config, work.device)
    work.kept.touch()
    for path, sample in tqdm(owners.items(), desc="masks", disable=None, leave=False):
        if not path.is_file():
            write_atomic(path, png_bytes(segmented(read_image(sample.path))), durable=False)


def segmentation_by(config: MaskConfig, device: torch.device) -> Callable[[Image.Image], np.ndarray]:
    """Returns what makes the masks of a kind of `SEGMENTED`: an image -> uint8 `(H, W)` of its size."""
    if config.kind == "selfie":
        return partial(selfie_mask, load_selfie_network())
    model = load_segmenter(config.model).to(device)
    return lambda image: segment(model, image, config.classes, device)


def png_bytes(mask: np.ndarray) -> bytes:
    """Returns a mask `(H, W)` of 0 and 1 as PNG of 0 and 255."""
    buffer = io.BytesIO()
    Image.fromarray((mask * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
