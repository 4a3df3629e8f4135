"""Which cells of the tables are still to be run, and running them: `python -m reports sweep`.

A cell is one experiment (aliases resolved) on one pair with one seed. It is done when a record with the
experiment's present config hash lies in the output folder or in `reports/results`. The missing cells of one
paper, pair and seed make a job: one process, whose rows share their stages. Nothing else is remembered, so a
sweep that was stopped goes on with the next call.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median

from common.errors import InputError, RunError
from common.provenance import ROOT
from common.records import PAPERS, Record, read_record
from common.runs import run_folder
from reports.collect import read_results
from reports.experiments import built_papers, experiments, sweep_entries
from reports.processes import Job, run_jobs

GUESS = 60.0  # seconds of a cell whose paper has no record yet


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
    flags: tuple[str, ...] = field(default=(), compare=False)  # of the command: how it runs, not what
    real: bool = field(default=False, compare=False)  # needs a dataset that is not drawn here
    gpu: bool = field(default=False, compare=False)  # would take days without one

    @property
    def job(self) -> tuple[str, str, str, int, str, tuple[str, ...], bool]:
        """What cells must share to run in one process."""
        return (self.paper, self.source, self.target, self.seed, self.preset, self.flags, self.real)

    def matches(self, record: Record) -> bool:
        return self == Cell(
            record.paper,
            record.key,
            record.source,
            record.target,
            record.seed,
            record.preset,
            record.config_hash,
        )


@dataclass(frozen=True)
class Choice:
    """The flags of the command that narrow down what is run; empty means everything of `sweeps.toml`."""

    paper: str = ""
    table: str = ""  # "table2", or a pattern of whole keys
    pair: str = ""  # a pattern of "source->target"
    seeds: tuple[int, ...] | None = None  # in place of the seeds of sweeps.toml


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0-4`, `3`, or `0,2,5-7`. Raises `InputError` for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if span is None or int(span[2] or span[1]) < int(span[1]):
            raise InputError(f"--seeds {text}: expected numbers and ranges such as 0-4 or 0,2")
        seeds += range(int(span[1]), int(span[2] or span[1]) + 1)
    return tuple(dict.fromkeys(seeds))


def planned_cells(choice: Choice, root: Path = ROOT) -> list[Cell]:
    """The cells of `reports/sweeps.toml` that the choice leaves, in the order of the file; papers that are
    not built have none.

    Raises `InputError` for an unknown paper, a pattern that matches no experiment, and a choice that leaves
    nothing.
    """
    if choice.paper and choice.paper not in PAPERS:
        raise InputError(f"--paper {choice.paper}: expected one of {', '.join(PAPERS)}")
    cells: list[Cell] = []
    for entry in sweep_entries(root):
        if entry["paper"] in built_papers(root) and choice.paper in ("", entry["paper"]):
            cells += _cells_of(entry, choice, root)
    if not cells:
        raise InputError(
            "nothing in reports/sweeps.toml is left by --paper, --table and --pairs: see python -m reports sweep --dry-run"
        )
    return list(dict.fromkeys(cells))


def _cells_of(entry: Mapping, choice: Choice, root: Path) -> list[Cell]:
    paper, preset = entry["paper"], entry.get("preset", "demo")
    table = experiments(paper, preset, root)
    if not fnmatchcase(f"{entry['source']}->{entry['target']}", choice.pair or "*"):
        return []
    keys: list[str] = []
    for pattern in entry["keys"]:
        matching = [key for key in table if fnmatchcase(key, pattern)]
        if not matching:
            raise InputError(
                f"reports/sweeps.toml: {pattern} matches no experiment of {paper}: see its --list-experiments"
            )
        keys += [key for key in matching if _in_table(paper, key, choice.table)]
    runs = dict.fromkeys(table[key]["alias_of"] or key for key in keys)
    seeds = range(entry["seeds"]) if choice.seeds is None else choice.seeds
    how = tuple(entry.get("flags", ())), entry.get("real", False), entry.get("gpu", False)
    return [
        Cell(paper, key, entry["source"], entry["target"], seed, preset, table[key]["config_hash"], *how)
        for seed in seeds
        for key in runs
    ]


def _in_table(paper: str, key: str, pattern: str) -> bool:
    return not pattern or fnmatchcase(key, pattern) or fnmatchcase(key, f"{paper}/{pattern}/*")


def output_folder(paper: str, out: Path | None, root: Path = ROOT) -> Path:
    """Where a paper's runs lie: `out/<paper>`, or `runs/` in its folder."""
    return (out / paper if out else root / paper / "runs").absolute()


def is_done(cell: Cell, folder: Path) -> bool:
    """Whether the output folder holds the cell's record."""
    path = run_folder(folder, cell.key, cell.source, cell.target, cell.seed, cell.preset) / "record.json"
    try:
        return cell.matches(read_record(path.read_text(), str(path)))
    except (FileNotFoundError, InputError):
        return False


def expected_seconds(cells: Sequence[Cell], root: Path = ROOT) -> dict[Cell, float]:
    """What a cell took before: the median over the collected records of its key, or else of its paper."""
    expected = {}
    for paper in {cell.paper for cell in cells}:
        records = read_results(paper, root / "reports")
        default = {
            cell.preset: median([r.seconds for r in records if r.preset == cell.preset] or [GUESS])
            for cell in cells
        }
        for cell in cells:
            if cell.paper == paper:
                expected[cell] = median(
                    [r.seconds for r in records if (r.key, r.preset) == (cell.key, cell.preset)]
                    or [default[cell.preset]]
                )
    return expected


def sweep(
    choice: Choice,
    *,
    jobs: int = 2,
    threads: int = 1,
    out: Path | None = None,
    data_root: Path | None = None,
    gpu: bool = False,
    dry_run: bool = False,
    root: Path = ROOT,
) -> None:
    """Runs the missing cells, `jobs` processes at a time, longest first; those on real photographs only with
    `data_root`, some only with `gpu`.

    Raises `RunError` at the end if a process failed, and `InputError` if nothing is left to be planned.
    """
    if jobs < 1 or threads < 1:
        raise InputError("--jobs and --threads must be positive")
    cells = planned_cells(choice, root)
    if data_root is None:
        cells = _without(
            cells, [cell for cell in cells if cell.real], "on real photographs", "--data-root DIR"
        )
    if not gpu:
        cells = _without(cells, [cell for cell in cells if cell.gpu], "for a GPU", "--gpu")
    collected = {paper: read_results(paper, root / "reports") for paper in {cell.paper for cell in cells}}
    folders = {paper: output_folder(paper, out, root) for paper in collected}
    kept = [cell for cell in cells if any(cell.matches(record) for record in collected[cell.paper])]
    missing = [cell for cell in cells if cell not in kept and not is_done(cell, folders[cell.paper])]
    queue = plan_jobs(
        missing, expected_seconds(missing, root), folders, threads=threads, data_root=data_root, root=root
    )
    print(
        f"{len(cells)} cells: {len(kept)} in reports/results, {len(cells) - len(kept) - len(missing)} in the output folder, {len(missing)} to run "
        f"in {len(queue)} processes, {jobs} at a time",
        flush=True,
    )
    if dry_run:
        print("\n".join(describe_job(job) for job in queue), end="\n" if queue else "")
        return
    failures = run_jobs(queue, parallel=jobs) if queue else []
    print("\n".join(_what_next(cells, kept, folders)))
    if failures:
        raise RunError("\n".join([f"{len(failures)} failed; the same command goes on from here", *failures]))


def _without(cells: Sequence[Cell], left_out: Sequence[Cell], which: str, needed: str) -> list[Cell]:
    if left_out:
        print(f"{len(left_out)} cells {which} are left out: they need {needed}", flush=True)
    return [cell for cell in cells if cell not in left_out]


def plan_jobs(
    missing: Sequence[Cell],
    seconds: Mapping[Cell, float],
    folders: Mapping[str, Path],
    *,
    threads: int,
    data_root: Path | None = None,
    root: Path = ROOT,
) -> list[Job]:
    """One job for each paper, pair and seed, those that should take longest first."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in missing:
        groups.setdefault(cell.job, []).append(cell)
    queue = []
    for (paper, source, target, seed, preset, flags, real), cells in groups.items():
        command = [
            sys.executable,
            "train.py",
            "--preset",
            preset,
            "--source",
            source,
            "--target",
            target,
            "--seed",
            str(seed),
            "--threads",
            str(threads),
            "--out",
            str(folders[paper]),
            "--resume",
            *flags,
        ]
        command += ["--data-root", str(data_root.absolute())] if real and data_root else []
        how = "" if preset == "demo" else f"{preset} "
        queue.append(
            Job(
                name=f"{paper} {source}->{target} {how}seed {seed}",
                command=tuple(command),
                folder=root / paper,
                threads=threads,
                log=folders[paper] / "logs" / f"{preset}+{source}+{target}+seed={seed}.log",
                seconds={cell.key: seconds[cell] for cell in cells},
                is_done=_checker(cells, folders[paper]),
            )
        )
    return sorted(queue, key=lambda job: -sum(job.seconds.values()))


def _checker(cells: Sequence[Cell], folder: Path) -> Callable[[str], bool]:
    by_key = {cell.key: cell for cell in cells}
    return lambda key: is_done(by_key[key], folder)


def describe_job(job: Job) -> str:
    """The job with its expected minutes, then a line for each key."""
    minutes = sum(job.seconds.values()) / 60
    return "\n".join(
        [
            f"{job.name}: {len(job.seconds)} cells, about {minutes:.0f} min",
            *(f"    {key}" for key in job.seconds),
        ]
    )


def _what_next(cells: Sequence[Cell], kept: Sequence[Cell], folders: Mapping[str, Path]) -> list[str]:
    """For each paper: what is left, and the command that collects what is not in reports/results yet."""
    lines = []
    for paper, folder in folders.items():
        own = [cell for cell in cells if cell.paper == paper and cell not in kept]
        there = sum(is_done(cell, folder) for cell in own)
        state = "all cells done" if there == len(own) else f"{len(own) - there} cells missing"
        place = os.path.relpath(folder)
        lines.append(
            f"{paper}: {state}" + (f"; now: python -m reports collect --replace {place}" if there else "")
        )
    return lines
