"""Prints what the papers' `--list-experiments --list-switches` print, of several papers and presets at once,
from one process: most of the time of such a command is the import of PyTorch.

    python -m reports.listing hhl:demo hhl:study arn:demo
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence

from common.cli import list_answer
from common.records import Paper


def main(arguments: Sequence[str]) -> None:
    answers = {}
    for argument in arguments:
        name, _, preset = argument.partition(":")
        declared = vars(importlib.import_module(f"{name}.experiments")).values()
        paper = next(value for value in declared if isinstance(value, Paper))
        flags = ["--list-experiments", "--list-switches", "--preset", preset]
        answers[argument] = list_answer(paper, flags)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1:])
