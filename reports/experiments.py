"""What each paper can run, asked of the paper itself as a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from common.errors import RunError
from common.provenance import ROOT
from common.records import PAPERS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPORTS = ROOT / "reports"


def built_papers(root: Path = ROOT) -> list[str]:
    """The papers that have a command line by now."""
    return [paper for paper in PAPERS if (root / paper / "train.py").is_file()]


def experiments(paper: str, preset: str = "demo", root: Path = ROOT) -> dict[str, dict]:
    """key -> entry of `python train.py --list-experiments`. Raises `RunError` if the command fails."""
    return {entry["key"]: entry for entry in ask(paper, preset, root)["experiments"]}


def switches(paper: str, root: Path = ROOT) -> list[dict]:
    """The entries of `python train.py --list-switches`. Raises `RunError` if the command fails."""
    return ask(paper, "demo", root)["switches"]


@lru_cache
def sweep_entries(root: Path = ROOT) -> tuple[dict, ...]:
    """The entries of `reports/sweeps.toml`, which is read once."""
    return tuple(tomllib.loads((root / "reports" / "sweeps.toml").read_text())["sweep"])


def ask_all(root: Path = ROOT) -> None:
    """Asks all papers about every preset that a sweep uses, side by side: most of an answer's time is the
    import of PyTorch.
    """
    questions = [(paper, "demo", root) for paper in built_papers(root)]
    questions += [
        (entry["paper"], entry.get("preset", "demo"), root)
        for entry in sweep_entries(root)
        if entry["paper"] in built_papers(root)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda question: ask(*question), dict.fromkeys(questions)))


@lru_cache
def ask(paper: str, preset: str = "demo", root: Path = ROOT) -> dict[str, list[dict]]:
    """The paper's experiments under this preset, and its switches. Raises `RunError` if the command fails."""
    command = [sys.executable, "train.py", "--list-experiments", "--list-switches", "--preset", preset]
    answer = subprocess.run(command, cwd=root / paper, capture_output=True, text=True)
    if answer.returncode != 0:
        raise RunError(
            f"{paper}: --list-experiments failed: {''.join(answer.stderr.strip().splitlines()[-1:])}"
        )
    return json.loads(answer.stdout)
