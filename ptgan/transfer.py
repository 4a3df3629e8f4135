"""Declares the stages behind the training images of a row: masks, GAN, translation, and their analysis.

A row without transfer has none of them; each stage is shared by all rows that agree in what it depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.datasets import ReIDDataset, Sample
from common.datasets.contents import images_key
from common.errors import InputError
from common.job import Job, Workspace
from common.runs import Stage
from ptgan.analysis import analyse
from ptgan.config import GANConfig
from ptgan.data import Domain, gan_transform
from ptgan.masks import (
    COMPUTED,
    SEGMENTED,
    Masks,
    MaskSource,
    file_masks,
    log_coverage,
    mask_path,
    mask_source,
    write_masks,
)
from ptgan.selfie import NETWORK_HASH
from ptgan.train_gan import train_gan
from ptgan.translate import FOLDER, translate, translated_samples


@dataclass(frozen=True)
class Transferred:
    """The training images of a row: `samples` with the source's identities.

    `hash` identifies them ("": the source itself); `measures` belong to the record. `reference`: the masks
    within which changes are measured, None if there are none. `cyclegan`: the folder of the same row's images
    without the identity loss, if an earlier row has made them.
    """

    samples: Sequence[Sample]
    hash: str = ""
    measures: dict[str, float] | None = None
    reference: MaskSource | None = None
    cyclegan: Path | None = None


def transferred(job: Job) -> Transferred:
    """Returns the row's training images; trains, translates and measures what no earlier row has."""
    config = job.config
    if config.translation.kind == "none":
        return Transferred(job.source.train)
    masks = gan_masks(job) if config.trains_gan else None
    reference = reference_masks(job)  # before the GAN trains: absent files must not stop the run after it

    if masks is not None:
        cameras = config.gan.target_cameras or (None,)
        stages = [translation_stage(job, gan_stage(job, masks, camera), camera) for camera in cameras]
    elif config.translation.kind == "identity":
        stages = [translation_stage(job, None)]
    else:
        folder = Path(config.translation.folder)
        images = images_key([s.path for s in translated_samples(job.source.train, folder)], folder)
        return analysed(job, [folder], images, reference)
    images = "+".join(stage.hash for stage in stages)
    result = analysed(job, [stage.folder / FOLDER for stage in stages], images, reference)
    return replace(result, cyclegan=cyclegan_folder(job)) if masks else result


# ---------------------------------------------------------------- masks


def segmentation(job: Job) -> dict[str, Any]:
    """Returns what the stage `masks`, made by a segmentation network, depends on."""
    masks, datasets = job.config.masks, {"source": job.source.manifest, "target": job.target.manifest}
    if masks.kind == "selfie":
        return {"model": "selfie", "file": NETWORK_HASH, **datasets}
    return {"model": masks.model, "classes": masks.classes, **datasets}


def gan_masks(job: Job) -> tuple[Masks, Masks]:
    """Returns the masks of source and target that the GAN trains with: zeros without an identity loss.

    Raises `InputError` for any file that is missing, before training begins.
    """
    config, datasets = job.config.masks, (job.source, job.target)
    if job.config.gan.lambda_id == 0:
        return Masks(mask_source("zeros")), Masks(mask_source("zeros"))
    folders = [config.source_folder, config.target_folder]
    if config.kind in SEGMENTED:
        stage = job.stage("masks", segmentation(job), lambda work: write_masks(config, datasets, work))
        folders = [str(stage.folder / dataset.name) for dataset in datasets]
    source, target = (
        file_masks(config.kind, dataset.train, folder) for dataset, folder in zip(datasets, folders)
    )
    for dataset, masks in zip(datasets, (source, target)):
        log_coverage(masks.of, dataset.train, dataset.name)
    return source, target


def reference_masks(job: Job) -> Masks | None:
    """Returns the source's masks within which changes are measured, the same for every row.

    They are the dataset's own, else (kinds of `SEGMENTED`) those that a row with an identity loss has made,
    else those on disk.
    """
    source, config = job.source, job.config.masks
    if source.train[0].mask is not None:
        return Masks(mask_source("oracle"), True)
    folder = config.source_folder
    if config.kind in SEGMENTED:
        stage_folder = job.finished("masks", segmentation(job))
        if stage_folder is None:
            return None
        folder = str(stage_folder / source.name)
    try:
        mask_path(source.train[0], "disk", folder)
    except InputError:
        return None
    return file_masks("disk", source.train, folder)


# ---------------------------------------------------------------- GAN and translation


def gan_stage(job: Job, masks: tuple[Masks, Masks], camera: int | None) -> Stage:
    """Trains a GAN towards the whole target, or towards one of its cameras (from 1)."""
    config, (source, target) = job.config.gan, masks
    transform = gan_transform(config, job.config.masks.aug)
    domains = Domain(job.source.train, source.of), Domain(images_of(job.target, camera), target.of)
    return job.stage(
        f"gan{suffix(camera)}",
        gan_depends_on(job, config, masks, camera),
        lambda work: train_gan(config, transform, *domains, work),
        seed=job.seed,
        collective=True,
    )


def gan_depends_on(
    job: Job, config: GANConfig, masks: tuple[Masks, Masks] | None, camera: int | None
) -> dict[str, Any]:
    """Returns what the stage `gan` depends on besides the seed: without an identity loss, on no mask."""
    config, key = replace(config, target_cameras=()), None
    if config.lambda_id == 0:
        config = replace(config, id_loss="mse", id_reduce="all")
    elif masks is not None:
        kind, aug = job.config.masks.kind, job.config.masks.aug
        files = [] if kind in COMPUTED else [of_domain.key for of_domain in masks]
        key = {"kind": kind if kind in COMPUTED else "files", "aug": aug, "files": files}
    return {
        "gan": config,
        "masks": key,
        "source": job.source.manifest,
        "target": job.target.manifest,
        "camera": camera,
    }


def translation_stage(job: Job, trained: Stage | None, camera: int | None = None) -> Stage:
    """Translates the source's training images by the GAN, or only resizes and stores them without one."""
    source, config = job.source, job.config

    def build(work: Workspace) -> None:
        translate(source, config.gan, config.translation, trained, work)

    depends_on = translation_depends_on(job, trained.hash if trained else "")
    return job.stage(f"translation{suffix(camera)}", depends_on, build)


def translation_depends_on(job: Job, gan_hash: str) -> dict[str, Any]:
    """Returns what the stage `translation` depends on."""
    gan, stored = job.config.gan, job.config.translation
    return {
        "gan": gan_hash,
        "stored": (stored.size, stored.quality),
        "size": (gan.height, gan.width),
        "io": gan.io,
        "source": job.source.manifest,
    }


def cyclegan_folder(job: Job) -> Path | None:
    """Returns the images of this row without its identity loss, if an earlier row has made them."""
    config = job.config.gan
    if config.lambda_id == 0 or config.target_cameras:
        return None
    depends_on = gan_depends_on(job, replace(config, lambda_id=0.0), None, None)
    gan = job.finished("gan", depends_on, seed=job.seed)
    if gan is None:
        return None
    stage_folder = job.finished("translation", translation_depends_on(job, gan.name.removeprefix("gan-")))
    return stage_folder / FOLDER if stage_folder else None


def images_of(target: ReIDDataset, camera: int | None) -> Sequence[Sample]:
    """Returns the target's training images, or those of one camera (from 1); `InputError` if it has none."""
    images = [sample for sample in target.train if camera in (None, sample.camid + 1)]
    if not images:
        raise InputError(
            f"--gan.target-cameras {camera}: expected a camera from 1 to {target.num_cameras} with training "
            f"images, {target.name} has no training image of this one"
        )
    return images


def suffix(camera: int | None) -> str:
    return "" if camera is None else f"-cam{camera}"


# ---------------------------------------------------------------- analysis


def analysed(job: Job, folders: Sequence[Path], images: str, reference: Masks | None) -> Transferred:
    """Returns the samples in these folders, which `images` identifies, with the stage `analysis` of them."""
    source, target, gan = job.source, job.target, job.config.gan
    samples = [sample for folder in folders for sample in translated_samples(source.train, folder)]
    size, masks = (gan.height, gan.width), reference.of if reference else None
    depends_on = {
        "images": images,
        "source": source.manifest,
        "target": target.manifest,
        "size": size,
        "masks": reference.key if reference else False,
    }

    def build(work: Workspace) -> None:
        work.write_json("measures.json", analyse(source.train, samples, target.train, masks, size))

    stage = job.stage("analysis", depends_on, build)
    return Transferred(samples, images, stage.json("measures.json"), masks)
