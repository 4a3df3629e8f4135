"""Trains and scores one row of DCGAN + LSRO: the DCGAN, its images, the re-ID network on real and generated
people, its scores.

Released counterpart: `train_id_net_res_market_*.m` and `examples/cnn_train_dag.m`; supervised, so source and
target are one dataset.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from common.augment import on_device, training_images
from common.checkpoints import save_checkpoint, weights_content
from common.cli import main
from common.job import Options
from common.datasets import ReIDDataset, Sample
from common.datasets.images import read_image
from common.datasets.loading import planned_loader
from common.errors import InputError
from common.hashing import canonical, digest
from common.records import Record
from common.runs import Run, Workspace, rank_and_world, read_curves
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
from dcgan_lsro import pictures
from dcgan_lsro.config import LSROConfig, MethodConfig, RecipeConfig
from dcgan_lsro.data import (
    TrainTransform,
    check_strangers,
    first_images,
    load,
    matched_count,
    people_without_labels,
    schedule,
    training_set,
    unlabelled_count,
    weight_decay,
)
from dcgan_lsro.dcgan.sample import FOLDER, diversity, sample
from dcgan_lsro.dcgan.train import load_generator, train_dcgan
from dcgan_lsro.evaluate import box_files, load_network, score
from dcgan_lsro.experiments import LSRO
from dcgan_lsro.losses import all_in_one_losses, loss_parts, lsro_losses, pseudo_losses
from dcgan_lsro.model import build_network, parameter_groups

CACHED_IMAGES = 20_000  # a set up to this size is decoded once and kept in memory


def train(config: LSROConfig, run: Run, options: Options) -> Record:
    """One row of Tables 1 to 5 or a control: its stages, its scores, its pictures, its record."""
    device = pick_device(options.device)
    set_threads(options.threads)
    start_processes(device)
    check_batch(config.recipe.batch, rank_and_world()[1])
    run.device = str(device) if device.type == "cpu" else torch.cuda.get_device_name(device)
    if run.source != run.target:
        raise InputError(
            f"--source {run.source} --target {run.target}: this paper is supervised, give one dataset as both "
            "(evaluate.py --target scores a trained network elsewhere)"
        )
    dataset = load(config.eval, run.source, options.data_root)
    # weights that cannot be had should stop a run now, not after its GAN
    build_network(config.net, len(dataset.train_labels))
    if options.pack:
        # and so should what only the loader's workers can do
        TrainTransform(config.net, config.recipe.crop).on_device()

    unlabelled, uses, measures = unlabelled_images(config, dataset, run, device, options)
    uses |= {
        "net": config.net,
        "recipe": config.recipe,
        "method": config.method,
        "dataset": dataset.manifest,
        "seed": run.seed,
    }
    uses |= weights_content(config.net.weights) | options.numerics
    network = run.stage(
        "reid",
        uses,
        lambda work: train_reid(config, dataset, unlabelled, run.seed, device, work, options),
        collective=True,
    )
    scored = run.stage(
        "scores",
        {"reid": network.hash, "target": dataset.manifest, "eval": config.eval}
        | box_files(dataset, config.eval),
        lambda work: score(
            accelerate(load_network(network.folder / "model.pt"), device, options),
            dataset,
            config.eval,
            device,
            work,
            options.workers,
        ),
    )
    if rank_and_world()[0] == 0:
        pictures.draw(run, dataset, unlabelled)
    measures |= last_parts(network.folder / "curves.jsonl")
    return run.record(
        scored.json("scores.json"),
        data={"source": dataset.manifest, "target": dataset.manifest},
        selection="last epoch",
        measures=measures,
    )


def check_batch(batch: int, world: int) -> None:
    """Raises `InputError` for a batch that several processes cannot share equally: before the GAN, not after
    it.
    """
    if batch % world:
        raise InputError(
            f"--recipe.batch {batch}: a batch of {batch} images does not divide into {world} equal parts: change the batch size"
        )


def unlabelled_images(
    config: LSROConfig, dataset: ReIDDataset, run: Run, device: torch.device, options: Options
) -> tuple[list[Sample], dict, dict]:
    """The row's unlabelled images, what identifies them, and what was measured on them: drawn by a DCGAN,
    from a folder, or other real people.
    """
    count = unlabelled_count(config.method, len(dataset.train))
    if count == 0:
        return [], {}, {}
    if config.method.images == "people":
        other = load(config.eval, config.pool.people, options.data_root)
        check_strangers(other, dataset)
        return people_without_labels(other, count, run.seed), {"people": other.manifest}, {}
    if config.pool.folder:
        samples = first_images(Path(config.pool.folder), count)
        read_image(samples[0].path)  # a folder of other things should stop a run now
        return samples, {"folder": digest([(s.path.name, s.path.stat().st_size) for s in samples])}, {}
    return generated_images(config, dataset, count, run, device, options)


def generated_images(
    config: LSROConfig, dataset: ReIDDataset, count: int, run: Run, device: torch.device, options: Options
) -> tuple[list[Sample], dict, dict]:
    """The first `count` images of the pool: one DCGAN and one pool for all rows of a seed; a row that asks
    for more than it holds has its own.

    Both hang on the images that the GAN sees, not on the run's own: the splits of CUHK03 share Market-1501's.
    """
    seen = load(config.eval, config.dcgan.dataset, options.data_root) if config.dcgan.dataset else dataset
    network = replace(config.dcgan, dataset="")  # the manifest says it
    gan = run.stage(
        "dcgan",
        {"config": network, "dataset": seen.manifest, "seed": run.seed},
        lambda work: train_dcgan(
            network,
            seen.train,
            run.seed,
            device,
            work,
            workers=options.workers,
            deterministic=options.deterministic,
        ),
    )
    size = max(count, round(config.pool.amount * len(seen.train)))
    pool = replace(config.pool, amount=1.0, people="")  # the number of images says it

    def build(work: Workspace) -> None:
        seed_everything(run.seed, deterministic=options.deterministic)
        generator = load_generator(config.dcgan, gan.folder / "generator.pt", device)
        sample(generator, config.dcgan.z_dim, pool, size, run.seed, work, device, checkpoint_hash=gan.hash)
        work.write_json("measures.json", diversity(work.folder / FOLDER, [s.path for s in seen.train]))

    samples = run.stage("samples", {"dcgan": gan.hash, "pool": pool, "images": size, "seed": run.seed}, build)
    return (
        first_images(samples.folder / FOLDER, count),
        {"samples": samples.hash},
        samples.json("measures.json"),
    )


def train_reid(
    config: LSROConfig,
    dataset: ReIDDataset,
    unlabelled: Sequence[Sample],
    seed: int,
    device: torch.device,
    workspace: Workspace,
    options: Options,
) -> None:
    """Trains the network on one row's batches and writes `model.pt`."""
    seed_everything(seed, deterministic=options.deterministic)
    rank, world = rank_and_world()
    images = training_set(dataset, unlabelled, config.recipe.holdout, seed)
    steps = schedule(config, images.num_real, matched_count(config.method, len(dataset.train)), seed, world)
    model = build_network(config.net, images.num_ids + (config.method.loss == "all_in_one")).to(device)
    optimizer = build_optimizer(config, model)
    loop = Loop(
        workspace,
        steps.total,
        {"model": model, "optimizer": optimizer},
        label="re-ID",
        save_every=steps.steps_per_epoch,
    )
    accelerate(model, device, options).train()
    loader = planned_loader(
        training_images(
            images.samples,
            TrainTransform(config.net, config.recipe.crop),
            workspace.cache,
            seed=seed,
            stream="re-ID",
            keep=CACHED_IMAGES,
        ),
        steps,
        loop.start,
        loop.total,
        workers=options.workers,
        rank=rank,
        world=world,
        pin_memory=device.type == "cuda",
    )

    for step, (batch, _) in loop.over(loader):
        set_learning_rate(optimizer, rate_factor(config.recipe, steps.epoch(step)))
        labels, is_gan = images.batch(steps(step), device)  # of the whole batch, on every process

        logits = gather(model(on_device(batch, device)))
        # Eq. 7: over real and generated images together
        loss = image_losses(config.method, logits, labels, is_gan).mean()
        optimizer.zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        loop.log(step, loss=loss, **loss_parts(logits, labels, is_gan))

    if loop.main:
        save_checkpoint(
            workspace.folder / "model.pt",
            {
                "state_dict": model.state_dict(),
                "num_classes": model.classifier.out_features,
                "num_ids": images.num_ids,
                "net": canonical(config.net),
            },
        )


def image_losses(method: MethodConfig, logits: Tensor, labels: Tensor, is_gan: Tensor) -> Tensor:
    """One loss an image, `(B,)`, by the row's method."""
    if method.loss == "all_in_one":
        return all_in_one_losses(logits, labels, is_gan, method.eps)
    if method.loss == "pseudo":  # released: the weight stays at 0 to the end
        return pseudo_losses(
            logits, labels, is_gan, method.pseudo_weight if method.pseudo == "paper" else 0.0, method.eps
        )
    return lsro_losses(logits, labels, is_gan, method.eps, method.gan_weight)


def build_optimizer(config: LSROConfig, model: torch.nn.Module) -> torch.optim.SGD:
    """SGD; with Nesterov momentum it takes the steps of MatConvNet's `cnn_train_dag`."""
    recipe = config.recipe
    decay, decay_norm = weight_decay(recipe, config.method)
    groups = parameter_groups(model, recipe, decay, decay_norm=decay_norm)
    return torch.optim.SGD(groups, lr=recipe.base_lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def rate_factor(recipe: RecipeConfig, epoch: int) -> float:
    """What the learning rates are multiplied by in an epoch (from 0): one drop, Sec. 5.2."""
    return 0.1 if epoch >= recipe.drop_epoch else 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def last_parts(curves: Path) -> dict[str, float]:
    """The loss parts at the end of training, as measures of the record."""
    names = ("real_ce", "accuracy", "gan_kl", "gan_confidence")
    return {f"last_{name}": line[name] for line in read_curves(curves) for name in names if name in line}


if __name__ == "__main__":
    sys.exit(main(LSRO, train))
