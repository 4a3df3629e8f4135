"""Asks each paper's command for its experiments and switches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from common.errors import InputError, RunError
from common.provenance import ROOT
from common.published import read_toml
from common.records import PAPERS

REPORTS = ROOT / "reports"
MOST_SEEDS = 1_000  # of one sweep


class _Planned(TypedDict):
    paper: str
    keys: list[str]
    source: str
    target: str
    seeds: int


class SweepEntry(_Planned, total=False):
    """One `[[sweep]]` of `sweeps.toml`: its keys run on one pair with the seeds 0 to `seeds` - 1."""

    preset: str
    flags: list[str]
    draws: bool  # seed N runs on drawing N of the synthetic domains (--data-seed N)
    real: bool  # on real photographs
    gpu: bool  # would take days without a GPU


class Sweeps(TypedDict):
    """The whole of `sweeps.toml`."""

    sweep: list[SweepEntry]


@dataclass(frozen=True)
class Answer:
    """A paper's experiments by key, with the configuration hashes of one preset, and its switches."""

    experiments: dict[str, dict]
    switches: list[dict]


def experiments(paper: str, preset: str = "demo", root: Path = ROOT) -> dict[str, dict]:
    """Maps each key to its entry in `--list-experiments`. Raises `RunError` if the command fails."""
    return ask(paper, preset, root).experiments


def switches(paper: str, root: Path = ROOT) -> list[dict]:
    """Returns the entries of `--list-switches`. Raises `RunError` if the command fails."""
    return ask(paper, "demo", root).switches


def experiment(key: str) -> dict[str, Any]:
    """Returns the entry of one key. Raises `InputError` if its paper does not list it."""
    paper = key.split("/")[0]
    if key not in experiments(paper):
        raise InputError(f"{key} is not in {paper}'s --list-experiments: correct the key")
    return experiments(paper)[key]


def run_of(key: str) -> str:
    """Returns the key under which the run of `key` is recorded: its own or that of its alias."""
    return experiment(key)["alias_of"] or key


@lru_cache
def sweep_entries(root: Path = ROOT) -> tuple[dict[str, Any], ...]:
    """Reads the entries of `reports/sweeps.toml`. Raises `InputError` for a malformed one."""
    entries = read_toml(root / "reports" / "sweeps.toml", Sweeps)["sweep"]
    for entry in entries:
        if not 0 <= entry["seeds"] <= MOST_SEEDS:
            raise InputError(f"sweeps.toml: seeds {entry['seeds']}: expected 0 to {MOST_SEEDS:,}")
        check_paper(entry["paper"], "sweeps.toml")
    return tuple(entries)


def check_paper(paper: str, origin: str) -> None:
    """Raises `InputError` for an unknown paper."""
    if paper not in PAPERS:
        raise InputError(f"{origin}: no paper {paper!r}: expected one of {', '.join(PAPERS)}")


def ask_all(root: Path = ROOT) -> None:
    """Asks all papers in parallel about every preset of the sweeps; most of the time is PyTorch's import."""
    questions = [(paper, "demo", root) for paper in PAPERS]
    questions += [(entry["paper"], entry.get("preset", "demo"), root) for entry in sweep_entries(root)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda question: ask(*question), dict.fromkeys(questions)))


@lru_cache
def ask(paper: str, preset: str = "demo", root: Path = ROOT) -> Answer:
    """Runs a paper's command with one preset.

    Raises `InputError` for an unknown paper, and `RunError` if the command fails.
    """
    check_paper(paper, "--list-experiments")
    command = [sys.executable, "train.py", "--list-experiments", "--list-switches", "--preset", preset]
    answer = subprocess.run(command, cwd=root / paper, capture_output=True, encoding="utf-8")
    if answer.returncode != 0:
        last_line = "".join(answer.stderr.strip().splitlines()[-1:])
        raise RunError(f"{paper}: --list-experiments failed: {last_line}")
    data = json.loads(answer.stdout)
    return Answer({entry["key"]: entry for entry in data["experiments"]}, data["switches"])
