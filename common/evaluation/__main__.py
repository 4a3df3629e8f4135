"""`python -m common.evaluation QUERY.npz GALLERY.npz [--metric M] [--rerank]`: scores of two feature files,
in percent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from common.cli import exit_code
from common.evaluation.distances import METRICS
from common.evaluation.features import evaluate_files
from common.evaluation.ranking import NO_MATCH


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the scores and gives the exit code: 0, or 2 for bad input."""
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
        f"{result.num_valid_queries:,} of {len(result.ap):,} queries have a match; mAP by trapezoid, mAP_step by steps; in percent"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m common.evaluation", description="Rank-1/5/10/20 and both mAPs of two feature files."
    )
    parser.add_argument(
        "query", metavar="QUERY.npz", help="written by save_features; junk and distractors do not belong here"
    )
    parser.add_argument(
        "gallery", metavar="GALLERY.npz", help="may hold junk (pid -1) and distractors (pid 0)"
    )
    parser.add_argument("--metric", choices=METRICS, default="euclidean", help="default: %(default)s")
    parser.add_argument("--rerank", action="store_true", help="k-reciprocal re-ranking (20, 6, 0.3)")
    parser.add_argument(
        "--no-match", choices=NO_MATCH, default="skip", help="queries without a match: default %(default)s"
    )
    parser.add_argument(
        "--cut",
        metavar="N",
        type=int,
        help="only the first N images of the raw list can be hits (2000 in some released code)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
