"""Trains and scores one row of SPGAN: the GAN and the translation as TensorFlow processes, then the re-ID
network and its scores in PyTorch.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from common.checkpoints import weights_content
from common.cli import main
from common.job import Options
from common.datasets import ReIDDataset, Sample, load_dataset
from common.datasets.layout import refuse_equal_names
from common.datasets.loading import epoch_plan
from common.errors import InputError
from common.records import Record
from common.runs import Run, Stage, rank_and_world
from common.training import accelerate, pick_device, set_threads, start_processes
from spgan import pictures
from spgan.config import SPGANConfig
from spgan.evaluate import score
from spgan.experiments import SPGAN
from spgan.process import require_tensorflow
from spgan.reid.data import train_transform, training_set
from spgan.reid.model import build_network, load_network
from spgan.reid.train import train_reid
from spgan.translations import translated


def train(config: SPGANConfig, run: Run, options: Options) -> Record:
    """One row of Table 2, a point of a figure or a control: its stages, its scores (all poolings of Table 3),
    its pictures, its record.
    """
    by_gan = config.translate.kind == "gan" and not config.translate.folder
    # the rows that run without --experiment need it sooner or later
    if by_gan and (uses_translations(config) or not options.experiment):
        require_tensorflow()
    device = pick_device(options.device)
    set_threads(options.threads)
    start_processes(device)
    run.device = str(device) if device.type == "cpu" else torch.cuda.get_device_name(device)
    source, target = (load_dataset(name, options.data_root) for name in (run.source, run.target))
    check(config, source, target, options)
    # TensorFlow shares the card: what an earlier row left in PyTorch's cache is given back
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()

    fakes, fake_hash, measures = (
        translated(config, source, target, run, options) if uses_translations(config) else ((), "", {})
    )
    network = reid(config, source, target, fakes, fake_hash, run, device, options)
    scored = run.stage(
        "scores",
        {"reid": network.hash, "target": target.manifest, "test": config.test},
        lambda work: score(
            accelerate(load_network(network.folder / "model.pt"), device, options),
            target,
            config.test,
            device,
            work,
            options.workers,
        ),
    )
    if rank_and_world()[0] == 0:
        pictures.draw(run, config, source, target, fakes)
    return run.record(
        scored.json("scores.json"),
        data={"source": source.manifest, "target": target.manifest},
        selection="last epoch",
        measures=measures,
    )


def check(config: SPGANConfig, source: ReIDDataset, target: ReIDDataset, options: Options) -> None:
    """What should stop a run now, not after its GAN: absent weights, names that stand twice, batches that
    cannot be filled or shared out.
    """
    build_network(config.net, 1)
    if options.pack:
        train_transform(config.net, config.recipe, config.test.interpolation).on_device()
    if uses_translations(config):
        refuse_equal_names(source.train)
    images = (target if config.method.images == "target" else source).train
    batches = {"--recipe.batch": (config.recipe.batch, len(images))}
    if config.recipe.pretrain_epochs:
        batches["the batch of the pretraining,"] = (PRETRAIN_BATCH, len(source.train))
    world = rank_and_world()[1]
    for name, (batch, count) in batches.items():
        epoch_plan(count, batch, seed=0, stream="re-ID")
        if batch % world:
            raise InputError(
                f"{name} {batch}: does not divide into {world} equal parts, one a process: use another number"
            )
    if config.net.head == "bottleneck" and config.recipe.batch // world < 2:
        raise InputError(
            f"--recipe.batch {config.recipe.batch}: the bottleneck's batch norm needs at least 2 images a process, of which there are "
            f"{world}"
        )


def uses_translations(config: SPGANConfig) -> bool:
    return config.method.images in ("translated", "both")


def reid(
    config: SPGANConfig,
    source: ReIDDataset,
    target: ReIDDataset,
    fakes: Sequence[Sample],
    fake_hash: str,
    run: Run,
    device: torch.device,
    options: Options,
) -> Stage:
    """The row's network: keyed by its images, its recipe and the network that it starts from."""
    start = pretrain(config, source, run, device, options)
    samples, labels = training_set(config.method.images, source, target, fakes)
    uses = {
        "net": config.net,
        "recipe": replace(config.recipe, pretrain_epochs=0),
        "images": config.method.images,
        "seed": run.seed,
        "labelled": (target if config.method.images == "target" else source).manifest,
        "fakes": fake_hash,
        "interpolation": config.test.interpolation,
        "start": start.hash if start else None,
    }
    uses |= weights_content(config.net.weights) | options.numerics
    return run.stage(
        "reid",
        uses,
        lambda work: train_reid(
            config.net,
            config.recipe,
            samples,
            labels,
            config.test.interpolation,
            run.seed,
            device,
            work,
            options,
            start,
        ),
        collective=True,
    )


def pretrain(
    config: SPGANConfig, source: ReIDDataset, run: Run, device: torch.device, options: Options
) -> Stage | None:
    """The demo's stand-in for ImageNet weights: a backbone after some epochs of cross-entropy on the source,
    the same for every row and recipe.
    """
    epochs = config.recipe.pretrain_epochs
    if epochs == 0:
        return None
    net = replace(config.net, head="fc")
    recipe = replace(
        type(config.recipe)(),
        bn="train",
        epochs=epochs,
        drop_epoch=epochs,
        batch=PRETRAIN_BATCH,
        lr=PRETRAIN_LR,
        head_lr_factor=1.0,
    )
    seed = run.seed + 1_000_000  # other images in another order than in the rows
    uses = {
        "net": net,
        "recipe": recipe,
        "labelled": source.manifest,
        "interpolation": config.test.interpolation,
        "seed": seed,
    }
    uses |= weights_content(net.weights) | options.numerics
    return run.stage(
        "pretrain",
        uses,
        lambda work: train_reid(
            net,
            recipe,
            source.train,
            source.train_labels,
            config.test.interpolation,
            seed,
            device,
            work,
            options,
            label="pretraining",
        ),
        collective=True,
    )


PRETRAIN_BATCH, PRETRAIN_LR = 32, 0.1  # as in the other papers' demos


if __name__ == "__main__":
    sys.exit(main(SPGAN, train))
