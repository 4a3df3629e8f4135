"""What each paper can run, asked of the paper itself as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from common.errors import RunError
from common.records import PAPERS, ROOT

REPORTS = ROOT / "reports"


def built_papers(root: Path = ROOT) -> list[str]:
    """The papers that have a command line by now."""
    return [paper for paper in PAPERS if (root / paper / "train.py").is_file()]


@lru_cache
def experiments(paper: str, preset: str = "demo", root: Path = ROOT) -> dict[str, dict]:
    """key -> entry of `python train.py --list-experiments`. Raises `RunError` if the command fails."""
    return {entry["key"]: entry for entry in _ask(paper, root, "--list-experiments", "--preset", preset)}


@lru_cache
def switches(paper: str, root: Path = ROOT) -> list[dict]:
    """The entries of `python train.py --list-switches`."""
    return _ask(paper, root, "--list-switches")


def _ask(paper: str, root: Path, *flags: str) -> list[dict]:
    answer = subprocess.run([sys.executable, "train.py", *flags], cwd=root / paper, capture_output=True, text=True)
    if answer.returncode != 0:
        raise RunError(f"{paper}: {flags[0]} failed: {''.join(answer.stderr.strip().splitlines()[-1:])}")
    return json.loads(answer.stdout)
