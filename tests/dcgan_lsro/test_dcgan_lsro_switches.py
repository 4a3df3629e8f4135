"""Every field of the configuration, set to another value, changes the result that it is there to change.

A field without a case fails `test_every_field_has_a_case`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.checkpoints import load_checkpoint, save_checkpoint
from common.cli import override
from common.datasets import ReIDDataset, Sample, load_dataset
from common.job import Job, Options, Workspace
from common.runs import StageStore
from dcgan_lsro import data, evaluate
from dcgan_lsro import train as training
from dcgan_lsro.config import LSROConfig
from dcgan_lsro.dcgan.model import Generator
from dcgan_lsro.dcgan.sample import FOLDER, sample
from dcgan_lsro.dcgan.train import train_dcgan
from dcgan_lsro.experiments import LSRO
from dcgan_lsro.model import build_network

CPU = torch.device("cpu")
BASE = {
    "net.backbone": "thin",
    "net.weights": "none",
    "net.height": 16,
    "net.width": 8,
    "net.resize_height": 18,
    "net.resize_width": 10,
    "net.dropout": 0.2,
    "recipe.epochs": 2,
    "recipe.drop_epoch": 1,
    "recipe.batch": 6,
    "method.amount": 0.25,
    "method.pseudo_start": 1,
    "dcgan.network": "fork",
    "dcgan.height": 16,
    "dcgan.width": 16,
    "dcgan.z_dim": 4,
    "dcgan.g_channels": 2,
    "dcgan.d_channels": 2,
    "dcgan.epochs": 1,
    "dcgan.batch": 5,
    "pool.amount": 0.1,
    "pool.batch": 4,
    "pool.height": 24,
    "pool.width": 12,
}


# ---------------------------------------------------------------- what a configuration yields


class Bench:
    """Tiny data, and the results of a configuration on it, each computed once."""

    def __init__(self, folder: Path, data_root: Path, scatter: Callable):
        self.folder, self.data_root, self.number = folder, data_root, 0
        self.results: dict[tuple, Any] = {}
        train = [self._draw(f"{pid}_{n:02}.png", pid, scatter) for pid in (3, 5, 6) for n in range(10)]
        generated = [self._draw(f"gan_{n}.png", -1, scatter) for n in range(12)]
        self.people, self.generated = ReIDDataset("toy", folder, train, [], [], 2), generated
        self.market = load_dataset("market1501", data_root)
        self.noise = folder / "noise"
        self.noise.mkdir()
        for n in range(40):
            self._image(self.noise / f"{n:02}.png", scatter)
        torch.manual_seed(1)
        self.weights = str(folder / "weights.pth")
        save_checkpoint(
            self.folder / "weights.pth", build_network(override(LSROConfig(), BASE).net, 3).base.state_dict()
        )

    def _image(self, path: Path, scatter: Callable) -> None:
        pixels = (127 * (1 + scatter(path.name, 36, 18, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(path)

    def _draw(self, name: str, pid: int, scatter: Callable) -> Sample:
        self._image(self.folder / name, scatter)
        return Sample(self.folder / name, pid, len(name) % 2)

    def work(self) -> Workspace:
        self.number += 1
        work = Workspace(self.folder / f"work {self.number}", seed=0, device=CPU)
        work.folder.mkdir()
        return work

    def result(self, function: Callable, config: LSROConfig) -> Any:
        key = function, repr(config)
        if key not in self.results:
            self.results[key] = function(self, config)
        return self.results[key]

    def job(self, config: LSROConfig) -> Job:
        options = Options(source="market1501", target="market1501", data_root=self.data_root, device="cpu")
        store = StageStore(self.folder / "out")
        return Job("dcgan_lsro", LSRO.experiments[0], config, self.market, self.market, CPU, options, store)


def reid(bench: Bench, config: LSROConfig) -> Any:
    """The weights and statistics of the re-ID network after its training."""
    work, real = bench.work(), len(bench.people.train)
    unlabelled = bench.generated[: data.unlabelled_count(config.method, real)]
    training.train_reid(config, bench.people, unlabelled, work)
    return load_checkpoint(work.folder / "model.pt")["state_dict"]


def gan(bench: Bench, config: LSROConfig) -> Any:
    """The weights and statistics of the generator after its training."""
    work = bench.work()
    train_dcgan(config.dcgan, bench.people.train[:17], work)
    return load_checkpoint(work.folder / "generator.pt")


def pool(bench: Bench, config: LSROConfig) -> Any:
    """The bytes of generated images."""
    work = bench.work()
    torch.manual_seed(0)
    generator = Generator(config.dcgan)
    with torch.no_grad():  # images of different ranges
        generator.deconvolutions[-1].weight.mul_(20)
    sample(generator, config.pool, 5, work, checkpoint_hash="")
    return [(path.name, path.read_bytes()) for path in sorted((work.folder / FOLDER).iterdir())]


def unlabelled(bench: Bench, config: LSROConfig) -> Any:
    """The content of the unlabelled images of a run, and the number of images in the pool."""
    job = bench.job(config)
    images, *_ = training.unlabelled_images(job)
    kept = len(list((job.stages["samples"].folder / FOLDER).iterdir())) if "samples" in job.stages else 0
    return [s.path.read_bytes() for s in images], kept


def measures(bench: Bench, config: LSROConfig) -> Any:
    """The measures of the unlabelled images that a record holds."""
    return training.unlabelled_images(bench.job(config))[2]


def scored(bench: Bench, config: LSROConfig) -> Any:
    """The scores of an untrained network."""
    work = bench.work()
    torch.manual_seed(0)
    evaluate.score(build_network(config.net, 3).eval(), bench.market, config.eval, work)
    return json.loads((work.folder / "scores.json").read_text(encoding="utf-8"))


def loaded(bench: Bench, config: LSROConfig) -> Any:
    """What the reader of CUHK03 is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load_dataset", lambda *_, **options: options)
        return data.load("cuhk03", None, config.eval)


def views(bench: Bench, config: LSROConfig) -> Any:
    """The features of the test views."""
    torch.manual_seed(0)
    model = build_network(dataclasses.replace(config.net, dropout=0.0), 3).eval()
    samples = bench.people.train[:4]
    return [
        evaluate.embed(model, samples, evaluate.embedder(model, CPU, view=v)) for v in ("paper", "dense256")
    ]


PSEUDO = {"method.loss": "pseudo"}
SCALE = {"recipe.crop": "scale"}
# field: the result that it changes, its other value, and what else must hold for it to count
CASES: dict[str, tuple] = {
    "net.backbone": (views, "resnet18"),
    "net.weights": (reid, "FILE"),
    "net.height": (reid, 17),
    "net.width": (reid, 9),
    "net.resize_height": (reid, 19),
    "net.resize_width": (reid, 11),
    "net.dropout": (reid, 0.5),
    "net.bn_momentum": (reid, 0.3),
    "net.bn_average": (reid, "deviation"),
    "recipe.epochs": (reid, 3),
    "recipe.drop_epoch": (reid, 2),
    "recipe.batch": (reid, 7),
    "recipe.base_lr": (reid, 0.003),
    "recipe.lr_groups": (reid, "simple"),
    "recipe.momentum": (reid, 0.8),
    "recipe.nesterov": (reid, False),
    "recipe.weight_decay": (reid, 0.1),
    "recipe.pseudo_weight_decay": (reid, 0.1, PSEUDO),
    "recipe.crop": (reid, "scale"),
    "recipe.crop_share": (reid, "area", SCALE),
    "recipe.pseudo_interpolation": (reid, "bilinear", PSEUDO),
    "recipe.pseudo_conv1_rate": (reid, 0.5, PSEUDO),
    "recipe.holdout": (reid, 0.3),
    "method.loss": (reid, "all_in_one"),
    "method.amount": (reid, 0.4),
    "method.images": (unlabelled, "people", {"pool.people": "dukemtmc"}),
    "method.step_matched": (reid, True, {"method.loss": "none"}),
    "method.eps": (reid, 0.1),
    "method.gan_weight": (reid, 0.5),
    "method.pseudo": (reid, "released", PSEUDO),
    "method.pseudo_weight": (reid, 0.9, PSEUDO),
    "method.pseudo_start": (reid, 0, PSEUDO),
    "dcgan.network": (gan, "paper", {"dcgan.height": 32, "dcgan.width": 32}),
    "dcgan.dataset": (unlabelled, "dukemtmc"),
    "dcgan.height": (gan, 32),
    "dcgan.width": (gan, 32),
    "dcgan.z_dim": (gan, 5),
    "dcgan.g_channels": (gan, 3),
    "dcgan.d_channels": (gan, 3),
    "dcgan.order": (gan, "relu_bn"),
    "dcgan.epochs": (gan, 2),
    "dcgan.batch": (gan, 6),
    "dcgan.lr": (gan, 1e-3),
    "dcgan.beta1": (gan, 0.4),
    "dcgan.beta2": (gan, 0.9),
    "dcgan.g_steps": (gan, 1),
    "dcgan.flip": (gan, False),
    "dcgan.shuffle": (gan, False),
    "dcgan.adam": (gan, "tensorflow"),
    "dcgan.extra_passes": (gan, 1),
    "dcgan.upsampling": (gan, "resize"),
    "dcgan.augment_d": (gan, True),
    "dcgan.average": (gan, 0.9),
    "dcgan.precision": (gan, "bf16"),
    "dcgan.judge_steps": (measures, 2),
    "pool.amount": (unlabelled, 0.5),
    "pool.gen_bn": (pool, "running"),
    "pool.batch": (pool, 3),
    "pool.height": (pool, 25),
    "pool.width": (pool, 13),
    "pool.range": (pool, "stretch"),
    "pool.format": (pool, "jpeg"),
    "pool.quality": (pool, 20, {"pool.format": "jpeg"}),
    "pool.folder": (unlabelled, "FOLDER"),
    "pool.people": (
        unlabelled,
        "dukemtmc@c12",
        {"method.images": "people", "pool.people": "dukemtmc", "method.amount": 0.1},
    ),
    "eval.dense256": (scored, False),
    "eval.multi_query": (scored, False),
    "eval.cut": (scored, 1),
    "eval.cuhk03_protocol": (loaded, "767/700"),
    "eval.cuhk03_split": (loaded, 3),
}


def fields(config: object, prefix: str = "") -> list[str]:
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        names += fields(value, f"{field.name}.") if dataclasses.is_dataclass(value) else [prefix + field.name]
    return names


# ---------------------------------------------------------------- the test


@pytest.fixture(scope="module")
def bench(formulas, draw_data_root, tmp_path_factory) -> Bench:
    root = draw_data_root(train_ids=3, test_ids=3)
    market = root / "Market-1501-v15.09.15"
    shutil.copytree(market / "query", market / "gt_bbox")
    return Bench(tmp_path_factory.mktemp("bench"), root, formulas.scatter)


def test_every_field_has_a_case():
    assert list(CASES) == fields(LSROConfig())


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("name", CASES)
def test_a_switch_changes_its_result(name, bench):
    result, value, *needs = CASES[name]
    value = {"FILE": bench.weights, "FOLDER": str(bench.noise)}.get(str(value), value)
    config = override(LSROConfig(), {**BASE, **(needs[0] if needs else {})})
    changed = override(config, {name: value})
    assert changed != config
    assert not equal(bench.result(result, config), bench.result(result, changed))


def test_results_repeat(bench):
    """Without this the test above would show nothing."""
    config = override(LSROConfig(), BASE)
    for result in (reid, gan, pool, views):
        assert equal(result(bench, config), bench.result(result, config))


def test_multi_query_pools_by_mean_and_by_maximum(bench, monkeypatch):
    """Their scores on tiny data may be the same."""
    asked, original = [], evaluate.multi_query

    def recorded(*features: Any, pooling: str) -> np.ndarray:
        asked.append(pooling)
        return original(*features, pooling=pooling)

    monkeypatch.setattr(evaluate, "multi_query", recorded)
    scored(bench, override(LSROConfig(), BASE))
    assert asked == ["mean", "max"]
