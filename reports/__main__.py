"""`python -m reports collect FOLDER ... | status | readme`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import exit_code
from reports.collect import collect
from reports.readme import update_readmes
from reports.status import status


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    gather = commands.add_parser("collect", help="take finished runs into reports/results")
    gather.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="the --out folder of a run (hhl/runs, say)")
    commands.add_parser("status", help="what has been run, key by key")
    commands.add_parser("readme", help="rewrite the tables of the READMEs from the records")
    arguments = parser.parse_args(argv)

    def job() -> None:
        if arguments.command == "collect":
            print("\n".join(collect(arguments.folders)))
        elif arguments.command == "status":
            print(status())
        else:
            update_readmes()

    return exit_code(job)


if __name__ == "__main__":
    sys.exit(main())
