"""Runs SPGAN's GAN in a separate process: TensorFlow and PyTorch never share one."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError, RunError
from common.files import write_atomic
from common.job import Workspace
from common.provenance import ROOT
from spgan.config import GANConfig, TranslationConfig

WHAT_TO_INSTALL = (
    "SPGAN's GAN needs TensorFlow, which is not installed: pip install -e '.[spgan]' "
    "(or: pip install tensorflow)"
)
# Ctrl-C, a termination request, a closed terminal (which Windows does not have)
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
OS_ERROR = 64  # the process exits with this + errno for an error that `common.cli.exit_code` prints


def require_tensorflow() -> None:
    """Raises `InputError` with what to install; looks for TensorFlow without importing it."""
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(WHAT_TO_INSTALL)


def train(work: Workspace, config: GANConfig, source: Sequence[Path], target: Sequence[Path]) -> None:
    """Trains a GAN on two lists of images; writes `networks.npz` and `curves.jsonl`."""
    _run(work, {"task": "train", "gan": config, "source": source, "target": target})


def translate(
    work: Workspace,
    config: GANConfig,
    translation: TranslationConfig,
    networks: Path,
    role: str,
    images: Sequence[tuple[Path, Path]],
) -> None:
    """Translates images, `(input, output)` each, with a trained generator; `role`: `g_s2t` or `g_t2s`."""
    work.kept.touch()
    _run(
        work,
        {
            "task": "translate",
            "gan": config,
            "translate": translation,
            "networks": networks,
            "role": role,
            "images": images,
        },
    )


def _run(work: Workspace, job: dict[str, Any]) -> None:
    """Writes the job as JSON, waits for its process and raises the process's error here."""
    require_tensorflow()
    job |= {
        "seed": work.seed,
        "folder": work.folder,
        "resume": work.resume,
        "device": work.options.device,
        "threads": work.options.threads,
        "deterministic": work.options.deterministic,
        "torch_gpu": _torch_uses_gpu(work.options.device),
        "parent": os.getpid(),
    }
    path = work.folder / "job.json"
    error = path.with_suffix(".error")
    error.unlink(missing_ok=True)
    write_atomic(path, json.dumps(job, default=_plain))
    code, stopped = _wait(_start(path))
    if stopped or code == 130:
        raise KeyboardInterrupt
    if code - OS_ERROR in errno.errorcode:
        raise OSError(code - OS_ERROR, os.strerror(code - OS_ERROR), str(work.folder))
    if code != 0:
        crash = f"TensorFlow's process ended with code {code}; its last output is above"
        message = error.read_text(encoding="utf-8", errors="surrogateescape") if error.is_file() else crash
        raise InputError(message) if code == 2 else RunError(message)
    path.unlink()


def _start(path: Path) -> subprocess.Popen:
    """Starts the process in the repository's root, so that no file of the stage's folder is imported."""
    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    search = [str(ROOT), *(os.path.abspath(entry) for entry in listed if entry)]
    return subprocess.Popen(
        [sys.executable, "-m", "spgan.gan", str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
        cwd=ROOT,
        start_new_session=True,
    )


def _torch_uses_gpu(device: str) -> bool:
    """Returns whether PyTorch, if this process has imported it, computes on a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and device != "cpu" and torch.cuda.is_available()


def _wait(process: subprocess.Popen) -> tuple[int, bool]:
    """Returns the exit code, and whether this process was interrupted meanwhile.

    An interrupt is passed on, so that the other process saves its state.
    """
    stopped = []

    def pass_on(number: int, frame: Any) -> None:
        stopped.append(number)
        process.send_signal(signal.SIGINT)

    previous = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        return process.wait(), bool(stopped)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(Path(value).absolute())
