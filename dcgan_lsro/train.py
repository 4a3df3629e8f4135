"""Trains and scores one row of DCGAN + LSRO: the DCGAN, its images, the re-ID network, its scores.

Released counterpart: `train_id_net_res_market_*.m` and `examples/cnn_train_dag.m`. The paper is supervised:
source and target are one dataset.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import cli
from common.augment import training_images
from common.checkpoints import save_checkpoint
from common.datasets import ReIDDataset, Sample
from common.datasets.contents import images_key
from common.datasets.images import read_image
from common.errors import InputError
from common.hashing import canonical
from common.job import Job, Workspace
from common.records import Record
from common.runs import rank_and_world, read_curves
from common.training import (
    Loop,
    accelerate,
    average_gradients,
    gather,
    scale_learning_rate,
    seed_everything,
)
from dcgan_lsro import pictures
from dcgan_lsro.config import LSROConfig, MethodConfig, RecipeConfig
from dcgan_lsro.data import (
    Schedule,
    check_strangers,
    first_images,
    load,
    matched_count,
    people_without_labels,
    phases,
    train_transform,
    training_set,
    unlabelled_count,
    weight_decay,
)
from dcgan_lsro.dcgan.sample import FOLDER, diversity, sample
from dcgan_lsro.dcgan.train import load_generator, train_dcgan
from dcgan_lsro.evaluate import box_files, load_network, score
from dcgan_lsro.experiments import LSRO
from dcgan_lsro.judges import judge_images
from dcgan_lsro.losses import UNLABELLED, all_in_one_losses, loss_parts, lsro_losses, pseudo_losses
from dcgan_lsro.model import ReIDNet, build_network, parameter_groups

CACHED_IMAGES = 20_000  # a set up to this size is decoded once and kept in memory
MEASURES = ("real_ce", "accuracy", "gan_kl", "gan_confidence")  # loss parts whose last value is recorded


def check(job: Job) -> None:
    """Validates the run before any stage. Raises `InputError`."""
    options, config = job.options, job.config
    batch, world = config.recipe.batch, rank_and_world()[1]
    if options.source != options.target:
        raise InputError(
            f"--source {options.source} --target {options.target}: this paper is supervised, "
            "give one dataset as both (evaluate.py --target scores a trained network elsewhere)"
        )
    if batch % world:
        raise InputError(
            f"--recipe.batch {batch}: a batch of {batch} images does not divide into {world} equal parts: "
            "change the batch size"
        )
    with torch.device("meta"):
        model = build_network(config.net, len(job.source.train_labels))
    check_last_batch(job, model)
    if options.pack:
        train_transform(config.net, config.recipe, config.method).on_device()


def check_last_batch(job: Job, model: ReIDNet) -> None:
    """Raises `InputError` for an epoch that ends with one image a process whose last map is one position:
    batch norm has no statistics of one value. `model`: the network on the meta device.
    """
    net, recipe, method = job.config.net, job.config.recipe, job.config.method
    real = training_set(job.source, [], recipe.holdout, job.seed).num_real
    others = matched_count(method, len(job.source.train))
    world = rank_and_world()[1]
    steps = Schedule(phases(recipe, method, real, others), recipe.batch, job.seed, world)
    images = torch.zeros(1, 3, net.height, net.width, device="meta")
    if steps.smallest == world and max(model.eval().base(images).shape[2:]) == 1:
        raise InputError(
            f"--recipe.batch {recipe.batch}: the last of {real + others} images of an epoch would be alone "
            f"in its batch, of which batch norm has no statistics (the last map of {net.height}x{net.width} "
            "images is 1x1): change --recipe.batch"
        )


def train(job: Job) -> Record:
    """Runs one row of Tables 1 to 5 or a control: its stages, its pictures, its record."""
    config, dataset = job.config, job.source
    unlabelled, origin, measures = unlabelled_images(job)
    reid = job.training_stage(
        "reid",
        {
            **origin,
            "net": config.net,
            "recipe": config.recipe,
            "method": config.method,
            "dataset": dataset.manifest,
        },
        lambda work: train_reid(config, dataset, unlabelled, work),
        weights=config.net.weights,
    )

    def score_reid(work: Workspace) -> None:
        network = accelerate(load_network(reid.folder / "model.pt"), work.device, work.options)
        score(network, dataset, config.eval, work)

    scores = job.stage(
        "scores",
        {
            "reid": reid.hash,
            "target": dataset.manifest,
            "eval": config.eval,
            **box_files(dataset, config.eval),
        },
        score_reid,
    )
    if job.main:
        pictures.draw(job, unlabelled)
    measures |= last_parts(reid.folder / "curves.jsonl")
    return job.record(scores.json("scores.json"), measures=measures)


def unlabelled_images(job: Job) -> tuple[list[Sample], dict[str, Any], dict[str, float]]:
    """Returns the row's unlabelled images, what identifies them in a stage's key, and measures of them.

    They are generated by a DCGAN, read from a folder, or real people of another dataset.
    """
    method, pool, dataset = job.config.method, job.config.pool, job.source
    count = unlabelled_count(method, len(dataset.train))
    if count == 0:
        return [], {}, {}
    if method.images == "people":
        people = load(pool.people, job.options.data_root, job.config.eval)
        check_strangers(people, dataset)
        return people_without_labels(people, count, job.seed), {"people": people.manifest}, {}
    if pool.folder:
        samples = first_images(Path(pool.folder), count)
        read_image(samples[0].path)  # stops at once for a folder of other files
        return samples, {"folder": images_key([s.path for s in samples], Path(pool.folder))}, {}
    return generated_images(job, count)


def generated_images(job: Job, count: int) -> tuple[list[Sample], dict[str, Any], dict[str, float]]:
    """Returns the first `count` images of the pool; all rows of a seed share one DCGAN and one pool.

    A row that needs more images than the pool holds generates a larger one. Both stages depend on the GAN's
    training images, not on the run's: the splits of CUHK03 share Market-1501's.
    """
    config, pool = job.config.dcgan, job.config.pool
    gan_data = load(config.dataset, job.options.data_root, job.config.eval) if config.dataset else job.source
    config = replace(config, dataset="", judge_steps=0)  # the manifest identifies the one; it takes no judge
    gan = job.stage(
        "dcgan",
        {"config": config, "dataset": gan_data.manifest},
        lambda work: train_dcgan(config, gan_data.train, work),
        seed=job.seed,
    )
    size = max(count, round(pool.amount * len(gan_data.train)))
    pool = replace(pool, amount=1.0, people="")  # the number of images replaces the amount

    def generate(work: Workspace) -> None:
        seed_everything(work.seed, deterministic=work.options.deterministic)
        generator = load_generator(config, gan.folder / "generator.pt", work.device)
        sample(generator, pool, size, work, checkpoint_hash=gan.hash)
        work.write_json("measures.json", diversity(work.folder / FOLDER, [s.path for s in gan_data.train]))

    samples = job.stage("samples", {"dcgan": gan.hash, "pool": pool, "images": size}, generate, seed=job.seed)
    images = first_images(samples.folder / FOLDER, count)
    measures = samples.json("measures.json") | judge_images(job, gan_data, samples, samples.folder / FOLDER)
    return images, {"samples": samples.hash}, measures


def train_reid(
    config: LSROConfig, dataset: ReIDDataset, unlabelled: Sequence[Sample], work: Workspace
) -> None:
    """Trains the network on one row's batches and writes `model.pt`."""
    recipe, method = config.recipe, config.method
    seed_everything(work.seed, deterministic=work.options.deterministic)
    images = training_set(dataset, unlabelled, recipe.holdout, work.seed)
    others = matched_count(method, len(dataset.train))
    world = work.rank_and_world[1]
    steps = Schedule(phases(recipe, method, images.num_real, others), recipe.batch, work.seed, world)
    model = build_network(config.net, images.num_ids + (method.loss == "all_in_one")).to(work.device)
    optimizer = build_optimizer(recipe, method, model)
    loop = Loop(
        work,
        steps.total,
        {"model": model, "optimizer": optimizer},
        label="re-ID",
        save_every=steps.steps_per_epoch,
    )
    accelerate(model, work.device, work.options).train()
    transform = train_transform(config.net, recipe, method)
    augmented = training_images(
        images.samples, transform, work.cache, seed=work.seed, stream="re-ID", keep=CACHED_IMAGES
    )

    for step, batch in loop.over(loop.load(augmented, steps, images.labels)):
        scale_learning_rate(optimizer, rate_factor(recipe, steps.epoch(step)))
        is_gan = batch.labels == UNLABELLED  # Z of Eq. 7

        logits = gather(model(batch.images))
        loss = image_losses(method, logits, batch.labels, is_gan).mean()  # L_LSRO, Eq. 7, over all images
        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        loop.log(step, loss=loss, **loss_parts(logits, batch.labels, is_gan))

    if loop.main:
        save_checkpoint(
            work.folder / "model.pt",
            {
                "state_dict": model.state_dict(),
                "num_classes": model.classifier.out_features,
                "num_ids": images.num_ids,
                "net": canonical(config.net),
            },
        )


def image_losses(method: MethodConfig, logits: Tensor, labels: Tensor, is_gan: Tensor) -> Tensor:
    """Returns one loss per image, `(B,)`, by the row's method."""
    if method.loss in ("none", "lsro"):
        return lsro_losses(logits, labels, is_gan, method.eps, method.gan_weight)
    if method.loss == "all_in_one":
        return all_in_one_losses(logits, labels, is_gan, method.eps)
    if method.loss == "pseudo":
        weight = method.pseudo_weight if method.pseudo == "paper" else 0.0  # released: 0 to the end
        return pseudo_losses(logits, labels, is_gan, weight, method.eps)
    raise ValueError(f"--method.loss {method.loss}: no loss of this name is implemented")


def build_optimizer(recipe: RecipeConfig, method: MethodConfig, model: ReIDNet) -> torch.optim.SGD:
    """Returns SGD; with Nesterov momentum its steps are those of MatConvNet's `cnn_train_dag`."""
    decay, decay_norm = weight_decay(recipe, method)
    groups = parameter_groups(model, recipe, decay, decay_norm=decay_norm)
    if method.loss == "pseudo" and recipe.pseudo_conv1_rate is not None:
        (conv1,) = (group for group in groups if group["name"] == "conv1")
        conv1["lr"] = conv1["initial_lr"] = recipe.base_lr * recipe.pseudo_conv1_rate
    return torch.optim.SGD(groups, lr=recipe.base_lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def rate_factor(recipe: RecipeConfig, epoch: int) -> float:
    """Returns the factor of the learning rates in an epoch (from 0): one drop, Sec. 5.2."""
    return 0.1 if epoch >= recipe.drop_epoch else 1.0


def last_parts(curves: Path) -> dict[str, float]:
    """Returns the last logged parts of the loss as measures of the record."""
    return {f"last_{name}": line[name] for line in read_curves(curves) for name in MEASURES if name in line}


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(
        LSRO, train, argv, check=check, load=lambda name, root, config: load(name, root, config.eval)
    )


if __name__ == "__main__":
    sys.exit(main())
