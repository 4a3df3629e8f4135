"""Foreground masks, one interface for every kind: a function from a sample to a mask of its image's size.

    mask = mask_source(config, folder)      # Sample -> float32 (H, W) in 0..1

The released code reads `.npy` files made elsewhere (by PSPNet, says the paper) and has no code that makes
them.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from tqdm import tqdm

from common.checkpoints import fetched_weights
from common.datasets import ReIDDataset, Sample
from common.datasets.images import read_image
from common.datasets.loading import normalise
from common.errors import InputError
from common.files import write_atomic
from common.runs import Workspace
from ptgan.config import MaskConfig

log = logging.getLogger("run")
MaskSource = Callable[[Sample], np.ndarray]

RELEASED_SIZE = 256  # a .npy of the released kind holds 256 x 256 values
SEGMENTED_SIZE = (512, 256)  # height and width at which a segmentation network sees a person's box
PERSON = 15  # of the 21 VOC classes
CHECKED = 500  # masks that the coverage is measured on, at least, at even distances


def mask_source(config: MaskConfig, folder: str | Path = "") -> MaskSource:
    """The masks of one domain. `folder`: where `disk` and `torchvision` find them (`mask_path`), if not at
    the dataset's own place.

    The function raises `InputError` for a mask that is missing, of another size or with other values than 0
    and 1 (PNG: or 255).
    """
    if config.kind in ("disk", "torchvision", "oracle"):
        return partial(_stored, kind=config.kind, folder=str(folder))
    return {
        "gaussian": gaussian,
        "ones": partial(_constant, value=1.0),
        "zeros": partial(_constant, value=0.0),
    }[config.kind]


def mask_path(sample: Sample, kind: str = "disk", folder: str = "") -> Path:
    """Where the mask of a sample lies: in `folder`, where the dataset says, or in `<split>_mask` beside the
    images' folder.

    In `folder` it is `<the image's own folder>/<stem>.png` or, for names that occur once, `<stem>.png`;
    `.npy` in place of `.png` will do.
    """
    if kind == "oracle" or (sample.mask is not None and not folder):
        if sample.mask is None:
            raise InputError(
                f"{sample.path}: only the synthetic domains have true masks: use --masks.kind disk, torchvision or gaussian"
            )
        return sample.mask
    images = sample.path.parent
    places = (
        [Path(folder) / images.name, Path(folder)] if folder else [images.with_name(f"{images.name}_mask")]
    )
    found = [
        path
        for place in places
        for suffix in (".png", ".npy")
        if (path := place / f"{sample.path.stem}{suffix}").is_file()
    ]
    if not found:
        raise InputError(
            f"{sample.path}: expected its mask {places[-1] / sample.path.stem}.png or .npy, found none: make the masks, or use "
            "--masks.kind torchvision, gaussian, ones or zeros"
        )
    return found[0]


def by_file(masks: Iterable[tuple[Path, Sample]]) -> dict[Path, Sample]:
    """The samples by the files of their masks. `InputError` if two share a file, as PRID2011's equal names in
    two folders would.
    """
    owners: dict[Path, Sample] = {}
    for path, sample in masks:
        if path in owners:
            raise InputError(
                f"{path}: the mask of both {owners[path].path} and {sample.path}: expected one for each image, in "
                f"{sample.path.parent.name}/{path.name} of the folder of masks, say"
            )
        owners[path] = sample
    return owners


def _stored(sample: Sample, kind: str, folder: str) -> np.ndarray:
    return read_mask(mask_path(sample, kind, folder), _size(sample))


def _size(sample: Sample) -> tuple[int, int]:
    """Height and width of a sample's image."""
    try:
        with Image.open(sample.path) as image:
            return image.height, image.width
    except OSError:
        return read_image(sample.path).size[::-1]  # says what is wrong


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A binary mask for an image of `size` (height, width): float32 of that shape.

    PNG: 0 and 255, or 0 and 1, of the image's size. NPY: 0 and 1, of the image's size or, as released, 256 x
    256 = 65,536 values of any shape, which are brought to the image's size without mixing.
    """
    values = _npy(path, size) if path.suffix == ".npy" else _png(path)
    if values.max() > 1 and path.suffix != ".npy":
        values = values / 255
    if not np.isin(values, (0.0, 1.0)).all():
        raise InputError(
            f"{path}: expected a mask of 0 and 1 (PNG: or 0 and 255), found values such as {values[~np.isin(values, (0.0, 1.0))][0]:g}"
        )
    if values.shape != size:
        raise InputError(
            f"{path}: a mask of {values.shape[0]}x{values.shape[1]} for an image of {size[0]}x{size[1]}: expected the same size"
        )
    return values.astype(np.float32)


def _png(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"), np.float64)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: expected a mask as PNG, found {' '.join(str(error).split())}") from None


def _npy(path: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False).astype(np.float64)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise InputError(
            f"{path}: expected a mask as .npy array, found {' '.join(str(error).split())[:100]}"
        ) from None
    if values.size == RELEASED_SIZE**2 and values.shape != size:
        return resize_mask(values.reshape(RELEASED_SIZE, RELEASED_SIZE), size)
    return (
        values.reshape(values.shape[:2])
        if values.ndim == 3 and values.shape[2] == 1
        else np.atleast_2d(values)
    )


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To (height, width) by the nearest pixel: a binary mask stays binary."""
    if mask.shape == size:
        return mask
    return np.asarray(
        Image.fromarray(np.asarray(mask, np.float32)).resize(size[::-1], Image.Resampling.NEAREST)
    )


def gaussian(sample: Sample) -> np.ndarray:
    """A soft mask, 1 at the centre, with deviations of a quarter of the height and of the width. SyRI (Bak et
    al., ECCV 2018) weighs with one too.
    """
    height, width = _size(sample)
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in (height, width))
    return np.exp(-8 * (y[:, None] ** 2 + x[None, :] ** 2)).astype(np.float32)


def _constant(sample: Sample, value: float) -> np.ndarray:
    return np.full(_size(sample), value, np.float32)


def coverage(masks: MaskSource, samples: Sequence[Sample], domain: str) -> float:
    """The mean of `CHECKED` masks or more, in the log too; a warning outside 0.05..0.95, where the identity
    loss says next to nothing.
    """
    mean = float(np.mean([masks(sample).mean() for sample in samples[:: max(1, len(samples) // CHECKED)]]))
    log.info("masks of %s: mean coverage %.2f", domain, mean)
    if not 0.05 <= mean <= 0.95:
        log.warning(
            "masks of %s cover %.0f %% of the image on average: expected 5 to 95 %%, unless that is meant",
            domain,
            100 * mean,
        )
    return mean


# ---------------------------------------------------------------- by a segmentation network


def load_segmenter(name: str) -> nn.Module:
    """torchvision's network with its VOC-labelled weights, fetched into torch's cache if absent. Raises
    `InputError` if they cannot be had.
    """
    weights = torchvision.models.get_model_weights(name).COCO_WITH_VOC_LABELS_V1
    if weights.meta["categories"].index("person") != PERSON:
        raise InputError(
            f"{name}: expected class {PERSON} of its weights to be person, found {weights.meta['categories'][PERSON]}"
        )
    model = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=21, aux_loss=_has_aux(name)
    )
    model.load_state_dict(
        fetched_weights(weights, f"weights of {name}", "make the masks elsewhere and use --masks.kind disk")
    )
    return model.eval()


def _has_aux(name: str) -> bool | None:
    return None if name.startswith("lraspp") else True


@torch.inference_mode()
def segment(
    model: nn.Module, image: Image.Image, classes: str = "person", device: torch.device | str = "cpu"
) -> np.ndarray:
    """uint8 `(H, W)`, 0 or 1, of the image's size: the pixels whose likeliest class is person, or (`any_fg`)
    not background.
    """
    height, width = SEGMENTED_SIZE
    batch = normalise(image.resize((width, height), Image.Resampling.BILINEAR))[None].to(device)
    likeliest = model(batch)["out"][0].argmax(0).cpu().numpy()
    mask = likeliest == PERSON if classes == "person" else likeliest > 0
    return resize_mask(mask.astype(np.float32), image.size[::-1]).astype(np.uint8)


def write_masks(
    config: MaskConfig, datasets: Sequence[ReIDDataset], workspace: Workspace, device: torch.device
) -> None:
    """Masks of all training images as `<dataset>/<the image's folder>/<stem>.png` in the workspace. Those
    that are there already are kept.
    """
    files = {
        dataset.name: by_file(
            (workspace.folder / dataset.name / sample.path.parent.name / f"{sample.path.stem}.png", sample)
            for sample in dataset.train
        )
        for dataset in datasets
    }
    model = load_segmenter(config.model).to(device)
    workspace.kept.touch()
    for name, masks in files.items():
        for path, sample in tqdm(masks.items(), desc=f"masks of {name}", disable=None, leave=False):
            if not path.is_file():
                write_atomic(path, png_bytes(segment(model, read_image(sample.path), config.classes, device)))


def png_bytes(mask: np.ndarray) -> bytes:
    """A mask `(H, W)` of 0 and 1 as PNG of 0 and 255."""
    buffer = io.BytesIO()
    Image.fromarray((mask * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
