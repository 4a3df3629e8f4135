"""Config hashes and stage keys of all committed records, recomputed by the current code.

Each record's run is repeated without building anything: `train(job)` declares its stages, and a store that
never builds returns their hashes. They must be those of `golden/stage_keys.json`, computed at commit
5e0b386, before `Job` replaced `Run`; so finished stages stay valid. (471 of the 515 records hold the same
hashes; 44 were made by earlier code, or depend on mask files that are replaced here by one name.) Records
made since then must have the hashes that they hold, as far as no mask files are involved.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.cli import override
from common.datasets import ReIDDataset, Sample
from common.hashing import canonical, digest
from common.job import Job, Options
from common.provenance import ROOT
from common.records import PAPERS, Paper, Record, read_record
from common.runs import Stage, StageStore, stage_hash
from hhl.views import expected_views

# replaced functions that read a stage's files while later stages are declared
READERS: dict[str, dict[str, Callable]] = {
    "hhl": {"hhl.train.target_views": lambda config, target, folder: expected_views(config, target)},
    "arn": {},
    "spgan": {"spgan.train.samples_in": lambda folder, train: list(train)},
    "ptgan": {
        "ptgan.transfer.translated_samples": lambda train, folder: list(train),
        "ptgan.transfer.log_coverage": lambda *arguments: None,
        "ptgan.masks.file_key": lambda *arguments: "files",
    },
    "dcgan_lsro": {
        "dcgan_lsro.train.first_images": lambda folder, count: [],
        "dcgan_lsro.train.load": lambda name, root, config: dataset(manifest_of(name)),
    },
}


# the stages of PTGAN's own rows that do not depend on mask files, which are replaced here by one name
JUDGES = ("domain-judge", "person-judge")


class DryStage(Stage):
    """A finished stage without files."""

    def json(self, name: str) -> dict:
        return {}


class DryStore(StageStore):
    """Returns stages under their hashes and builds none."""

    def obtain(self, name, depends_on, build, work):
        return DryStage(name, stage_hash(name, depends_on), self.out, 0.0, True)

    def finished(self, name, depends_on):
        return None


class DryJob(Job):
    main = False  # draws no pictures

    def record(self, scores, *, measures=None):
        return None


def dataset(manifest: dict) -> ReIDDataset:
    """A dataset with the counts and the manifest of a record, without files."""
    return _dataset(json.dumps(manifest))


@lru_cache
def _dataset(text: str) -> ReIDDataset:
    manifest = json.loads(text)
    ids, cameras = manifest["train_ids"], manifest["cameras"]
    train = [
        Sample(Path(manifest["name"], f"{i:05}.jpg"), 1 + i % ids, i % cameras, Path(f"{i:05}.png"))
        for i in range(manifest["train"])
    ]
    made = ReIDDataset(manifest["name"], Path("."), train, train[:2], train[:2], cameras)
    made.__dict__["manifest"] = manifest
    return made


def manifest_of(name: str) -> dict:
    """The manifest of a synthetic domain, as the records hold it."""
    return next(r.data[role] for r in committed("hhl") for role in r.data if r.data[role]["name"] == name)


def paper_of(name: str) -> Paper:
    module = importlib.import_module(f"{name}.experiments")
    return next(value for value in vars(module).values() if isinstance(value, Paper))


@lru_cache
def committed(name: str) -> list[Record]:
    text = (ROOT / "reports" / "results" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [read_record(line) for line in text.splitlines()]


def current(name: str) -> Iterator[tuple[Record, SimpleNamespace]]:
    """The records whose configuration the current presets and experiments give, with that configuration."""
    paper = paper_of(name)
    experiments = {experiment.key: experiment for experiment in paper.experiments}
    for record in committed(name):
        if record.preset in paper.presets and record.key in experiments:
            config = override(paper.presets[record.preset], experiments[record.key].overrides)
            if digest(config) == record.config_hash:
                yield record, SimpleNamespace(config=config, experiment=experiments[record.key])


@pytest.mark.parametrize("name", PAPERS)
def test_config_hashes_of_committed_records(name):
    valid = list(current(name))
    stale = {r.key for r in committed(name)} - {record.key for record, _ in valid}
    assert len(valid) == len(committed(name)), f"records of other configurations: {sorted(stale)}"
    for record, run in valid:
        assert record.config == json.loads(json.dumps(canonical(run.config)))


@pytest.mark.parametrize("name", PAPERS)
def test_stage_keys_of_committed_records(name, monkeypatch, tmp_path):
    (tmp_path / "curves.jsonl").touch()
    train = importlib.import_module(f"{name}.train").train
    for reader, replacement in READERS[name].items():
        monkeypatch.setattr(reader, replacement)
    golden = json.loads((ROOT / "tests" / "golden" / "stage_keys.json").read_text(encoding="utf-8"))
    for record, run in current(name):
        numerics = {key: record.hardware[key] for key in ("precision", "pack") if key in record.hardware}
        pair = {"source": record.source, "target": record.target}
        options = Options(
            preset=record.preset, seed=record.seed, data_seed=record.data_seed, **pair, **numerics
        )
        source, target = (dataset(record.data[role]) for role in ("source", "target"))
        store = DryStore(tmp_path)
        job = DryJob(name, run.experiment, run.config, source, target, torch.device("cpu"), options, store)
        train(job)
        entry = (
            f"{record.key} {record.source} {record.target} {record.seed} {record.preset} {record.config_hash}"
        )
        expected = golden.get(entry, {stage: made["hash"] for stage, made in record.stages.items()})
        found = {stage: made.hash for stage, made in job.stages.items()}
        assert set(found) == set(expected), entry
        if entry not in golden and name == "ptgan" and run.config.trains_gan and run.config.gan.lambda_id:
            found, expected = (
                {s: h for s, h in hashes.items() if s in JUDGES} for hashes in (found, expected)
            )
        assert found == expected, entry
