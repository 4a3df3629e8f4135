"""`python -m reports sweep | collect | status | build | readme`: runs what is missing, collects and shows the
records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import exit_code
from common.errors import InputError
from common.flags import OneLineParser
from reports.build import build
from reports.collect import collect
from reports.readme import update_readmes
from reports.status import status
from reports.sweep import Choice, Setup, parse_seeds, sweep

SWEEP = "run what reports/sweeps.toml lists and no record shows; may be stopped and continued at any time"
TABLE = "only this table or figure (table2, fig5), or keys that match a pattern"
PAIRS = "only pairs that match, as in 'synthetic-duke->*'"
SEEDS = "these seeds instead of those of sweeps.toml: 0-4, or 0,2"
OUT = "output goes to DIR/<paper>; default: runs/ in each paper's folder"
DATA_ROOT = "folder of the real datasets; without it, only cells on synthetic domains run"
GPU = "also run the cells that would take days without a GPU"
FOLDER = "the --out folder of a run (hhl/runs, say)"
MISSING = "only what is missing, and how many more seeds would decide a claim"
REPLACE = "drop older records of the same key, pair, seed and preset"


def parser() -> argparse.ArgumentParser:
    top = OneLineParser(prog="python -m reports", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("sweep", help=SWEEP)
    run.add_argument("--paper", default="", help="only this paper")
    run.add_argument("--table", default="", metavar="T", help=TABLE)
    run.add_argument("--pairs", default="", metavar="P", help=PAIRS)
    run.add_argument("--seeds", metavar="S", help=SEEDS)
    run.add_argument("--jobs", type=int, default=2, help="processes in parallel")
    run.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    run.add_argument("--out", type=Path, metavar="DIR", help=OUT)
    run.add_argument("--data-root", type=Path, metavar="DIR", help=DATA_ROOT)
    run.add_argument("--gpu", action="store_true", help=GPU)
    run.add_argument("--dry-run", action="store_true", help="print what would be run, and stop")
    gather = commands.add_parser("collect", help="add finished runs to reports/results")
    gather.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help=FOLDER)
    gather.add_argument("--replace", action="store_true", help=REPLACE)
    tell = commands.add_parser("status", help="what has been run, key by key")
    tell.add_argument("--paper", default="", help="only this paper")
    tell.add_argument("--missing", action="store_true", help=MISSING)
    commands.add_parser("build", help="figures, pages and the READMEs' tables from the records")
    commands.add_parser("readme", help="the READMEs' tables only")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _run(parser().parse_args(argv)))


def _run(arguments: argparse.Namespace) -> None:
    """Runs a command; an error of the file system becomes an `InputError`: a folder that was removed, say."""
    try:
        run(arguments)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise InputError(f"{error.strerror or error}{where}; no finished file has been overwritten") from None


def run(arguments: argparse.Namespace) -> None:
    if arguments.command == "sweep":
        seeds = parse_seeds(arguments.seeds) if arguments.seeds is not None else None
        choice = Choice(arguments.paper, arguments.table, arguments.pairs, seeds)
        given = {name: getattr(arguments, name) for name in ("jobs", "threads", "out", "data_root", "gpu")}
        sweep(choice, Setup(**given), dry_run=arguments.dry_run)
    elif arguments.command == "collect":
        print("\n".join(collect(arguments.folders, replace=arguments.replace)))
    elif arguments.command == "status":
        print(status(paper=arguments.paper, missing=arguments.missing))
    elif arguments.command == "build":
        print("\n".join(build()) or "nothing has changed")
    else:
        update_readmes()


if __name__ == "__main__":
    sys.exit(main())
