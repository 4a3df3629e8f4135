"""`python -m reports sweep | collect | status | build | readme`: run what is missing, take in the records,
show them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import exit_code
from reports.build import build
from reports.collect import collect
from reports.readme import update_readmes
from reports.status import status
from reports.sweep import Choice, parse_seeds, sweep


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "sweep",
        help="run what reports/sweeps.toml asks for and no record shows; stops and goes on at any time",
    )
    run.add_argument("--paper", default="", help="only this paper")
    run.add_argument(
        "--table",
        default="",
        metavar="T",
        help="only this table or figure (table2, fig5), or keys that match a pattern",
    )
    run.add_argument(
        "--pairs", default="", metavar="P", help="only pairs that match, as in 'synthetic-duke->*'"
    )
    run.add_argument("--seeds", metavar="S", help="these seeds in place of those of sweeps.toml: 0-4, or 0,2")
    run.add_argument("--jobs", type=int, default=2, help="processes side by side")
    run.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    run.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="output goes to DIR/<paper>; default: runs/ in each paper's folder",
    )
    run.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="where the real datasets are; without it, only what is drawn here runs",
    )
    run.add_argument("--gpu", action="store_true", help="also the cells that would take days without a GPU")
    run.add_argument("--dry-run", action="store_true", help="say what would be run, and stop")
    gather = commands.add_parser("collect", help="take finished runs into reports/results")
    gather.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="the --out folder of a run (hhl/runs, say)"
    )
    gather.add_argument(
        "--replace", action="store_true", help="drop older records of the same key, pair, seed and preset"
    )
    commands.add_parser("status", help="what has been run, key by key")
    commands.add_parser(
        "build", help="figures, reports/index.html and the tables of the READMEs from the records"
    )
    commands.add_parser("readme", help="the tables of the READMEs alone")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)

    def job() -> None:
        if arguments.command == "sweep":
            choice = Choice(
                arguments.paper,
                arguments.table,
                arguments.pairs,
                parse_seeds(arguments.seeds) if arguments.seeds else None,
            )
            sweep(
                choice,
                jobs=arguments.jobs,
                threads=arguments.threads,
                out=arguments.out,
                data_root=arguments.data_root,
                gpu=arguments.gpu,
                dry_run=arguments.dry_run,
            )
        elif arguments.command == "collect":
            print("\n".join(collect(arguments.folders, replace=arguments.replace)))
        elif arguments.command == "status":
            print(status())
        elif arguments.command == "build":
            print("\n".join(f"wrote reports/{name}" for name in build()) or "nothing has changed")
        else:
            update_readmes()

    return exit_code(job)


if __name__ == "__main__":
    sys.exit(main())
