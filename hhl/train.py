"""Trains and scores one row of HHL: camera styles of the target, then the re-ID network of Sec. 3, then its
scores on the target.

Released counterpart: `HHL.py` and `baseline.py`, `reid/trainers.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checkpoints import save_checkpoint, weights_content
from common.cli import main
from common.job import Options
from common.datasets import ReIDDataset, Sample, load_dataset
from common.errors import InputError
from common.hashing import canonical
from common.records import Record
from common.runs import Run, Stage, Workspace, rank_and_world
from common.training import (
    Loop,
    accelerate,
    average_gradients,
    gather,
    pick_device,
    seed_everything,
    set_threads,
    start_processes,
)
from hhl import pictures
from hhl.analysis import analyse
from hhl.batches import Schedule, first_size, schedule, train_transform
from hhl.config import HHLConfig, MethodConfig, RecipeConfig, TestConfig
from hhl.evaluate import embed, load_network, score
from hhl.experiments import HHL
from hhl.losses import batch_all_triplet, batch_hard_triplet
from hhl.model import HHLNet, build_network, parameter_groups
from hhl.styles import camera_styles, expected_views, target_views


def train(config: HHLConfig, run: Run, options: Options) -> Record:
    """One row of Table 2 or 3: its stages, its scores (`last`, `last+adabn`), its pictures, its record."""
    device = pick_device(options.device)
    set_threads(options.threads)
    start_processes(device)
    run.device = str(device) if device.type == "cpu" else torch.cuda.get_device_name(device)
    source, target = (load_dataset(name, options.data_root) for name in (run.source, run.target))
    labelled = target if config.method.labels == "target" else source
    check(config, source, labelled, target, options)

    style_folder, style_hash, measures = camera_styles(config, target, run, device, options)
    views, num_views = target_views(config, target, style_folder)
    start = pretrain(config, source, run, device, options)
    uses = (
        {
            "net": config.net,
            "recipe": config.recipe,
            "method": config.method,
            "labelled": labelled.manifest,
            "seed": run.seed,
            "start": start.hash if start else None,
        }
        | weights_content(config.net.weights)
        | options.numerics
    )
    if num_views:
        uses |= {
            "target": target.manifest,
            "styles": style_hash if num_views > 1 else "",
            "first_size": first_size(config),
        }
    network = run.stage(
        "reid",
        uses,
        lambda work: train_reid(config, labelled, views, num_views, run.seed, device, work, options, start),
        collective=True,
    )

    def trained() -> HHLNet:
        return accelerate(load_network(network.folder / "model.pt"), device, options)

    scored = run.stage(
        "scores",
        {"reid": network.hash, "target": target.manifest, "test": config.test},
        lambda work: score(trained(), target, config.test, device, work, options.workers),
    )
    analysed = run.stage(
        "analysis",
        {"scores": scored.hash, "source": source.manifest, "styles": style_hash},
        lambda work: analyse(
            trained(), source, target, style_folder, scored.folder, device, work, options.workers
        ),
    )
    if rank_and_world()[0] == 0:
        pictures.draw(run, target, style_folder)
    return run.record(
        scored.json("scores.json"),
        data={"source": source.manifest, "target": target.manifest},
        selection="last epoch",
        measures={**measures, **analysed.json("measures.json")},
    )


def check(
    config: HHLConfig, source: ReIDDataset, labelled: ReIDDataset, target: ReIDDataset, options: Options
) -> None:
    """What should stop a run now, not after its GAN: absent weights, styles or names, batches that cannot be
    filled or shared out.
    """
    build_network(config.net, len(labelled.train_labels), triplet=True)
    if options.pack:
        train_transform(config, "source").on_device()
    views, num_views = expected_views(config, target)
    rows = [schedule(config, labelled, views, num_views, seed=0, decode=False)]
    if config.recipe.pretrain_epochs:
        rows.append(schedule(pretraining(config), source, (), 0, seed=0, decode=False))
    for name, part in (item for row in rows for item in row.parts.items()):
        batch, calls = len(part.labels(0, torch.device("cpu"))), rank_and_world()[1] * config.net.bn_splits
        if batch % rank_and_world()[1] or batch // calls < 2:
            raise InputError(
                f"the batch {name!r} of {batch} images: expected at least 2 for each process and batch-norm split, and the same number "
                f"for each of {rank_and_world()[1]} processes"
            )


def pretrain(
    config: HHLConfig, source: ReIDDataset, run: Run, device: torch.device, options: Options
) -> Stage | None:
    """The demo's stand-in for ImageNet weights: the network after some epochs of cross-entropy on the source,
    the same for every row.
    """
    if config.recipe.pretrain_epochs == 0:
        return None
    plain = pretraining(config)
    seed = run.seed + 1_000_000  # other images in another order than in the rows
    uses = {"net": config.net, "recipe": plain.recipe, "source": source.manifest, "seed": seed}
    return run.stage(
        "pretrain",
        uses | weights_content(config.net.weights) | options.numerics,
        lambda work: train_reid(plain, source, (), 0, seed, device, work, options),
        collective=True,
    )


def pretraining(config: HHLConfig) -> HHLConfig:
    """Cross-entropy alone, at the rates of a new network."""
    recipe = config.recipe
    return replace(
        config,
        method=MethodConfig(source_triplet=False, target_views="none"),
        recipe=RecipeConfig(
            epochs=recipe.pretrain_epochs,
            pretrain_epochs=recipe.pretrain_epochs,
            drop_epoch=recipe.pretrain_epochs,
            batch_scale=recipe.batch_scale,
            base_lr=recipe.base_lr,
            classifier_lr=recipe.classifier_lr,
            embed_lr=recipe.classifier_lr,
            baseline_embed_lr=recipe.classifier_lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        ),
    )


def train_reid(
    config: HHLConfig,
    labelled: ReIDDataset,
    views: Sequence[Sample],
    num_views: int,
    seed: int,
    device: torch.device,
    workspace: Workspace,
    options: Options,
    start: Stage | None = None,
) -> None:
    """Trains the network on one row's batches, its backbone from `start` if given, and writes `model.pt`."""
    seed_everything(seed, deterministic=options.deterministic)
    batches = schedule(config, labelled, views, num_views, seed, workspace.cache)
    in_triplet = bool({"source", "target"} & set(batches.parts))
    model = build_network(config.net, len(labelled.train_labels), triplet=in_triplet).to(device)
    if start is not None:
        model.base.load_state_dict(load_network(start.folder / "model.pt").base.state_dict())
    optimizer = build_optimizer(config, model, triplet=in_triplet)
    label = "re-ID" if config.recipe.pretrain_epochs == 0 or start else "pretraining"
    state = {
        "model": model,
        "optimizer": optimizer,
        **({"clusters": batches.clusters} if batches.clusters else {}),
    }
    loop = Loop(workspace, batches.total, state, label=label, save_every=batches.steps_per_epoch)
    accelerate(model, device, options).train()

    def recluster(epoch: int) -> None:
        if batches.clusters is not None:
            batches.clusters.refresh(
                embed(model.eval(), views[: len(views) // num_views], TestConfig(), device, options.workers),
                epoch,
            )
            model.train()

    run_steps(
        config,
        model,
        optimizer,
        loop,
        batches,
        device,
        batches.load(loop.start, device, options.workers, at_epoch=recluster),
    )
    if loop.main:
        save_checkpoint(
            workspace.folder / "model.pt",
            {
                "state_dict": model.state_dict(),
                "num_ids": len(labelled.train_labels),
                "net": canonical(config.net),
            },
        )


def run_steps(
    config: HHLConfig,
    model: HHLNet,
    optimizer: torch.optim.Optimizer,
    loop: Loop,
    batches: Schedule,
    device: torch.device,
    loaded: Iterator[dict[str, Tensor]],
) -> None:
    """The training loop. Every part of the batch is forwarded on its own, in the released order, and moves
    the batch-norm statistics.
    """
    method = config.method
    for step, images in loop.over(loaded):
        set_learning_rate(optimizer, 0.1 ** (step // batches.steps_per_epoch // config.recipe.drop_epoch))
        labels = {name: part.labels(step, device) for name, part in batches.parts.items()}
        logits, embeddings = (
            forward_single(model, images) if config.recipe.single_pass else forward_parts(model, images)
        )
        loss, terms = torch.zeros((), device=device), {}

        # cross-entropy of the labelled images (Eq. 1)
        if logits is not None:
            terms["cross_entropy"] = F.cross_entropy(logits, labels["classify"])
            terms["accuracy"] = (logits.argmax(1) == labels["classify"]).float().mean()
            loss = loss + terms["cross_entropy"]

        # one search over source and target views together (L_T, L_D, L_C, L_CD: Eqs. 2-5), weighted as in Eq.
        # 6
        if embeddings is not None:
            of_triplet = torch.cat([labels[name] for name in ("source", "target") if name in labels])
            anchors = anchor_mask(
                method.target_anchors, len(of_triplet), batches.target_images(step), batches.num_views
            )
            terms["triplet"], terms[SHARE[method.triplets]] = triplet_term(
                method, embeddings, of_triplet, anchors.to(device)
            )
            loss = loss + method.beta * terms["triplet"]

        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        if "target" in batches.parts:
            terms["repeated_people"] = float(batches.repeated_people(step))
        loop.log(step, **terms)


def forward_parts(model: HHLNet, images: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Logits of `classify` and embeddings of `source` and `target` `(N, D)`, each part forwarded on its own."""
    logits = gather(model(images["classify"])) if "classify" in images else None
    embeddings = [gather(model(images[name], "triplet")) for name in ("source", "target") if name in images]
    return logits, torch.cat(embeddings) if embeddings else None


def forward_single(model: HHLNet, images: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """The same from one pass over the whole batch, which then shares its batch-norm statistics."""
    parts = [len(batch) for batch in images.values()]
    if model.triplet is None:
        return forward_parts(model, images)
    logits, embeddings = (output.split(parts) for output in model(torch.cat(list(images.values())), "both"))
    of_triplet = [gather(rows) for name, rows in zip(images, embeddings) if name != "classify"]
    return gather(logits[0]) if "classify" in images else None, torch.cat(of_triplet) if of_triplet else None


def anchor_mask(target_anchors: str, n: int, target_images: int, num_views: int) -> Tensor:
    """Which of the `n` rows (source, then the target's images, then their fakes style by style) act as
    anchors.
    """
    first_target = n - target_images * num_views
    anchors = torch.ones(n, dtype=torch.bool)
    if target_anchors != "all":
        anchors[first_target + (target_images if target_anchors == "real" else 0) :] = False
    return anchors


SHARE = {"hard": "triplet_precision", "all": "triplet_active", "all_nonzero": "triplet_active"}


def triplet_term(
    method: MethodConfig, embeddings: Tensor, labels: Tensor, anchors: Tensor
) -> tuple[Tensor, Tensor]:
    """The triplet loss that the row asks for, and the share of right anchors (batch hard) or of active
    triplets (batch all).
    """
    if method.triplets == "hard":
        return batch_hard_triplet(
            embeddings,
            labels,
            margin=method.margin,
            self_positive=method.self_positive,
            anchors=anchors,
            hinge=method.hinge,
            reduction=method.reduction,
        )
    mean_of_all, mean_of_active, active = batch_all_triplet(embeddings, labels, margin=method.margin)
    return (mean_of_all if method.triplets == "all" else mean_of_active), active


def build_optimizer(config: HHLConfig, model: nn.Module, *, triplet: bool) -> torch.optim.SGD:
    """SGD with the groups of `parameter_groups`. Rows without a triplet loss train FC-1024 as the released
    `baseline.py` does.
    """
    recipe = config.recipe
    groups = parameter_groups(
        model,
        base_lr=recipe.base_lr,
        classifier_lr=recipe.classifier_lr,
        embed_lr=recipe.embed_lr if triplet else recipe.baseline_embed_lr,
    )
    for group in groups:
        group["initial_lr"] = group["lr"]
    return torch.optim.SGD(
        groups,
        lr=recipe.base_lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


if __name__ == "__main__":
    sys.exit(main(HHL, train))
