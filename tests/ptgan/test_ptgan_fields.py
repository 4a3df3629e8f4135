"""No switch of PTGAN silently does nothing: every field changes what it is there to change.

A field, set to another value, is compared by the result of the function that uses it, run on four drawn
people: the weights after a few steps (re-ID network, GAN), the masks, the stored images. The cases are
checked against the fields of the configuration: a new field without a case fails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.checkpoints import save_checkpoint
from common.cli import override
from common.datasets import ReIDDataset
from common.datasets.synthetic import load_synthetic
from common.hashing import canonical
from common.job import Workspace
from common.switches import switches
from ptgan import evaluate, masks, train, transfer
from ptgan import translate as translation
from ptgan.config import PRESETS, PTGANConfig
from ptgan.data import Domain, gan_transform
from ptgan.masks import mask_source
from ptgan.model import build_generator
from ptgan.reid import build_network, train_reid
from ptgan.train_gan import train_gan
from ptgan.translate import translate

CPU = torch.device("cpu")
BASE = override(
    PRESETS["demo"],
    {
        "recipe.epochs": 2,
        "recipe.drop_epoch": 2,
        "recipe.batch": 16,
        "gan.channels": 4,
        "gan.blocks": 1,
        "gan.d_channels": 4,
        "gan.epochs": 3,
        "gan.pool_size": 1,
    },
)


@dataclass(frozen=True)
class Case:
    """Another value of a field, and what else must be set for the field to matter."""

    value: Any
    given: Mapping[str, Any] = field(default_factory=dict)


REID = {
    "net.backbone": Case("resnet18"),
    "net.height": Case(48),
    "net.width": Case(24),
    "net.dropout": Case(0.1),
    "recipe.epochs": Case(1),
    "recipe.drop_epoch": Case(1),
    "recipe.batch": Case(20),
    "recipe.base_lr": Case(0.05),
    "recipe.classifier_lr": Case(0.05),
    "recipe.momentum": Case(0.5),
    "recipe.nesterov": Case(False),
    "recipe.weight_decay": Case(0.1),
    "recipe.colour_jitter": Case(0.3),
}
GAN = {
    "masks.aug": Case("released"),
    "gan.height": Case(48),
    "gan.width": Case(24),
    "gan.load_height": Case(80),
    "gan.load_width": Case(40),
    "gan.channels": Case(6),
    "gan.blocks": Case(2),
    "gan.downsamplings": Case(2),
    "gan.residual": Case(False),
    "gan.d_channels": Case(6),
    "gan.d_layers": Case(1),
    "gan.pad_mode": Case("symmetric"),
    "gan.adversarial": Case("sigmoid"),
    "gan.lambda_cyc": Case(3.0),
    "gan.lambda_id": Case(3.0),
    "gan.id_loss": Case("l2_rms"),
    "gan.id_reduce": Case("mask"),
    "gan.lambda_idt": Case(3.0),
    "gan.lr": Case(1e-3),
    "gan.lr_d": Case(1e-3),
    "gan.beta1": Case(0.1),
    "gan.epochs": Case(4),
    "gan.decay": Case("none"),
    "gan.decay_epoch": Case(0),
    "gan.batch": Case(2),
    "gan.pool_size": Case(0),
    "gan.shared_aug": Case(False),
    "gan.io": Case("scipy_bytescale"),
    "gan.adam": Case("tensorflow"),
    "gan.augment_d": Case(True),
    "gan.lambda_adv": Case(0.3),
    "gan.precision": Case("bf16"),
}
FILES = {
    "translation.size": Case("generator"),
    "translation.quality": Case(50),
    "gan.io": Case("scipy_bytescale"),
}
ON_DISK = {"masks.kind": "disk", "masks.source_folder": "own", "masks.target_folder": "own"}
MASKS = {
    "masks.kind": Case("gaussian"),
    "masks.source_folder": Case("elsewhere", ON_DISK),
    "masks.target_folder": Case("elsewhere", ON_DISK),
    "masks.model": Case("fcn_resnet50", {"masks.kind": "torchvision"}),
    "masks.classes": Case("any_fg", {"masks.kind": "torchvision"}),
}
OTHERS = {
    "net.weights": "test_weights_of_a_file_are_loaded",
    "gan.target_cameras": "test_rows_that_differ_in_their_training_images",
    "translation.kind": "test_rows_that_differ_in_their_training_images",
    "translation.folder": "test_rows_that_differ_in_their_training_images",
    "translation.judge_steps": "test_judges_are_asked_for",
}


def test_every_field_has_a_case():
    named = {*REID, *GAN, *FILES, *MASKS, *OTHERS}
    assert sorted(named) == sorted(row["name"] for row in switches(PRESETS))
    assert all(name in globals() for name in OTHERS.values())


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[ReIDDataset, ReIDDataset]:
    root = tmp_path_factory.mktemp("drawn")
    return tuple(
        load_synthetic(f"synthetic-{name}", root, train_ids=4, test_ids=2) for name in ("duke", "market")
    )


@pytest.fixture(scope="module")
def remembered() -> dict[str, str]:
    """Results of unchanged configurations, which several cases share."""
    return {}


def both(
    case: str, table: Mapping[str, Case], remembered: dict, result: Callable[[PTGANConfig], str]
) -> bool:
    """Returns whether the field changes the result."""
    plain = override(BASE, table[case].given)
    key = f"{result.__qualname__} {plain}"
    if key not in remembered:
        remembered[key] = result(plain)
    return remembered[key] != result(override(plain, {case: table[case].value}))


def fingerprint(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def weights(path: Path) -> str:
    state = torch.load(path, weights_only=True)
    return fingerprint(*(t.numpy().tobytes() for _, t in sorted(state.get("state_dict", state).items())))


@pytest.mark.parametrize("name", REID)
def test_the_network_after_two_epochs(name, pair, remembered, tmp_path):
    def trained(config: PTGANConfig) -> str:
        source, work = pair[0], Workspace(tmp_path, device=CPU)
        train_reid(config.net, config.recipe, source.train, source.train_labels, work)
        return weights(tmp_path / "model.pt")

    assert both(name, REID, remembered, trained)


@pytest.mark.parametrize("name", GAN)
def test_the_gan_after_three_epochs(name, pair, remembered, tmp_path):
    def trained(config: PTGANConfig) -> str:
        source, target = (Domain(data.train[:8], mask_source("oracle")) for data in pair)
        work = Workspace(tmp_path, device=CPU)
        train_gan(config.gan, gan_transform(config.gan, config.masks.aug), source, target, work)
        return weights(tmp_path / "networks.pt")

    assert both(name, GAN, remembered, trained)


@pytest.mark.parametrize("name", FILES)
def test_the_stored_images(name, pair, remembered, tmp_path):
    few = replace(pair[0], train=pair[0].train[:4])
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "generator.pt", build_generator(BASE.gan).state_dict())

    def stored(config: PTGANConfig) -> str:
        work = Workspace(tmp_path / f"{name} {config.translation} {config.gan.io}", device=CPU)
        work.folder.mkdir()
        stage = Stage(tmp_path)
        translate(few, config.gan, config.translation, stage, work)
        return fingerprint(*(path.read_bytes() for path in sorted(work.folder.rglob("*.jpg"))))

    assert both(name, FILES, remembered, stored)


def test_the_generator_makes_the_stored_images(pair, tmp_path):
    few = replace(pair[0], train=pair[0].train[:2])
    torch.manual_seed(0)
    save_checkpoint(
        tmp_path / "generator.pt", build_generator(replace(BASE.gan, residual=False)).state_dict()
    )
    stored = []
    for stage in (Stage(tmp_path), None):
        work = Workspace(tmp_path / str(stage is None), device=CPU)
        work.folder.mkdir()
        translate(few, replace(BASE.gan, residual=False), BASE.translation, stage, work)
        stored.append([path.read_bytes() for path in sorted(work.folder.rglob("*.jpg"))])
    assert len(stored[0]) == 2 and stored[0] != stored[1]


class Stage:
    """A finished stage of a GAN."""

    hash = "made here"

    def __init__(self, folder: Path):
        self.folder = folder


@pytest.mark.parametrize("name", MASKS)
def test_the_masks_that_the_gan_trains_with(name, pair, make_job, tmp_path, monkeypatch):
    datasets = [replace(data, train=data.train[:4]) for data in pair]
    for sample in (sample for data in datasets for sample in data.train):
        store_mask(tmp_path / "own", sample, ones=False)
        store_mask(tmp_path / "elsewhere", sample, ones=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(masks, "load_segmenter", Segmenter)

    def of_row(config: PTGANConfig) -> str:
        of_domains = transfer.gan_masks(make_job(config, *datasets))
        return fingerprint(
            *(of.of(s).tobytes() for of, data in zip(of_domains, datasets) for s in data.train)
        )

    assert both(name, MASKS, {}, of_row)


def store_mask(folder: Path, sample, *, ones: bool) -> None:
    """Writes the mask of a sample: its true one, or ones."""
    place = folder / sample.path.parent.name
    place.mkdir(parents=True, exist_ok=True)
    mask = mask_source("oracle")(sample)
    (place / f"{sample.path.stem}.png").write_bytes(masks.png_bytes(np.ones_like(mask) if ones else mask))


class Segmenter(torch.nn.Module):
    """Finds a person on the left, another class on the right; the network decides how far."""

    def __init__(self, name: str):
        super().__init__()
        self.columns = len(name)

    def forward(self, x):
        scores = torch.zeros(1, 21, *x.shape[2:])
        scores[:, 15, :, : self.columns * 4], scores[:, 3, :, -64:] = 1, 1
        return {"out": scores}


# ---------------------------------------------------------------- fields of whole stages


@pytest.mark.parametrize("backbone", ["thin", "googlenet"])
def test_weights_of_a_file_are_loaded(backbone, tmp_path):
    torch.manual_seed(3)
    net = replace(BASE.net, backbone=backbone)
    start = build_network(net, 8).base
    save_checkpoint(tmp_path / "start.pt", start.state_dict())
    model = build_network(replace(net, weights=str(tmp_path / "start.pt")), 8)
    assert all(torch.equal(a, b) for a, b in zip(model.base.parameters(), start.parameters()))


def test_a_trained_network_is_loaded_and_evaluated_with_the_flags(tmp_path, monkeypatch):
    torch.manual_seed(3)
    trained = build_network(BASE.net, 8)
    content = {"state_dict": trained.state_dict(), "num_ids": 8, "net": canonical(BASE.net)}
    save_checkpoint(tmp_path / "model.pt", content)
    monkeypatch.setattr(evaluate, "checkpoint_scores", lambda options, model, features: (model, features))
    for flip in (False, True):
        options = evaluate.Evaluate(tmp_path / "model.pt", flip=flip)
        model, features = evaluate.scores(options, CPU)
        assert features.flip is flip
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters()))


def test_rows_that_differ_in_their_training_images(pair, make_job, tmp_path):
    """Which GANs are trained, how many images come out, and where they lie."""

    def of_row(**changes: Any) -> tuple[set[str], int, bool]:
        config = override(BASE, {"gan.decay": "none", "gan.epochs": 1, "gan.batch": 4, **changes})
        job = make_job(config, *(replace(data, train=data.train[:12]) for data in pair))
        images = transfer.transferred(job)
        names = {name for name in job.stages if name.startswith("gan")}
        return names, len(images.samples), images.samples[0].path.parent == tmp_path / "images"

    (tmp_path / "images").mkdir()
    for sample in pair[0].train[:12]:
        (tmp_path / "images" / sample.path.name).write_bytes(sample.path.read_bytes())
    cameras = tuple(sorted({sample.camid + 1 for sample in pair[1].train[:12]}))[:2]
    each = {f"gan-cam{camera}" for camera in cameras}
    assert of_row() == ({"gan"}, 12, False)
    assert of_row(**{"gan.target_cameras": cameras, "gan.batch": 2}) == (each, 24, False)
    assert (
        of_row(**{"translation.kind": "none"})
        == of_row(**{"translation.kind": "identity"})
        == (set(), 12, False)
    )
    assert of_row(**{"translation.folder": str(tmp_path / "images")}) == (set(), 12, True)


def test_the_generators_images_are_stored_plain_or_stretched(pair, tmp_path, monkeypatch):
    """A generator that halves all contrasts: 64..191 plain, 0..255 stretched, whatever went in."""
    monkeypatch.setattr(translation, "load_generator", lambda *arguments: lambda images: 0.5 * images)
    monkeypatch.setattr(translation, "save_image", lambda pixels, *arguments: stored.append(pixels))
    few, stored = replace(pair[0], train=pair[0].train[:1]), []
    for io in ("plain", "scipy_bytescale"):
        work = Workspace(tmp_path / io, device=CPU)
        work.folder.mkdir()
        translate(few, replace(BASE.gan, io=io), BASE.translation, Stage(tmp_path), work)
    plain, stretched = stored
    assert 64 <= plain.min() and plain.max() <= 191
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_the_reid_network_trains_on_the_transferred_images(pair, make_job, monkeypatch):
    trained = []
    monkeypatch.setattr(train, "train_reid", lambda net, recipe, samples, *arguments: trained.append(samples))
    monkeypatch.setattr(train.pictures, "draw", lambda *arguments: None)
    monkeypatch.setattr(train, "score", lambda *arguments, **options: None)
    monkeypatch.setattr(train, "load_network", lambda path: build_network(BASE.net, 8))
    monkeypatch.setattr("common.runs.Stage.json", lambda stage, name: {})
    monkeypatch.setattr("common.job.Job.record", lambda job, scores, *, measures: None)
    for kind in ("none", "identity"):
        train.train(make_job(override(BASE, {"translation.kind": kind}), *pair))
    direct, resized = trained
    assert direct == pair[0].train and {sample.origin for sample in resized} == {"translated"}
    assert [sample.pid for sample in resized] == [sample.pid for sample in direct]


def test_judges_are_asked_for(pair, make_job, monkeypatch):
    asked = []
    monkeypatch.setattr(
        train, "judge_transfer", lambda job, samples, images, steps: asked.append(steps) or {}
    )
    for name in ("draw", "score"):
        monkeypatch.setattr(train.pictures if name == "draw" else train, name, lambda *args, **options: None)
    monkeypatch.setattr("common.runs.Stage.json", lambda stage, name: {})
    monkeypatch.setattr("common.job.Job.record", lambda job, scores, *, measures: None)
    for kind, steps in (("identity", 0), ("identity", 7), ("none", 7)):
        changes = {"translation.kind": kind, "translation.judge_steps": steps, "recipe.epochs": 1}
        job = make_job(override(BASE, changes), *pair)
        train.train(job)
    assert asked == [0, 7, 0]  # untransferred images are not judged
