"""Changes one line of a paper's code at a time and runs the paper's tests, which must fail each time:

    python tests/bench/bench_mutations.py hhl [--only 3,7-9] [--timeout 300]

`mutations/<paper>.toml` lists the changes, most of the kind "this switch silently does nothing". A mutation
that survives is a fault of the tests, or `equivalent`: the entry then says why it cannot be seen. Works on a
copy of the tracked files. Exit code 1 if less than 95 % of the others are caught.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, TypedDict

from common.errors import InputError
from common.published import read_toml
from common.records import PAPERS

ROOT = Path(__file__).resolve().parents[2]
LISTS = Path(__file__).parent / "mutations"
ENOUGH = 0.95  # share of the mutations that the tests must catch
# tests with TensorFlow, which never shares a process with PyTorch, and what they need in the environment
WITH_TENSORFLOW = "tests/spgan/gan/"
TENSORFLOW = {"SPGAN_TENSORFLOW": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}


class _Required(TypedDict):
    words: str
    file: str
    old: str
    new: str
    tests: list[str]


class Mutation(_Required, total=False):
    """One `[[mutation]]`: what it pretends, `old` (which occurs once in `file`) becomes `new`, and the tests
    that are run; `equivalent` says why no test can see it.
    """

    equivalent: str


class MutationsFile(TypedDict):
    """The whole of one list."""

    mutation: list[Mutation]


class Result(NamedTuple):
    """What became of one mutation."""

    mutation: Mutation
    outcome: str  # caught | survived | equivalent
    seconds: float


def read_mutations(paper: str, root: Path = ROOT, lists: Path = LISTS) -> list[Mutation]:
    """Reads a paper's list. Raises `InputError` for code or tests that are no longer there."""
    path = lists / f"{paper}.toml"
    mutations = read_toml(path, MutationsFile)["mutation"]
    for mutation in mutations:
        found = (root / mutation["file"]).read_text(encoding="utf-8").count(mutation["old"])
        if found != 1 or mutation["old"] == mutation["new"]:
            raise InputError(
                f"{path.name}: {mutation['words']}: expected its code once, found it {found} times"
            )
        for test in mutation["tests"]:
            if not (root / test.split("::")[0]).exists():
                raise InputError(f"{path.name}: {mutation['words']}: no such test: {test}")
    return mutations


def copy_of_tracked_files(root: Path, folder: Path) -> None:
    """Copies what git tracks, as it is in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)


def tests_pass(folder: Path, tests: list[str], timeout: float) -> bool:
    """Runs tests in a copy, those with TensorFlow in a process of their own; a run that takes too long counts
    as failed.
    """
    with_tensorflow = [test for test in tests if test.startswith(WITH_TENSORFLOW)]
    others = [test for test in tests if test not in with_tensorflow]
    return (not others or pytest_passes(folder, others, timeout, {})) and (
        not with_tensorflow or pytest_passes(folder, with_tensorflow, timeout, TENSORFLOW)
    )


def pytest_passes(folder: Path, tests: list[str], timeout: float, variables: dict[str, str]) -> bool:
    """Runs tests in one process with these variables in its environment."""
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1):
        raise InputError(f"pytest ended with {done.returncode}: {done.stdout.decode()[-2000:]}")
    return done.returncode == 0


def try_mutation(folder: Path, mutation: Mutation, timeout: float) -> Result:
    """Applies a mutation to the copy, runs its tests, and takes it back."""
    path, began = folder / mutation["file"], time.monotonic()
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutation["old"], mutation["new"]), encoding="utf-8")
    try:
        survived = tests_pass(folder, mutation["tests"], timeout)
    finally:
        path.write_text(text, encoding="utf-8")
    outcome = "caught" if not survived else "equivalent" if "equivalent" in mutation else "survived"
    return Result(mutation, outcome, time.monotonic() - began)


def numbers(text: str, count: int) -> list[int]:
    """Reads `3,7-9`, counted from 1."""
    chosen: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        chosen += range(int(first), int(last or first) + 1)
    return [number for number in chosen if 1 <= number <= count]


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutates a paper's code and runs its tests.")
    parser.add_argument("paper", choices=PAPERS)
    parser.add_argument("--only", default="", help="numbers of mutations: 3,7-9")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for the tests of one")
    arguments = parser.parse_args()
    mutations = read_mutations(arguments.paper)
    chosen = numbers(arguments.only or f"1-{len(mutations)}", len(mutations))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_tracked_files(ROOT, folder)
        needed = sorted({test for number in chosen for test in mutations[number - 1]["tests"]})
        if not tests_pass(folder, needed, 10 * arguments.timeout):
            raise InputError("the tests fail without any mutation")
        results = []
        for number in chosen:
            result = try_mutation(folder, mutations[number - 1], arguments.timeout)
            results.append(result)
            print(
                f"{number:3d} {result.outcome:10} {result.seconds:4.0f} s  {result.mutation['words']}",
                flush=True,
            )
    visible = [result for result in results if result.outcome != "equivalent"]
    caught = sum(result.outcome == "caught" for result in visible)
    print(f"{arguments.paper}: {caught} of {len(visible)} caught; {len(results) - len(visible)} equivalent")
    return 0 if caught >= ENOUGH * len(visible) else 1


if __name__ == "__main__":
    sys.exit(main())
