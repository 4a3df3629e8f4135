"""Jobs side by side: one process each with its log, a line of progress, a clean stop, failures kept for the
end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

PATIENCE = 120.0  # seconds that a stopped process has for saving its checkpoint


@dataclass(frozen=True)
class Job:
    """One process that does several cells in their order; `--experiment` and the keys are added to `command`."""

    name: str
    command: tuple[str, ...]
    folder: Path  # it is started here
    log: Path
    threads: int
    seconds: Mapping[str, float]  # key -> what it should take
    is_done: Callable[[str], bool]  # whether the record of a key is there

    def missing(self) -> list[str]:
        return [key for key in self.seconds if not self.is_done(key)]

    def start(self) -> subprocess.Popen:
        """In a session of its own: a Ctrl-C of the terminal reaches the sweep alone, which passes it on."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "PYTHONUNBUFFERED": "1",
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.command, "--experiment", *self.seconds],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def last_line(self) -> str:
        lines = self.log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
        return lines[-1].strip() if lines else "no output"


@dataclass
class Progress:
    """Counts the cells that are done: one line in place on a terminal, a line for every change elsewhere."""

    seconds: Mapping[tuple[str, str], float]  # (job, key) -> what it should take
    parallel: int
    stream: TextIO = field(default_factory=lambda: sys.stdout)
    started: float = field(default_factory=time.monotonic)
    done: set[tuple[str, str]] = field(default_factory=set)
    failed: set[tuple[str, str]] = field(default_factory=set)
    shown: str = ""

    def update(self, running: Iterable[Job]) -> None:
        """Looks for new records of the running jobs, and shows the line if it has changed."""
        running, before = list(running), len(self.done)
        self.done |= {
            (job.name, key)
            for job in running
            for key in job.seconds
            if (job.name, key) not in self.done and job.is_done(key)
        }
        line = self.line(", ".join(job.name for job in running))
        if self.stream.isatty():
            self.stream.write(f"\r{line.ljust(len(self.shown))}")
        elif len(self.done) > before or not self.shown:
            self.stream.write(f"{line}\n")
        else:
            return
        self.shown = line
        self.stream.flush()

    def line(self, running: str) -> str:
        used = time.monotonic() - self.started
        return f"{len(self.done)}/{len(self.seconds)} cells | {clock(used)} used | about {clock(self.left(used))} left | {running}"

    def left(self, used: float) -> float:
        """Seconds: what was expected of the rest, corrected by how long the finished cells really took."""
        past = sum(self.seconds[cell] for cell in self.done)
        rest = sum(seconds for cell, seconds in self.seconds.items() if cell not in self.done | self.failed)
        return rest * used / past if past else rest / self.parallel

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.stream.isatty():
            self.stream.write("\r" + " " * len(self.shown) + "\r")
        self.stream.write(f"{text}\n")
        self.stream.flush()


def clock(seconds: float) -> str:
    """h:mm:ss."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def run_jobs(jobs: Sequence[Job], *, parallel: int, poll: float = 0.5) -> list[str]:
    """Runs them in this order, `parallel` at a time; returns a line for each failure.

    A job whose process fails at one key goes on with the keys behind it. On Ctrl-C and SIGTERM the processes
    are told to stop (they save) and waited for; then `KeyboardInterrupt` goes on.
    """
    waiting, running, failures = list(jobs), {}, []
    progress = Progress(
        {(job.name, key): seconds for job in jobs for key, seconds in job.seconds.items()}, parallel
    )
    try:
        with _sigterm_as_interrupt():
            while waiting or running:
                while waiting and len(running) < parallel:
                    running[waiting[0].name] = (waiting[0], waiting[0].start())
                    waiting.pop(0)
                progress.update(job for job, _ in running.values())
                for job, process in [pair for pair in running.values() if pair[1].poll() is not None]:
                    del running[job.name]
                    progress.update([job])
                    waiting[:0] = _after(job, process.returncode, progress, failures)
                time.sleep(poll if running else 0)
    except BaseException:
        _stop([process for _, process in running.values()], progress)
        raise
    progress.say(f"{len(progress.done)} cells done in {clock(time.monotonic() - progress.started)}")
    return failures


def _after(job: Job, code: int, progress: Progress, failures: list[str]) -> list[Job]:
    """Notes the failure of a process that has ended, if it failed; returns what is left of its job and may
    still go well.
    """
    missing = job.missing()
    if not missing:
        return []
    failures.append(
        f"{job.name}: {missing[0]}: exit code {code}: {job.last_line()} (see {os.path.relpath(job.log)})"
    )
    progress.say(f"failed: {failures[-1]}")
    # 2 is bad input, a negative code a signal: the next key would meet it too
    rest = missing[1:] if code == 1 else []
    progress.failed |= {(job.name, key) for key in missing if key not in rest}
    return [replace(job, seconds={key: job.seconds[key] for key in rest})] if rest else []


def _stop(processes: Sequence[subprocess.Popen], progress: Progress) -> None:
    progress.say(
        f"stopping {len(processes)} processes; they save what they have, and the same command goes on from there"
    )
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # or a second Ctrl-C
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
