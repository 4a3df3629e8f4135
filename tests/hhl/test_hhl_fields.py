"""No switch of HHL silently does nothing: every field changes what it is there to change.

A field, set to another value, is compared by the result of the function that uses it, run on five drawn
people: the weights after a few steps (re-ID network, StarGAN), the files of a camera-style folder, the test
features. The cases are checked against the fields of the configuration: a new field without a case fails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common.checkpoints import save_checkpoint
from common.cli import override
from common.datasets import ReIDDataset
from common.datasets.synthetic import load_synthetic
from common.job import Job, Options, Workspace
from common.runs import StageStore
from common.switches import switches
from hhl import evaluate, styles, train
from hhl.config import PRESETS, HHLConfig, TranslationConfig
from hhl.data import plan_steps
from hhl.evaluate import embedder, load_network
from hhl.experiments import EXPERIMENTS
from hhl.judges import judge_styles
from hhl.model import build_network
from hhl.stargan.train import build_generator, train_stargan
from hhl.stargan.translate import translate
from hhl.train import pretraining, train_reid
from hhl.views import TargetViews, expected_views, target_views

CPU = torch.device("cpu")
BASE = override(
    PRESETS["demo"],
    {
        "net.embed_dim": 16,
        "net.triplet_dim": 8,
        "recipe.epochs": 2,
        "recipe.pretrain_epochs": 0,
        "recipe.drop_epoch": 2,
        "recipe.batch": 20,
        "recipe.batch_scale": 1.0,
        "recipe.ids": 3,
        "recipe.images_per_id": 2,
        "recipe.target_batch": 4,
        "stargan.channels": 4,
        "stargan.blocks": 1,
        "stargan.downsamplings": 1,
        "stargan.d_channels": 4,
        "stargan.d_layers": 3,
        "stargan.iterations": 4,
        "stargan.batch": 4,
        "stargan.n_critic": 2,
    },
)


@dataclass(frozen=True)
class Case:
    """Another value of a field, and what else must be set for the field to matter."""

    value: Any
    given: Mapping[str, Any] = field(default_factory=dict)


SOURCE_ONLY = {"method.source_triplet": False, "method.target_views": "none"}
REID = {
    "net.backbone": Case("resnet18"),
    "net.height": Case(48),
    "net.width": Case(24),
    "net.embed_dim": Case(24),
    "net.triplet_dim": Case(12),
    "net.dropout": Case(0.1),
    "net.triplet_after_dropout": Case(True),
    "net.bn_splits": Case(2),
    "net.head": Case("linear"),
    "recipe.epochs": Case(1),
    "recipe.epochs_of_batch": Case(40),
    "recipe.drop_epoch": Case(1),
    "recipe.batch": Case(10, {"recipe.epochs_of_batch": 20}),
    "recipe.ids": Case(2),
    "recipe.images_per_id": Case(3),
    "recipe.target_batch": Case(3),
    "recipe.batch_scale": Case(0.5, {"recipe.epochs_of_batch": 20}),
    "recipe.sampling": Case("supervised"),
    "recipe.restarts": Case("own", {"recipe.epochs": 3}),
    "recipe.single_pass": Case(True),
    "recipe.base_lr": Case(0.02),
    "recipe.classifier_lr": Case(0.02),
    "recipe.embed_lr": Case(0.02),
    "recipe.baseline_embed_lr": Case(0.02, SOURCE_ONLY),
    "recipe.momentum": Case(0.5),
    "recipe.weight_decay": Case(0.1),
    "recipe.nesterov": Case(False),
    "recipe.crop": Case("keep_aspect", {"net.height": 48}),
    "recipe.shared_augmentation": Case(True),
    "recipe.erasing": Case(0.9),
    "recipe.colour_jitter": Case(0.3),
    "method.labels": Case("target"),
    "method.classification": Case(False),
    "method.source_triplet": Case(False),
    "method.target_views": Case("real"),
    "method.target_anchors": Case("real"),
    "method.beta": Case(0.1),
    "method.triplets": Case("all"),
    "method.margin": Case(-1.0),
    "method.hinge": Case(False, {"method.margin": -0.0, "recipe.base_lr": 0.001}),
    "method.reduction": Case("sum"),
    "method.self_positive": Case(False, {"recipe.images_per_id": 1, "method.target_views": "real"}),
    "method.include_own_style": Case(False),
    "style.resize_real_first": Case(True, {"method.target_views": "real", "stargan.height": 32}),
}
GAN = {
    "stargan.height": Case(32),
    "stargan.width": Case(16),
    "stargan.channels": Case(6),
    "stargan.blocks": Case(2),
    "stargan.downsamplings": Case(2),
    "stargan.residual": Case(False),
    "stargan.d_channels": Case(6),
    "stargan.d_layers": Case(2),
    "stargan.iterations": Case(6, {"stargan.lr_decay": "quirk"}),
    "stargan.epochs": Case(1),
    "stargan.batch": Case(6),
    "stargan.lr": Case(1e-3),
    "stargan.beta1": Case(0.1),
    "stargan.n_critic": Case(1),
    "stargan.lambda_cls": Case(3.0),
    "stargan.lambda_rec": Case(3.0),
    "stargan.lambda_gp": Case(3.0),
    "stargan.lambda_idt": Case(3.0),
    "stargan.lr_decay": Case("quirk"),
    "stargan.uniform_gamma": Case(True),
    "stargan.conditional_norm": Case(True),
    "stargan.augment_d": Case(True),
    "stargan.precision": Case("bf16"),
}
FILES = {"style.quality": Case(50), "style.truncate": Case(False), "style.kind": Case("self")}
FEATURES = {"test.interpolation": Case("bilinear"), "test.normalise": Case(False)}
OTHERS = {
    "net.weights": "test_weights_of_a_file_are_loaded",
    "recipe.pretrain_epochs": "test_the_pretraining_has_its_own_number_of_epochs",
    "method.pseudo": "test_pseudo_identities_are_drawn_or_counted",
    "style.folder": "test_a_given_folder_replaces_the_styles",
    "style.measure": "test_styles_are_made_where_they_are_only_measured",
    "style.judge_steps": "test_judges_are_asked_for",
}


def test_every_field_has_a_case():
    assert sorted([*REID, *GAN, *FILES, *FEATURES, *OTHERS]) == sorted(
        row["name"] for row in switches(PRESETS)
    )
    assert all(name in globals() for name in OTHERS.values())


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> ReIDDataset:
    return load_synthetic("synthetic-market", tmp_path_factory.mktemp("drawn"), train_ids=5, test_ids=2)


@pytest.fixture(scope="module")
def duke(tmp_path_factory) -> ReIDDataset:
    return load_synthetic("synthetic-duke", tmp_path_factory.mktemp("drawn"), train_ids=5, test_ids=2)


@pytest.fixture(scope="module")
def style_folder(market, tmp_path_factory) -> Path:
    work = Workspace(tmp_path_factory.mktemp("styles"))
    styles.render_styles(work, market, TranslationConfig(kind="stats"), (32, 64))
    return work.folder / styles.FOLDER


@pytest.fixture(scope="module")
def remembered() -> dict[str, str]:
    """Results of unchanged configurations, which several cases share."""
    return {}


def both(case: str, table: Mapping[str, Case], remembered: dict, result: Callable[[HHLConfig], str]) -> bool:
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
def test_the_network_after_two_epochs(name, duke, market, style_folder, remembered, tmp_path):
    def train(config: HHLConfig) -> str:
        folder = style_folder if config.method.target_views == "camera" else None
        data = market if config.method.labels == "target" else duke
        work = Workspace(tmp_path, device=CPU)
        train_reid(work, config, data, target_views(config, market, folder))
        return weights(tmp_path / "model.pt")

    assert both(name, REID, remembered, train)


@pytest.mark.parametrize("name", GAN)
def test_the_generator_after_four_steps(name, market, remembered, tmp_path):
    def train(config: HHLConfig) -> str:
        train_stargan(Workspace(tmp_path, device=CPU), config.stargan.on(len(market.train)), market)
        return weights(tmp_path / "generator.pt")

    assert both(name, GAN, remembered, train)


@pytest.mark.parametrize("name", FILES)
def test_the_files_of_a_camera_style_folder(name, market, remembered, tmp_path):
    few = replace(market, train=market.train[:4])

    def render(config: HHLConfig) -> str:
        work = Workspace(tmp_path / f"{name} {config.style}", device=CPU)
        work.folder.mkdir()
        if config.style.kind == "stargan":
            torch.manual_seed(0)
            generator = build_generator(config.stargan, few.num_cameras)
            translate(work, generator, few, config.stargan, config.style)
        else:
            styles.render_styles(work, few, config.style, (32, 64))
        return fingerprint(*(path.read_bytes() for path in sorted(work.folder.rglob("*.jpg"))))

    assert both(name, FILES, remembered, render)


@pytest.mark.parametrize("name", FEATURES)
def test_the_test_features(name, market, remembered):
    def embed(config: HHLConfig) -> str:
        torch.manual_seed(0)
        model = build_network(config.net, 8, triplet=False).eval()
        features = embedder(model, config.test, CPU).embed(model, market.query[:4])
        return fingerprint(features["pool5"].tobytes())

    assert both(name, FEATURES, remembered, embed)


# ---------------------------------------------------------------- fields of whole stages


def make_job(duke: ReIDDataset, market: ReIDDataset, out: Path, changes: Mapping[str, Any]) -> Job:
    config = override(BASE, {"style.kind": "stats", **changes})
    few = replace(market, train=market.train[:12])
    return Job("hhl", EXPERIMENTS[0], config, duke, few, CPU, Options(), StageStore(out))


def test_weights_of_a_file_are_loaded(duke, tmp_path):
    torch.manual_seed(3)
    start = build_network(BASE.net, 8, triplet=False).base
    save_checkpoint(tmp_path / "start.pt", start.state_dict())
    model = build_network(replace(BASE.net, weights=str(tmp_path / "start.pt")), 8, triplet=True)
    assert all(torch.equal(a, b) for a, b in zip(model.base.parameters(), start.parameters()))


def test_a_row_starts_from_the_pretrained_backbone(duke, tmp_path, monkeypatch):
    config, folders = override(BASE, SOURCE_ONLY), ("pretrained", "row")
    monkeypatch.setattr(train, "run_steps", lambda *arguments: None)
    start = None
    for seed, name in enumerate(folders):
        work = Workspace(tmp_path / name, seed=seed, device=CPU)
        work.folder.mkdir()
        train_reid(work, config, duke, TargetViews(), start)
        start = SimpleNamespace(folder=work.folder)
    first, second = (load_network(tmp_path / name / "model.pt") for name in folders)
    assert all(torch.equal(a, b) for a, b in zip(first.base.parameters(), second.base.parameters()))
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


def test_a_row_is_scored_with_its_test_settings(duke, market, tmp_path, monkeypatch):
    scored, stage = [], SimpleNamespace(hash="", folder=tmp_path)
    monkeypatch.setattr(train, "camera_styles", lambda job: styles.CameraStyles())
    monkeypatch.setattr(train, "reid_stage", lambda *arguments: stage)
    monkeypatch.setattr(train, "load_network", lambda path: build_network(BASE.net, 8, triplet=False))
    monkeypatch.setattr(train, "score", lambda pool5, *arguments, **options: scored.append(pool5))
    monkeypatch.setattr(train, "analyse", lambda *arguments: None)
    monkeypatch.setattr(train.pictures, "draw", lambda *arguments: None)
    monkeypatch.setattr("common.runs.Stage.json", lambda stage, name: {})
    monkeypatch.setattr("common.job.Job.record", lambda job, scores, *, measures: None)
    for changes in ({}, {"test.interpolation": "bilinear", "test.normalise": False}):
        train.train(make_job(duke, market, tmp_path, changes))
    assert [(pool5.transform.interpolation, pool5.normalise) for pool5 in scored] == [
        ("bicubic", True),
        ("bilinear", False),
    ]


def test_evaluation_has_the_settings_of_its_flags(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "load_network", lambda path: build_network(BASE.net, 8, triplet=False))
    monkeypatch.setattr(evaluate, "checkpoint_scores", lambda options, model, features: features)
    other = replace(BASE.test, interpolation="bilinear", normalise=False)
    for test, flip in ((BASE.test, False), (other, True)):
        features = evaluate.scores(evaluate.Evaluate(tmp_path, test=test, flip=flip), CPU)
        assert (features.transform.interpolation, features.normalise) == (test.interpolation, test.normalise)
        assert features.flip is flip


def test_the_pretraining_has_its_own_number_of_epochs():
    assert [pretraining(override(BASE, {"recipe.pretrain_epochs": n})).recipe.epochs for n in (1, 3)] == [
        1,
        3,
    ]


def test_pseudo_identities_are_drawn_or_counted(duke, market):
    def labels(kind: str) -> list[int]:
        config = override(BASE, {"method.pseudo": kind})
        views = expected_views(config, market)
        part = plan_steps(config.recipe, config.method, duke, views, seed=0).parts["target"]
        return list(part.labels(0, part.plan(0))[:4])

    assert labels("unique") == [5, 6, 7, 8] and min(labels("random10k")) >= 1000


def test_a_given_folder_replaces_the_styles(duke, market, style_folder, tmp_path):
    job = make_job(duke, market, tmp_path, {"style.folder": str(style_folder)})
    assert styles.camera_styles(job).folder == style_folder and not job.stages


def test_styles_are_made_where_they_are_only_measured(duke, market, tmp_path):
    of_row = {"method.target_views": "real"}
    assert styles.camera_styles(make_job(duke, market, tmp_path, of_row)).folder is None
    measured = make_job(duke, market, tmp_path, {**of_row, "style.measure": True})
    assert styles.camera_styles(measured).folder is not None
    assert expected_views(measured.config, market).num_views == 1  # and not trained on


def test_judges_are_asked_for(duke, market, tmp_path):
    for steps in (0, 1):
        job = make_job(duke, market, tmp_path, {"style.judge_steps": steps})
        measures = judge_styles(job, styles.camera_styles(job))
        assert ("style_share" in measures) == bool(steps)
