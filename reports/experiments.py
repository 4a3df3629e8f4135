"""Asks each paper's command for its experiments and switches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from common.errors import InputError, RunError
from common.provenance import ROOT
from common.published import read_toml
from common.records import PAPERS, Record

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
    minutes: int  # of a row with one seed, estimated: counts until there are records


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


def of_one_kind(records: Sequence[Record]) -> list[Record]:
    """Returns the records that may be pooled: seed N on drawing N of the data if any was made on another
    drawing than the first; else all, which differ in the training seed alone.
    """
    drawings = any(record.data_seed for record in records)
    return [record for record in records if record.data_seed == (record.seed if drawings else 0)]


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


KNOWN: dict[tuple[str, str, Path], Answer] = {}  # what `ask_all` has asked already


def ask_all(root: Path = ROOT, papers: Sequence[str] = PAPERS) -> None:
    """Asks papers about the demo and every preset of their sweeps, all in one process, if that works; a paper
    that it does not answer for is asked by its own command when its answer is needed.
    """
    presets = [(paper, "demo") for paper in papers]
    presets += [
        (entry["paper"], entry.get("preset", "demo"))
        for entry in sweep_entries(root)
        if entry["paper"] in papers
    ]
    unknown = [question for question in dict.fromkeys(presets) if (*question, root) not in KNOWN]
    for (paper, preset), answer in (list_all(unknown, root) if unknown else {}).items():
        KNOWN[paper, preset, root] = answer


def list_all(questions: Sequence[tuple[str, str]], root: Path = ROOT) -> dict[tuple[str, str], Answer]:
    """Returns the answers of `reports.listing` about papers and presets; none if it fails."""
    names = [":".join(question) for question in questions]
    command = [sys.executable, "-m", "reports.listing", *names]
    answer = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8")
    if answer.returncode != 0:
        return {}
    lists = json.loads(answer.stdout)
    return {question: _answer(lists[name]) for question, name in zip(questions, names)}


def _answer(data: Mapping[str, Any]) -> Answer:
    return Answer({entry["key"]: entry for entry in data["experiments"]}, data["switches"])


def ask(paper: str, preset: str = "demo", root: Path = ROOT) -> Answer:
    """Returns what a paper's command answers about one preset, which is asked once.

    Raises `InputError` for an unknown paper, and `RunError` if the command fails.
    """
    check_paper(paper, "--list-experiments")
    if (paper, preset, root) not in KNOWN:
        KNOWN[paper, preset, root] = _ask(paper, preset, root)
    return KNOWN[paper, preset, root]


def _ask(paper: str, preset: str, root: Path) -> Answer:
    command = [sys.executable, "train.py", "--list-experiments", "--list-switches", "--preset", preset]
    answer = subprocess.run(command, cwd=root / paper, capture_output=True, encoding="utf-8")
    if answer.returncode != 0:
        last_line = "".join(answer.stderr.strip().splitlines()[-1:])
        raise RunError(f"{paper}: --list-experiments failed: {last_line}")
    return _answer(json.loads(answer.stdout))
