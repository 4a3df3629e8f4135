"""Time and memory of k-reciprocal re-ranking at the sizes of Market-1501 and MSMT17, 256-d. Run by hand on a
quiet machine:

    python tests/bench/bench_rerank.py [market|msmt17] [--backend numpy|torch]

Extra memory is the growth of the process's peak resident size over what it held with the features (Linux).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from common.evaluation.distances import row_blocks
from common.evaluation.rerank import RerankedDistances

SIZES = {"market": (3368, 15913, 750), "msmt17": (11659, 82161, 3060)}  # queries, gallery, people


def features(
    num_queries: int, num_gallery: int, people: int, width: int = 256, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Images around their person's centre, L2-normalised, float32."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, width), dtype=np.float32)
    sets = []
    for number in (num_queries, num_gallery):
        x = centres[rng.integers(0, people, number)] + rng.standard_normal((number, width), dtype=np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        sets.append(x)
    return sets[0], sets[1]


def rerank_all(queries, gallery) -> float:
    """Every re-ranked distance once, block by block; seconds."""
    start = time.perf_counter()
    distances = RerankedDistances(queries, gallery)
    for block in row_blocks(len(queries), len(gallery)):
        distances(*block)
    return time.perf_counter() - start


def _kilobytes(field: str) -> int:
    return next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith(field + ":")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="k-reciprocal re-ranking (20, 6, 0.3)")
    parser.add_argument("size", choices=SIZES, nargs="?", default="market")
    parser.add_argument("--backend", choices=("numpy", "torch"), default="numpy")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sets = features(*SIZES[options.size])
    if options.backend == "torch":
        sets = tuple(map(torch.from_numpy, sets))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets the peak to the present size
    before = _kilobytes("VmRSS")
    processor = time.process_time()
    times = [rerank_all(*sets) for _ in range(options.repeats)]
    processor = (time.process_time() - processor) / options.repeats
    extra = (_kilobytes("VmHWM") - before) / 1024
    print(
        f"{options.size} {options.backend}: "
        f"median {np.median(times):.2f} s of {[round(t, 2) for t in times]}, "
        f"{processor:.2f} CPU s each, {extra:.0f} MB beyond the features"
    )


if __name__ == "__main__":
    main()
