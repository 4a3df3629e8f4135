"""What each paper can run, asked of the paper itself as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache

from common.errors import RunError
from common.records import PAPERS, ROOT

REPORTS = ROOT / "reports"


def built_papers() -> list[str]:
    """The papers that have a command line by now."""
    return [paper for paper in PAPERS if (ROOT / paper / "train.py").is_file()]


@lru_cache
def experiments(paper: str) -> dict[str, dict]:
    """key -> entry of `python train.py --list-experiments`. Raises `RunError` if the command fails."""
    command = [sys.executable, "train.py", "--list-experiments"]
    answer = subprocess.run(command, cwd=ROOT / paper, capture_output=True, text=True)
    if answer.returncode != 0:
        raise RunError(f"{paper}: --list-experiments failed: {answer.stderr.strip().splitlines()[-1:]}")
    return {entry["key"]: entry for entry in json.loads(answer.stdout)}
