"""Stages on disk: finished parts of a run that later rows and runs reuse.

The output folder:

    stages/<name>-<hash>/           a finished stage (weights, scores, ...), shared by all rows with its hash
    stages/<name>-<hash>.partial/   a stage under construction, with its checkpoint
    runs/<key>/<pair>/seed=<n>/     record.json and pictures of a run; <preset>+seed=<n> outside the demo,
                                    seed=<n>+<setting> with other flags: +config=<hash>,precision=bf16
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.content import check_shape, parse_json, read_text
from common.errors import InputError
from common.files import atomic_file, locked, remove_leftovers, write_atomic
from common.hashing import canonical, digest
from common.provenance import code_version

if TYPE_CHECKING:
    from common.job import Workspace

log = logging.getLogger("run")
LARGEST_FILE = 1 << 28  # bytes of a JSON file of a stage


def rank_and_world() -> tuple[int, int]:
    """Returns this process's rank and the number of processes as `torchrun` sets them; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def cpu_threads() -> int:
    """Returns the number of PyTorch's threads on the CPU; 0 where PyTorch is not loaded."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else 0


@dataclass(frozen=True)
class Stage:
    """A finished stage: its results are files in `folder`."""

    name: str
    hash: str
    folder: Path
    seconds: float
    reused: bool
    threads: int = 0  # of PyTorch on the CPU when it was built; 0: not known

    def json(self, name: str) -> Any:
        """Reads a file of the stage: scores by name, or numbers by name (measures)."""
        kind = dict[str, dict[str, float]] if name == "scores.json" else dict[str, float]
        return read_json(self.folder / name, kind)

    @property
    def throughput(self) -> dict[str, float]:
        """`images_per_second` and `waiting` (share of the time) of a training stage; empty for others."""
        path, names = self.folder / "throughput.json", ("images_per_second", "waiting")
        return {name: read_json(path, numbers=names)[name] for name in names} if path.is_file() else {}


def read_json(path: Path, kind: Any = dict[str, Any], *, numbers: Sequence[str] = ()) -> Any:
    """Reads a file of a finished stage: an object of a `kind` (a type hint) in which `numbers` are numbers.

    Raises `InputError` that names --fresh if it is missing or damaged.
    """
    try:
        content = parse_json(read_text(path, LARGEST_FILE, links=True), str(path))
        check_shape(content, kind, str(path))
        check_shape({name: content.get(name) for name in numbers}, dict[str, float], str(path))
    except InputError as error:
        raise InputError(f"{error}; delete the folder of this stage or use --fresh") from None
    return content


def of_rank_0(value: bool) -> bool:
    """Returns rank 0's value on every rank of `torchrun`, and so waits for rank 0."""
    if rank_and_world()[1] == 1:
        return value
    import torch
    import torch.distributed as dist

    from common.training import broadcast

    return bool(broadcast(torch.tensor([int(value)])).item()) if dist.is_initialized() else value


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

        With several processes rank 0 decides under the lock whether the stage is missing, and tells the
        others. It builds and they wait, unless the workspace is collective (training): then all of them build
        together and rank 0 alone keeps the result. Raises `InputError` if an interrupted build exists and
        neither `resume` nor `fresh` decides what happens to it.
        """
        key, rank = stage_hash(name, depends_on), rank_and_world()[0]
        final = self.folder(name, key)
        work.folder, work.resume = final.with_name(final.name + ".partial"), self.resume
        with locked(final.with_suffix(".lock"), name) if rank == 0 else contextlib.nullcontext():
            if rank == 0:
                self._recover(final)
                if self.resume and self._missing(final):
                    self._continue_shorter(name, depends_on, work)
            missing = of_rank_0(self._missing(final))
            if missing and rank == 0:
                self._build(name, final, depends_on, build, work)
            elif missing and work.collective:
                build(work)
            if missing:
                of_rank_0(True)  # the others wait here until rank 0 has finished
                self.built.add(final)
        info = read_json(final / "stage.json", numbers=["seconds"])
        return Stage(name, key, final, info["seconds"], not missing, info.get("threads", 0))

    def finished(self, name: str, depends_on: Mapping[str, Any]) -> Path | None:
        """Returns the folder of a stage that an earlier row or run finished, or None; builds nothing."""
        folder = self.folder(name, stage_hash(name, depends_on))
        return folder if (folder / "stage.json").is_file() else None

    def _recover(self, final: Path) -> None:
        """Completes a replacement that a kill interrupted: the new stage waits under its partial name."""
        partial, old = (final.with_name(final.name + suffix) for suffix in (".partial", ".old"))
        if not final.exists() and (partial / "stage.json").is_file():
            os.replace(partial, final)
        shutil.rmtree(old, ignore_errors=True)

    def _continue_shorter(self, name: str, depends_on: Mapping[str, Any], work: Workspace) -> None:
        """Starts the stage from the last state of the longest finished one that is shorter in `work.longer`
        and equal in all else, or says why a shorter one cannot go on.
        """
        if work.checkpoint.is_file():
            return
        found = []
        for path in (self.out / "stages").glob(f"{name}-*/stage.json"):
            with contextlib.suppress(InputError, AttributeError):  # a damaged one
                known, wanted = read_json(path).get("depends_on"), canonical(depends_on)
                if shorter := shorter_in(known, wanted):
                    found.append((shorter[1], shorter[0], path.parent))
        if not found:
            return
        length, field, folder = max(found)
        state = folder / work.state.name
        finished = f"{name}: a finished one of {length:g} {field.rpartition('.')[2]} is there"
        if field != work.longer:
            log.info("%s, but its schedule depends on its length: this one starts at the beginning", finished)
        elif not state.is_file():
            log.info(
                "%s, but its optimiser was not kept (--no-keep-state): this one starts at the beginning",
                finished,
            )
        else:
            log.info("%s: this one goes on from it", finished)
            work.folder.mkdir(parents=True, exist_ok=True)
            for source, copy in ((folder / work.curves.name, work.curves), (state, work.checkpoint)):
                if source.is_file():
                    with atomic_file(copy) as file, source.open("rb") as content:
                        shutil.copyfileobj(content, file)
            work.kept.touch()

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
        if work.longer and work.options.keep_state and work.checkpoint.is_file():
            os.replace(work.checkpoint, work.state)
        for path in (work.checkpoint, work.kept):
            path.unlink(missing_ok=True)
        remove_leftovers(partial)
        info = {
            "name": name,
            "depends_on": canonical(depends_on),
            "seconds": round(time.perf_counter() - start, 2),
            "code_version": code_version(),
            "threads": cpu_threads(),
        }
        write_atomic(partial / "stage.json", json.dumps(info, indent=1))
        old = final.with_name(final.name + ".old")
        if (
            final.exists()
        ):  # renamed first: a kill must never leave a half-deleted folder under the final name
            os.replace(final, old)
        os.replace(partial, final)
        shutil.rmtree(old, ignore_errors=True)


LENGTHS = ("epochs", "iterations", "steps")  # fields that say how long a training is


def shorter_in(known: Any, wanted: Any) -> tuple[str, float] | None:
    """Returns the dotted field of `LENGTHS` that is smaller in `known` than in `wanted`, with its value, if
    all other values of the two are equal; else None.
    """
    found = list(_differences(known, wanted))
    if len(found) != 1:
        return None
    name, old, new = found[0]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (old, new))
    return (name, old) if name.rpartition(".")[2] in LENGTHS and numbers and old < new else None


def _differences(known: Any, wanted: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted name and both values of each field in which two trees of settings differ."""
    if not isinstance(known, dict) or not isinstance(wanted, dict):
        if known != wanted:
            yield name, known, wanted
        return
    for key in sorted(known.keys() | wanted.keys()):
        yield from _differences(known.get(key), wanted.get(key), f"{name}.{key}" if name else key)


def run_folder(
    out: Path, key: str, pair: tuple[str, str], seed: int, preset: str, data_seed: int = 0, setting: str = ""
) -> Path:
    """Returns the folder of a run's record and pictures; `pair`: names of source and target.

    Presets other than demo, other drawings of the synthetic domains and other settings than those of the
    experiment (`setting`: a text for the name) have separate folders, so that no record replaces another.
    """
    prefix = "" if preset == "demo" else f"{preset}+"
    drawing = f",data={data_seed}" if data_seed else ""
    datasets = re.sub(r"[/\\:]", "-", "+".join(pair))  # options of a reader: cuhk03:protocol=767/700
    return (
        out
        / "runs"
        / key.replace("/", "+")
        / datasets
        / f"{prefix}seed={seed}{drawing}{setting and f'+{setting}'}"
    )


def read_curves(path: Path) -> list[dict]:
    """Returns the lines of a `curves.jsonl`, without damaged ones: a kill cuts the last line short."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]
