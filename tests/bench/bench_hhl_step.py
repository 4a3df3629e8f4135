"""Images a second of HHL's training step: the released loop's arithmetic beside ours with the flags of the
command line. Run by hand:

    python tests/bench/bench_hhl_step.py [--device cuda] [--workers 8] [--pairs 3] [--variants plain pack
    bf16+pack bf16+pack+compile]

On CUDA the network and the batch are the paper's (ResNet-50, 256x128, 128 + 64 + 16 x 7 images); on a CPU the
demo's thin ResNet and a quarter of the batch. Each pair trains first the released way and then ours, in one
process; medians of the pairs are printed. First steps (workers, kernels, compilation) are left out of the
time. The pictures are smooth noise: they cost what photographs of their size cost.

The released way, restated: three loaders whose workers decode and augment with Pillow, a pass through the
network for each, in float32 and rows of pixels before channels, the loss read back after every step.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF

from common.datasets import ReIDDataset, Sample
from common.datasets.loading import IMAGENET_MEAN, IMAGENET_STD
from common.job import Options, Workspace
from common.training import Loop, accelerate, count_images
from hhl.augmentation import crop_box, train_transforms
from hhl.config import HHLConfig, NetConfig, RecipeConfig
from hhl.data import PSEUDO_LABELS, plan_steps, with_images
from hhl.losses import batch_hard_triplet
from hhl.model import build_network
from hhl.train import build_optimizer, run_steps
from hhl.views import TargetViews

FILES, PEOPLE, CAMERAS = 256, 64, 6
VARIANTS = ("plain", "pack", "bf16+pack", "bf16+pack+compile")


class Clock(Loop):
    """A training loop that times the steps after the first ones and logs nothing."""

    def __init__(self, work: Workspace, warm_up: int, steps: int):
        super().__init__(work, warm_up + steps, {}, label="bench")
        self.warm_up, self.device = warm_up, work.device
        self.images, self.begun, self.seconds = 0, 0.0, 0.0

    def over(self, batches: Iterator) -> Iterator[tuple[int, object]]:
        for step, batch in enumerate(batches):
            if step == self.warm_up:
                self.begun = self._now()
            if step >= self.warm_up:
                self.images += count_images(batch)
            yield step, batch
            if step + 1 == self.total:
                break
        self.seconds = self._now() - self.begun

    def log(self, step: int, **terms) -> None:
        pass

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


# ---------------------------------------------------------------- data


def draw_domain(folder: Path, repeats: int) -> tuple[ReIDDataset, TargetViews]:
    """Draws `FILES * repeats` training samples and their views: real images of 128x64, styles of 256x128.

    The files are repeated.
    """
    rng = np.random.default_rng(0)
    train, styled = [], [[] for _ in range(CAMERAS)]
    for number in range(FILES):
        noise = Image.fromarray(rng.integers(0, 256, (16, 8, 3), np.uint8))
        path = folder / f"{number:04d}.jpg"
        noise.resize((64, 128), Image.Resampling.BICUBIC).save(path)
        sample = Sample(path, 1 + number % PEOPLE, number % CAMERAS)
        train.append(sample)
        for k in range(CAMERAS):
            fake = folder / f"{number:04d}_fake_{k + 1}.jpg"
            noise.resize((128, 256), Image.Resampling.BICUBIC).save(fake)
            styled[k].append(replace(sample, path=fake))
    views = [sample for view in (train, *styled) for sample in view * repeats]
    return ReIDDataset("noise", folder, train * repeats, [], [], CAMERAS), TargetViews(views, CAMERAS + 1)


# ---------------------------------------------------------------- the released way


class OpenedImages(Dataset):
    """An item is the views of one image, each opened, cropped, resized, mirrored and normalised by Pillow and
    torch; and its label.
    """

    def __init__(
        self, views: Sequence[Sequence[Path]], labels: Sequence[int] | None, height: int, width: int
    ):
        self.views, self.labels, self.size = views, labels, (height, width)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        label = (
            random.randrange(PSEUDO_LABELS.start, PSEUDO_LABELS.stop)
            if self.labels is None
            else self.labels[index]
        )
        return [self.augmented(path) for path in self.views[index]], label

    def augmented(self, path: Path) -> Tensor:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        image = image.crop(crop_box(*image.size, random)).resize(self.size[::-1], Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = TF.hflip(image)
        return TF.normalize(TF.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)


def by_identity(pids: Sequence[int], ids: int, images_per_id: int, batches: int) -> list[list[int]]:
    """Batches of `images_per_id` images of each of `ids` people."""
    of_pid = {pid: [i for i, other in enumerate(pids) if other == pid] for pid in set(pids)}
    return [
        [
            i
            for pid in random.sample(sorted(of_pid), ids)
            for i in random.choices(of_pid[pid], k=images_per_id)
        ]
        for _ in range(batches)
    ]


def released_batches(
    config: HHLConfig,
    source: ReIDDataset,
    views: TargetViews,
    clock: Clock,
):
    """Steps of {part: images}, {part: labels} on the device."""
    recipe, size, device = config.recipe, (config.net.height, config.net.width), clock.device
    pids, count, samples = [s.pid - 1 for s in source.train], views.num_images, views.samples
    labelled = OpenedImages([[s.path] for s in source.train], pids, *size)
    targets = OpenedImages([[s.path for s in samples[i::count]] for i in range(count)], None, *size)
    settings = {"num_workers": clock.workspace.options.workers, "pin_memory": device.type == "cuda"}
    loaders = {
        "classify": DataLoader(
            labelled, recipe.scaled(recipe.batch), shuffle=True, drop_last=True, **settings
        ),
        "source": DataLoader(
            labelled,
            batch_sampler=by_identity(pids, recipe.ids, recipe.scaled(recipe.images_per_id), clock.total),
            **settings,
        ),
        "target": DataLoader(
            targets, recipe.scaled(recipe.target_batch), shuffle=True, drop_last=True, **settings
        ),
    }
    for parts in zip(*loaders.values()):
        images = {name: torch.cat(part[0]).to(device) for name, part in zip(loaders, parts)}
        yield images, {name: part[1].repeat(len(part[0])).to(device) for name, part in zip(loaders, parts)}


def released(config: HHLConfig, source: ReIDDataset, views: TargetViews, clock: Clock) -> None:
    model = build_network(config.net, PEOPLE, triplet=True).to(clock.device).train()
    optimizer = build_optimizer(config.recipe, model, triplet=True)
    for _, (images, labels) in clock.over(released_batches(config, source, views, clock)):
        outputs = [
            model(images["classify"]),
            model(images["source"], "triplet"),
            model(images["target"], "triplet"),
        ]
        together = torch.cat([labels["source"], labels["target"]])
        triplet = batch_hard_triplet(torch.cat(outputs[1:]), together, margin=config.method.margin)[0]
        loss = F.cross_entropy(outputs[0], labels["classify"]) + config.method.beta * triplet
        loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# ---------------------------------------------------------------- ours


def ours(config: HHLConfig, source: ReIDDataset, views: TargetViews, clock: Clock) -> None:
    work = clock.workspace
    schedule = plan_steps(config.recipe, config.method, source, views, work.seed)
    schedule = with_images(schedule, train_transforms(config.net, config.recipe, views.first_size), work)
    model = build_network(config.net, PEOPLE, triplet=True).to(work.device)
    optimizer = build_optimizer(config.recipe, model, triplet=True)
    accelerate(model, work.device, work.options).train()
    run_steps(config, model, optimizer, clock, schedule)


def compare(
    config: HHLConfig,
    device: torch.device,
    *,
    variants: Sequence[str] = VARIANTS,
    pairs: int = 3,
    warm_up: int = 5,
    steps: int = 20,
    workers: int = 0,
) -> dict[str, tuple[float, float, float]]:
    """variant -> medians over alternating pairs: images a second as released, ours, and the ratio of the
    pair.
    """
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        batch = config.recipe.scaled(config.recipe.batch)
        # no loader starts a second pass
        source, views = draw_domain(Path(folder), repeats=-(-batch * (warm_up + steps) // FILES))

        def speed(train: Callable, variant: str) -> float:
            options = Options(
                workers=workers,
                precision="bf16" if "bf16" in variant else "fp32",
                compile="compile" in variant,
                pack="pack" in variant,
            )
            cache = Path(folder) / "cache" if options.pack else None
            clock = Clock(Workspace(Path(folder), False, 0, device, options, cache), warm_up, steps)
            train(config, source, views, clock)
            return clock.images / clock.seconds

        for variant in variants:
            rounds = np.array([(speed(released, variant), speed(ours, variant)) for _ in range(pairs)])
            figures[variant] = (*np.median(rounds, axis=0), float(np.median(rounds[:, 1] / rounds[:, 0])))
    return figures


def settings(device: torch.device) -> HHLConfig:
    """The paper's sizes on CUDA, the demo's on a CPU; no weights are read."""
    if device.type == "cuda":
        return HHLConfig(net=NetConfig(weights="none"))
    return HHLConfig(
        net=NetConfig(backbone="thin", weights="none", height=64, width=32),
        recipe=RecipeConfig(batch_scale=0.25),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="HHL's training step, as released and ours")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    options = parser.parse_args()
    device = torch.device(options.device)
    figures = compare(
        settings(device),
        device,
        variants=options.variants,
        pairs=options.pairs,
        warm_up=options.warm_up,
        steps=options.steps,
        workers=options.workers,
    )
    print(f"{'images a second':20} {'released':>9} {'ours':>9} {'ratio':>6}")
    for variant, (theirs, own, ratio) in figures.items():
        print(f"{variant:20} {theirs:9.1f} {own:9.1f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
