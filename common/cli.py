"""One command line for the five papers: a preset, then an experiment's overrides, then the flags that were
typed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from common.errors import InputError, RunError
from common.hashing import digest
from common.records import Experiment, Record, check_experiments
from common.runs import Run, rank_and_world
from common.switches import switches
from common.tables import measures_table, results_table

log = logging.getLogger("run")
Config = TypeVar("Config")


@dataclass(frozen=True)
class Paper:
    """What a paper's folder gives to the command line."""

    name: str
    folder: Path
    presets: Mapping[str, Any]  # name -> config; "demo" is the default
    experiments: Sequence[Experiment]
    demo: Sequence[str]  # keys that run without --experiment in the preset demo
    headline: Sequence[str]  # ... in every other preset
    source: str = "synthetic-duke"  # dataset with labels, without --source
    # dataset that is tested on, without --target; the source's own for a supervised paper
    target: str = "synthetic-market"


@dataclass(frozen=True)
class Options:
    """The flags that all five papers have."""

    preset: str = "demo"  # starting values: demo, released, paper, blog or scratch, as the paper offers them
    experiment: tuple[str, ...] = ()  # keys to run, from --list-experiments
    list_experiments: bool = False  # print this paper's experiments as JSON and stop
    # print every field of the configuration, with its value in each preset, as JSON and stop
    list_switches: bool = False
    source: str = "synthetic-duke"  # dataset with labels
    target: str = "synthetic-market"  # dataset that is tested on
    # folder that holds the datasets; synthetic ones are made in the cache without it
    data_root: Path | None = None
    seed: int = 0  # of everything random
    out: Path | None = None  # output folder; default: runs/ in the paper's folder
    resume: bool = False  # go on from the checkpoint of an interrupted run
    fresh: bool = False  # compute every stage anew
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where networks run
    workers: int = 0  # processes that load images
    threads: int = 0  # CPU threads of each process; 0: torch's choice
    # of the re-ID networks' passes; bf16: autocast, scores are no longer comparable bit by bit
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False  # torch.compile the re-ID networks: slower first steps, faster later ones
    # decode training images once into one file below the output folder and augment on the device
    pack: bool = False
    deterministic: bool = False  # forbid CUDA kernels whose results vary
    tensorboard: bool = False  # also write TensorBoard files (needs the extra)

    @property
    def numerics(self) -> dict[str, Any]:
        """What sets a trained network apart from that of a plain run: part of the key of the stage that
        trains it, and empty for a plain run.

        `compile` is not among it: it moves results by float32's rounding, as another machine would. `pack`
        is, although both paths gave the same bits wherever they were compared: that hangs on how Pillow
        rounds, and on its version. So are the processes of `torchrun`: each normalises its own part of a
        batch.
        """
        plain = {"precision": "fp32", "pack": False, "processes": 1}
        this = {"precision": self.precision, "pack": self.pack, "processes": rank_and_world()[1]}
        return {name: value for name, value in this.items() if value != plain[name]}


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` with dotted fields replaced: `{"triplet.beta": 0.4}`. Raises `KeyError` for a field that does
    not exist.
    """
    for name, value in changes.items():
        head, _, tail = name.partition(".")
        if not dataclasses.is_dataclass(config) or head not in {f.name for f in dataclasses.fields(config)}:
            raise KeyError(f"{type(config).__name__} has no field {head!r}")
        if tail:
            value = override(getattr(config, head), {tail: value})
        config = dataclasses.replace(config, **{head: value})
    return config


def parse(paper: Paper, argv: Sequence[str]) -> tuple[Options, list[tuple[Experiment, Any]]]:
    """Options and the experiments to run, each with its config: preset, then the experiment's overrides, then
    typed flags.

    Raises `InputError` for anything unknown.
    """
    preset = _preset(paper, argv)
    table = check_experiments(paper.name, list(paper.experiments))
    options, _ = _parse_fields(paper, argv, paper.presets[preset])
    keys = options.experiment or (paper.demo if preset == "demo" else paper.headline)
    unknown = [key for key in keys if key not in table]
    if unknown:
        raise InputError(f"unknown experiment {unknown[0]!r}: see --list-experiments")
    if options.resume and options.fresh:
        raise InputError("--resume and --fresh contradict each other: give one of them")
    if options.seed < 0 or options.workers < 0 or options.threads < 0:
        raise InputError("--seed, --workers and --threads must not be negative")
    jobs = []
    for key in keys:
        config = override(paper.presets[preset], table[table[key].runs_as].overrides)
        jobs.append((table[key], _parse_fields(paper, argv, config)[1]))
    return options, jobs


def _preset(paper: Paper, argv: Sequence[str]) -> str:
    """The preset must be known before the other flags can have defaults."""
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
    """tyro over options and config; its boxed complaints become one line."""
    joined = dataclasses.make_dataclass(
        "CommandLine",
        [
            ("options", Annotated[Options, tyro.conf.arg(name="")]),
            ("config", Annotated[type(config), tyro.conf.arg(name="")]),
        ],
        frozen=True,
    )
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            defaults = joined(Options(source=paper.source, target=paper.target), config)
            parsed = tyro.cli(
                joined,
                args=list(argv),
                default=defaults,
                prog=f"{paper.name}/train.py",
                description=f"{paper.name}: runs experiments and prints published beside measured numbers.",
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise InputError(_one_line(complaint.getvalue())) from None
    except InputError:
        raise
    except ValueError as error:  # raised by a config that checks its fields
        raise InputError(str(error)) from None
    return parsed.options, parsed.config


def _one_line(box: str) -> str:
    lines = []
    for line in box.splitlines():
        text = line.strip("│ ").strip()
        if text.startswith("─"):
            break
        if text and text[0] not in "╭╰":
            lines.append(text)
    return f"{' '.join(lines)} (see --help)"


def main(
    paper: Paper, train: Callable[[Any, Run, Options], Record | None], argv: Sequence[str] | None = None
) -> int:
    """Parses, runs each experiment with `train(config, run, options)`, prints the table. Returns the exit
    code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(
        level=logging.INFO if rank_and_world()[0] == 0 else logging.ERROR,
        format="%(message)s",
        stream=sys.stderr,
    )
    return exit_code(lambda: _run(paper, train, argv))


def _run(paper: Paper, train: Callable, argv: Sequence[str]) -> None:
    lists = {}
    if "--list-experiments" in argv:
        preset = _preset(paper, argv)
        lists["experiments"] = [describe(paper, experiment, preset) for experiment in paper.experiments]
    if "--list-switches" in argv:
        lists["switches"] = switches(paper.presets)
    if lists:  # both flags: one object with both lists
        print(json.dumps(lists if len(lists) == 2 else next(iter(lists.values())), indent=1))
        return
    options, jobs = parse(paper, argv)
    if options.deterministic:
        # PyTorch reads it once, at its first product on a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    records: dict[str, Record] = {}
    built: set[Path] = set()
    for experiment, config in jobs:
        if experiment.runs_as not in records:
            log.info(
                "== %s | %s -> %s | seed %d", experiment.runs_as, options.source, options.target, options.seed
            )
            run = Run(
                paper.name,
                experiment,
                options.preset,
                config,
                options.source,
                options.target,
                options.seed,
                (options.out or paper.folder / "runs").absolute(),
                options.resume,
                options.fresh,
                tensorboard=options.tensorboard,
                built=built,
                how=options.numerics | ({"compile": True} if options.compile else {}),
            )
            records[experiment.runs_as] = train(config, run, options)
    if rank_and_world()[0] == 0:
        print(
            results_table(paper.name, [(experiment, records[experiment.runs_as]) for experiment, _ in jobs])
        )
        measured = measures_table(
            paper.name, [(e, records[e.runs_as]) for e in paper.experiments if e.runs_as in records]
        )
        if measured:
            print(measured)


def describe(paper: Paper, experiment: Experiment, preset: str = "demo") -> dict[str, Any]:
    """One entry of `--list-experiments`. `config_hash` is what a record of this experiment has under the
    preset, with no other flag typed.
    """
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


def exit_code(job: Callable[[], None]) -> int:
    """Runs a command: 0, or one line on stderr and 2 for bad input and a full disk, 1 for a run that failed,
    130 for Ctrl-C.
    """
    try:
        job()
    except InputError as error:
        return _complain(error, 2)
    except RunError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("stopped", 130)
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EACCES,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
        ):
            raise
        return _complain(
            f"{error.strerror}: {error.filename or 'output folder'}; nothing that was whole has been overwritten",
            2,
        )
    return 0


def _complain(message: object, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {message}" if code != 130 else f"{message}", file=sys.stderr)
    return code
