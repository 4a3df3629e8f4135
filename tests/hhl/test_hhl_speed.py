"""HHL with --precision, --compile and --pack: the same batches, keys of their own, and records that say so."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common import cli
from common.job import Options
from common.datasets.synthetic import load_synthetic
from common.hashing import digest
from common.records import read_record
from common.runs import Workspace
from hhl.batches import schedule
from hhl.config import PRESETS, HHLConfig, MethodConfig, NetConfig, RecipeConfig
from hhl.evaluate import load_network
from hhl.experiments import HHL
from hhl.train import pretrain, train, train_reid
from reports.collect import read_results

CPU = torch.device("cpu")
SMALL = (
    "--net.height 32 --net.width 16 --net.embed-dim 16 --net.triplet-dim 8 --recipe.epochs 1 --recipe.pretrain-epochs 0 --recipe.batch 16 "
    "--recipe.batch-scale 1 --threads 1"
).split()


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return load_synthetic("synthetic-market", tmp_path_factory.mktemp("drawn"), train_ids=8, test_ids=4)


def config(**recipe) -> HHLConfig:
    recipe = RecipeConfig(
        **{"epochs": 1, "batch": 8, "ids": 3, "images_per_id": 2, "target_batch": 3} | recipe
    )
    return HHLConfig(
        net=NetConfig(backbone="thin", weights="none", height=32, width=16),
        recipe=recipe,
        method=MethodConfig(target_views="camera"),
    )


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


@pytest.mark.parametrize(
    "recipe", [{}, {"erasing": 0.7, "crop": "keep_aspect"}, {"shared_augmentation": True}]
)
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
            assert left[name].shape == right[name].shape and right[name].is_contiguous(
                memory_format=torch.channels_last
            )
            assert levels.max() < 1.05 and (levels < 0.01).float().mean() > 0.99
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2  # source and views


def test_the_key_of_a_plain_stage_is_that_of_the_collected_records():
    """Of what was run before there were these flags."""
    record = next(
        r for r in read_results("hhl") if r.preset == "demo" and r.source == "synthetic-duke" and r.seed == 0
    )
    demo = PRESETS["demo"]

    def key(options: Options) -> str:
        run = SimpleNamespace(seed=0, stage=lambda name, uses, build, **_: digest({"stage": name, **uses}))
        return pretrain(demo, SimpleNamespace(manifest=record.data["source"]), run, CPU, options)

    assert key(Options()) == key(Options(compile=True)) == record.stages["pretrain"]["hash"]
    assert len({key(Options()), key(Options(precision="bf16")), key(Options(pack=True))}) == 3


# ---------------------------------------------------------------- training


def trained(market, out: Path, **flags) -> np.ndarray:
    """All weights after an epoch, and what `curves.jsonl` holds."""
    out.mkdir()
    options = Options(**flags)
    work = Workspace(out, resume=False, cache=out / "cache" if options.pack else None)
    plain = replace(
        config(batch=16, embed_lr=0.01), method=MethodConfig(source_triplet=False, target_views="none")
    )
    train_reid(plain, market, (), 0, 3, CPU, work, options)
    saved = torch.load(out / "model.pt", weights_only=True)["state_dict"]
    assert list(saved) == list(load_network(out / "model.pt").state_dict())
    return np.concatenate([tensor.double().flatten().numpy() for tensor in saved.values()])


def test_packed_training_is_that_of_the_workers_and_bf16_is_close(market, tmp_path):
    plain, packed, half = (
        trained(market, tmp_path / name, **flags)
        for name, flags in {
            "plain": {},
            "pack": {"pack": True},
            "half": {"precision": "bf16", "pack": True},
        }.items()
    )
    assert np.allclose(plain, packed, atol=1e-3)
    assert not np.array_equal(packed, half) and np.corrcoef(packed, half)[0, 1] > 0.95


@pytest.fixture
def small_data(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "hhl.train.load_dataset",
        lambda name, root: load_synthetic(name, tmp_path / "drawn", train_ids=4, test_ids=3),
    )


def run_baseline(out: Path, *flags: str) -> int:
    return cli.main(
        HHL, train, ["--out", str(out), "--experiment", "hhl/table2/baseline_source", *SMALL, *flags]
    )


def test_a_record_says_how_it_was_made(small_data, tmp_path):
    assert run_baseline(tmp_path, "--precision", "bf16", "--pack") == 0
    (path,) = tmp_path.rglob("record.json")
    record = read_record(path.read_text())
    assert (
        record.hardware["precision"] == "bf16"
        and record.hardware["pack"] is True
        and "compile" not in record.hardware
    )
    assert record.stages["reid"]["images_per_second"] > 0 and 0 <= record.stages["reid"]["waiting"] <= 1
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_packed_colour_jitter_is_refused_before_anything_is_made(small_data, tmp_path, capsys):
    assert run_baseline(tmp_path / "out", "--pack", "--recipe.colour-jitter", "0.3") == 2
    assert (
        "--pack with --recipe.colour-jitter 0.3" in capsys.readouterr().err
        and not (tmp_path / "out").exists()
    )
