"""The command line of all papers: a preset, then an experiment's overrides, then typed flags."""

from __future__ import annotations

import dataclasses
import fnmatch
import io
import json
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import tyro

from common import datasets
from common.checks import check_fields
from common.datasets import DATASETS, ReIDDataset, label_of
from common.datasets.validate import check_source, check_target
from common.errors import InputError, RunError
from common.flags import check_listed, parse_flags
from common.hashing import digest
from common.help import asks_for_help, expanded, short_help
from common.job import Job, NoTestSet, Options
from common.records import Experiment, Paper, Record, check_experiments
from common.runs import StageStore, rank_and_world
from common.switches import switches
from common.tables import measures_table, results_table

if TYPE_CHECKING:
    import torch

log = logging.getLogger("run")
# presets for CPUs: a sum by another number of threads is rounded otherwise, and training amplifies that
ONE_THREAD = ("demo", "study", "shared")
Config = TypeVar("Config")
Load = Callable[[str, Path | None, Any], ReIDDataset]


def load_dataset(name: str, root: Path | None, config: Any) -> ReIDDataset:
    """Reads a dataset with its default options, whatever the configuration."""
    return datasets.load_dataset(name, root)


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """Replaces dotted fields: `{"method.beta": 0.4}`. Raises `KeyError` for a field that does not exist."""
    for name, value in changes.items():
        head, _, tail = name.partition(".")
        if not dataclasses.is_dataclass(config) or head not in {f.name for f in dataclasses.fields(config)}:
            raise KeyError(f"{type(config).__name__} has no field {head!r}")
        if tail:
            value = override(getattr(config, head), {tail: value})
        config = dataclasses.replace(config, **{head: value})  # type: ignore[type-var]
    return config


def parse(paper: Paper, argv: Sequence[str]) -> tuple[Options, list[tuple[Experiment, Any]]]:
    """Returns the options and the experiments to run, each with its configuration.

    Raises `InputError` for unknown names, flags and values.
    """
    check_listed(argv, "--experiment")
    preset = _preset(paper, argv)
    table = check_experiments(paper.name, list(paper.experiments))
    options, _ = _parse_fields(paper, argv, paper.presets[preset])
    given = options.experiment or (paper.demo if preset == "demo" else paper.headline)
    keys = list(dict.fromkeys(key for name in given for key in _matching(name, table)))
    if options.resume and options.fresh:
        raise InputError("--resume and --fresh contradict each other: give one of them")
    check_fields(options)
    if preset in ONE_THREAD and options.threads == 0:
        options = dataclasses.replace(options, threads=1)
    jobs = []
    for key in keys:
        config = override(paper.presets[preset], table[table[key].runs_as].overrides)
        jobs.append((table[key], _parse_fields(paper, argv, config)[1]))
    return options, jobs


def _matching(name: str, table: Mapping[str, Experiment]) -> list[str]:
    """Returns the experiment of that name, or all that a pattern stands for, in their own order."""
    found = [name] if name in table else [key for key in table if fnmatch.fnmatchcase(key, name)]
    if not found:
        raise InputError(f"unknown experiment {name!r}: see --list-experiments")
    return found


def _preset(paper: Paper, argv: Sequence[str]) -> str:
    """Returns the preset, which determines the defaults of all other flags."""
    preset = "demo"
    for position, word in enumerate(argv):
        if word == "--preset" and position + 1 < len(argv):
            preset = argv[position + 1]
        elif word.startswith("--preset="):
            preset = word.split("=", 1)[1]
    if preset not in paper.presets:
        raise InputError(f"unknown preset {preset!r}: {paper.name} has {', '.join(paper.presets)}")
    return preset


def _parse_fields(paper: Paper, argv: Sequence[str], config: Config) -> tuple[Options, Config]:
    """Parses options and configuration together."""
    joined = dataclasses.make_dataclass(
        "CommandLine",
        [
            ("options", Annotated[Options, tyro.conf.arg(name="")]),
            ("config", Annotated[type(config), tyro.conf.arg(name="")]),
        ],
        frozen=True,
    )
    parsed = parse_flags(
        joined,
        argv,
        default=joined(Options(source=paper.source, target=paper.target), config),
        prog=f"{paper.name}/train.py",
        description=f"{paper.name}: runs experiments and prints published beside measured numbers.",
    )
    return parsed.options, parsed.config


def main(
    paper: Paper,
    train: Callable[[Job], Record | None],
    argv: Sequence[str] | None = None,
    *,
    check: Callable[[Job], None] | None = None,
    load: Load = load_dataset,
) -> int:
    """Runs each requested experiment with `train(job)`, prints the table and returns the exit code.

    `check(job)` raises `InputError` for what would fail only after hours, before the job's first stage;
    `load(name, root, config)`: how this paper reads a dataset, see `load_dataset`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    level = logging.INFO if rank_and_world()[0] == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    return exit_code(lambda: _run(paper, train, argv, check, load))


def _run(paper: Paper, train: Callable, argv: Sequence[str], check: Callable | None, load: Load) -> None:
    if {"--list-experiments", "--list-switches"} & set(argv):
        print(json.dumps(list_answer(paper, argv), indent=1))
        return
    if asks_for_help(argv):
        print(short_help(paper, _preset(paper, argv)))
        return
    options, experiments = parse(paper, expanded(argv))
    records: dict[str, Any] = {}
    for job in _checked_jobs(paper, experiments, options, check, load):
        drawn = f" | data seed {options.data_seed}" if options.data_seed else ""
        pair = f"{options.source} -> {options.target}"
        log.info("== %s | %s | seed %d%s", job.experiment.runs_as, pair, options.seed, drawn)
        job.started = time.perf_counter()
        records[job.experiment.runs_as] = _trained(job, train)
    if rank_and_world()[0] == 0:
        print(results_table(paper.name, [(e, records[e.runs_as]) for e, _ in experiments]))
        rows = [(e, records[e.runs_as]) for e in paper.experiments if e.runs_as in records]
        if measured := measures_table(paper.name, rows):
            print(measured)


def _checked_jobs(
    paper: Paper,
    experiments: Sequence[tuple[Experiment, Any]],
    options: Options,
    check: Callable | None,
    load: Load,
) -> list[Job]:
    """Returns a job for each run; all of them are checked before the first one is trained."""
    device = _prepare(options)
    store = StageStore((options.out or paper.folder / "runs").absolute(), options.resume, options.fresh)
    source, target = (label_of(name, DATASETS) for name in (options.source, options.target))
    named = dataclasses.replace(options, source=source, target=target)
    known: dict[str, ReIDDataset] = {}
    jobs: dict[str, Job] = {}
    for experiment, config in experiments:
        if experiment.runs_as in jobs:
            continue
        for name in dict.fromkeys((options.source, options.target)):  # one, for a supervised paper
            if name not in known or load is not load_dataset:  # the default does not read the configuration
                known[name] = load(drawing(name, options), options.data_root, config)
        data = known[options.source], known[options.target]
        check_source(data[0])
        check_target(data[1])
        listed = describe(paper, experiment, options.preset)["config_hash"]
        job = Job(paper.name, experiment, config, *data, device, named, store, listed)
        if check is not None:
            check(job)
        jobs[experiment.runs_as] = job
    return list(jobs.values())


def _trained(job: Job, train: Callable) -> Record | None:
    """Returns the record of `train`; without scores if the target has no test set."""
    try:
        return train(job)
    except NoTestSet:
        log.warning("no scores: %s has no query and gallery; trained stages:", job.target.root)
        for name, stage in job.stages.items():
            log.warning("  %s: %s", name, stage.folder)
        return job.record({})


def drawing(name: str, options: Options) -> str:
    """Returns the name of a dataset with --data-seed as its option, for a synthetic domain."""
    entry = datasets.DATASETS.get(name.partition("@")[0])
    synthetic = entry is not None and entry.about is None
    return f"{name}:data_seed={options.data_seed}" if options.data_seed and synthetic else name


def _prepare(options: Options) -> torch.device:
    """Sets deterministic kernels, threads and the process group up, and returns the device."""
    if options.deterministic:
        # PyTorch reads it once, at its first product on a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from common.training import pick_device, set_threads, start_processes  # imports PyTorch

    device = pick_device(options.device)
    set_threads(options.threads)
    start_processes(device)
    return device


def list_answer(paper: Paper, argv: Sequence[str]) -> Any:
    """Returns what --list-experiments and --list-switches print; with both flags an object of both lists."""
    lists = {}
    if "--list-experiments" in argv:
        preset = _preset(paper, argv)
        lists["experiments"] = [describe(paper, experiment, preset) for experiment in paper.experiments]
    if "--list-switches" in argv:
        lists["switches"] = switches(paper.presets)
    return lists if len(lists) == 2 else next(iter(lists.values()))


def describe(paper: Paper, experiment: Experiment, preset: str = "demo") -> dict[str, Any]:
    """Returns one entry of `--list-experiments`; `config_hash` is that of a record without further flags."""
    origin = next(e for e in paper.experiments if e.key == experiment.runs_as)
    return {
        "key": experiment.key,
        "title": experiment.title,
        "alias_of": experiment.alias_of,
        "score": experiment.score,
        "demo": experiment.key in paper.demo,
        "overrides": dict(experiment.overrides),
        "config_hash": digest(override(paper.presets[preset], origin.overrides)),
    }


def exit_code(job: Callable[[], int | None]) -> int:
    """Runs a command and returns its code or 0, or prints one line and returns 2 (bad input, a full disk, any
    path that cannot be used), 1 (a failed run, no memory) or 130 (Ctrl-C).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = job() or 0
        sys.stdout.flush()
        return code
    except InputError as error:
        return _complain(error, 2)
    except RunError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("stopped", 130)
    except MemoryError as error:
        return _complain(f"out of memory ({error})", 1)
    except BrokenPipeError:
        if not _reader_has_ended(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return 1  # as in `python train.py --list-experiments | head`
    except OSError as error:
        where = error.filename or "output folder"
        reason = error.strerror or error
        return _complain(f"{reason}: {where}; no finished file has been overwritten", 2)


def _reader_has_ended(output: TextIO) -> bool:
    """Returns whether the output is a pipe that nobody reads any more."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(output.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _complain(message: object, code: int) -> int:
    sys.stdout.flush()
    line = " ".join(str(message).splitlines())
    print(f"error: {line}" if code != 130 else line, file=sys.stderr)
    return code
