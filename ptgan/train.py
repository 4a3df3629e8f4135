"""Trains and scores one row of PTGAN: the GAN, the transferred source, the re-ID network trained on it, its scores on the target.

Released counterpart: `main.py` and `model.py` for the GAN; the re-ID part of the paper was never released.
"""

from __future__ import annotations

import sys

import torch

from common.checkpoints import weights_content
from common.cli import Options, main
from common.datasets import load_dataset
from common.records import Record
from common.runs import Run, rank_and_world
from common.training import accelerate, pick_device, set_threads, start_processes
from ptgan import pictures
from ptgan.config import PTGANConfig
from ptgan.data import reid_transform
from ptgan.evaluate import score
from ptgan.experiments import PTGAN
from ptgan.reid import build_network, load_network, train_reid
from ptgan.transfer import transferred


def train(config: PTGANConfig, run: Run, options: Options) -> Record:
    """One row of the transfer tables or an experiment of ours: its stages, its scores (`last`, `last+adabn`), its pictures, its record."""
    device = pick_device(options.device)
    set_threads(options.threads)
    start_processes(device)
    run.device = str(device) if device.type == "cpu" else torch.cuda.get_device_name(device)
    source, target = (load_dataset(name, options.data_root) for name in (run.source, run.target))
    build_network(config.net, len(source.train_labels))   # weights that cannot be had should stop a run now, not after its GAN
    if options.pack:
        reid_transform(config.net, config.recipe.colour_jitter).on_device()   # and so should what only the loader's workers can do

    images = transferred(config, source, target, run, device, options)
    uses = {"net": config.net, "recipe": config.recipe, "source": source.manifest, "images": images.hash, "seed": run.seed}
    uses |= weights_content(config.net.weights) | options.numerics
    network = run.stage("reid", uses, lambda work: train_reid(config, images.samples, source.train_labels, run.seed, device, work, options),
                        collective=True)
    scored = run.stage("scores", {"reid": network.hash, "target": target.manifest},
                       lambda work: score(accelerate(load_network(network.folder / "model.pt"), device, options), target, device, work,
                                          options.workers))

    if rank_and_world()[0] == 0:
        pictures.draw(run, config, source, target, images)
    return run.record(scored.json("scores.json"), data={"source": source.manifest, "target": target.manifest}, selection="last epoch",
                      measures=images.measures)


if __name__ == "__main__":
    sys.exit(main(PTGAN, train))
