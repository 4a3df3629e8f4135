"""What bf16 does to the scores: one row trained and tested in float32 and in bf16, seed by seed. Run by hand:

    python tests/bench/bench_precision.py [--paper hhl] [--experiment hhl/table2/baseline_source] [--seeds 5]
    [--out DIR] [flags of train.py]

Both runs of a seed begin with the same weights and see the same batches; the difference is of rank-1 and mAP
in points, with its 95 % t-interval. Runs that `--out` already holds are not repeated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.provenance import ROOT
from common.records import PAPERS, read_record
from reports.claims import Difference, difference

PRECISIONS = ("bf16", "fp32")


def scores(
    paper: str, experiment: str, seed: int, precision: str, out: Path, flags: Sequence[str]
) -> dict[str, float]:
    """The named score "last" of one run, in percent. Raises `subprocess.CalledProcessError` if it fails."""
    out = out / f"{precision}+seed={seed}"
    if not list(out.rglob("record.json")):
        subprocess.run(
            [
                sys.executable,
                "train.py",
                "--experiment",
                experiment,
                "--seed",
                str(seed),
                "--precision",
                precision,
                "--out",
                str(out),
                "--resume",
                *flags,
            ],
            cwd=ROOT / paper,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    (record,) = out.rglob("record.json")
    return {
        metric: 100 * value
        for metric, value in read_record(record.read_text(encoding="utf-8"), str(record))
        .scores["last"]
        .items()
    }


def compare(
    paper: str, experiment: str, seeds: int, out: Path, flags: Sequence[str] = ()
) -> dict[str, Difference]:
    """Metric -> bf16 - fp32 over the seeds 0 .. seeds-1."""
    runs = {
        precision: [scores(paper, experiment, seed, precision, out, flags) for seed in range(seeds)]
        for precision in PRECISIONS
    }
    return {
        metric: difference(*([score[metric] for score in runs[precision]] for precision in PRECISIONS))
        for metric in ("R-1", "mAP")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="bf16 against float32, in the scores")
    parser.add_argument("--paper", choices=PAPERS, default="hhl")
    parser.add_argument("--experiment", default="hhl/table2/baseline_source")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = compare(
            options.paper,
            options.experiment,
            options.seeds,
            (options.out or Path(temporary)).resolve(),
            flags,
        )
    for metric, gap in found.items():
        interval = "" if gap.half_width is None else f" ± {gap.half_width:.1f}"
        print(
            f"{metric}: bf16 {gap.left:.1f}, float32 {gap.right:.1f}, "
            f"difference {gap.mean:+.1f}{interval} ({gap.n} seeds)"
        )


if __name__ == "__main__":
    main()
