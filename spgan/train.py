"""Trains and scores one row of SPGAN: the GAN and the translation as TensorFlow processes, then the re-ID
network and its scores in PyTorch.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from common import cli
from common.datasets import ReIDDataset, Sample
from common.datasets.contents import images_key
from common.datasets.layout import refuse_equal_names
from common.datasets.plans import epoch_plan
from common.errors import InputError
from common.evaluation.transfers import judge_transfer
from common.job import Job, Workspace
from common.records import Record
from common.runs import Stage, rank_and_world
from common.training import accelerate
from spgan import pictures
from spgan.config import RecipeConfig, SPGANConfig, TranslationConfig
from spgan.evaluate import score
from spgan.experiments import SPGAN
from spgan.process import require_tensorflow
from spgan.reid.data import TrainingSet, train_transform, training_set
from spgan.reid.model import IDENet, load_network
from spgan.reid.train import train_reid
from spgan.translations import (
    FOLDER,
    gan_curves,
    gan_depends_on,
    gan_translations,
    last_distances,
    samples_in,
    statistics_translations,
    train_gan,
    translation_depends_on,
)

# learning rate 0.1 as in the other papers' demos
PRETRAINING = RecipeConfig(bn="train", batch=32, lr=0.1, head_lr_factor=1.0)


def train(job: Job) -> Record:
    """Runs one row of Table 2, a point of a figure or a control: its stages, its scores for all poolings of
    Table 3, its pictures and its record.
    """
    if job.device.type == "cuda":  # TensorFlow shares the GPU: release what an earlier row left cached
        gc.collect()
        torch.cuda.empty_cache()

    fakes = translated(job) if needs_translations(job.config) else Fakes()
    reid = reid_stage(job, fakes, pretrain(job))

    def score_row(work: Workspace) -> None:
        model = accelerate(load_network(reid.folder / "model.pt"), work.device, work.options)
        score(model, job.target, job.config.test, work)

    scored = job.stage(
        "scores", {"reid": reid.hash, "target": job.target.manifest, "test": job.config.test}, score_row
    )
    steps = job.config.translate.judge_steps if fakes.samples else 0
    judged = judge_transfer(job, fakes.samples, fakes.hash, steps)
    if job.main:
        pictures.draw(job, fakes.samples)
    return job.record(scored.json("scores.json"), measures=fakes.measures | judged)


def check(job: Job) -> None:
    """Validates the run before any stage: TensorFlow, weights, image names, batches that can be filled and
    shared.
    """
    config = job.config
    from_gan = config.translate.kind == "gan" and not config.translate.folder
    # a command without --experiment includes rows that need the GAN
    if from_gan and (needs_translations(config) or not job.options.experiment):
        require_tensorflow()
    with torch.device("meta"):
        IDENet(config.net, 1)
    if job.options.pack:
        train_transform(config.net, config.recipe, interpolation(config)).on_device()
    if needs_translations(config):
        refuse_equal_names(job.source.train)
        if config.translate.folder:
            samples_in(Path(config.translate.folder), job.source.train)
    check_batch("--recipe.batch", config.recipe.batch, len(labelled(job).train))
    if config.recipe.pretrain_epochs:
        if len(job.source.train) < PRETRAINING.batch:
            raise InputError(
                f"{len(job.source.train)} labelled images do not fill the pretraining's batch of "
                f"{PRETRAINING.batch}: give more images, or --recipe.pretrain-epochs 0"
            )
        check_batch("the batch of the pretraining,", PRETRAINING.batch, len(job.source.train))
    world = rank_and_world()[1]
    if config.net.head == "bottleneck" and config.recipe.batch // world < 2:
        raise InputError(
            f"--recipe.batch {config.recipe.batch}: the bottleneck's batch norm needs at least 2 images a "
            f"process, of which there are {world}"
        )


def interpolation(config: SPGANConfig) -> str:
    """Returns the interpolation of training images."""
    own = config.recipe.interpolation
    return config.test.interpolation if own == "test" else own


def check_batch(name: str, batch: int, images: int) -> None:
    """Raises `InputError` if `images` do not fill a batch, or if the processes cannot share it equally."""
    epoch_plan(images, batch, seed=0, stream="re-ID")
    world = rank_and_world()[1]
    if batch % world:
        raise InputError(
            f"{name} {batch}: does not divide into {world} equal parts, one a process: use another number"
        )


def needs_translations(config: SPGANConfig) -> bool:
    return config.method.images in ("translated", "both")


def labelled(job: Job) -> ReIDDataset:
    """Returns the dataset whose identities the row is trained on."""
    return job.target if job.config.method.images == "target" else job.source


# ---------------------------------------------------------------- translation


@dataclass(frozen=True)
class Fakes:
    """A translated training set; empty for rows without one."""

    samples: Sequence[Sample] = ()
    hash: str = ""
    measures: dict[str, float] = field(default_factory=dict)  # of the pictures and of SiaNet


def translated(job: Job) -> Fakes:
    """Returns the source's training images in the target's style."""
    translation, source = job.config.translate, job.source
    if translation.folder:
        samples = samples_in(Path(translation.folder), source.train)
        return Fakes(samples, images_key([s.path for s in samples], Path(translation.folder)))
    stage, distances = gan_stages(job) if translation.kind == "gan" else (statistics_stage(job), {})
    samples = samples_in(stage.folder / FOLDER, source.train)
    return Fakes(samples, stage.hash, distances | stage.json("measures.json"))


def gan_stages(job: Job) -> tuple[Stage, dict[str, float]]:
    """Trains the GAN and translates with it; returns the translations and SiaNet's distances."""
    config, source, target = job.config, job.source, job.target
    gan = job.stage(
        "gan",
        gan_depends_on(config.gan, source, target),
        lambda work: train_gan(work, config.gan, source, target),
        seed=job.seed,
    )
    translation = job.stage(
        "translation",
        translation_depends_on(gan.hash, config.translate, source),
        lambda work: gan_translations(work, gan, (config.gan, config.translate), source, target),
    )
    return translation, last_distances(gan_curves(gan, source, target))


def statistics_stage(job: Job) -> Stage:
    """Translates by colour statistics, the control without a GAN."""
    source, target = job.source, job.target
    # truncation is the GAN's
    translation = replace(job.config.translate, truncate=TranslationConfig.truncate, judge_steps=0)
    depends_on = {
        "kind": "statistics",
        "source": source.manifest,
        "target": target.manifest,
        "translate": translation,
    }
    return job.stage(
        "translation",
        depends_on,
        lambda work: statistics_translations(work, translation.quality, source, target),
    )


# ---------------------------------------------------------------- re-ID


def reid_stage(job: Job, fakes: Fakes, start: Stage | None) -> Stage:
    """Trains the row's network, its backbone from `start` if given."""
    net, recipe, images = job.config.net, job.config.recipe, job.config.method.images
    transform = train_transform(net, recipe, interpolation(job.config))
    data = training_set(images, job.source, job.target, fakes.samples, transform)
    depends_on = {
        "net": net,
        "recipe": replace(recipe, pretrain_epochs=0, interpolation="test"),
        "images": images,
        "labelled": labelled(job).manifest,
        "fakes": fakes.hash,
        "interpolation": interpolation(job.config),
        "start": start.hash if start else None,
    }
    return job.training_stage(
        "reid", depends_on, lambda work: train_reid(work, net, recipe, data, start), weights=net.weights
    )


def pretrain(job: Job) -> Stage | None:
    """Trains the demo's substitute for ImageNet weights, for every row and recipe: cross-entropy on the
    source.
    """
    epochs = job.config.recipe.pretrain_epochs
    if epochs == 0:
        return None
    resampling, source = interpolation(job.config), job.source
    net = replace(job.config.net, head="fc")
    recipe = replace(PRETRAINING, epochs=epochs, drop_epoch=epochs)
    transform = train_transform(net, recipe, resampling)
    data = TrainingSet(source.train, source.train_labels, transform, "pretraining")
    return job.training_stage(
        "pretrain",
        {"net": net, "recipe": recipe, "labelled": source.manifest, "interpolation": resampling},
        lambda work: train_reid(work, net, recipe, data),
        weights=net.weights,
        seed=job.seed + 1_000_000,  # other images in another order than in the rows
    )


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(SPGAN, train, argv, check=check)


if __name__ == "__main__":
    sys.exit(main())
