"""Trains and scores one row of ARN: E_I on the source, then all modules together on both domains, then scores
on the target.

Released counterpart: `reid_main.py`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arn import pictures
from arn.config import ARNConfig
from arn.data import Schedule, labelled_samples, plans, schedule
from arn.evaluate import architecture, load_network, score
from arn.experiments import ARN
from arn.losses import contrastive_loss, difference_loss, mean_cosine, mmd_loss, reconstruction_loss
from arn.model import ARNNet, Codes, build_network, load_weights, parameter_groups
from arn.pretrain import pretrain
from common.augment import on_device
from common.checkpoints import file_hash, load_checkpoint, save_checkpoint, weights_content
from common.cli import main
from common.job import Options
from common.datasets import ReIDDataset, Sample, load_dataset
from common.datasets.cameras import parse_split
from common.errors import InputError
from common.records import Record
from common.runs import Run, Stage, Workspace, rank_and_world, read_curves
from common.training import (
    Loop,
    accelerate,
    average_gradients,
    pick_device,
    seed_everything,
    set_threads,
    start_processes,
)

log = logging.getLogger("run")


def train(config: ARNConfig, run: Run, options: Options) -> Record:
    """One row of the ablation, or one question: its stages, its scores, its pictures, its record."""
    device = pick_device(options.device)
    set_threads(options.threads)
    start_processes(device)
    run.device = str(device) if device.type == "cpu" else torch.cuda.get_device_name(device)
    source, target = (load_dataset(name, options.data_root) for name in (run.source, run.target))
    labelled = labelled_samples(source, config.recipe.source_split)
    check(config, source, labelled[1], target)

    start = source_supervised(config, source, labelled, run, device, options)
    uses = {
        name: getattr(config, name)
        for name in ("net", "latent", "dec", "w", "cls", "ctr", "rec", "diff", "lr", "recipe")
    }
    uses |= {
        "start": start.hash if start else init_hash(config.recipe.init),
        "source": source.manifest,
        "target": target.manifest,
        "seed": run.seed,
    }
    uses |= weights_content(config.net.weights) | options.numerics
    joint = run.stage(
        "joint",
        uses,
        lambda work: train_jointly(config, labelled, target, run.seed, device, work, options, start),
        collective=True,
    )
    scored = run.stage(
        "scores",
        {"joint": joint.hash, "target": target.manifest, "test": {"feature": config.ranked}},
        lambda work: score(
            config,
            accelerate(load_network(joint.folder / "model.pt")[1], device, options),
            target,
            device,
            work,
            options.workers,
        ),
    )
    if rank_and_world()[0] == 0:
        pictures.draw(run, config, target, device)
    measures = scored.json("measures.json") | last_accuracy(joint)
    return run.record(
        scored.json("scores.json"),
        data={"source": source.manifest, "target": target.manifest},
        selection="last epoch",
        measures=measures,
    )


def check(config: ARNConfig, source: ReIDDataset, labels: np.ndarray, target: ReIDDataset) -> None:
    """What should stop a run now, not after its first stage, or be known before it.

    Raises `InputError` for a batch that cannot be filled or is too small for its batch norm, labels of the
    people to be tested on, a loss without a term, a conv6 that cannot be placed, absent weights.
    """
    plans(config, labels, len(target.train), seed=0)
    check_batches(config, rank_and_world()[1])
    if config.recipe.source_split == "all" and parse_split(source.name)[0] == parse_split(target.name)[0]:
        raise InputError(
            f"--recipe.source-split all: {source.name} and {target.name} are of one dataset, whose gallery shows the people that are "
            "tested on: use --recipe.source-split train, or two datasets"
        )
    if config.recipe.epochs and not weighted_terms(config):
        raise InputError(
            "--w.cls, --w.ctr, --w.rec, --w.diff, --w.mmd: expected a weight above 0 for at least one term that this row has, found "
            "none: raise one, or use --recipe.epochs 0"
        )
    model = build_network(config, int(labels.max()) + 1)
    if config.recipe.init:
        load_weights(model, config.recipe.init, classifier=False)
    warn(config)


def check_batches(config: ARNConfig, processes: int) -> None:
    """Every process, and every part of its batch under `bn_splits`, needs two images: a 1x1 code of one has
    no variance. Raises `InputError`.
    """
    splits, batch = config.net.bn_splits, config.recipe.batch
    for name, images in {
        "recipe.batch": batch,
        **({"pretrain.batch": config.pretrain.batch} if ei_learns_first(config) else {}),
    }.items():
        share, rest = divmod(images, processes)
        if rest or share < 2 or min(len(part) for part in torch.arange(share).chunk(splits)) < 2:
            raise InputError(
                f"--{name} {images}: expected an equal share for each process, here {processes}, and at least 2 images in each of its "
                f"parts, here {splits} (--net.bn-splits): use another batch, fewer processes or fewer splits"
            )
    if config.net.bn == "joint" and batch % (processes * splits):
        raise InputError(
            f"--recipe.batch {batch}: expected, for --net.bn joint, a multiple of {processes * splits} (processes times "
            "--net.bn-splits), so that every part holds as many images of both domains"
        )


def warn(config: ARNConfig) -> None:
    """Logs what runs, but hardly as meant: weights that belong to other forms, and a warm-up in which nothing
    moves.
    """
    if config.recipe.warmup == "literal_ei" and config.recipe.warmup_epochs and config.lr.ei == 0:
        log.warning(
            "--recipe.warmup literal_ei: its %d epochs move no weight, because --lr.ei is 0; the blog's is 1e-7",
            config.recipe.warmup_epochs,
        )
    if config.w.rec >= 1 and config.rec.reduction == "sum":
        log.warning(
            "--w.rec %g belongs to a mean (preset blog); with --rec.reduction sum it drowns every other term",
            config.w.rec,
        )
    if 0 < config.w.ctr <= 0.01 and config.ctr.reduction == "mean":
        log.warning(
            "--w.ctr %g belongs to a sum over pairs (preset blog); with --ctr.reduction mean it counts for nothing",
            config.w.ctr,
        )
    if config.w.diff >= 10 and not (config.diff.row_norm and config.diff.reduction == "mean"):
        log.warning(
            "--w.diff %g belongs to the mean over codes of length 1 (preset blog); with --diff.reduction %s%s it drowns every other term",
            config.w.diff,
            config.diff.reduction,
            "" if config.diff.row_norm else " and --diff.no-row-norm",
        )


def ei_learns_first(config: ARNConfig) -> bool:
    """Whether E_I has a stage of its own before all modules train together."""
    return config.recipe.warmup == "source_ce" and not config.recipe.init


def source_supervised(
    config: ARNConfig,
    source: ReIDDataset,
    labelled: tuple[Sequence[Sample], np.ndarray],
    run: Run,
    device: torch.device,
    options: Options,
) -> Stage | None:
    """The stage of E_I, the same for every row of a seed; None where another reading of the warm-up, or
    `recipe.init`, takes its place.
    """
    if not ei_learns_first(config):
        return None
    net, recipe = config.net, config.recipe
    uses = {
        "net": [net.backbone, net.weights, net.height, net.width, net.normalise, net.bn_splits],
        "pretrain": config.pretrain,
        "recipe": [recipe.momentum, recipe.weight_decay, recipe.flip, recipe.source_split],
        "source": source.manifest,
        "seed": run.seed,
        **weights_content(net.weights),
        **options.numerics,
    }
    return run.stage(
        "pretrain",
        uses,
        lambda work: pretrain(config, labelled, run.seed, device, work, options),
        collective=True,
    )


def train_jointly(
    config: ARNConfig,
    labelled: tuple[Sequence[Sample], np.ndarray],
    target: ReIDDataset,
    seed: int,
    device: torch.device,
    workspace: Workspace,
    options: Options,
    start: Stage | None,
) -> None:
    """Trains all modules on both domains and writes `model.pt`."""
    seed_everything(seed, deterministic=options.deterministic)
    batches = schedule(config, labelled, target, seed, workspace.cache)
    num_ids = int(labelled[1].max()) + 1
    model = build_network(
        config, num_ids, load_checkpoint(start.folder / "base.pt")["state_dict"] if start else None
    )
    if config.recipe.init:
        load_weights(model, config.recipe.init, classifier=False)
    accelerate(model, device, options).train()
    if config.recipe.ei_bn_eval:
        model.encoder_base.eval()
    optimizer = torch.optim.SGD(
        parameter_groups(model, **vars(config.lr)),
        lr=config.lr.latent,
        momentum=config.recipe.momentum,
        weight_decay=config.recipe.weight_decay,
    )
    loop = Loop(
        workspace,
        config.recipe.epochs * batches.steps_per_epoch,
        {"model": model, "optimizer": optimizer},
        label="ARN",
        save_every=batches.steps_per_epoch,
    )
    run_steps(config, model, optimizer, loop, batches, device, options.workers)
    if loop.main:
        save_checkpoint(
            workspace.folder / "model.pt",
            {"state_dict": model.state_dict(), "num_ids": num_ids, "architecture": architecture(config)},
        )


def run_steps(
    config: ARNConfig,
    model: ARNNet,
    optimizer: torch.optim.Optimizer,
    loop: Loop,
    batches: Schedule,
    device: torch.device,
    workers: int,
) -> None:
    """The training loop. With several processes every one computes the losses of the whole batch."""
    rank, world = rank_and_world()
    loaders = [
        part.loader(
            loop.start, loop.total, workers=workers, rank=rank, world=world, pin_memory=device.type == "cuda"
        )
        for part in (batches.target, batches.source)
    ]
    for step, loaded in loop.over(zip(*loaders)):
        set_learning_rates(optimizer, learning_rates(config, step // batches.steps_per_epoch))
        images_t, images_s = (on_device(images, device) for images, _ in loaded)
        labels = batches.source.labels(step, device)

        codes_t, codes_s = (codes.gathered() for codes in model(images_t, images_s, rebuild=config.w.rec > 0))
        terms = loss_terms(config, codes_t, codes_s, labels)
        loss = sum(getattr(config.w, name) * value for name, value in terms.items())  # Eq. 5

        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        loop.log(step, total=loss, **terms, **code_statistics(codes_t, codes_s, labels))


def weighted_terms(config: ARNConfig) -> set[str]:
    """The terms of Eq. 5 that have a weight, under the names of their weights; L_diff only beside private
    encoders.
    """
    return {
        name
        for name, weight in vars(config.w).items()
        if weight > 0 and (name != "diff" or config.latent.private)
    }


def loss_terms(config: ARNConfig, target: Codes, source: Codes, labels: Tensor) -> dict[str, Tensor]:
    """The `weighted_terms` of Eq. 5, before their weights."""
    terms, wanted = {}, weighted_terms(config)

    # the source's identities, on the common code alone (Eqs. 1, 2)
    if "cls" in wanted:
        terms["cls"] = F.cross_entropy(source.logits, labels, reduction=config.cls.reduction)
    if "ctr" in wanted:
        terms["ctr"] = contrastive_loss(source.common, labels, **vars(config.ctr))

    # both domains, without labels (Eqs. 3, 4; L_MMD of the released code)
    if "rec" in wanted:
        form = {"norm": config.rec.norm, "reduction": config.rec.reduction}
        terms["rec"] = sum(
            reconstruction_loss(codes.rebuilt, codes.original, **form) for codes in (target, source)
        )
    if "diff" in wanted:
        terms["diff"] = sum(
            difference_loss(codes.common, codes.private, **vars(config.diff)) for codes in (target, source)
        )
    if "mmd" in wanted:
        terms["mmd"] = mmd_loss(target.common, source.common)
    return terms


@torch.no_grad()
def code_statistics(target: Codes, source: Codes, labels: Tensor) -> dict[str, Tensor]:
    """What a healthy run is told by, beside its losses."""
    statistics = {"source_accuracy": (source.logits.argmax(1) == labels).float().mean()}
    if source.private is not None:
        statistics |= {
            "cosine_source": mean_cosine(source.common, source.private),
            "cosine_target": mean_cosine(target.common, target.private),
        }
    return statistics


def learning_rates(config: ARNConfig, epoch: int) -> dict[str, float]:
    """Rates of the groups `ei`, `latent`, `cls` in an epoch: during `literal_ei` only E_I moves, during
    `freeze_ei` all but E_I.
    """
    recipe = config.recipe
    factor = 0.1 ** (epoch // recipe.drop_epoch) if recipe.drop_epoch else 1.0
    resting = (
        {"literal_ei": ("latent", "cls"), "freeze_ei": ("ei",)}.get(recipe.warmup, ())
        if epoch < recipe.warmup_epochs
        else ()
    )
    return {name: 0.0 if name in resting else factor * rate for name, rate in vars(config.lr).items()}


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: dict[str, float]) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]]


def last_accuracy(joint: Stage) -> dict[str, float]:
    """`source_accuracy`, C_S's on its last training batches."""
    path = joint.folder / "curves.jsonl"
    lines = read_curves(path) if path.is_file() else []
    return {"source_accuracy": lines[-1]["source_accuracy"]} if lines else {}


def init_hash(path: str) -> str:
    """Identifies a checkpoint by its content; empty for none."""
    if path and not Path(path).is_file():
        raise InputError(f"--recipe.init {path}: no such file (expected a checkpoint)")
    return file_hash(path) if path else ""


if __name__ == "__main__":
    sys.exit(main(ARN, train))
