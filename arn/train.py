"""Trains and scores one row of ARN: E_I on the source, then all modules together on both domains, then scores
on the target.

Released counterpart: `reid_main.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from arn import pictures
from arn.config import ARNConfig, RecipeConfig
from arn.data import Labelled, labelled_samples, plans, train_images
from arn.doubts import warn
from arn.evaluate import architecture, load_network, score
from arn.experiments import ARN
from arn.judges import judge_codes
from arn.losses import (
    contrastive_loss,
    difference_loss,
    mean_cosine,
    mmd_loss,
    reconstruction_loss,
    weighted_sum,
)
from arn.model import ARNNet, Codes, build_network, load_weights, modules_of_group, parameter_groups
from arn.pretrain import pretrain
from common import cli
from common.backbones import BatchNorm
from common.checkpoints import file_hash, load_checkpoint, save_checkpoint
from common.datasets import ReIDDataset
from common.datasets.cameras import parse_split
from common.errors import InputError
from common.job import Job, Workspace
from common.records import Record
from common.runs import Stage, rank_and_world, read_curves
from common.training import Loop, accelerate, average_gradients, seed_everything


def train(job: Job) -> Record:
    """Runs one row of the ablation, or one question: its stages, its scores, its pictures, its record."""
    source = labelled_samples(job.source, job.config.recipe.source_split)
    start = pretrain_stage(job, source) if ei_learns_first(job.config) else None
    joint = joint_stage(job, source, start)
    scored = score_stage(job, joint)
    judged = judge_codes(job, source, joint)
    if job.main:
        pictures.draw(job)
    measures = scored.json("measures.json") | last_accuracy(joint) | judged
    return job.record(scored.json("scores.json"), measures=measures)


def pretrain_stage(job: Job, source: Labelled) -> Stage:
    """Declares the stage of E_I, the same for every row of a seed."""
    net, pretraining, recipe = job.config.net, job.config.pretrain, job.config.recipe
    depends_on = {
        "net": [net.backbone, net.weights, net.height, net.width, net.normalise, net.bn_splits],
        "pretrain": pretraining,
        "recipe": [recipe.momentum, recipe.weight_decay, recipe.flip, recipe.source_split],
        "source": job.source.manifest,
    }

    def build(work: Workspace) -> None:
        pretrain(net, pretraining, recipe, source, work)

    return job.training_stage("pretrain", depends_on, build, weights=net.weights)


def joint_stage(job: Job, source: Labelled, start: Stage | None) -> Stage:
    """Declares the stage of all modules, on top of E_I's stage or of `recipe.init`."""
    config, init = job.config, job.config.recipe.init
    fields = ("net", "latent", "dec", "w", "cls", "ctr", "rec", "diff", "lr", "recipe")
    depends_on = {
        **{name: getattr(config, name) for name in fields},
        "start": start.hash if start else file_hash(init) if init else "",
        "source": job.source.manifest,
        "target": job.target.manifest,
    }

    def build(work: Workspace) -> None:
        train_jointly(config, source, job.target, start, work)

    return job.training_stage("joint", depends_on, build, weights=config.net.weights)


def score_stage(job: Job, joint: Stage) -> Stage:
    """Declares the scores of the finished network."""
    ranked = job.config.ranked
    depends_on = {"joint": joint.hash, "target": job.target.manifest, "test": {"feature": ranked}}

    def build(work: Workspace) -> None:
        net, network = load_network(joint.folder / "model.pt")
        score(accelerate(network, work.device, work.options), net, ranked, job.target, work)

    return job.stage("scores", depends_on, build)


# ---------------------------------------------------------------- before the first stage


def check(job: Job) -> None:
    """Validates the run before any stage.

    Raises `InputError` for a batch that cannot be filled or is too small for its batch norm, labels of the
    people to be tested on, a loss without a term, a conv6 that cannot be placed, absent weights.
    """
    config, recipe = job.config, job.config.recipe
    source, target = labelled_samples(job.source, recipe.source_split), job.target
    plans(recipe, source.labels, len(target.train), seed=0)
    check_batches(config, rank_and_world()[1])
    if recipe.source_split == "all" and parse_split(job.source.name)[0] == parse_split(target.name)[0]:
        raise InputError(
            f"--recipe.source-split all: {job.source.name} and {target.name} are of one dataset, whose "
            "gallery shows the people that are tested on: use --recipe.source-split train, or two datasets"
        )
    if recipe.epochs and not weighted_terms(config):
        raise InputError(
            "--w.cls, --w.ctr, --w.rec, --w.diff, --w.mmd: expected a weight above 0 for at least one term "
            "that this row has, found none: raise one, or use --recipe.epochs 0"
        )
    with torch.device("meta"):  # shapes only: preset blog has 879 M parameters
        initial_network(config, source.num_ids, None)
    warn(config)


def check_batches(config: ARNConfig, processes: int) -> None:
    """Raises `InputError` unless every process, and every part of its batch under `bn_splits`, receives at
    least two images: a 1x1 code of one has no variance.
    """
    splits, batch = config.net.bn_splits, config.recipe.batch
    batches = {"recipe.batch": batch}
    if ei_learns_first(config):
        batches["pretrain.batch"] = config.pretrain.batch
    for name, images in batches.items():
        share, rest = divmod(images, processes)
        if rest or share < 2 or min(len(part) for part in torch.arange(share).chunk(splits)) < 2:
            raise InputError(
                f"--{name} {images}: expected an equal share for each process, here {processes}, and at "
                f"least 2 images in each of its parts, here {splits} (--net.bn-splits): use another batch, "
                "fewer processes or fewer splits"
            )
    if config.net.bn == "joint" and batch % (processes * splits):
        raise InputError(
            f"--recipe.batch {batch}: expected, for --net.bn joint, a multiple of {processes * splits} "
            "(processes times --net.bn-splits), so that every part holds as many images of both domains"
        )


def ei_learns_first(config: ARNConfig) -> bool:
    """Returns whether E_I has a separate stage before all modules train together."""
    return config.recipe.warmup == "source_ce" and not config.recipe.init


# ---------------------------------------------------------------- the joint training


def train_jointly(
    config: ARNConfig, source: Labelled, target: ReIDDataset, start: Stage | None, work: Workspace
) -> None:
    """Trains all modules on both domains and writes `model.pt`. With several processes every one computes the
    losses of the whole batch.
    """
    seed_everything(work.seed, deterministic=work.options.deterministic)
    net, recipe = config.net, config.recipe
    plan = plans(recipe, source.labels, len(target.train), work.seed)
    images_s = train_images(source.samples, net, recipe.flip, "source", work)
    images_t = train_images(target.train, net, recipe.flip, "target", work)
    model = initial_network(config, source.num_ids, start)
    accelerate(model, work.device, work.options).train()
    if recipe.ei_bn_eval:
        model.encoder_base.eval()
    optimizer = build_optimizer(config, model)
    loop = Loop(
        work,
        recipe.epochs * plan.steps_per_epoch,
        {"model": model, "optimizer": optimizer},
        label="ARN",
        save_every=plan.steps_per_epoch,
    )
    batches = zip(loop.load(images_t, plan.target), loop.load(images_s, plan.source, source.labels))

    for step, (batch_t, batch_s) in loop.over(batches):
        epoch = step // plan.steps_per_epoch
        set_learning_rates(optimizer, learning_rates(config, epoch))
        resting = resting_groups(recipe, epoch) if recipe.rest == "all" else ()

        with statistics_at_rest(model, resting):
            codes = model(batch_t.images, batch_s.images, rebuild=config.w.rec > 0)
        codes_t, codes_s = (of_domain.gathered() for of_domain in codes)
        terms = loss_terms(config, codes_t, codes_s, batch_s.labels)  # Eqs. 1-4
        loss = weighted_sum(config.w, terms)  # L, Eq. 5

        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        drop_gradients(optimizer, resting)
        optimizer.step()
        loop.log(step, total=loss, **terms, **code_statistics(codes_t, codes_s, batch_s.labels))

    if loop.main:
        saved = {"num_ids": source.num_ids, "architecture": architecture(config)}
        save_checkpoint(work.folder / "model.pt", {"state_dict": model.state_dict(), **saved})


def initial_network(config: ARNConfig, num_ids: int, start: Stage | None) -> ARNNet:
    """Builds the network before the joint training: E_I from its stage, or all but C_S from `recipe.init`."""
    backbone = load_checkpoint(start.folder / "base.pt")["state_dict"] if start else None
    model = build_network(config, num_ids, backbone)
    if config.recipe.init:
        load_weights(model, config.recipe.init, classifier=False)
    return model


def build_optimizer(config: ARNConfig, model: ARNNet) -> torch.optim.Optimizer:
    """Returns SGD, as released, or Adam, over the parameter groups of the modules."""
    groups, recipe = parameter_groups(model, config.lr), config.recipe
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(groups, betas=(recipe.momentum, 0.999), weight_decay=recipe.weight_decay)
    return torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def weighted_terms(config: ARNConfig) -> set[str]:
    """Returns the terms of Eq. 5 that have a weight, under the names of their weights; L_diff only beside
    private encoders.
    """
    weighted = {name for name, weight in vars(config.w).items() if weight > 0}
    return weighted if config.latent.private else weighted - {"diff"}


def loss_terms(config: ARNConfig, target: Codes, source: Codes, labels: Tensor) -> dict[str, Tensor]:
    """Returns the `weighted_terms` of Eq. 5, before their weights."""
    terms, weighted = {}, weighted_terms(config)

    # the source's identities, from the common code alone
    if "cls" in weighted:
        reduction = config.cls.reduction
        terms["cls"] = F.cross_entropy(source.logits, labels, reduction=reduction)  # L_class, Eq. 1
    if "ctr" in weighted:
        terms["ctr"] = contrastive_loss(source.common, labels, **vars(config.ctr))  # L_ctrs, Eq. 2

    # both domains, without labels
    if "rec" in weighted:
        form = {"norm": config.rec.norm, "reduction": config.rec.reduction}
        rec_t = reconstruction_loss(target.rebuilt, target.original, **form)
        rec_s = reconstruction_loss(source.rebuilt, source.original, **form)
        terms["rec"] = rec_t + rec_s  # L_rec, Eq. 3
    if "diff" in weighted:
        diff_t = difference_loss(target.common, target.private, **vars(config.diff))
        diff_s = difference_loss(source.common, source.private, **vars(config.diff))
        terms["diff"] = diff_t + diff_s  # L_diff, Eq. 4
    if "mmd" in weighted:
        terms["mmd"] = mmd_loss(target.common, source.common)  # L_MMD, released code
    return terms


@torch.no_grad()
def code_statistics(target: Codes, source: Codes, labels: Tensor) -> dict[str, Tensor]:
    """Returns diagnostics beside the losses."""
    statistics = {"source_accuracy": (source.logits.argmax(1) == labels).float().mean()}
    if source.private is not None:
        statistics["cosine_source"] = mean_cosine(source.common, source.private)
        statistics["cosine_target"] = mean_cosine(target.common, target.private)
    return statistics


def learning_rates(config: ARNConfig, epoch: int) -> dict[str, float]:
    """Returns the rate of each parameter group in an epoch: during `literal_ei` only E_I moves, during
    `freeze_ei` all but E_I.
    """
    recipe = config.recipe
    factor = 0.1 ** (epoch // recipe.drop_epoch) if recipe.drop_epoch else 1.0
    resting = resting_groups(recipe, epoch)
    return {name: 0.0 if name in resting else factor * rate for name, rate in vars(config.lr).items()}


def resting_groups(recipe: RecipeConfig, epoch: int) -> tuple[str, ...]:
    """Returns the parameter groups that do not move in an epoch, because it belongs to the warm-up."""
    if epoch >= recipe.warmup_epochs:
        return ()
    return {"literal_ei": ("latent", "cls"), "freeze_ei": ("ei",)}.get(recipe.warmup, ())


@contextmanager
def statistics_at_rest(model: ARNNet, groups: Sequence[str]) -> Iterator[None]:
    """Keeps the running statistics of the modules of parameter groups; batches are normalised as before."""
    norms = [
        module
        for name in groups
        for owner in modules_of_group(model, name)
        for module in owner.modules()
        if isinstance(module, BatchNorm)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    yield
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def drop_gradients(optimizer: torch.optim.Optimizer, groups: Sequence[str]) -> None:
    """Removes the gradients of parameter groups, so that the step leaves their momentum as it is."""
    for group in optimizer.param_groups:
        if group["name"] in groups:
            for parameter in group["params"]:
                parameter.grad = None


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: dict[str, float]) -> None:
    """Sets the rate of each parameter group by its name."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]]


def last_accuracy(joint: Stage) -> dict[str, float]:
    """Returns `source_accuracy`, C_S's on its last training batches."""
    path = joint.folder / "curves.jsonl"
    lines = read_curves(path) if path.is_file() else []
    return {"source_accuracy": lines[-1]["source_accuracy"]} if lines else {}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return cli.main(ARN, train, argv, check=check)


if __name__ == "__main__":
    sys.exit(main())
