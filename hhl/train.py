"""Trains and scores one row of HHL: camera styles of the target, then the re-ID network of Sec. 3, then its scores on the target.

Released counterpart: `HHL.py` and `baseline.py`, `reid/trainers.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from common.checkpoints import save_checkpoint
from common.cli import Options, main
from common.datasets import ReIDDataset, Sample, load_dataset
from common.records import Record, canonical, digest
from common.runs import Run, Stage, Workspace, rank_and_world
from common.training import Loop, average_gradients, gather, pick_device, seed_everything, set_threads, start_processes
from hhl import pictures
from hhl.batches import Schedule, schedule
from hhl.config import HHLConfig
from hhl.data import camera_style_views
from hhl.evaluate import load_network, score
from hhl.experiments import HHL
from hhl.losses import batch_hard_triplet
from hhl.model import HHLNet, build_network, parameter_groups
from hhl.stargan.oracle import oracle_errors
from hhl.stargan.train import load_generator, train_stargan
from hhl.stargan.translate import FOLDER, translate


def train(config: HHLConfig, run: Run, options: Options) -> Record:
    """One row of Table 2 or 3: its stages, its scores (`last`, `last+adabn`), its pictures, its record."""
    device = pick_device(options.device)
    set_threads(options.threads)
    start_processes(device)
    run.device = str(device) if device.type == "cpu" else torch.cuda.get_device_name(device)
    source, target = (load_dataset(name, options.data_root) for name in (run.source, run.target))
    labelled = target if config.method.labels == "target" else source
    build_network(config.net, len(labelled.train_labels), triplet=True)   # weights that cannot be had should stop a run now, not after its GAN

    style_folder, style_hash, measures = camera_styles(config, target, run, device, options)
    views, num_views = target_views(config, target, style_folder)
    start = pretrain(config, source, run, device, options)
    uses = {"net": config.net, "recipe": config.recipe, "method": config.method, "labelled": labelled.manifest, "seed": run.seed,
            "target": target.manifest if num_views else None, "styles": style_hash, "start": start.hash if start else None}
    network = run.stage("reid", uses, lambda work: train_reid(config, labelled, views, num_views, run.seed, device, work, options, start),
                        collective=True)

    scored = run.stage("scores", {"reid": network.hash, "target": target.manifest, "query": "resize bicubic, pool5, euclidean"},
                       lambda work: score(load_network(network.folder / "model.pt").to(device), target, device, work, options.workers))
    if rank_and_world()[0] == 0:
        pictures.draw(run, target, style_folder)
    return run.record(scored.json("scores.json"), data={"source": source.manifest, "target": target.manifest}, selection="last epoch",
                      measures=measures)


def pretrain(config: HHLConfig, source: ReIDDataset, run: Run, device: torch.device, options: Options) -> Stage | None:
    """The demo's stand-in for ImageNet weights: the network after some epochs of cross-entropy on the source, the same for every row."""
    epochs = config.recipe.pretrain_epochs
    if epochs == 0:
        return None
    plain = replace(config, recipe=replace(config.recipe, epochs=epochs, drop_epoch=epochs),
                    method=replace(config.method, source_triplet=False, target_views="none"))
    seed = run.seed + 1_000_000   # other images in another order than in the rows
    return run.stage("pretrain", {"net": config.net, "recipe": plain.recipe, "source": source.manifest, "seed": seed},
                     lambda work: train_reid(plain, source, (), 0, seed, device, work, options), collective=True)


def camera_styles(config: HHLConfig, target: ReIDDataset, run: Run, device: torch.device, options: Options) -> tuple[Path | None, str, dict]:
    """The camera-style folder that the row needs, what identifies it, and what was measured on it (synthetic targets: against the oracle)."""
    if config.method.target_views != "camera":
        return None, "", {}
    if config.style.folder:
        folder = Path(config.style.folder)
        return folder, digest([(path.name, path.stat().st_size) for path in sorted(folder.glob("*_fake_*.jpg"))]), {}
    gan = run.stage("stargan", {"config": config.stargan, "target": target.manifest, "seed": run.seed},
                    lambda work: train_stargan(config.stargan, target, run.seed, device, work, workers=options.workers))

    def build(work: Workspace) -> None:
        generator = load_generator(config.stargan, target.num_cameras, gan.folder / "generator.pt", device)
        translate(generator, target, config.stargan, config.style, work, device, checkpoint_hash=gan.hash, workers=options.workers)
        work.write_json("oracle.json", oracle_errors(target, work.folder / FOLDER))

    fakes = run.stage("camstyle", {"stargan": gan.hash, "style": config.style}, build)
    return fakes.folder / FOLDER, fakes.hash, fakes.json("oracle.json")


def target_views(config: HHLConfig, target: ReIDDataset, style_folder: Path | None) -> tuple[Sequence[Sample], int]:
    """The target images that the triplet loss sees, style by style, and the number of views of each (0: the row has no target images)."""
    if config.method.target_views == "none":
        return (), 0
    if style_folder is None:
        return target.train, 1
    views = camera_style_views(target.train, style_folder, target.num_cameras, config.method.include_own_style)
    return views, len(views) // len(target.train)


def train_reid(config: HHLConfig, labelled: ReIDDataset, views: Sequence[Sample], num_views: int, seed: int, device: torch.device,
               workspace: Workspace, options: Options, start: Stage | None = None) -> None:
    """Trains the network on one row's batches, its backbone from `start` if given, and writes `model.pt`."""
    seed_everything(seed, deterministic=options.deterministic)
    batches = schedule(config, labelled, views, num_views, seed)
    model = build_network(config.net, len(labelled.train_labels), triplet=len(batches.parts) > 1).to(device)
    if start is not None:
        model.base.load_state_dict(load_network(start.folder / "model.pt").base.state_dict())
    optimizer = build_optimizer(config, model, triplet=len(batches.parts) > 1)
    label = "re-ID" if config.recipe.pretrain_epochs == 0 or start else "pretraining"
    loop = Loop(workspace, batches.total, {"model": model, "optimizer": optimizer}, label=label, save_every=batches.steps_per_epoch)
    model.to(memory_format=torch.channels_last).train()
    run_steps(config, model, optimizer, loop, batches, device, options.workers)
    if loop.main:
        save_checkpoint(workspace.folder / "model.pt", {"state_dict": model.state_dict(), "num_ids": len(labelled.train_labels),
                                                            "net": canonical(config.net)})


def run_steps(config: HHLConfig, model: HHLNet, optimizer: torch.optim.Optimizer, loop: Loop, batches: Schedule, device: torch.device,
              workers: int) -> None:
    """The training loop. Every part of the batch is forwarded on its own, in the released order, and moves the batch-norm statistics."""
    rank, world = rank_and_world()
    loaders = [part.loader(loop.start, loop.total, workers=workers, rank=rank, world=world, pin_memory=device.type == "cuda")
               for part in batches.parts.values()]
    for step, loaded in zip(loop, zip(*loaders)):
        set_learning_rate(optimizer, 0.1 ** (step // batches.steps_per_epoch // config.recipe.drop_epoch))
        images = {name: batch.to(device, non_blocking=True, memory_format=torch.channels_last) for name, (batch, _) in zip(batches.parts, loaded)}
        labels = {name: part.labels(step, device) for name, part in batches.parts.items()}

        # cross-entropy of the labelled images (Eq. 1)
        logits = gather(model(images["classify"]))
        loss_ce = F.cross_entropy(logits, labels["classify"])

        # one hardest search over source and target views together (L_T, L_D, L_C, L_CD: Eqs. 2-5)
        in_triplet = [name for name in ("source", "target") if name in images]
        loss_triplet, precision = torch.zeros((), device=device), torch.zeros((), device=device)
        if in_triplet:
            embeddings = torch.cat([gather(model(images[name], "triplet")) for name in in_triplet])
            loss_triplet, precision = batch_hard_triplet(embeddings, torch.cat([labels[name] for name in in_triplet]),
                                                         margin=config.method.margin, self_positive=config.method.self_positive)

        loss = loss_ce + config.method.beta * loss_triplet   # Eq. 6
        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        accuracy = (logits.argmax(1) == labels["classify"]).float().mean()
        loop.log(step, cross_entropy=loss_ce, triplet=loss_triplet, triplet_precision=precision, accuracy=accuracy)


def build_optimizer(config: HHLConfig, model: nn.Module, *, triplet: bool) -> torch.optim.SGD:
    """SGD with the groups of `parameter_groups`. Rows without a triplet loss train FC-1024 as the released `baseline.py` does."""
    recipe = config.recipe
    groups = parameter_groups(model, base_lr=recipe.base_lr, classifier_lr=recipe.classifier_lr,
                              embed_lr=recipe.embed_lr if triplet else recipe.baseline_embed_lr)
    for group in groups:
        group["initial_lr"] = group["lr"]
    return torch.optim.SGD(groups, lr=recipe.base_lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


if __name__ == "__main__":
    sys.exit(main(HHL, train))
