"""Translated training sets: made by the GAN, by colour statistics, or read from a folder made elsewhere; and
label-free measures of their pictures.

A translated set has Market-1501's layout, `bounding_box_train/<name of the original>.jpg`, with a
`manifest.json`.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.datasets import ReIDDataset, Sample
from common.datasets.images import read_image
from common.datasets.layout import list_images
from common.errors import InputError
from common.files import write_atomic
from common.job import Workspace
from common.provenance import code_version
from common.runs import Stage, read_curves
from spgan import process
from spgan.config import GANConfig, TranslationConfig

FOLDER = "bounding_box_train"
MEASURED_IMAGES = 400  # evenly spaced images of each set that the picture measures read
SIDE = (32, 64)  # width and height at which pictures are compared
# switches without effect when there is no SiaNet
SIANET_SWITCHES = (
    "sia_channels",
    "sia_size",
    "sia_head",
    "sia_dropout",
    "neg",
    "con_div",
    "dist",
    "margin",
)


def by_name(source: ReIDDataset, target: ReIDDataset) -> tuple[ReIDDataset, ReIDDataset]:
    """Returns the GAN's source and target, sorted by name, so that both directions share one training. Duke
    comes first, as released.
    """
    first, second = sorted((source, target), key=lambda dataset: dataset.name)
    return first, second


def gan_depends_on(config: GANConfig, source: ReIDDataset, target: ReIDDataset) -> dict:
    """Returns all that a trained GAN depends on besides the seed.

    Without SiaNet its switches have no effect, so that all such rows share one GAN.
    """
    if config.lambda3 == 0:
        config = dataclasses.replace(config, **{name: getattr(GANConfig(), name) for name in SIANET_SWITCHES})
    return {"gan": config, "domains": [dataset.manifest for dataset in by_name(source, target)]}


def translation_depends_on(gan: str, translation: TranslationConfig, source: ReIDDataset) -> dict:
    """Returns all that the translations of the GAN with the hash `gan` depend on."""
    pictures = dataclasses.replace(translation, judge_steps=0)
    return {"gan": gan, "source": source.manifest, "translate": pictures}


def train_gan(work: Workspace, config: GANConfig, source: ReIDDataset, target: ReIDDataset) -> None:
    """Trains the GAN of a pair of domains, in the order of their names."""
    first, second = ([s.path for s in dataset.train] for dataset in by_name(source, target))
    process.train(work, config, first, second)


def gan_curves(gan: Stage, source: ReIDDataset, target: ReIDDataset) -> list[dict]:
    """Returns the GAN's curves named for the run's direction: if it is the reverse of the GAN's, source and
    target change places.
    """
    lines = read_curves(gan.folder / "curves.jsonl")
    if by_name(source, target)[0] is source:
        return lines
    return [{_exchanged(name): value for name, value in line.items()} for line in lines]


def _exchanged(name: str) -> str:
    """`cycle_source` -> `cycle_target`, `positive_t` -> `positive_s`; other names stay."""
    other = {"source": "target", "target": "source", "s": "t", "t": "s"}
    return "_".join(other.get(word, word) for word in name.split("_"))


def last_distances(curves: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns SiaNet's distances at the end of training, as measures of the record."""
    return {name: value for line in curves for name, value in line.items() if name.startswith("sia_")}


def gan_translations(
    work: Workspace,
    gan: Stage,
    configs: tuple[GANConfig, TranslationConfig],
    source: ReIDDataset,
    target: ReIDDataset,
) -> None:
    """Translates the source's training images with a trained GAN."""
    role = "g_s2t" if by_name(source, target)[0] is source else "g_t2s"
    images = [(s.path, translated_path(work.folder / FOLDER, s)) for s in source.train]
    process.translate(work, *configs, gan.folder / "networks.npz", role, images)
    write_manifest(work, "SPGAN", gan.hash, source, target)


def statistics_translations(work: Workspace, quality: int, source: ReIDDataset, target: ReIDDataset) -> None:
    """Shifts and scales each channel of the source's training set to the mean and deviation of the target's
    (Reinhard et al., 2001, in RGB): the control without a GAN.
    """
    mean_s, deviation_s = channel_statistics(source.train)
    mean_t, deviation_t = channel_statistics(target.train)
    for sample in source.train:
        levels = (np.asarray(read_image(sample.path), np.float64) - mean_s) / deviation_s
        levels = levels * deviation_t + mean_t
        image = Image.fromarray(np.clip(levels + 0.5, 0, 255).astype(np.uint8))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        path = translated_path(work.folder / FOLDER, sample)
        write_atomic(path, buffer.getvalue(), durable=False)
    write_manifest(work, "statistics", "", source, target)


def channel_statistics(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and deviation `(3,)` of all pixels."""
    moments = []
    for sample in samples:
        levels = np.asarray(read_image(sample.path), np.float64)
        moments.append((levels.mean((0, 1)), (levels**2).mean((0, 1))))
    mean, square = np.mean(moments, axis=0)
    return mean, np.sqrt(np.maximum(square - mean**2, 1e-6))


def write_manifest(
    work: Workspace, generator: str, checkpoint: str, source: ReIDDataset, target: ReIDDataset
) -> None:
    """Writes a translated set's `manifest.json` and the picture measures as `measures.json`."""
    translated = samples_in(work.folder / FOLDER, source.train)
    work.write_json("measures.json", picture_measures(source.train, translated, target.train))
    work.write_json(
        "manifest.json",
        {
            "generator": generator,
            "checkpoint": checkpoint,
            "source": source.manifest,
            "target": target.manifest,
            "code_version": code_version(),
            "images": len(source.train),
        },
    )


def translated_path(folder: Path, sample: Sample) -> Path:
    return folder / f"{sample.stem}.jpg"


def samples_in(folder: Path, train: Sequence[Sample]) -> list[Sample]:
    """Returns the translations of `train` in its order, with its labels; released names (`market_<name>.jpg`,
    `duke_<name>.jpg`) are accepted too. Raises `InputError` if one is missing.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder of translated images, found "
            f"{'a file' if folder.exists() else 'nothing'}"
        )
    paths = {re.sub(r"^(market|duke)_", "", Path(name).stem): folder / name for name in list_images(folder)}
    missing = [s.stem for s in train if s.stem not in paths]
    if missing:
        raise InputError(
            f"{folder}: expected a translation of each of {len(train)} training images, {len(missing)} are "
            f"missing, the first is {missing[0]}: translate this training set, or name the right folder"
        )
    return [dataclasses.replace(s, path=paths[s.stem], mask=None, origin="translated") for s in train]


# ---------------------------------------------------------------- measures of the pictures, without labels


def picture_measures(
    source: Sequence[Sample], fake: Sequence[Sample], target: Sequence[Sample]
) -> dict[str, float]:
    """Measures translations. `change_l1`: mean absolute difference (0..255) of an image and its translation.
    `edges_kept`: mean correlation of their edges.

    `style_gap`, `style_gap_before`: Frechet distance of the images' colour means and deviations to the
    target's, with and without translation.
    """
    chosen = _evenly_spaced(len(source))
    before, after = (np.stack([pixels(samples[i]) for i in chosen]) for samples in (source, fake))
    real = np.stack([pixels(target[i]) for i in _evenly_spaced(len(target))])
    measures = {
        "change_l1": np.abs(before - after).mean(),
        "edges_kept": np.mean([correlation(edges(a), edges(b)) for a, b in zip(before, after)]),
        "style_gap": frechet(colours(after), colours(real)),
        "style_gap_before": frechet(colours(before), colours(real)),
    }
    return {name: round(float(value), 4) for name, value in measures.items()}


def _evenly_spaced(count: int) -> np.ndarray:
    """Returns the indices of the measured images among `count`."""
    return np.unique(np.linspace(0, count - 1, min(MEASURED_IMAGES, count)).astype(int))


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(read_image(sample.path).resize(SIDE, Image.Resampling.BILINEAR), np.float64)


def edges(image: np.ndarray) -> np.ndarray:
    return np.concatenate([np.diff(image.mean(axis=2), axis=axis).ravel() for axis in (0, 1)])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def colours(images: np.ndarray) -> np.ndarray:
    """Returns means and deviations of the channels `(N, 6)`."""
    return np.concatenate([images.mean((1, 2)), images.std((1, 2))], axis=1)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the Frechet distance of two point sets `(N, D)`, taken as normal distributions."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
