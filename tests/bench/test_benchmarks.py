"""The benchmarks run, at a tiny size, and the two evaluators that they compare agree."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from hhl.config import HHLConfig, NetConfig, RecipeConfig

MUTATIONS = Path(__file__).parent / "mutations"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its type hints are looked up
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


def test_bench_mutations_tells_caught_from_survived(tmp_path):
    bench = load("bench_mutations")
    (tmp_path / "code.py").write_text("def half(x):\n    return x / 2\n", encoding="utf-8")
    (tmp_path / "test_code.py").write_text(
        "from code import half\n\n\ndef test_half():\n    assert half(4) == 2\n".replace("code", "halves"),
        encoding="utf-8",
    )
    (tmp_path / "code.py").rename(tmp_path / "halves.py")
    (tmp_path / "toy.toml").write_text(
        "".join(
            f'[[mutation]]\nwords = "{new}"\nfile = "halves.py"\nold = "x / 2"\nnew = "{new}"\n'
            f'tests = ["test_code.py"]\n{more}\n'
            for new, more in (("x", ""), ("x * 0.5", ""), ("0.5 * x", 'equivalent = "the same"'))
        ),
        encoding="utf-8",
    )
    mutations = bench.read_mutations("toy", tmp_path, tmp_path)
    outcomes = [bench.try_mutation(tmp_path, mutation, 60).outcome for mutation in mutations]
    assert outcomes == ["caught", "survived", "equivalent"]
    assert "return x / 2" in (tmp_path / "halves.py").read_text(encoding="utf-8")
    (tmp_path / "halves.py").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"toy\.toml: x: expected its code once, found it 0 times"):
        bench.read_mutations("toy", tmp_path, tmp_path)
    assert bench.numbers("3,7-9", 8) == [3, 7, 8]


def test_bench_mutations_gives_tensorflow_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("SPGAN_TENSORFLOW", raising=False)
    bench = load("bench_mutations")
    names = {"test_plain.py": False, f"{bench.WITH_TENSORFLOW}test_alone.py": True}
    for name, wanted in names.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(
            f'import os\n\n\ndef test():\n    assert ("SPGAN_TENSORFLOW" in os.environ) == {wanted}\n',
            encoding="utf-8",
        )
    assert bench.tests_pass(tmp_path, list(names), 60)


@pytest.mark.parametrize("paper", sorted(path.stem for path in MUTATIONS.glob("*.toml")))
def test_the_lists_of_mutations_are_of_the_present_code(paper):
    assert load("bench_mutations").read_mutations(paper)


@pytest.mark.parametrize("paper", ["arn", "hhl", "spgan", "ptgan", "dcgan_lsro"])
def test_bench_kills_has_a_command_for_each_paper(tmp_path, paper):
    words = load("bench_kills").command(paper, tmp_path, tmp_path / "out")
    assert words[1] == "train.py" and "--threads" in words
