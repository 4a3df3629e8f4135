"""Stages on disk: finished parts of a run that later rows and runs reuse.

The output folder:

    stages/<name>-<hash>/           a finished stage (weights, scores, ...), shared by all rows with its hash
    stages/<name>-<hash>.partial/   a stage under construction, with its checkpoint
    runs/<key>/<pair>/seed=<n>/     record.json and pictures of a run; <preset>+seed=<n> outside the demo
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.files import locked, write_atomic
from common.hashing import canonical, digest
from common.provenance import code_version

if TYPE_CHECKING:
    from common.job import Workspace


def rank_and_world() -> tuple[int, int]:
    """Returns this process's rank and the number of processes as `torchrun` sets them; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@dataclass(frozen=True)
class Stage:
    """A finished stage: its results are files in `folder`."""

    name: str
    hash: str
    folder: Path
    seconds: float
    reused: bool

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def throughput(self) -> dict[str, float]:
        """`images_per_second` and `waiting` (share of the time) of a training stage; empty for others."""
        if not (self.folder / "throughput.json").is_file():
            return {}
        measured = self.json("throughput.json")
        return {name: measured[name] for name in ("images_per_second", "waiting")}


def stage_hash(name: str, depends_on: Mapping[str, Any]) -> str:
    """Returns the hash of a stage's name and of everything that its result depends on."""
    return digest({"stage": name, **depends_on})


@dataclass
class StageStore:
    """The stages of an output folder, shared by the rows of one command."""

    out: Path
    resume: bool = False
    fresh: bool = False
    built: set[Path] = field(default_factory=set)  # built by this command: `fresh` builds each stage once

    def folder(self, name: str, key: str) -> Path:
        return self.out / "stages" / f"{name}-{key}"

    def obtain(
        self, name: str, depends_on: Mapping[str, Any], build: Callable[[Workspace], None], work: Workspace
    ) -> Stage:
        """Returns the stage, found on disk or built by `build`. `work`: a workspace whose folder is set here.

        With several processes rank 0 builds and the others wait, unless the workspace is collective
        (training): then all of them build together and rank 0 alone keeps the result. Raises `InputError` if
        an interrupted build exists and neither `resume` nor `fresh` decides what happens to it.
        """
        key = stage_hash(name, depends_on)
        final = self.folder(name, key)
        work.folder, work.resume = final.with_name(final.name + ".partial"), self.resume
        reused = True
        if rank_and_world()[0] > 0:
            reused = not self._missing(final)
            if not reused:
                self._join(final, build, work)
        else:
            with locked(final.with_suffix(".lock"), name):
                if self._missing(final):
                    reused = False
                    self._build(name, final, depends_on, build, work)
        seconds = json.loads((final / "stage.json").read_text())["seconds"]
        return Stage(name, key, final, seconds, reused)

    def finished(self, name: str, depends_on: Mapping[str, Any]) -> Path | None:
        """Returns the folder of a stage that an earlier row or run finished, or None; builds nothing."""
        folder = self.folder(name, stage_hash(name, depends_on))
        return folder if (folder / "stage.json").is_file() else None

    def _missing(self, final: Path) -> bool:
        return not (final / "stage.json").is_file() or (self.fresh and final not in self.built)

    def _build(
        self,
        name: str,
        final: Path,
        depends_on: Mapping[str, Any],
        build: Callable[[Workspace], None],
        work: Workspace,
    ) -> None:
        partial = work.folder
        if work.kept.is_file() and not (self.resume or self.fresh):
            raise InputError(
                f"{partial}: an earlier run was interrupted here; "
                "--resume continues from what it kept, --fresh starts over"
            )
        if not self.resume:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        build(work)
        for path in (work.checkpoint, work.kept):
            path.unlink(missing_ok=True)
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

    def _join(self, final: Path, build: Callable[[Workspace], None], work: Workspace) -> None:
        """Builds along on a further rank, or only waits, until rank 0 has finished; keeps nothing."""
        marker = final / "stage.json"
        before = marker.stat().st_ino if marker.is_file() else None
        if work.collective:
            build(work)
        while not marker.is_file() or marker.stat().st_ino == before:
            time.sleep(0.2)
        self.built.add(final)


def run_folder(out: Path, key: str, source: str, target: str, seed: int, preset: str) -> Path:
    """Returns the folder of a run's record and pictures; presets other than demo have separate folders."""
    prefix = "" if preset == "demo" else f"{preset}+"
    return out / "runs" / key.replace("/", "+") / f"{source}+{target}" / f"{prefix}seed={seed}"


def read_curves(path: Path) -> list[dict]:
    """Returns the lines of a `curves.jsonl`, without a last line that a kill cut short."""
    lines = []
    for text in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines
