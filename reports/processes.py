"""Runs jobs in parallel, one process each: logs, a line of progress, a clean stop, a list of the failures."""

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

PATIENCE = 120.0  # seconds in which a stopped process may save its checkpoint


@dataclass(frozen=True)
class Job:
    """One process that runs several cells in order; `--experiment` and the keys are added to `command`."""

    name: str
    command: tuple[str, ...]
    folder: Path  # the working directory
    log: Path
    threads: int
    seconds: Mapping[str, float]  # key -> expected duration
    is_done: Callable[[str], bool]  # whether the record of a key exists

    def missing(self) -> list[str]:
        return [key for key in self.seconds if not self.is_done(key)]

    def start(self) -> subprocess.Popen:
        """Starts the process in a new session: Ctrl-C reaches only the sweep, which stops the process."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.command, "--experiment", *self.seconds],
                cwd=self.folder,
                env={**os.environ, **threads, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def last_line(self) -> str:
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError as error:  # the output folder was removed in the meantime
            return f"its log is gone ({error.strerror})"
        lines = text.replace("\r", "\n").strip().splitlines()
        return lines[-1].strip() if lines else "no output"


@dataclass
class Progress:
    """Counts the finished cells: one updated line on a terminal, a line for every change elsewhere."""

    seconds: Mapping[tuple[str, str], float]  # (job, key) -> expected duration
    parallel: int
    stream: TextIO = field(default_factory=lambda: sys.stdout)
    started: float = field(default_factory=time.monotonic)
    done: set[tuple[str, str]] = field(default_factory=set)
    failed: set[tuple[str, str]] = field(default_factory=set)
    shown: str = ""

    def update(self, running: Iterable[Job]) -> None:
        """Looks for new records of the running jobs, and shows the line if it has changed."""
        running, before = list(running), len(self.done)
        cells = [(job, key) for job in running for key in job.seconds if (job.name, key) not in self.done]
        self.done |= {(job.name, key) for job, key in cells if job.is_done(key)}
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
        times = f"{clock(used)} used | about {clock(self.left(used))} left"
        return f"{len(self.done)}/{len(self.seconds)} cells | {times} | {running}"

    def left(self, used: float) -> float:
        """Returns the expected seconds of the rest, corrected by the real durations of the finished cells."""
        past = sum(self.seconds[cell] for cell in self.done)
        rest = sum(seconds for cell, seconds in self.seconds.items() if cell not in self.done | self.failed)
        return rest * used / past if past else rest / self.parallel

    def say(self, text: str) -> None:
        """Prints a line that is not overwritten."""
        if self.stream.isatty():
            self.stream.write("\r" + " " * len(self.shown) + "\r")
        self.stream.write(f"{text}\n")
        self.stream.flush()


def clock(seconds: float) -> str:
    """Formats a duration as h:mm:ss."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def run_jobs(jobs: Sequence[Job], *, parallel: int, poll: float = 0.5) -> list[str]:
    """Runs the jobs in this order, `parallel` at a time; returns a line for each failure.

    A job whose process fails at one key continues with the keys after it. On Ctrl-C and SIGTERM the
    processes are stopped (they save) and waited for; then `KeyboardInterrupt` is re-raised.
    """
    waiting = list(jobs)
    failures: list[str] = []
    running: dict[str, tuple[Job, subprocess.Popen]] = {}
    progress = Progress(
        {(job.name, key): seconds for job in jobs for key, seconds in job.seconds.items()}, parallel
    )
    try:
        with _sigterm_as_interrupt():
            while waiting or running:
                while waiting and len(running) < parallel:
                    job = waiting.pop(0)
                    running[job.name] = (job, job.start())
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
    """Records the failure of a finished process, if any; returns the rest of its job that can succeed."""
    missing = job.missing()
    if not missing:
        return []
    log = os.path.relpath(job.log)
    failures.append(f"{job.name}: {missing[0]}: exit code {code}: {job.last_line()} (see {log})")
    progress.say(f"failed: {failures[-1]}")
    # 2 is bad input, a negative code a signal: the next key would fail as well
    rest = missing[1:] if code == 1 else []
    progress.failed |= {(job.name, key) for key in missing if key not in rest}
    return [replace(job, seconds={key: job.seconds[key] for key in rest})] if rest else []


def _stop(processes: Sequence[subprocess.Popen], progress: Progress) -> None:
    progress.say(
        f"stopping {len(processes)} processes; they save what they have, "
        "and the same command goes on from there"
    )
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # or a second Ctrl-C
            if hasattr(os, "killpg"):  # Windows has no process groups
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
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
