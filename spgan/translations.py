"""The source's training images in the target's style: by the GAN, by colour statistics, or from a folder made
elsewhere; what pictures tell.

A translated set lies in Market-1501's layout, `bounding_box_train/<name of the original>.jpg`, beside a
`manifest.json`.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from common.job import Options
from common.datasets import ReIDDataset, Sample
from common.datasets.images import read_image
from common.datasets.layout import list_images, refuse_equal_names
from common.errors import InputError
from common.files import write_atomic
from common.hashing import digest
from common.provenance import code_version
from common.runs import Run, Stage, Workspace, read_curves
from spgan import process
from spgan.config import GanConfig, SPGANConfig

FOLDER = "bounding_box_train"
MEASURED_IMAGES = 400  # of each set, at even distances, that the picture measures look at
SIDE = (32, 64)  # width and height at which pictures are compared


def translated(
    config: SPGANConfig, source: ReIDDataset, target: ReIDDataset, run: Run, options: Options
) -> tuple[list[Sample], str, dict]:
    """The translated training set, what identifies it, and measures of the pictures and of SiaNet."""
    refuse_equal_names(source.train)
    if config.translate.folder:
        samples = samples_in(Path(config.translate.folder), source.train)
        return samples, digest([(s.path.name, s.path.stat().st_size) for s in samples]), {}
    gan_measures = {}
    if config.translate.kind == "gan":
        gan = run.stage(
            "gan",
            gan_uses(config.gan, source, target, run.seed),
            lambda work: train_gan(config.gan, source, target, run.seed, work, options),
        )
        gan_measures = last_distances(gan_curves(gan, source, target))
        stage = run.stage(
            "translation",
            translation_uses(config, gan.hash, source),
            lambda work: render(config, gan, source, target, work, options),
        )
    else:
        stage = run.stage(
            "translation",
            {
                "kind": "statistics",
                "source": source.manifest,
                "target": target.manifest,
                "translate": config.translate,
            },
            lambda work: colour_statistics(config, source, target, work),
        )
    return (
        samples_in(stage.folder / FOLDER, source.train),
        stage.hash,
        gan_measures | stage.json("measures.json"),
    )


def ordered(source: ReIDDataset, target: ReIDDataset) -> tuple[ReIDDataset, ReIDDataset]:
    """The GAN's own source and target: by name, so that both directions share one training. Real data: Duke
    first, as released.
    """
    first, second = sorted((source, target), key=lambda dataset: dataset.name)
    return first, second


def gan_uses(config: GanConfig, source: ReIDDataset, target: ReIDDataset, seed: int) -> dict:
    """Everything that a trained GAN depends on. Without SiaNet its switches do not count, so all such rows
    share one GAN.
    """
    if config.lambda3 == 0:
        idle = ("sia_channels", "sia_size", "sia_head", "sia_dropout", "neg", "con_div", "dist", "margin")
        config = replace(config, **{name: getattr(GanConfig(), name) for name in idle})
    return {"gan": config, "domains": [dataset.manifest for dataset in ordered(source, target)], "seed": seed}


def translation_uses(config: SPGANConfig, gan: str, source: ReIDDataset) -> dict:
    return {"gan": gan, "source": source.manifest, "translate": config.translate}


def train_gan(
    config: GanConfig, source: ReIDDataset, target: ReIDDataset, seed: int, work: Workspace, options: Options
) -> None:
    first, second = ([s.path for s in dataset.train] for dataset in ordered(source, target))
    process.train(config, first, second, seed, work, options)


def gan_curves(gan: Stage, source: ReIDDataset, target: ReIDDataset) -> list[dict]:
    """The GAN's curves in the run's words: where the run goes the other way, the GAN's own source is the
    run's target.
    """
    lines = read_curves(gan.folder / "curves.jsonl")
    return (
        lines
        if ordered(source, target)[0] is source
        else [{_exchanged(name): value for name, value in line.items()} for line in lines]
    )


def _exchanged(name: str) -> str:
    """`cycle_source` -> `cycle_target`, `positive_t` -> `positive_s`; other names stay."""
    other = {"source": "target", "target": "source", "s": "t", "t": "s"}
    return "_".join(other.get(word, word) for word in name.split("_"))


def last_distances(curves: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """SiaNet's distances at the end of training, as measures of the record."""
    return {name: value for line in curves for name, value in line.items() if name.startswith("sia_")}


def render(
    config: SPGANConfig,
    gan: Stage,
    source: ReIDDataset,
    target: ReIDDataset,
    work: Workspace,
    options: Options,
) -> None:
    """The GAN's translations."""
    role = "g_s2t" if ordered(source, target)[0] is source else "g_t2s"
    files = [(s.path, translated_path(work.folder / FOLDER, s)) for s in source.train]
    process.translate(config.gan, config.translate, gan, role, files, work, options)
    finish(work, "SPGAN", gan.hash, source, target)


def colour_statistics(config: SPGANConfig, source: ReIDDataset, target: ReIDDataset, work: Workspace) -> None:
    """The control: each channel of the source's training set brought to the mean and deviation of the
    target's (Reinhard et al., 2001, in RGB).
    """
    (mean_s, deviation_s), (mean_t, deviation_t) = (
        channel_statistics(dataset.train) for dataset in (source, target)
    )
    for sample in source.train:
        pixels = (
            np.asarray(read_image(sample.path), np.float64) - mean_s
        ) / deviation_s * deviation_t + mean_t
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8)).save(
            buffer, "JPEG", quality=config.translate.quality
        )
        write_atomic(translated_path(work.folder / FOLDER, sample), buffer.getvalue())
    finish(work, "statistics", "", source, target)


def channel_statistics(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation `(3,)` of all pixels."""
    moments = [
        (pixels.mean((0, 1)), (pixels**2).mean((0, 1)))
        for pixels in (np.asarray(read_image(s.path), np.float64) for s in samples)
    ]
    mean, square = np.mean(moments, axis=0)
    return mean, np.sqrt(np.maximum(square - mean**2, 1e-6))


def finish(
    work: Workspace, generator: str, checkpoint: str, source: ReIDDataset, target: ReIDDataset
) -> None:
    """What a translated set says of itself, and the picture measures."""
    work.write_json(
        "measures.json",
        picture_measures(source.train, samples_in(work.folder / FOLDER, source.train), target.train),
    )
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
    return folder / f"{sample.path.stem}.jpg"


def samples_in(folder: Path, train: Sequence[Sample]) -> list[Sample]:
    """The translations of `train` in its order, with its labels; released names (`market_<name>.jpg`,
    `duke_<name>.jpg`) are understood too.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder of translated images, found {'a file' if folder.exists() else 'nothing'}"
        )
    found = {re.sub(r"^(market|duke)_", "", Path(name).stem): folder / name for name in list_images(folder)}
    missing = [s.path.stem for s in train if s.path.stem not in found]
    if missing:
        raise InputError(
            f"{folder}: expected a translation of each of {len(train)} training images, {len(missing)} are missing, "
            f"the first is {missing[0]}: translate this training set, or name the right folder"
        )
    return [dataclasses.replace(s, path=found[s.path.stem], mask=None, origin="translated") for s in train]


# ---------------------------------------------------------------- what the pictures alone tell, without
# labels


def picture_measures(
    source: Sequence[Sample], fake: Sequence[Sample], target: Sequence[Sample]
) -> dict[str, float]:
    """`change_l1`: mean absolute distance (0..255) of an image and its translation. `edges_kept`: mean
    correlation of their edges.

    `style_gap`, `style_gap_before`: Frechet distance of the images' colour means and deviations to the
    target's, with and without translation.
    """
    chosen = np.unique(np.linspace(0, len(source) - 1, min(MEASURED_IMAGES, len(source))).astype(int))
    before, after = (np.stack([pixels(samples[i]) for i in chosen]) for samples in (source, fake))
    wanted = np.stack(
        [
            pixels(target[i])
            for i in np.unique(np.linspace(0, len(target) - 1, min(MEASURED_IMAGES, len(target))).astype(int))
        ]
    )
    measures = {
        "change_l1": np.abs(before - after).mean(),
        "edges_kept": np.mean([correlation(edges(a), edges(b)) for a, b in zip(before, after)]),
        "style_gap": frechet(colours(after), colours(wanted)),
        "style_gap_before": frechet(colours(before), colours(wanted)),
    }
    return {name: round(float(value), 4) for name, value in measures.items()}


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(read_image(sample.path).resize(SIDE, Image.Resampling.BILINEAR), np.float64)


def edges(image: np.ndarray) -> np.ndarray:
    return np.concatenate([np.diff(image.mean(axis=2), axis=axis).ravel() for axis in (0, 1)])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def colours(images: np.ndarray) -> np.ndarray:
    """Means and deviations of the channels `(N, 6)`."""
    return np.concatenate([images.mean((1, 2)), images.std((1, 2))], axis=1)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two clouds `(N, D)` taken as normal distributions."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
