"""What the re-ID network of a row learns from: the source as it is, or transferred by a GAN that earlier rows
may have trained.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common.job import Options
from common.datasets import ReIDDataset, Sample
from common.errors import InputError
from common.hashing import digest
from common.runs import Run, Stage, Workspace
from ptgan.analysis import analyse
from ptgan.config import MaskConfig, PTGANConfig
from ptgan.masks import MaskSource, by_file, coverage, mask_path, mask_source, write_masks
from ptgan.train_gan import load_generator, train_gan
from ptgan.translate import FOLDER, translate, translated_samples


@dataclass(frozen=True)
class Masks:
    """The masks of source and target, and what identifies them."""

    source: MaskSource
    target: MaskSource
    key: Any


@dataclass(frozen=True)
class Reference:
    """The masks of the source that changes are measured in, None where there are none, and what identifies
    them.
    """

    masks: MaskSource | None
    key: Any


@dataclass(frozen=True)
class Transferred:
    """`samples` with the source's people; `hash` identifies them ("": the source itself); `measures` go into
    the record.

    `reference`: the masks that the changes are measured in, None where there are none. `cyclegan`: the folder
    of the same row's images without the identity loss, if an earlier row has made them.
    """

    samples: Sequence[Sample]
    hash: str = ""
    measures: dict[str, float] | None = None
    reference: MaskSource | None = None
    cyclegan: Path | None = None


def transferred(
    config: PTGANConfig,
    source: ReIDDataset,
    target: ReIDDataset,
    run: Run,
    device: torch.device,
    options: Options,
) -> Transferred:
    """Trains the row's GAN, translates and measures, or finds the stages that another row has left."""
    if config.translation.kind == "none":
        return Transferred(source.train)
    if config.translation.kind == "identity":
        stage = run.stage(
            "translation",
            translation_key(config, source, ""),
            lambda work: translate(
                None,
                source,
                config.gan,
                config.translation,
                work,
                device,
                checkpoint_hash="",
                workers=options.workers,
            ),
        )
        return measured(
            config,
            source,
            target,
            run,
            [stage.folder / FOLDER],
            stage.hash,
            reference_masks(config, source, target, run),
        )
    if config.translation.folder:
        folders = [Path(config.translation.folder)]
        identity = digest([(path.name, path.stat().st_size) for path in sorted(folders[0].glob("*.*"))])
        return measured(
            config, source, target, run, folders, identity, reference_masks(config, source, target, run)
        )

    masks = row_masks(config, source, target, run, device)
    reference = reference_masks(config, source, target, run)
    stages = [
        by_gan(config, source, target, masks, camera, run, device, options)
        for camera in config.gan.target_cameras or (None,)
    ]
    folders, identity = [stage.folder / FOLDER for stage in stages], "+".join(stage.hash for stage in stages)
    result = measured(config, source, target, run, folders, identity, reference)
    return replace(result, cyclegan=cyclegan_folder(config, source, target, masks, run))


def by_gan(
    config: PTGANConfig,
    source: ReIDDataset,
    target: ReIDDataset,
    masks: Masks,
    camera: int | None,
    run: Run,
    device: torch.device,
    options: Options,
) -> Stage:
    """The stages `gan` and `translation` towards the whole target, or towards one of its cameras (from 1)."""
    images = images_of(target, camera)
    suffix = "" if camera is None else f"-cam{camera}"
    gan = run.stage(
        f"gan{suffix}",
        gan_key(config, source, target, masks, camera, run.seed),
        lambda work: train_gan(
            config.gan,
            config.masks.aug,
            source.train,
            images,
            (masks.source, masks.target),
            run.seed,
            device,
            work,
            workers=options.workers,
            deterministic=options.deterministic,
        ),
        collective=True,
    )

    def build(work: Workspace) -> None:
        generator = load_generator(config.gan, gan.folder / "generator.pt", device)
        translate(
            generator,
            source,
            config.gan,
            config.translation,
            work,
            device,
            checkpoint_hash=gan.hash,
            workers=options.workers,
        )

    return run.stage(f"translation{suffix}", translation_key(config, source, gan.hash), build)


def images_of(target: ReIDDataset, camera: int | None) -> Sequence[Sample]:
    """The target's training images, or those of one camera (from 1); `InputError` if it has none."""
    images = [sample for sample in target.train if camera in (None, sample.camid + 1)]
    if not images:
        raise InputError(
            f"--gan.target-cameras {camera}: {target.name} has cameras 1 to {target.num_cameras} and no training image of this one"
        )
    return images


def measured(
    config: PTGANConfig,
    source: ReIDDataset,
    target: ReIDDataset,
    run: Run,
    folders: Sequence[Path],
    identity: str,
    reference: Reference,
) -> Transferred:
    """The samples in these folders and the stage `analysis` on them."""
    samples = [sample for folder in folders for sample in translated_samples(source.train, folder)]
    size = (config.gan.height, config.gan.width)
    key = {
        "images": identity,
        "source": source.manifest,
        "target": target.manifest,
        "size": size,
        "masks": reference.key,
    }
    stage = run.stage(
        "analysis",
        key,
        lambda work: analyse(source.train, samples, target.train, reference.masks, size, work),
    )
    return Transferred(samples, identity, stage.json("measures.json"), reference.masks)


# ---------------------------------------------------------------- masks


def row_masks(
    config: PTGANConfig, source: ReIDDataset, target: ReIDDataset, run: Run, device: torch.device
) -> Masks:
    """The masks that the row trains with; without an identity loss, none. All that will be read are looked
    for before training begins.
    """
    if config.gan.lambda_id == 0:
        nothing = mask_source(MaskConfig(kind="zeros"))
        return Masks(nothing, nothing, None)
    masks, folders = (
        config.masks,
        {"source": config.masks.source_folder, "target": config.masks.target_folder},
    )
    if masks.kind == "torchvision":
        stage = run.stage(
            "masks",
            segmented_key(config, source, target),
            lambda work: write_masks(masks, (source, target), work, device),
        )
        folders = {"source": str(stage.folder / source.name), "target": str(stage.folder / target.name)}
    kind = masks.kind if masks.kind in ("gaussian", "ones", "zeros") else "files"
    datasets = {"source": source, "target": target}
    files = (
        [file_key(masks.kind, datasets[name].train, folders[name]) for name in datasets]
        if kind == "files"
        else []
    )
    found = {name: mask_source(masks, folders[name]) for name in datasets}
    for name, dataset in datasets.items():
        coverage(found[name], dataset.train, dataset.name)
    return Masks(found["source"], found["target"], {"kind": kind, "aug": masks.aug, "files": files})


def file_key(kind: str, samples: Sequence[Sample], folder: str) -> str:
    """Names and contents of the mask files, of drawn domains (whose manifest says how they were drawn) names
    and sizes.

    `InputError` for the first one that is missing, or that two images share.
    """
    masks = by_file((mask_path(sample, kind, folder), sample) for sample in samples)
    return digest(
        [
            (path.name, path.stat().st_size if path == sample.mask else zlib.crc32(path.read_bytes()))
            for path, sample in masks.items()
        ]
    )


def segmented_key(config: PTGANConfig, source: ReIDDataset, target: ReIDDataset) -> dict[str, Any]:
    """What the masks of the segmentation network depend on."""
    return {
        "model": config.masks.model,
        "classes": config.masks.classes,
        "source": source.manifest,
        "target": target.manifest,
    }


def reference_masks(config: PTGANConfig, source: ReIDDataset, target: ReIDDataset, run: Run) -> Reference:
    """The same for every row: the dataset's own, else (`torchvision`) those that a row with an identity loss
    has made, else those on disk.
    """
    if source.train[0].mask is not None:
        return Reference(mask_source(MaskConfig(kind="oracle")), True)
    folder = config.masks.source_folder
    if config.masks.kind == "torchvision":
        made = run.finished("masks", segmented_key(config, source, target))
        if made is None:
            return Reference(None, False)
        folder = str(made / source.name)
    try:
        mask_path(source.train[0], "disk", folder)
    except InputError:
        return Reference(None, False)
    return Reference(mask_source(MaskConfig(), folder), file_key("disk", source.train, folder))


# ---------------------------------------------------------------- what the stages depend on


def gan_key(
    config: PTGANConfig, source: ReIDDataset, target: ReIDDataset, masks: Masks, camera: int | None, seed: int
) -> dict[str, Any]:
    gan = replace(config.gan, target_cameras=())
    if gan.lambda_id == 0:  # no mask and no form of the loss matters
        gan = replace(gan, id_loss="mse", id_reduce="all")
    return {
        "gan": gan,
        "masks": masks.key if gan.lambda_id > 0 else None,
        "source": source.manifest,
        "target": target.manifest,
        "camera": camera,
        "seed": seed,
    }


def translation_key(config: PTGANConfig, source: ReIDDataset, gan_hash: str) -> dict[str, Any]:
    gan, how = config.gan, config.translation
    return {
        "gan": gan_hash,
        "stored": (how.size, how.quality),
        "size": (gan.height, gan.width),
        "io": gan.io,
        "source": source.manifest,
    }


def cyclegan_folder(
    config: PTGANConfig, source: ReIDDataset, target: ReIDDataset, masks: Masks, run: Run
) -> Path | None:
    """The images of this row without its identity loss, if they have been made: they stand beside its own in
    the picture.
    """
    if config.gan.lambda_id == 0 or config.gan.target_cameras:
        return None
    plain = replace(config, gan=replace(config.gan, lambda_id=0.0))
    gan = run.finished("gan", gan_key(plain, source, target, masks, None, run.seed))
    made = (
        run.finished("translation", translation_key(plain, source, gan.name.removeprefix("gan-")))
        if gan
        else None
    )
    return made / FOLDER if made else None
