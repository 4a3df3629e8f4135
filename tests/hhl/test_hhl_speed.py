"""HHL with --precision, --compile and --pack: the same batches, other stage keys, records that name them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.datasets.synthetic import load_synthetic
from common.job import Job, Options, Workspace
from common.records import read_record
from common.runs import Stage, StageStore, stage_hash
from common.training import Loop
from hhl.augmentation import train_transforms
from hhl.config import PRESETS, HHLConfig, MethodConfig, NetConfig, RecipeConfig
from hhl.data import plan_steps, with_images
from hhl.evaluate import load_network
from hhl.experiments import EXPERIMENTS
from hhl.train import load_epochs, main, pretrain, train_reid
from hhl.views import TargetViews
from reports.collect import read_results

CPU = torch.device("cpu")
SMALL = (
    "--net.height 32 --net.width 16 --net.embed-dim 16 --net.triplet-dim 8 --recipe.epochs 1 "
    "--recipe.pretrain-epochs 0 --recipe.batch 16 --recipe.batch-scale 1 --threads 1"
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
def views(market, tmp_path) -> TargetViews:
    """Two views of each image; the second lies in a folder of its own, larger."""
    large = []
    for sample in market.train[:12]:
        image = Image.open(sample.path)
        path = tmp_path / f"{sample.path.stem}.png"
        image.resize((image.width + 9, image.height + 20)).save(path)
        large.append(replace(sample, path=path))
    return TargetViews([*market.train[:12], *large], 2)


@pytest.mark.parametrize(
    "recipe", [{}, {"erasing": 0.7, "crop": "keep_aspect"}, {"shared_augmentation": True}]
)
@pytest.mark.parametrize("workers", [0, 1])
def test_packed_batches_are_those_of_the_workers(market, views, tmp_path, recipe, workers):
    if workers and recipe:
        pytest.skip("workers once")
    first_size = (256, 128) if recipe.get("shared_augmentation") else None

    def batches(cache: Path | None):
        this = config(**recipe)
        work = Workspace(tmp_path, seed=5, device=CPU, options=Options(workers=workers), cache=cache)
        schedule = plan_steps(this.recipe, this.method, market, views, work.seed)
        schedule = with_images(schedule, train_transforms(this.net, this.recipe, first_size), work)
        loop = Loop(work, schedule.total, {}, label="speed")
        loop.start = 2
        return load_epochs(None, loop, schedule)

    for _, left, right in zip(range(4), batches(None), batches(tmp_path / "cache")):
        assert list(left) == list(right) == ["classify", "source", "target"]
        for name in left:
            one, other = left[name].images, right[name].images
            levels = (one - other).abs() * 255 * 0.225
            assert one.shape == other.shape and other.is_contiguous(memory_format=torch.channels_last)
            assert (left[name].indices == right[name].indices).all()
            assert torch.equal(left[name].labels, right[name].labels)
            assert levels.max() < 1.05 and (levels < 0.01).float().mean() > 0.99
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2  # source and views


def test_the_key_of_a_plain_stage_is_that_of_the_collected_records(tmp_path):
    """Of what was run before there were these flags."""
    record = next(
        r for r in read_results("hhl") if r.preset == "demo" and r.source == "synthetic-duke" and r.seed == 0
    )
    source = SimpleNamespace(manifest=record.data["source"])

    class Keys(StageStore):
        """Returns a stage's key in place of the stage."""

        def obtain(self, name, depends_on, build, work):
            return Stage(name, stage_hash(name, depends_on), tmp_path, 0.0, True)

    def key(options: Options) -> str:
        store = Keys(tmp_path)
        return pretrain(Job("hhl", EXPERIMENTS[0], PRESETS["demo"], source, source, CPU, options, store)).hash

    assert key(Options()) == key(Options(compile=True)) == record.stages["pretrain"]["hash"]
    assert len({key(Options()), key(Options(precision="bf16")), key(Options(pack=True))}) == 3


# ---------------------------------------------------------------- training


def trained(market, out: Path, **flags) -> np.ndarray:
    """All weights after an epoch, and what `curves.jsonl` holds."""
    out.mkdir()
    options = Options(**flags)
    work = Workspace(out, False, 3, CPU, options, out / "cache" if options.pack else None)
    plain = replace(
        config(batch=16, embed_lr=0.01), method=MethodConfig(source_triplet=False, target_views="none")
    )
    train_reid(work, plain, market, TargetViews())
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
        "common.datasets.load_dataset",
        lambda name, root: load_synthetic(name, tmp_path / "drawn", train_ids=4, test_ids=3),
    )


def run_baseline(out: Path, *flags: str) -> int:
    return main(["--out", str(out), "--experiment", "hhl/table2/baseline_source", *SMALL, *flags])


def test_a_record_says_how_it_was_made(small_data, tmp_path):
    assert run_baseline(tmp_path, "--precision", "bf16", "--pack") == 0
    (path,) = tmp_path.rglob("record.json")
    record = read_record(path.read_text(encoding="utf-8"))
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
