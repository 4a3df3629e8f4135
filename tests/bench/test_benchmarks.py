"""The benchmarks run, at a tiny size, and the two evaluators that they compare agree."""

import importlib.util
from pathlib import Path

import pytest
import torch

from hhl.config import HHLConfig, NetConfig, RecipeConfig


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_bench_ranking(library):
    figures = load("bench_ranking").compare(library, "trained", size=(40, 200, 64), pairs=1)
    assert figures["mAP"] == pytest.approx(figures["mAP by sorting"], abs=1e-6)
    assert 0 < figures["matmul s"] and 0 < figures["evaluate s"]


@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_bench_ranking_of_a_large_gallery(mean):
    figures = load("bench_ranking").memory_of_large("torch", mean, size=(10, 2000, 64))
    assert figures["features MB"] == pytest.approx(2010 * 64 * 4 / 2**20)


def test_bench_rerank():
    bench = load("bench_rerank")
    assert bench.rerank_all(*bench.features(10, 60, 5, width=16)) > 0


def test_bench_hhl_step():
    bench = load("bench_hhl_step")
    config = HHLConfig(
        net=NetConfig(backbone="thin", weights="none", height=16, width=8, embed_dim=8, triplet_dim=8),
        recipe=RecipeConfig(batch=8, ids=2, images_per_id=2, target_batch=2),
    )
    figures = bench.compare(
        config, torch.device("cpu"), variants=["plain", "bf16+pack"], pairs=1, warm_up=1, steps=2
    )
    assert all(value > 0 for values in figures.values() for value in values) and set(figures) == {
        "plain",
        "bf16+pack",
    }


def test_bench_precision(tmp_path, data_root):
    tiny = [
        "--source",
        "dukemtmc",
        "--target",
        "market1501",
        "--data-root",
        str(data_root),
        "--threads",
        "1",
        "--net.height",
        "32",
        "--net.width",
        "16",
        "--recipe.epochs",
        "1",
        "--recipe.drop-epoch",
        "1",
        "--recipe.pretrain-epochs",
        "0",
    ]
    found = load("bench_precision").compare("hhl", "hhl/table2/baseline_source", 1, tmp_path, tiny)
    assert (
        found["R-1"].n == 1
        and 0 < found["mAP"].left < 100
        and list(tmp_path.glob("bf16+seed=0/runs/**/record.json"))
    )


def test_bench_kills_finds_what_differs_and_nothing_else(tmp_path):
    bench = load("bench_kills")
    for name, seconds, loss in (("a", 1.0, 0.5), ("b", 2.0, 0.5), ("c", 1.0, 0.6)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "stage.json").write_text(f'{{"name": "x", "seconds": {seconds}}}', encoding="utf-8")
        (folder / "curves.jsonl").write_text(f'{{"seconds": {seconds}, "loss": {loss}}}\n', encoding="utf-8")
        torch.save({"state": [torch.tensor([loss, float("nan")])], "step": 3}, folder / "model.pt")
    whole, resumed, other = (bench.results(tmp_path / name) for name in "abc")
    assert whole == resumed and set(whole) == {"stage.json", "curves.jsonl", "model.pt"}
    assert {name for name in whole if whole[name] != other[name]} == {"curves.jsonl", "model.pt"}


@pytest.mark.parametrize("paper", ["arn", "hhl", "spgan", "ptgan", "dcgan_lsro"])
def test_bench_kills_has_a_command_for_each_paper(tmp_path, paper):
    words = load("bench_kills").command(paper, tmp_path, tmp_path / "out")
    assert words[1] == "train.py" and "--threads" in words
