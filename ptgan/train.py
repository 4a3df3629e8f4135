"""Trains and scores one row of PTGAN: the GAN, the transferred source, the re-ID network trained on it, its
scores on the target.

Released counterpart: `main.py` and `model.py` for the GAN; the re-ID part of the paper was never released.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from common import cli
from common.datasets.layout import refuse_equal_names
from common.datasets.plans import epoch_plan, pair_plans
from common.errors import InputError
from common.evaluation.scoring import score
from common.evaluation.transfers import judge_transfer
from common.job import Job, Workspace
from common.records import Record
from common.runs import rank_and_world
from common.training import accelerate
from ptgan import pictures
from ptgan.data import ReidTransform
from ptgan.evaluate import embedder
from ptgan.experiments import PTGAN
from ptgan.masks import mask_path
from ptgan.reid import build_network, load_network, train_reid
from ptgan.selfie import load_selfie_network
from ptgan.train_gan import check_gan
from ptgan.transfer import images_of, transferred


def train(job: Job) -> Record:
    """Runs one row of the transfer tables, or one of ours: stages, scores (`last`, `last+adabn`), pictures,
    record.
    """
    net, recipe, source, target = job.config.net, job.config.recipe, job.source, job.target
    images = transferred(job)
    reid = job.training_stage(
        "reid",
        {"net": net, "recipe": recipe, "source": source.manifest, "images": images.hash},
        lambda work: train_reid(net, recipe, images.samples, source.train_labels, work),
        weights=net.weights,
    )

    def score_row(work: Workspace) -> None:
        model = accelerate(load_network(reid.folder / "model.pt"), work.device, work.options)
        score(
            embedder(model, work.device, work.options.workers), model, target, work, model="PTGAN IDE pool5"
        )

    scored = job.stage("scores", {"reid": reid.hash, "target": target.manifest}, score_row)
    steps = job.config.translation.judge_steps if images.hash else 0
    measures = {**(images.measures or {}), **judge_transfer(job, images.samples, images.hash, steps)}
    if job.main:
        pictures.draw(job, images)
    return job.record(scored.json("scores.json"), measures=measures)


def check(job: Job) -> None:
    """Validates the run before any stage: weights, the size of every batch, image names."""
    config, source = job.config, job.source
    with torch.device("meta"):
        build_network(config.net, len(source.train_labels))
    if job.options.pack:
        ReidTransform(config.net.height, config.net.width, config.recipe.colour_jitter).on_device()
    epoch_plan(len(source.train), config.recipe.batch, seed=0, stream="re-ID")
    batches = {"recipe.batch": config.recipe.batch}
    if config.translation.kind != "none":
        refuse_equal_names(source.train)
    if config.trains_gan:
        batches["gan.batch"] = config.gan.batch
        check_gan(config.gan, job.device, deterministic=job.options.deterministic)
        check_masks(job)
        for camera in config.gan.target_cameras or (None,):
            pair_plans(len(source.train), len(images_of(job.target, camera)), config.gan.batch, seed=0)
    processes = rank_and_world()[1]
    for name, batch in batches.items():
        if batch % processes:
            raise InputError(
                f"--{name} {batch}: does not divide into {processes} equal parts, one for each process: "
                "change it"
            )


def check_masks(job: Job) -> None:
    """Raises `InputError` for the first mask that an identity loss will read and that is not there, and for a
    missing network of the kind `selfie`.
    """
    config = job.config.masks
    if job.config.gan.lambda_id and config.kind == "selfie":
        load_selfie_network()
    if job.config.gan.lambda_id == 0 or config.kind not in ("oracle", "disk"):
        return
    folders = (config.source_folder, config.target_folder)
    for dataset, folder in zip((job.source, job.target), folders):
        for sample in dataset.train:
            mask_path(sample, config.kind, folder)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(PTGAN, train, argv, check=check)


if __name__ == "__main__":
    sys.exit(main())
