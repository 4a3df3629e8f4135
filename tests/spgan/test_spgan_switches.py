"""Every field outside the GAN's, set to another value, changes the result that it is there to change: trained
weights, scores, translations or measures. (The GAN's fields: gan/test_gan_switches.py.)
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import override
from common.datasets import load_dataset
from common.job import Job, Options, Workspace
from common.runs import StageStore
from spgan import evaluate, process
from spgan.config import PRESETS, SPGANConfig
from spgan.evaluate import score
from spgan.experiments import EXPERIMENTS
from spgan.reid.model import load_network
from spgan.train import Fakes, pretrain, reid_stage, train, translated

TINY = override(
    PRESETS["demo"],
    {
        "net.height": 32,
        "net.width": 16,
        "recipe.pretrain_epochs": 0,
        "recipe.epochs": 2,
        "recipe.drop_epoch": 1,
        "recipe.batch": 32,
        "method.images": "source",
    },
)
NO_FAKES = Fakes()
# field -> another value, and the settings under which it acts, if the tiny ones are not
OF_THE_NETWORK: dict[str, tuple[Any, dict[str, Any]]] = {
    "net.backbone": ("resnet18", {}),
    "net.weights": ("FILE", {}),
    "net.height": (48, {}),
    "net.width": (32, {}),
    "net.crop": ("random", {}),
    "net.head": ("bottleneck", {}),
    "net.dropout": (0.2, {"net.head": "bottleneck"}),
    "recipe.bn": ("train", {}),
    "recipe.freeze_affine": (True, {}),
    "recipe.freeze_conv1_res2": (True, {}),
    "recipe.pretrain_epochs": (1, {}),
    "recipe.lr": (2e-3, {}),
    "recipe.head_lr_factor": (2.0, {}),
    "recipe.lr_scale": (1.0, {}),
    "recipe.schedule": ("caffe", {}),
    "recipe.epochs": (3, {}),
    "recipe.drop_epoch": (2, {}),
    "recipe.batch": (16, {}),
    "recipe.momentum": (0.5, {}),
    "recipe.nesterov": (False, {}),
    "recipe.weight_decay": (0.05, {}),
    "recipe.erasing": (1.0, {}),
    "recipe.colour_jitter": (0.3, {}),
    "recipe.interpolation": ("bicubic", {}),
    "method.images": ("target", {}),
    "test.interpolation": ("bicubic", {}),
}
OF_THE_SCORES: dict[str, Any] = {
    "test.interpolation": "bicubic",
    "test.flip": True,
    "test.part_norm": True,
    "test.cut": 3,
    "test.no_match": "zero",
}
OF_THE_TRANSLATION: dict[str, Any] = {
    "translate.kind": "statistics",
    "translate.folder": "FOLDER",
    "translate.quality": 20,
    "translate.truncate": False,
    "translate.judge_steps": 2,
}


@pytest.fixture(scope="module")
def domains(draw_data_root):
    """Two domains without a common identity in training."""
    root = draw_data_root(train_ids=3, test_ids=3)
    source, target = (load_dataset(name, root) for name in ("dukemtmc", "market1501"))
    return [source, replace(target, train=[replace(s, pid=s.pid + 100) for s in target.train])]


@pytest.fixture(autouse=True)
def short_caffe(monkeypatch):
    monkeypatch.setattr("spgan.reid.data.CAFFE_STEPS", 3)
    monkeypatch.setattr("spgan.reid.data.CAFFE_DROP", 1)


def job_of(config: SPGANConfig, domains, out: Path) -> Job:
    row = next(e for e in EXPERIMENTS if e.key == "spgan/table2/SPGAN")
    options = Options(experiment=(row.key,), threads=1)
    return Job("spgan", row, config, *domains, torch.device("cpu"), options, StageStore(out))


def weights(config: SPGANConfig, domains, out: Path, fakes: Fakes = NO_FAKES) -> dict[str, torch.Tensor]:
    """The weights of a row's network."""
    job = job_of(config, domains, out)
    stage = reid_stage(job, fakes, pretrain(job))
    return torch.load(stage.folder / "model.pt", weights_only=True)["state_dict"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_every_field_has_another_value():
    names = {
        f"{group.name}.{f.name}"
        for group in dataclasses.fields(SPGANConfig)
        if group.name != "gan"
        for f in dataclasses.fields(group.default_factory)
    }
    assert {*OF_THE_NETWORK, *OF_THE_SCORES, *OF_THE_TRANSLATION} == names


@pytest.mark.parametrize("name", OF_THE_NETWORK)
def test_every_field_changes_the_network(domains, tmp_path, name):
    value, needs = OF_THE_NETWORK[name]
    if value == "FILE":
        value = str(tmp_path / "weights.pt")
        base = load_network(next(iter(_saved(domains, tmp_path).glob("stages/reid-*/model.pt")))).base
        torch.save(base.state_dict(), value)
    config = override(TINY, needs)
    other = override(config, {name: value})
    assert other != config
    assert not equal(weights(config, domains, tmp_path), weights(other, domains, tmp_path))
    if name == "test.interpolation":  # an interpolation of training images' own
        own = override(config, {name: value, "recipe.interpolation": "bilinear"})
        assert equal(weights(config, domains, tmp_path), weights(own, domains, tmp_path))


def _saved(domains, tmp_path: Path) -> Path:
    weights(TINY, domains, tmp_path / "saved")
    return tmp_path / "saved"


def test_every_set_of_images_trains_another_network(domains, tmp_path):
    darker = []
    for sample in domains[0].train:
        path = tmp_path / "fake" / sample.path.name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.asarray(Image.open(sample.path)) // 2).save(path, quality=95)
        darker.append(replace(sample, path=path))
    found = [
        weights(override(TINY, {"method.images": kind}), domains, tmp_path, Fakes(darker, "darker"))
        for kind in ("source", "target", "translated", "both")
    ]
    assert not any(equal(a, b) for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize("name", OF_THE_SCORES)
def test_every_field_changes_the_scores(domains, tmp_path, name):
    weights(TINY, domains, tmp_path)
    model = load_network(next(tmp_path.glob("stages/reid-*/model.pt")))
    target = domains[1]
    alone = target.query[0]  # a query without a match
    gallery = [s for s in target.gallery if s.pid != alone.pid]
    target = replace(target, gallery=gallery)

    def scores(config: SPGANConfig) -> dict[str, Any]:
        work = Workspace(tmp_path / "scores", device=torch.device("cpu"))
        score(model, target, config.test, work)
        return json.loads((work.folder / "scores.json").read_text(encoding="utf-8"))

    before, after = scores(TINY), scores(override(TINY, {name: OF_THE_SCORES[name]}))
    assert before != after
    if name == "test.part_norm":  # one part is the whole
        assert before["last"] == after["last"] and before["lmp7max"] != after["lmp7max"]


def test_the_command_ranks_by_its_settings_of_the_test(domains, tmp_path, monkeypatch):
    weights(TINY, domains, tmp_path)
    (checkpoint,) = tmp_path.glob("stages/reid-*/model.pt")
    asked: list[Any] = []
    monkeypatch.setattr(evaluate, "checkpoint_scores", lambda *_, **ranking: asked.append(ranking))
    test = replace(TINY.test, cut=3, no_match="zero")
    evaluate.scores(evaluate.Evaluate(checkpoint=checkpoint, test=test), torch.device("cpu"))
    assert asked == [{"cut": 3, "no_match": "zero"}]


@pytest.fixture
def painted(monkeypatch) -> list[Any]:
    """TensorFlow replaced: the GAN writes no networks, and translations are grey; returns their settings."""
    asked: list[Any] = []

    def paint(work, config, translation, networks, role, images):
        asked.append((config, translation, role))
        for _, fake in images:
            fake.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 16), (90, 100, 110)).save(fake)

    def no_gan(work, config, source, target):
        (work.folder / "curves.jsonl").write_text("", encoding="utf-8")

    monkeypatch.setattr(process, "train", no_gan)
    monkeypatch.setattr(process, "translate", paint)
    return asked


@pytest.mark.parametrize("name", OF_THE_TRANSLATION)
def test_every_field_changes_the_translations(domains, tmp_path, painted, name):
    value: Any = OF_THE_TRANSLATION[name]
    if value == "FOLDER":
        value = str(domains[0].train[0].path.parent)
    kinds = ["gan", "statistics"] if name == "translate.quality" else ["gan"]
    for kind in kinds:
        config = override(TINY, {"translate.kind": kind})
        other = override(config, {name: value})
        made = [translated(job_of(c, domains, tmp_path)) for c in (config, other)]
        if name == "translate.judge_steps":  # changes the measures alone
            assert made[0].hash == made[1].hash
            continue
        assert made[0].hash != made[1].hash
        if kind == "gan" and name in ("translate.quality", "translate.truncate"):
            assert painted[-1][1] == other.translate  # what it does there: gan/test_gan_switches.py
        else:
            assert [s.path.read_bytes() for s in made[0].samples] != [
                s.path.read_bytes() for s in made[1].samples
            ]


def test_each_direction_is_translated_by_its_own_generator(domains, tmp_path, painted):
    """Duke comes first in the GAN, whichever the run's source is."""
    for pair in (domains, domains[::-1]):
        translated(job_of(TINY, pair, tmp_path))
    assert [role for _, _, role in painted] == ["g_s2t", "g_t2s"]


def test_truncation_is_the_gans_alone(domains, tmp_path):
    rows = [
        override(TINY, {"translate.kind": "statistics", "translate.truncate": truncate})
        for truncate in (True, False)
    ]
    assert len({translated(job_of(config, domains, tmp_path)).hash for config in rows}) == 1


def test_judges_add_their_measures_to_the_record(domains, tmp_path, painted, monkeypatch):
    monkeypatch.setattr("spgan.pictures.draw", lambda *arguments: None)
    records = [
        train(
            job_of(
                override(TINY, {"method.images": "translated", "translate.judge_steps": steps}),
                domains,
                tmp_path,
            )
        )
        for steps in (0, 2)
    ]
    without, judged = (set(record.measures) for record in records)
    assert {
        "target_share",
        "people_found",
        "target_share_untouched",
        "domain_judge_accuracy",
    } <= judged - without
    assert records[0].scores == records[1].scores
    stages = [set(record.stages) for record in records]
    assert stages[1] - stages[0] == {"domain-judge", "person-judge", "judged"}


def test_rows_without_translations_have_no_judges(domains, tmp_path, monkeypatch):
    monkeypatch.setattr("spgan.pictures.draw", lambda *arguments: None)
    record = train(job_of(override(TINY, {"translate.judge_steps": 2}), domains, tmp_path))
    assert "judged" not in record.stages
