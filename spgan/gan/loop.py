"""The GAN's loop: exact resume, curves, a NaN guard. TensorFlow's counterpart of `common.training.Loop`."""

from __future__ import annotations

import io
import json
import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from common.errors import InputError, RunError
from common.files import regular_file, write_atomic
from common.job import Workspace
from common.runs import read_curves

log = logging.getLogger("run")
LOG_EVERY = 20  # steps


class State(Protocol):
    """A training's whole state between two steps, as named arrays."""

    def arrays(self) -> dict[str, np.ndarray]: ...
    def restore(self, arrays: Mapping[str, np.ndarray], origin: str) -> None: ...


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an `.npz` file atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a file of `save_arrays`. Raises `InputError` for a missing, damaged or foreign file."""
    regular_file(path, "arrays of a GAN")
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except Exception:  # a damaged or foreign file raises anything
        raise InputError(
            f"{path}: expected arrays of a GAN, found a damaged or foreign file; start over with --fresh"
        ) from None


class Loop:
    """The steps of a training: `for step in loop`.

    Saves `state` every `save_every` steps and when Ctrl-C or a termination signal asks it to stop. A state
    that is not finite ends the training with a `RunError`, before it replaces a good checkpoint and after the
    last step. The caller deletes `checkpoint` once the result is saved.
    """

    def __init__(self, work: Workspace, total: int, state: State, *, save_every: int = 1000):
        self.work, self.total, self.state, self.save_every = work, total, state, save_every
        self.checkpoint = work.folder / "checkpoint.npz"
        self.start = 0
        self._pending: list[tuple[int, dict[str, float]]] = []
        self._stop = self._interrupted = False
        if work.resume and self.checkpoint.is_file():
            arrays = load_arrays(self.checkpoint)
            state.restore(arrays, str(self.checkpoint))
            self.start = int(arrays["step"])
            log.info("GAN: continues from step %d of %d", self.start, total)
        lines = read_curves(work.curves) if work.curves.is_file() else []
        kept = [line for line in lines if line["step"] <= self.start]
        write_atomic(work.curves, "".join(json.dumps(line) + "\n" for line in kept))

    def __iter__(self) -> Iterator[int]:
        previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        begun = time.perf_counter()
        bar = tqdm(
            total=self.total, initial=self.start, desc="GAN", disable=None, leave=False, mininterval=0.5
        )
        try:
            for step in range(self.start, self.total):
                yield step
                bar.update()
                last = step + 1 == self.total
                save = ((step + 1) % self.save_every == 0 and not last) or self._stop
                if (step + 1) % LOG_EVERY == 0 or last or save:
                    self._flush(begun)
                if save:
                    self._save(step + 1)
                if self._stop:
                    log.warning(
                        "GAN: stopped at step %d of %d; --resume continues from there", step + 1, self.total
                    )
                    raise KeyboardInterrupt
            self._finite(self.total)
        finally:
            bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        # a second Ctrl-C stops at once; SIGTERM may arrive together with the parent's SIGINT
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT
        self._stop = True

    def log(self, step: int, terms: Mapping[str, float]) -> None:
        """Notes this step's numbers; `curves.jsonl` receives their means over 20 steps. Raises
        `RunError` for a NaN or an infinity.
        """
        self._pending.append((step, {name: float(value) for name, value in terms.items()}))
        for name, value in self._pending[-1][1].items():
            if not math.isfinite(value):
                raise RunError(
                    f"GAN: {name} is {value} at step {step} of {self.total}; what was saved before is kept"
                )

    def _flush(self, begun: float) -> None:
        values: dict[str, list[float]] = {}
        for name, value in ((name, value) for _, terms in self._pending for name, value in terms.items()):
            values.setdefault(name, []).append(value)
        if values:
            line = {"step": self._pending[-1][0] + 1, "seconds": round(time.perf_counter() - begun, 2)}
            line |= {name: float(f"{sum(column) / len(column):.6g}") for name, column in values.items()}
            self._pending.clear()
            with self.work.curves.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _finite(self, step: int) -> dict[str, np.ndarray]:
        """Returns the state's arrays. Raises `RunError` for a NaN or an infinity in one of them."""
        arrays = self.state.arrays()
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise RunError(
                    f"GAN: {name} is not finite after step {step} of {self.total}; what was saved before is "
                    "kept"
                )
        return arrays

    def _save(self, step: int) -> None:
        save_arrays(self.checkpoint, {"step": np.array(step), **self._finite(step)})
        self.work.kept.touch()
