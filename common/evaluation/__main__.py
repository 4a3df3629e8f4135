"""Scores two feature files: `python -m common.evaluation QUERY.npz GALLERY.npz [--metric M] [--rerank]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from common.cli import exit_code
from common.evaluation.distances import METRICS
from common.evaluation.features import evaluate_files
from common.evaluation.ranking import NO_MATCH


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the scores and returns the exit code: 0, or 2 for bad input."""
    return exit_code(lambda: _run(_parser().parse_args(arguments)))


def _run(options: argparse.Namespace) -> None:
    result = evaluate_files(
        options.query,
        options.gallery,
        metric=options.metric,
        rerank=options.rerank,
        no_match=options.no_match,
        cut=options.cut,
    )
    for name, value in result.scores().items():
        print(f"{name:9}{100 * value:6.2f}")
    print(
        f"{result.num_valid_queries:,} of {len(result.ap):,} queries have a match; "
        "mAP by trapezoid, mAP_step by steps; in percent"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m common.evaluation", description="Rank-1/5/10/20 and both mAPs of two feature files."
    )
    add = parser.add_argument
    add("query", metavar="QUERY.npz", help="written by save_features, without junk and distractors")
    add("gallery", metavar="GALLERY.npz", help="may contain junk (pid -1) and distractors (pid 0)")
    add("--metric", choices=METRICS, default="euclidean", help="default: %(default)s")
    add("--rerank", action="store_true", help="k-reciprocal re-ranking (20, 6, 0.3)")
    no_match = "queries without a match: default %(default)s"
    add("--no-match", choices=NO_MATCH, default="skip", help=no_match)
    cut = "only the first N images of the raw list can be hits (2000 in some released code)"
    add("--cut", metavar="N", type=int, help=cut)
    return parser


if __name__ == "__main__":
    sys.exit(main())
