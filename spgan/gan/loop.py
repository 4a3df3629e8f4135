"""What the GAN's loop needs besides the paper: exact resume, curves, a NaN guard. The equivalent of
`common.training.Loop` for TensorFlow.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import signal
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from common.errors import InputError, RunError
from common.files import write_atomic
from common.runs import Workspace, read_curves

log = logging.getLogger("run")


class State(Protocol):
    """Everything that a training carries from step to step, as named arrays."""

    def arrays(self) -> dict[str, np.ndarray]: ...
    def restore(self, arrays: Mapping[str, np.ndarray], origin: str) -> None: ...


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote; raises `InputError` for anything else."""
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (expected arrays of a GAN)") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise InputError(
            f"{path}: expected arrays of a GAN, found a damaged or foreign file; start over with --fresh"
        ) from None


class Loop:
    """The steps of a training: `for step in loop`. Every `save_every` steps and when it is asked to stop it
    saves `state`; `checkpoint` is the caller's to delete, once the result is on disk.

    Asked to stop: Ctrl-C, a termination signal, or the end of the process that started this one.
    """

    def __init__(
        self,
        workspace: Workspace,
        total: int,
        state: State,
        *,
        label: str,
        save_every: int = 1000,
        log_every: int = 20,
    ):
        self.workspace, self.total, self.state, self.label = workspace, total, state, label
        self.save_every, self.log_every = save_every, log_every
        self.checkpoint = workspace.folder / "checkpoint.npz"
        self.start = 0
        self._pending: list[tuple[int, dict[str, float]]] = []
        self._stop = self._interrupted = False
        if workspace.resume and self.checkpoint.is_file():
            arrays = load_arrays(self.checkpoint)
            state.restore(arrays, str(self.checkpoint))
            self.start = int(arrays["step"])
            log.info("%s: goes on from step %d of %d", label, self.start, total)
        kept = (
            [line for line in read_curves(workspace.curves) if line["step"] <= self.start]
            if workspace.curves.is_file()
            else []
        )
        write_atomic(workspace.curves, "".join(json.dumps(line) + "\n" for line in kept))

    def __iter__(self) -> Iterator[int]:
        previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        parent, begun = os.getppid(), time.perf_counter()
        bar = tqdm(
            total=self.total, initial=self.start, desc=self.label, disable=None, leave=False, mininterval=0.5
        )
        try:
            for step in range(self.start, self.total):
                yield step
                bar.update()
                last = step + 1 == self.total
                self._stop = self._stop or os.getppid() != parent
                save = ((step + 1) % self.save_every == 0 and not last) or self._stop
                if (step + 1) % self.log_every == 0 or last or save:
                    self._flush(begun)
                if save:
                    self._save(step + 1)
                if self._stop:
                    log.warning(
                        "%s: stopped at step %d of %d; --resume goes on from there",
                        self.label,
                        step + 1,
                        self.total,
                    )
                    raise KeyboardInterrupt
        finally:
            bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        # asked twice: stop at once; SIGTERM may come beside the parent's SIGINT
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT
        self._stop = True

    def log(self, step: int, terms: Mapping[str, float]) -> None:
        """Notes this step's numbers; `curves.jsonl` gets their means over `log_every` steps. A NaN or an
        infinity ends the run.
        """
        self._pending.append((step, {name: float(value) for name, value in terms.items()}))
        for name, value in self._pending[-1][1].items():
            if not math.isfinite(value):
                raise RunError(
                    f"{self.label}: {name} is {value} at step {step} of {self.total}; what was saved before is kept"
                )

    def _flush(self, begun: float) -> None:
        values: dict[str, list[float]] = {}
        for name, value in ((name, value) for _, terms in self._pending for name, value in terms.items()):
            values.setdefault(name, []).append(value)
        if values:
            line = {"step": self._pending[-1][0] + 1, "seconds": round(time.perf_counter() - begun, 2)}
            line |= {name: float(f"{sum(column) / len(column):.6g}") for name, column in values.items()}
            self._pending.clear()
            with self.workspace.curves.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _save(self, step: int) -> None:
        save_arrays(self.checkpoint, {"step": np.array(step), **self.state.arrays()})
        self.workspace.kept.touch()
