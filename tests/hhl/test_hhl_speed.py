"""HHL with --precision, --compile and --pack: the same batches, keys of their own, and records that say so."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common import cli
from common.cli import Options
from common.datasets.synthetic import load_synthetic
from common.errors import InputError
from common.records import digest, read_record
from hhl.batches import schedule
from hhl.config import PRESETS, HHLConfig, MethodConfig, NetConfig, RecipeConfig
from hhl.experiments import HHL
from hhl.train import pretrain, train
from reports.collect import read_results

CPU = torch.device("cpu")
SMALL = ("--net.height 32 --net.width 16 --net.embed-dim 16 --net.triplet-dim 8 --recipe.epochs 1 --recipe.pretrain-epochs 0 --recipe.batch 32 "
         "--recipe.batch-scale 1 --recipe.ids 3 --recipe.images-per-id 2 --threads 1").split()


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return load_synthetic("synthetic-market", tmp_path_factory.mktemp("drawn"), train_ids=8, test_ids=4)


def config(**recipe) -> HHLConfig:
    recipe = RecipeConfig(**{"epochs": 1, "batch": 8, "ids": 3, "images_per_id": 2, "target_batch": 3} | recipe)
    return HHLConfig(net=NetConfig(backbone="thin", weights="none", height=32, width=16), recipe=recipe, method=MethodConfig(target_views="camera"))


@pytest.fixture
def views(market, tmp_path) -> list:
    """Two views of each image; the second lies in a folder of its own, larger."""
    large = []
    for sample in market.train[:12]:
        image = Image.open(sample.path)
        path = tmp_path / f"{sample.path.stem}.png"
        image.resize((image.width + 9, image.height + 20)).save(path)
        large.append(replace(sample, path=path))
    return [*market.train[:12], *large]


@pytest.mark.parametrize("recipe", [{}, {"erasing": 0.7, "crop": "keep_aspect"}, {"shared_augmentation": True}])
@pytest.mark.parametrize("workers", [0, 1])
def test_packed_batches_are_those_of_the_workers(market, views, tmp_path, recipe, workers):
    if workers and recipe:
        pytest.skip("workers once")
    batches = [schedule(config(**recipe), market, views, 2, 5, cache) for cache in (None, tmp_path / "cache")]
    theirs, ours = (each.load(2, CPU, workers, lambda epoch: None) for each in batches)
    for _, left, right in zip(range(4), theirs, ours):
        assert list(left) == list(right) == ["classify", "source", "target"]
        for name in left:
            levels = (left[name] - right[name]).abs() * 255 * 0.225
            assert left[name].shape == right[name].shape and right[name].is_contiguous(memory_format=torch.channels_last)
            assert levels.max() < 1.05 and (levels < 0.01).float().mean() > 0.99
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2   # source and views


def test_the_key_of_a_plain_stage_is_that_of_the_collected_records():
    """Of what was run before there were these flags."""
    record = next(r for r in read_results("hhl") if r.preset == "demo" and r.source == "synthetic-duke" and r.seed == 0)
    demo = PRESETS["demo"]

    def key(options: Options) -> str:
        run = SimpleNamespace(seed=0, stage=lambda name, uses, build, **_: digest({"stage": name, **uses}))
        return pretrain(demo, SimpleNamespace(manifest=record.data["source"]), run, CPU, options)

    assert key(Options()) == key(Options(compile=True)) == record.stages["pretrain"]["hash"]
    assert len({key(Options()), key(Options(precision="bf16")), key(Options(pack=True))}) == 3


def run_baseline(root: Path, out: Path, *flags: str) -> int:
    return cli.main(HHL, train, ["--out", str(out), "--experiment", "hhl/table2/baseline_source", "--data-root", str(root), *SMALL, *flags])


def record_of(out: Path):
    return max((read_record(path.read_text()) for path in out.rglob("record.json")), key=lambda record: record.created)


def test_a_packed_bf16_run_is_another_stage_and_close_to_the_plain_one(tmp_path, monkeypatch):
    few = {"train_ids": 8, "test_ids": 4}
    monkeypatch.setattr("hhl.train.load_dataset", lambda name, root: load_synthetic(name, tmp_path / "drawn", **few))
    curves = {}
    for name, flags in {"plain": (), "pack": ("--pack",), "bf16": ("--precision", "bf16", "--pack")}.items():
        assert run_baseline(tmp_path, tmp_path / "out", *flags) == 0
        record = record_of(tmp_path / "out")
        stage = record.stages["reid"]
        assert not stage["reused"] and stage["images_per_second"] > 0 and 0 <= stage["waiting"] <= 1
        assert {k: v for k, v in record.hardware.items() if k in ("precision", "pack", "compile")} == \
            {"plain": {}, "pack": {"pack": True}, "bf16": {"precision": "bf16", "pack": True}}[name]
        model = torch.load(tmp_path / "out" / "stages" / f"reid-{stage['hash']}" / "model.pt", weights_only=True)["state_dict"]
        curves[name] = np.concatenate([tensor.float().flatten().numpy() for tensor in model.values()])
    assert len(list((tmp_path / "out" / "cache").glob("*.npy"))) == 1
    assert np.allclose(curves["plain"], curves["pack"], atol=5e-3)
    assert not np.array_equal(curves["pack"], curves["bf16"]) and np.corrcoef(curves["pack"], curves["bf16"])[0, 1] > 0.99


def test_packed_colour_jitter_is_refused_before_anything_is_made(tmp_path, capsys):
    with pytest.raises(InputError, match="--pack with --recipe.colour-jitter 0.3"):
        schedule(config(colour_jitter=0.3), None, (), 0, 0, tmp_path) if False else _jitter()
    assert run_baseline(tmp_path, tmp_path / "out", "--pack", "--recipe.colour-jitter", "0.3") == 2
    assert "--pack with --recipe.colour-jitter 0.3" in capsys.readouterr().err and not (tmp_path / "out" / "stages").exists()


def _jitter():
    from hhl.batches import train_transform
    train_transform(config(colour_jitter=0.3), "source").on_device()
