"""The benchmarks run, at a tiny size, and the two evaluators that they compare agree."""

import importlib.util
from pathlib import Path

import pytest


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


def test_bench_rerank():
    bench = load("bench_rerank")
    assert bench.rerank_all(*bench.features(10, 60, 5, width=16)) > 0
