"""Trains and scores one row of HHL: the target's camera styles, the re-ID network of Sec. 3, its scores.

Released counterpart: `HHL.py` and `baseline.py`, `reid/trainers.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from common import cli
from common.backbones import build_backbone
from common.checkpoints import save_checkpoint
from common.datasets import ReIDDataset
from common.datasets.loading import Batch
from common.errors import InputError
from common.evaluation.scoring import score
from common.hashing import canonical
from common.job import Job, Workspace
from common.records import Record
from common.runs import Stage, rank_and_world
from common.training import (
    Loop,
    Stateful,
    accelerate,
    average_gradients,
    gather,
    scale_learning_rate,
    seed_everything,
)
from hhl import pictures
from hhl.analysis import analyse
from hhl.augmentation import train_transforms
from hhl.config import HHLConfig, MethodConfig, RecipeConfig, TestConfig
from hhl.data import Schedule, plan_steps, with_images
from hhl.evaluate import embedder, load_network
from hhl.experiments import HHL
from hhl.judges import judge_styles
from hhl.losses import batch_all_triplet, batch_hard_triplet
from hhl.model import HHLNet, build_network, parameter_groups
from hhl.styles import CameraStyles, camera_styles
from hhl.views import TargetViews, expected_views, target_views

# ---------------------------------------------------------------- the stages


def train(job: Job) -> Record:
    """Runs one row, point of a figure or control: its stages, scores (`last`, `last+adabn`), pictures and
    record.
    """
    test, target = job.config.test, job.target
    styles = camera_styles(job)
    reid = reid_stage(job, styles, pretrain(job))

    def trained() -> HHLNet:
        return accelerate(load_network(reid.folder / "model.pt"), job.device, job.options)

    def score_row(work: Workspace) -> None:
        model = trained()
        pool5 = embedder(model, test, work.device, work.options.workers)
        score(pool5, model, target, work, model="HHL pool5")

    scored = job.stage("scores", {"reid": reid.hash, "target": target.manifest, "test": test}, score_row)
    analysed = job.stage(
        "analysis",
        {"scores": scored.hash, "source": job.source.manifest, "styles": styles.hash},
        lambda work: analyse(job, work, trained(), styles.folder, scored.folder),
    )
    if job.main:
        pictures.draw(job, styles.folder)
    measures = {**styles.measures, **judge_styles(job, styles), **analysed.json("measures.json")}
    return job.record(scored.json("scores.json"), measures=measures)


def check(job: Job) -> None:
    """Validates the run before any stage: weights, camera styles, image names, the size of every batch."""
    config, splits = job.config, job.config.net.bn_splits
    with torch.device("meta"):
        build_backbone(config.net.backbone, config.net.weights)
    views = expected_views(config, job.target)
    if job.options.pack:
        for transform in train_transforms(config.net, config.recipe, views.first_size).values():
            transform.on_device()
    check_batches(plan_steps(config.recipe, config.method, labelled(job), views, seed=0), splits)
    if config.recipe.pretrain_epochs:
        plain = pretraining(config)
        try:
            schedule = plan_steps(plain.recipe, plain.method, job.source, TargetViews(), seed=0)
            check_batches(schedule, splits)
        except InputError as error:
            raise InputError(
                f"the pretraining, whose batches follow --recipe.batch-scale and not --recipe.batch: {error}"
            ) from None


def check_batches(schedule: Schedule, bn_splits: int) -> None:
    """Raises `InputError` for a batch that the processes and batch-norm splits cannot share."""
    processes = rank_and_world()[1]
    for name, part in schedule.parts.items():
        indices = part.plan(0)
        if callable(part.labels):
            part.labels(0, indices)
        if len(indices) % processes or len(indices) // (processes * bn_splits) < 2:
            raise InputError(
                f"the batch {name!r} of {len(indices)} images: expected at least 2 for each process and "
                f"batch-norm split, and the same number for each of {processes} processes"
            )


def labelled(job: Job) -> ReIDDataset:
    """Returns the dataset whose identities the losses see."""
    return job.target if job.config.method.labels == "target" else job.source


def reid_stage(job: Job, styles: CameraStyles, start: Stage | None) -> Stage:
    """Trains the row's network, its backbone from `start` if given."""
    config, data = job.config, labelled(job)
    views = target_views(config, job.target, styles.folder)
    depends_on = {
        "net": config.net,
        "recipe": config.recipe,
        "method": config.method,
        "labelled": data.manifest,
        "start": start.hash if start else None,
    }
    if views.num_views:
        depends_on |= {
            "target": job.target.manifest,
            "styles": styles.hash if views.num_views > 1 else "",
            "first_size": views.first_size,
        }
    return job.training_stage(
        "reid",
        depends_on,
        lambda work: train_reid(work, config, data, views, start),
        weights=config.net.weights,
    )


def pretrain(job: Job) -> Stage | None:
    """Trains the substitute for ImageNet weights (demo, scratch presets): cross-entropy on the source, for
    all rows.
    """
    if job.config.recipe.pretrain_epochs == 0:
        return None
    config, source = pretraining(job.config), job.source
    return job.training_stage(
        "pretrain",
        {"net": config.net, "recipe": config.recipe, "source": source.manifest},
        lambda work: train_reid(work, config, source, TargetViews()),
        weights=config.net.weights,
        seed=job.seed + 1_000_000,  # other images in another order than in the rows
    )


# Settings that rows, points of a figure and controls vary. The pretraining leaves them at their defaults, so
# that all rows start from one network and differ in their own training only. Every other setting (the
# optimiser, the scale of the batches, `crop`, `erasing`) applies to the pretraining too.
OF_THE_ROW = (
    "epochs_of_batch",
    "batch",
    "ids",
    "images_per_id",
    "target_batch",
    "sampling",
    "restarts",
    "single_pass",
    "shared_augmentation",
    "colour_jitter",
)


def pretraining(config: HHLConfig) -> HHLConfig:
    """Returns the configuration of the pretraining: cross-entropy alone, at the rates of a new network."""
    recipe, default = config.recipe, RecipeConfig()
    plain = replace(
        recipe,
        epochs=recipe.pretrain_epochs,
        drop_epoch=recipe.pretrain_epochs,
        embed_lr=recipe.classifier_lr,
        baseline_embed_lr=recipe.classifier_lr,
        **{name: getattr(default, name) for name in OF_THE_ROW},
    )
    return replace(config, method=MethodConfig(source_triplet=False, target_views="none"), recipe=plain)


# ---------------------------------------------------------------- training


def train_reid(
    work: Workspace,
    config: HHLConfig,
    data: ReIDDataset,
    views: TargetViews,
    start: Stage | None = None,
) -> None:
    """Trains a network on the labelled `data` and the target's views; writes `model.pt`."""
    seed_everything(work.seed, deterministic=work.options.deterministic)
    schedule = plan_steps(config.recipe, config.method, data, views, work.seed)
    schedule = with_images(schedule, train_transforms(config.net, config.recipe, views.first_size), work)
    num_ids, triplet = len(data.train_labels), bool({"source", "target"} & set(schedule.parts))
    model = build_network(config.net, num_ids, triplet=triplet).to(work.device)
    if start is not None:
        model.base.load_state_dict(load_network(start.folder / "model.pt").base.state_dict())
    optimizer = build_optimizer(config.recipe, model, triplet=triplet)
    label = "re-ID" if config.recipe.pretrain_epochs == 0 or start else "pretraining"
    state: dict[str, Stateful] = {"model": model, "optimizer": optimizer}
    if schedule.clusters is not None:
        state["clusters"] = schedule.clusters
    loop = Loop(work, schedule.total, state, label=label, save_every=schedule.steps_per_epoch)
    accelerate(model, work.device, work.options).train()
    run_steps(config, model, optimizer, loop, schedule)
    if loop.main:
        content = {"state_dict": model.state_dict(), "num_ids": num_ids, "net": canonical(config.net)}
        save_checkpoint(work.folder / "model.pt", content)


def run_steps(
    config: HHLConfig, model: HHLNet, optimizer: torch.optim.Optimizer, loop: Loop, schedule: Schedule
) -> None:
    """Runs the training loop.

    Each part of a batch is forwarded separately, in the released order, and moves the batch-norm statistics.
    """
    recipe, method, views = config.recipe, config.method, schedule.views
    forward = forward_single if recipe.single_pass else forward_parts
    for step, batch in loop.over(load_epochs(model, loop, schedule)):
        scale_learning_rate(optimizer, 0.1 ** (step // schedule.steps_per_epoch // recipe.drop_epoch))
        logits, embeddings = forward(model, {name: part.images for name, part in batch.items()})
        loss = torch.zeros((), device=loop.workspace.device)
        terms: dict[str, Tensor | float] = {}

        # cross-entropy of the labelled images
        if logits is not None:
            labels = labels_of(batch, "classify")
            cross_entropy = F.cross_entropy(logits, labels)  # L_cross, Eq. 1
            accuracy = (logits.argmax(1) == labels).float().mean()
            terms |= {"cross_entropy": cross_entropy, "accuracy": accuracy}
            loss = loss + cross_entropy

        # triplets over source images and target views together
        if embeddings is not None:
            labels = labels_of(batch, "source", "target")
            target_images = len(batch["target"].indices) // views.num_views if "target" in batch else 0
            mask = anchor_mask(method.target_anchors, len(labels), target_images, views.num_views)
            triplet, share = triplet_term(method, embeddings, labels, mask)  # L_T, L_C, L_D, L_CD: Eqs. 2-5
            terms |= {"triplet": triplet, SHARE[method.triplets]: share}
            loss = loss + method.beta * triplet  # L_HHL, Eq. 6

        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        if "target" in batch:
            terms["repeated_people"] = float(views.repeats_a_person(batch["target"].indices))
        loop.log(step, **terms)


def load_epochs(model: HHLNet, loop: Loop, schedule: Schedule) -> Iterator[dict[str, Batch]]:
    """Yields the parts of each step, epoch by epoch; clusters are recomputed as an epoch begins."""
    work, step = loop.workspace, loop.start
    while step < loop.total:
        epoch, position = divmod(step, schedule.steps_per_epoch)
        if position == 0 and schedule.clusters is not None:
            features = embedder(model, TestConfig(), work.device, work.options.workers)
            pool5 = features.embed(model.eval(), schedule.views.originals)["pool5"]
            schedule.clusters.refresh(pool5, epoch)
            model.train()
        stop = (epoch + 1) * schedule.steps_per_epoch
        parts = [
            loop.load(schedule.images[name], part.plan, part.labels, start=step, stop=stop)
            for name, part in schedule.parts.items()
        ]
        for batches in zip(*parts):
            yield dict(zip(schedule.parts, batches))
        step = stop


def labels_of(batch: dict[str, Batch], *names: str) -> Tensor:
    """Returns the labels `(N,)` of the named parts, as far as the batch has them."""
    return torch.cat(
        [part.labels for name, part in batch.items() if name in names and part.labels is not None]
    )


def forward_parts(model: HHLNet, images: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Returns logits of `classify` and embeddings `(N, D)` of `source` and `target`, in one pass for each."""
    logits = gather(model(images["classify"])) if "classify" in images else None
    embeddings = [gather(model(images[name], "triplet")) for name in ("source", "target") if name in images]
    return logits, torch.cat(embeddings) if embeddings else None


def forward_single(model: HHLNet, images: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Returns the same from one pass over the whole batch, which then shares its batch-norm statistics."""
    if model.triplet is None:
        return forward_parts(model, images)
    parts = [len(part) for part in images.values()]
    logits, embeddings = (output.split(parts) for output in model(torch.cat(list(images.values())), "both"))
    of_triplet = [gather(rows) for name, rows in zip(images, embeddings) if name != "classify"]
    return gather(logits[0]) if "classify" in images else None, torch.cat(of_triplet) if of_triplet else None


def anchor_mask(target_anchors: str, n: int, target_images: int, num_views: int) -> Tensor:
    """Returns which rows `(n,)` are anchors; rows: source, target images, their fakes style by style."""
    first_target = n - target_images * num_views
    first_other = {"all": n, "real": first_target + target_images, "none": first_target}[target_anchors]
    return torch.arange(n) < first_other


# the second number of `triplet_term`, by kind of triplets
SHARE = {"hard": "triplet_precision", "all": "triplet_active", "all_nonzero": "triplet_active"}


def triplet_term(
    method: MethodConfig, embeddings: Tensor, labels: Tensor, anchors: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the row's triplet loss, and the share of correct anchors (batch hard) or of active triplets."""
    if method.triplets == "hard":
        return batch_hard_triplet(
            embeddings,
            labels,
            margin=method.margin,
            self_positive=method.self_positive,
            anchors=anchors.to(labels.device),
            hinge=method.hinge,
            reduction=method.reduction,
        )
    mean_of_all, mean_of_active, active = batch_all_triplet(embeddings, labels, margin=method.margin)
    return {"all": mean_of_all, "all_nonzero": mean_of_active}[method.triplets], active


def build_optimizer(recipe: RecipeConfig, model: HHLNet, *, triplet: bool) -> torch.optim.SGD:
    """Returns SGD with the groups of `parameter_groups`.

    Rows without a triplet loss train FC-1024 as the released `baseline.py` does.
    """
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


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(HHL, train, argv, check=check)


if __name__ == "__main__":
    sys.exit(main())
