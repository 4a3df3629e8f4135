"""A run on disk: stages that rows share, curves, pictures and the record.

The output folder looks like this:

    stages/<name>-<hash>/           a finished part of a job (weights, translations, scores), shared by every
    row with the same hash
    stages/<name>-<hash>.partial/   one in progress, with its checkpoint
    runs/<key>/<pair>/seed=<n>/     record.json and the pictures of one experiment; <preset>+seed=<n> for all
    presets but the demo
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError, RunError
from common.files import locked, write_atomic
from common.hashing import canonical, digest
from common.provenance import code_version, hardware, library_versions
from common.records import Experiment, Record

log = logging.getLogger("run")
MAX_PICTURE = 1 << 20


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes, as `torchrun` says; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@dataclass(frozen=True)
class Stage:
    """A finished stage: read its files from `folder`."""

    name: str
    hash: str
    folder: Path
    seconds: float
    reused: bool

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def throughput(self) -> dict[str, float]:
        """`images_per_second` and `waiting` (share of the time) of a stage that trained a network; nothing
        for others and for older ones.
        """
        if not (self.folder / "throughput.json").is_file():
            return {}
        measured = self.json("throughput.json")
        return {name: measured[name] for name in ("images_per_second", "waiting")}


@dataclass
class Workspace:
    """The folder in which a stage is being built. `resume` says that what an interrupted run kept should be
    continued.
    """

    folder: Path
    resume: bool
    tensorboard: bool = False
    # folder for packed training images; None: the loader decodes them again and again (no --pack)
    cache: Path | None = None

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def curves(self) -> Path:
        return self.folder / "curves.jsonl"

    @property
    def kept(self) -> Path:
        """Marks a folder that is worth resuming: later runs will not overwrite it unasked."""
        return self.folder / "kept"

    def write_json(self, name: str, value: Any) -> None:
        write_atomic(self.folder / name, json.dumps(canonical(value), indent=1))


def run_folder(out: Path, key: str, source: str, target: str, seed: int, preset: str) -> Path:
    """Where the record and the pictures of a run lie in an output folder; presets other than the demo's have
    folders of their own.
    """
    return (
        out
        / "runs"
        / key.replace("/", "+")
        / f"{source}+{target}"
        / f"{'' if preset == 'demo' else f'{preset}+'}seed={seed}"
    )


@dataclass
class Run:
    """One experiment on one pair with one seed: its place on disk and what goes into its record."""

    paper: str
    experiment: Experiment
    preset: str
    config: Any
    source: str
    target: str
    seed: int
    out: Path
    resume: bool = False
    fresh: bool = False
    device: str = "cpu"
    tensorboard: bool = False
    # precision, pack and compile, as far as a flag asks for them; the record says it
    how: Mapping[str, Any] = field(default_factory=dict)
    # stages that this command has built, shared by its rows: `fresh` builds each once
    built: set[Path] = field(default_factory=set)
    stages: dict[str, Stage] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def folder(self) -> Path:
        return run_folder(self.out, self.experiment.runs_as, self.source, self.target, self.seed, self.preset)

    @property
    def cache(self) -> Path | None:
        return self.out / "cache" if self.how.get("pack") else None

    def stage(
        self,
        name: str,
        depends_on: Mapping[str, Any],
        build: Callable[[Workspace], None],
        *,
        collective: bool = False,
    ) -> Stage:
        """The stage with these dependencies: found on disk, or built by `build(workspace)` and then kept.

        `depends_on`: every field, manifest hash, stage hash and seed that the result depends on. With several
        processes rank 0 builds and the others wait, unless `collective` (training): then all of them build
        together and rank 0 alone keeps the result. Raises `InputError` if an interrupted build is found and
        neither `resume` nor `fresh` says what to do with it.
        """
        key = digest({"stage": name, **depends_on})
        final = self.out / "stages" / f"{name}-{key}"
        rank, _ = rank_and_world()
        reused = True
        if rank > 0:
            reused = not self._missing(final)
            if not reused:
                self._join(final, build if collective else None)
        else:
            with locked(final.with_suffix(".lock"), name):
                if self._missing(final):
                    reused = False
                    self._build(name, final, depends_on, build)
        info = json.loads((final / "stage.json").read_text())
        log.info("%s: %s (%.0f s)", name, "reused" if reused else "done", info["seconds"])
        stage = Stage(name, key, final, info["seconds"], reused)
        self.stages[name] = stage
        return stage

    def finished(self, name: str, depends_on: Mapping[str, Any]) -> Path | None:
        """The folder of a stage with these dependencies if an earlier row or run has left it; nothing is
        built, nothing goes into the record.
        """
        folder = self.out / "stages" / f"{name}-{digest({'stage': name, **depends_on})}"
        return folder if (folder / "stage.json").is_file() else None

    def _build(
        self, name: str, final: Path, depends_on: Mapping[str, Any], build: Callable[[Workspace], None]
    ) -> None:
        partial = final.with_name(final.name + ".partial")
        if (partial / "kept").is_file() and not (self.resume or self.fresh):
            raise InputError(
                f"{partial}: an earlier run stopped here; --resume goes on from what it kept, --fresh starts over"
            )
        if not self.resume:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        build(Workspace(partial, self.resume, self.tensorboard, self.cache))
        for name_ in ("checkpoint.pt", "kept"):
            (partial / name_).unlink(missing_ok=True)
        info = {
            "name": name,
            "depends_on": canonical(depends_on),
            "seconds": round(time.perf_counter() - start, 2),
            "code_version": code_version(),
        }
        write_atomic(partial / "stage.json", json.dumps(info, indent=1))
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        self.built.add(final)

    def _missing(self, final: Path) -> bool:
        return not (final / "stage.json").is_file() or (self.fresh and final not in self.built)

    def _join(self, final: Path, build: Callable[[Workspace], None] | None) -> None:
        """A further rank: builds along without keeping anything (or only waits), until rank 0 has put the
        result in place.
        """
        marker = final / "stage.json"
        before = marker.stat().st_ino if marker.is_file() else None
        if build is not None:
            build(Workspace(final.with_name(final.name + ".partial"), self.resume, cache=self.cache))
        while not marker.is_file() or marker.stat().st_ino == before:
            time.sleep(0.2)
        self.built.add(final)

    def picture(self, name: str) -> Path:
        """Where the picture `name` (`*.png`) of this run goes; it is listed in the record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        self.pictures.append(path.relative_to(self.out).as_posix())
        return path

    def record(
        self,
        scores: Mapping[str, Mapping[str, float]],
        *,
        data: Mapping[str, dict],
        selection: str,
        measures: Mapping[str, float] | None = None,
    ) -> Record:
        """Writes `record.json` and returns it."""
        for picture in self.pictures:
            size = (self.out / picture).stat().st_size
            if size > MAX_PICTURE:
                raise RunError(f"{picture}: {size} bytes, more than the 1 MB that a picture may have")
        record = Record(
            paper=self.paper,
            key=self.experiment.runs_as,
            preset=self.preset,
            source=self.source,
            target=self.target,
            seed=self.seed,
            config=canonical(self.config),
            config_hash=digest(self.config),
            data=dict(data),
            scores=canonical(scores),
            measures=dict(measures or {}),
            selection=selection,
            stages={
                n: {"hash": s.hash, "reused": s.reused, "seconds": s.seconds, **s.throughput}
                for n, s in self.stages.items()
            },
            code_version=code_version(),
            libraries=library_versions(),
            hardware=hardware(self.device) | dict(self.how),
            seconds=round(time.perf_counter() - self.started, 1),
            curves=[
                (s.folder / "curves.jsonl").relative_to(self.out).as_posix()
                for s in self.stages.values()
                if (s.folder / "curves.jsonl").is_file()
            ],
            pictures=list(self.pictures),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )
        if rank_and_world()[0] == 0:
            write_atomic(self.folder / "record.json", record.to_json() + "\n")
        return record


def read_curves(path: Path) -> list[dict]:
    """The lines of a `curves.jsonl`; a last line cut short by a kill is left out."""
    lines = []
    for text in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines
