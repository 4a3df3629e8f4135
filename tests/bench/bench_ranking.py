"""Time and memory of `evaluate` at Market-1501's size beside a blocked matrix product and a full sort, and
its memory for a gallery of 100,000 images. Run by hand on a quiet machine:

    python tests/bench/bench_ranking.py [--threads 2] [--pairs 5]
    python tests/bench/bench_ranking.py --large

Each pair times one, then the other, in one process; medians of the pairs' ratios are printed. Extra memory is
the growth of the process's peak resident size over what it held before the call (Linux).
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from common.evaluation.distances import row_blocks
from common.evaluation.ranking import evaluate

MARKET = (3368, 15913, 2048)  # queries, gallery without junk, width
LARGE = (3368, 100_000, 512)
FAR = 10.0  # a mean that `evaluate` subtracts from the features first
CASES = {"trained": 3.0, "random": 1e3}  # spread of an image around its person's centre


def problem(size: tuple[int, int, int], spread: float, seed: int = 0) -> list[np.ndarray]:
    """Arguments of `evaluate`: 750 people, 2,798 of 15,913 distractors, six cameras; features of 64
    directions, L2-normalised, float32.
    """
    num_queries, num_gallery, width = size
    rng = np.random.default_rng(seed)
    people = max(2, num_queries * 750 // 3368)
    query_pids = 1 + np.arange(num_queries) % people
    gallery_pids = np.where(
        rng.random(num_gallery) < 2798 / 15913, 0, rng.integers(1, people + 1, num_gallery)
    )
    query_camids, gallery_camids = rng.integers(0, 6, num_queries), rng.integers(0, 6, num_gallery)
    centres, directions = (
        rng.standard_normal((people + 1, 64)),
        rng.standard_normal((64, width), dtype=np.float32),
    )

    def features(pids):
        centre = np.where(pids[:, None] == 0, rng.standard_normal((len(pids), 64)), centres[pids])
        x = (centre + spread / 3 * rng.standard_normal(centre.shape)).astype(np.float32) @ directions
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return x

    return [
        features(query_pids),
        query_pids,
        query_camids,
        features(gallery_pids),
        gallery_pids,
        gallery_camids,
    ]


def blocked_matmul(queries, gallery) -> None:
    """The least that any evaluator does: the products, in the evaluator's own blocks, into one buffer."""
    blocks = list(row_blocks(len(queries), len(gallery)))
    rows = blocks[0][1]
    library, out = (
        (np, np.empty((rows, len(gallery)), np.float32))
        if isinstance(queries, np.ndarray)
        else (torch, torch.empty(rows, len(gallery)))
    )
    for start, stop in blocks:
        library.matmul(queries[start:stop], gallery.T, out=out[: stop - start])


def evaluate_by_sorting(queries, query_pids, query_camids, gallery, gallery_pids, gallery_camids) -> float:
    """mAP by trapezoids the usual way, all distances and a full argsort: what most re-ID code does,
    vectorised.
    """
    products = queries @ gallery.T
    order = np.asarray((1 - products).argsort(1))
    total = 0.0
    for ranking, pid, camid in zip(order, query_pids, query_camids, strict=True):
        same = gallery_pids[ranking] == pid
        hits = same[~(same & (gallery_camids[ranking] == camid))]
        places = np.flatnonzero(hits)
        number = np.arange(len(places))
        before = np.where(places == 0, 1.0, number / np.maximum(places, 1))
        total += ((before + (number + 1) / (places + 1)) / 2).mean() if len(places) else 0.0
    return total / len(query_pids)


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def extra_megabytes(job: Callable[[], object]) -> float:
    """Growth of the peak resident size while `job` runs; NaN where /proc does not tell."""
    status = Path("/proc/self/status")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # gives freed memory back, so that using it again counts
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets the peak to the present size
        before = _kilobytes(status, "VmRSS")
        job()
        return (_kilobytes(status, "VmHWM") - before) / 1024
    except (OSError, AttributeError):
        return float("nan")


def _kilobytes(status: Path, field: str) -> int:
    return next(
        int(line.split()[1])
        for line in status.read_text(encoding="utf-8").splitlines()
        if line.startswith(field + ":")
    )


def compare(library: str, case: str, size: tuple[int, int, int] = MARKET, pairs: int = 5) -> dict[str, float]:
    """Medians over alternating pairs: seconds of each, ratio to the product, and how many times faster than
    sorting.
    """
    arguments = problem(size, CASES[case])
    if library == "torch":
        arguments[0], arguments[3] = torch.from_numpy(arguments[0]), torch.from_numpy(arguments[3])
    result = evaluate(*arguments, no_match="zero")  # warms up
    memory = extra_megabytes(lambda: evaluate(*arguments, no_match="zero"))
    rounds = [
        (
            seconds(lambda: blocked_matmul(arguments[0], arguments[3])),
            seconds(lambda: evaluate(*arguments, no_match="zero")),
        )
        for _ in range(pairs)
    ]
    product, ours = np.array(rounds).T
    sorts = [
        (
            seconds(lambda: evaluate_by_sorting(*arguments)),
            seconds(lambda: evaluate(*arguments, no_match="zero")),
        )
        for _ in range(min(pairs, 3))
    ]
    return {
        "R-1": result.cmc[1],
        "mAP": result.mAP,
        "mAP by sorting": evaluate_by_sorting(*arguments),
        "matmul s": float(np.median(product)),
        "evaluate s": float(np.median(ours)),
        "ratio": float(np.median(ours / product)),
        "times faster than sorting": float(np.median([a / b for a, b in sorts])),
        "extra MB": memory,
    }


def memory_of_large(library: str, mean: float, size: tuple[int, int, int] = LARGE) -> dict[str, float]:
    """Megabytes of the features, and of `evaluate` beside them."""
    arguments = problem(size, CASES["trained"])
    for features in (arguments[0], arguments[3]):
        features += np.float32(mean)
    megabytes = sum(arguments[i].nbytes for i in (0, 3)) / 2**20
    if library == "torch":
        arguments[0], arguments[3] = torch.from_numpy(arguments[0]), torch.from_numpy(arguments[3])
    extra = extra_megabytes(lambda: evaluate(*arguments, no_match="zero"))
    return {"features MB": megabytes, "extra MB": extra}


def main() -> None:
    parser = argparse.ArgumentParser(description="evaluate at Market-1501's size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="only the memory for 100,000 x 512 features")
    options = parser.parse_args()
    # NumPy takes its threads from OPENBLAS_NUM_THREADS or OMP_NUM_THREADS
    torch.set_num_threads(options.threads)
    for library, mean in ((library, mean) for library in ("numpy", "torch") for mean in (0.0, FAR)):
        if options.large:
            print(library, f"mean {mean}", memory_of_large(library, mean), flush=True)
    for library in () if options.large else ("numpy", "torch"):
        for case in CASES:
            figures = compare(library, case, pairs=options.pairs)
            print(
                f"{library:6} {case:8}",
                "  ".join(f"{name} {value:.3f}" for name, value in figures.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
