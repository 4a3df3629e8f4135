"""Trains and scores one row of PTGAN: the GAN, the transferred source, the re-ID network trained on it, its
scores on the target.

Released counterpart: `main.py` and `model.py` for the GAN; the re-ID part of the paper was never released.
"""

from __future__ import annotations

import sys

import torch

from common.checkpoints import weights_content
from common.cli import main
from common.job import Options
from common.datasets import ReIDDataset, load_dataset
from common.datasets.layout import refuse_equal_names
from common.datasets.loading import epoch_plan
from common.errors import InputError
from common.records import Record
from common.runs import Run, rank_and_world
from common.training import accelerate, pick_device, set_threads, start_processes
from ptgan import pictures
from ptgan.config import PTGANConfig
from ptgan.data import pair_plans, reid_transform
from ptgan.evaluate import score
from ptgan.experiments import PTGAN
from ptgan.reid import build_network, load_network, train_reid
from ptgan.train_gan import check_gan
from ptgan.transfer import images_of, transferred


def train(config: PTGANConfig, run: Run, options: Options) -> Record:
    """One row of the transfer tables or an experiment of ours: its stages, its scores (`last`, `last+adabn`),
    its pictures, its record.
    """
    device = pick_device(options.device)
    set_threads(options.threads)
    start_processes(device)
    run.device = str(device) if device.type == "cpu" else torch.cuda.get_device_name(device)
    source, target = (load_dataset(name, options.data_root) for name in (run.source, run.target))
    check(config, source, target, device, options)

    images = transferred(config, source, target, run, device, options)
    uses = {
        "net": config.net,
        "recipe": config.recipe,
        "source": source.manifest,
        "images": images.hash,
        "seed": run.seed,
    }
    uses |= weights_content(config.net.weights) | options.numerics
    network = run.stage(
        "reid",
        uses,
        lambda work: train_reid(config, images.samples, source.train_labels, run.seed, device, work, options),
        collective=True,
    )
    scored = run.stage(
        "scores",
        {"reid": network.hash, "target": target.manifest},
        lambda work: score(
            accelerate(load_network(network.folder / "model.pt"), device, options),
            target,
            device,
            work,
            options.workers,
        ),
    )

    if rank_and_world()[0] == 0:
        pictures.draw(run, config, source, target, images)
    return run.record(
        scored.json("scores.json"),
        data={"source": source.manifest, "target": target.manifest},
        selection="last epoch",
        measures=images.measures,
    )


def check(
    config: PTGANConfig, source: ReIDDataset, target: ReIDDataset, device: torch.device, options: Options
) -> None:
    """What should stop a run now, not after its GAN: absent weights, batches that cannot be filled or shared
    out, names that stand twice.
    """
    build_network(config.net, len(source.train_labels))
    if options.pack:
        reid_transform(config.net, config.recipe.colour_jitter).on_device()
    epoch_plan(len(source.train), config.recipe.batch, seed=0, stream="re-ID")
    batches = {"recipe.batch": config.recipe.batch}
    if config.translation.kind != "none":
        refuse_equal_names(source.train)
    if config.translation.kind == "gan" and not config.translation.folder:
        batches["gan.batch"] = config.gan.batch
        check_gan(config.gan, device, deterministic=options.deterministic)
        for camera in config.gan.target_cameras or (None,):
            pair_plans(len(source.train), len(images_of(target, camera)), config.gan.batch, seed=0)
    for name, batch in batches.items():
        if batch % rank_and_world()[1]:
            raise InputError(
                f"--{name} {batch}: does not divide into {rank_and_world()[1]} equal parts, one a process: change it"
            )


if __name__ == "__main__":
    sys.exit(main(PTGAN, train))
