"""Runs the missing cells of the tables: `python -m reports sweep`.

A cell is one experiment (aliases resolved) on one pair with one seed. It is done when the output folder or
`reports/results` holds a record with the experiment's present config hash. The missing cells of one paper,
pair and seed form a job: one process, whose rows share their stages. No other state is kept, so the next call
continues a sweep that was stopped.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median

from common.checks import LARGEST
from common.errors import InputError, RunError
from common.provenance import ROOT
from common.records import PAPERS, Record, numerics_text, read_record_file
from common.runs import run_folder
from reports.collect import read_results
from reports.experiments import MOST_SEEDS, experiments, sweep_entries
from reports.processes import Job, run_jobs

GUESS = 60.0  # seconds of a cell whose paper has no record yet, unless sweeps.toml has an estimate


@dataclass(frozen=True)
class Cell:
    """One experiment on one pair with one seed, under a preset whose config hashes to `config_hash`."""

    paper: str
    key: str
    source: str
    target: str
    seed: int
    preset: str
    config_hash: str
    data_seed: int = 0  # drawing of the synthetic domains
    flags: tuple[str, ...] = ()  # of the command: how it computes
    real: bool = field(default=False, compare=False)  # needs a real dataset
    gpu: bool = field(default=False, compare=False)  # would take days without one
    minutes: float = field(default=GUESS / 60, compare=False)  # estimated, where there is no record yet

    @property
    def job(self) -> tuple:
        """The values that cells share if they run in one process."""
        pair = (self.source, self.target)
        return (self.paper, pair, self.seed, self.data_seed, self.preset, self.flags, self.real)

    @property
    def identity(self) -> tuple:
        """What the cell's record has as its identity and its preset."""
        drawn = (self.seed, self.data_seed)
        setting = (self.config_hash, self.numerics)
        return ((self.key, self.source, self.target, *drawn, *setting), self.preset)

    @property
    def numerics(self) -> str:
        """The numerics that the flags choose, as in the record's identity."""
        chosen = dict(zip(self.flags, (*self.flags[1:], "")))
        return numerics_text({"precision": chosen.get("--precision", "fp32"), "pack": "--pack" in chosen})

    def folder(self, out: Path) -> Path:
        """Returns the folder of the cell's run below the output folder."""
        pair = (self.source, self.target)
        return run_folder(out, self.key, pair, self.seed, self.preset, self.data_seed, self.numerics)

    def matches(self, record: Record) -> bool:
        return self.identity == (record.identity, record.preset)


@dataclass(frozen=True)
class Choice:
    """The flags that select cells of `sweeps.toml`; empty ones select all."""

    paper: str = ""
    table: str = ""  # "table2", or a pattern of whole keys
    pair: str = ""  # a pattern of "source->target"
    seeds: tuple[int, ...] | None = None  # instead of the seeds of sweeps.toml


@dataclass(frozen=True)
class Setup:
    """The flags that set where and how the processes run."""

    jobs: int = 2  # processes in parallel
    threads: int = 1  # CPU threads of each
    out: Path | None = None
    data_root: Path | None = None
    gpu: bool = False
    root: Path = ROOT

    def __post_init__(self) -> None:
        if self.jobs < 1 or self.threads < 1:
            raise InputError("--jobs and --threads must be positive")

    def output(self, paper: str) -> Path:
        """Returns the folder of a paper's runs: `out/<paper>`, or `runs/` in the paper's folder."""
        return (self.out / paper if self.out else self.root / paper / "runs").absolute()


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parses `0-4`, `3`, or `0,2,5-7`. Raises `InputError` for anything else, and for too many seeds."""
    spans = []
    for part in text.split(","):
        span = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", part.strip())
        first, last = (int(span[1]), int(span[2] or span[1])) if span else (1, 0)
        if not first <= last <= LARGEST:
            raise InputError(
                f"--seeds {text[:80]}: expected numbers and ranges such as 0-4 or 0,2, up to {LARGEST:,}"
            )
        spans.append(range(first, last + 1))
    if sum(map(len, spans)) > MOST_SEEDS:
        raise InputError(f"--seeds {text[:80]}: expected at most {MOST_SEEDS:,} seeds")
    return tuple(dict.fromkeys(seed for span in spans for seed in span))


def planned_cells(choice: Choice, root: Path = ROOT) -> list[Cell]:
    """Returns the cells of `reports/sweeps.toml` that the choice leaves, in the order of the file.

    Raises `InputError` for an unknown paper, a pattern that matches no experiment, and a choice that leaves
    nothing.
    """
    if choice.paper and choice.paper not in PAPERS:
        raise InputError(f"--paper {choice.paper}: expected one of {', '.join(PAPERS)}")
    cells: list[Cell] = []
    for entry in sweep_entries(root):
        if choice.paper in ("", entry["paper"]):
            cells += _cells_of(entry, choice, root)
    if not cells:
        raise InputError(
            "nothing in reports/sweeps.toml is left by --paper, --table and --pairs: "
            "see python -m reports sweep --dry-run"
        )
    unique: dict[tuple, Cell] = {}
    for cell in cells:
        unique.setdefault(cell.identity, cell)
    return list(unique.values())


def _cells_of(entry: Mapping, choice: Choice, root: Path) -> list[Cell]:
    paper, preset = entry["paper"], entry.get("preset", "demo")
    if not fnmatchcase(f"{entry['source']}->{entry['target']}", choice.pair or "*"):
        return []
    table, keys = experiments(paper, preset, root), []
    for pattern in entry["keys"]:
        matching = [key for key in table if fnmatchcase(key, pattern)]
        if not matching:
            raise InputError(
                f"reports/sweeps.toml: {pattern} matches no experiment of {paper}: see its --list-experiments"
            )
        keys += [key for key in matching if _in_table(paper, key, choice.table)]
    runs = dict.fromkeys(table[key]["alias_of"] or key for key in keys)
    seeds = range(entry["seeds"]) if choice.seeds is None else choice.seeds
    needs = tuple(entry.get("flags", ())), entry.get("real", False), entry.get("gpu", False)
    minutes = entry.get("minutes", GUESS / 60)
    return [
        Cell(
            paper,
            key,
            entry["source"],
            entry["target"],
            seed,
            preset,
            table[key]["config_hash"],
            seed if entry.get("draws", False) else 0,
            *needs,
            minutes,
        )
        for seed in seeds
        for key in runs
    ]


def _in_table(paper: str, key: str, pattern: str) -> bool:
    return not pattern or fnmatchcase(key, pattern) or fnmatchcase(key, f"{paper}/{pattern}/*")


def is_done(cell: Cell, folder: Path) -> bool:
    """Returns whether the output folder holds the cell's record."""
    try:
        return cell.matches(read_record_file(cell.folder(folder) / "record.json"))
    except InputError:
        return False


def expected_seconds(cells: Sequence[Cell], root: Path = ROOT) -> dict[Cell, float]:
    """Maps cells to their former duration: the median over the records of the key, or else of the paper, or
    else the estimate of `sweeps.toml`.
    """
    records = {paper: read_results(paper, root / "reports") for paper in {cell.paper for cell in cells}}
    medians: dict[tuple[str, str, str], float | None] = {}
    for paper, preset, key in {(cell.paper, cell.preset, cell.key) for cell in cells}:
        similar = [record for record in records[paper] if record.preset == preset]
        known = [r.seconds for r in similar if r.key == key] or [r.seconds for r in similar]
        medians[paper, preset, key] = median(known) if known else None
    return {cell: medians[cell.paper, cell.preset, cell.key] or 60 * cell.minutes for cell in cells}


def sweep(choice: Choice, setup: Setup | None = None, *, dry_run: bool = False) -> None:
    """Runs the missing cells, `setup.jobs` processes at a time, the longest first.

    Cells on real photographs need `setup.data_root`, and some also `setup.gpu`. Raises `RunError` at the end
    if a process failed, and `InputError` if the choice leaves nothing.
    """
    setup = setup or Setup()
    cells = _runnable(planned_cells(choice, setup.root), setup)
    papers = list(dict.fromkeys(cell.paper for cell in cells))
    records = [record for paper in papers for record in read_results(paper, setup.root / "reports")]
    collected = {(record.identity, record.preset) for record in records}
    rest = [cell for cell in cells if cell.identity not in collected]
    missing = [cell for cell in rest if not is_done(cell, setup.output(cell.paper))]
    queue = plan_jobs(missing, expected_seconds(missing, setup.root), setup)
    counts = f"{len(cells) - len(rest)} in reports/results, {len(rest) - len(missing)} in the output folder"
    to_run = f"{len(missing)} to run in {len(queue)} processes, {setup.jobs} at a time"
    print(f"{len(cells)} cells: {counts}, {to_run}", flush=True)
    if dry_run:
        print("".join(f"{describe_job(job)}\n" for job in queue), end="")
        return
    failures = run_jobs(queue, parallel=setup.jobs) if queue else []
    for paper in papers:
        print(_what_next(paper, [cell for cell in rest if cell.paper == paper], setup.output(paper)))
    if failures:
        raise RunError("\n".join([f"{len(failures)} failed; the same command goes on from here", *failures]))


def _runnable(cells: Sequence[Cell], setup: Setup) -> list[Cell]:
    """Omits cells for which a flag is missing, and prints their number."""
    drawn = [cell for cell in cells if setup.data_root or not cell.real]
    kept = [cell for cell in drawn if setup.gpu or not cell.gpu]
    photographs, gpu = len(cells) - len(drawn), len(drawn) - len(kept)
    if photographs:
        print(f"{photographs} cells on real photographs are left out: they need --data-root DIR", flush=True)
    if gpu:
        print(f"{gpu} cells for a GPU are left out: they need --gpu", flush=True)
    return kept


def plan_jobs(missing: Sequence[Cell], seconds: Mapping[Cell, float], setup: Setup) -> list[Job]:
    """Returns one job for each paper, pair and seed, the longest first."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in missing:
        groups.setdefault(cell.job, []).append(cell)
    queue = [_job(cells, seconds, setup) for cells in groups.values()]
    return sorted(queue, key=lambda job: -sum(job.seconds.values()))


def _job(cells: Sequence[Cell], seconds: Mapping[Cell, float], setup: Setup) -> Job:
    """Returns the process that runs cells of one paper, pair, seed and preset."""
    first = cells[0]
    folder = setup.output(first.paper)
    flags = {
        "--preset": first.preset,
        "--source": first.source,
        "--target": first.target,
        "--seed": first.seed,
        "--threads": setup.threads,
        "--out": folder,
    }
    drawn = f"seed={first.seed}"
    if first.data_seed:
        flags["--data-seed"] = first.data_seed
        drawn += f",data={first.data_seed}"
    command = [sys.executable, "train.py", *(str(part) for flag in flags.items() for part in flag)]
    command += ["--resume", *first.flags]
    if first.real and setup.data_root:
        command += ["--data-root", str(setup.data_root.absolute())]
    by_key = {cell.key: cell for cell in cells}
    preset = "" if first.preset == "demo" else f"{first.preset} "
    return Job(
        name=f"{first.paper} {first.source}->{first.target} {preset}{drawn.replace('=', ' ')}",
        command=tuple(command),
        folder=setup.root / first.paper,
        threads=setup.threads,
        log=folder / "logs" / f"{first.preset}+{first.source}+{first.target}+{drawn}.log",
        seconds={cell.key: seconds[cell] for cell in cells},
        is_done=lambda key: is_done(by_key[key], folder),
    )


def describe_job(job: Job) -> str:
    """Returns the job with its expected minutes, then a line for each key."""
    minutes = sum(job.seconds.values()) / 60
    head = f"{job.name}: {len(job.seconds)} cells, about {minutes:.0f} min"
    return "\n".join([head, *(f"    {key}" for key in job.seconds)])


def _what_next(paper: str, cells: Sequence[Cell], folder: Path) -> str:
    """Returns what is left of a paper's uncollected cells, and the command that collects the others."""
    done = sum(is_done(cell, folder) for cell in cells)
    state = "all cells done" if done == len(cells) else f"{len(cells) - done} cells missing"
    command = f"; now: python -m reports collect --replace {os.path.relpath(folder)}" if done else ""
    return f"{paper}: {state}{command}"
