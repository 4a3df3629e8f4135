"""Starts SPGAN's TensorFlow wing as a process of its own: TensorFlow and PyTorch never share one."""

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

from common.job import Options
from common.errors import InputError, RunError
from common.files import write_atomic
from common.provenance import ROOT
from common.runs import Stage, Workspace
from spgan.config import GanConfig, TranslateConfig

WHAT_TO_INSTALL = "SPGAN's GAN needs TensorFlow, which is not installed: pip install -e '.[spgan]' (or: pip install tensorflow)"
# those that `common.cli.exit_code` says in one line
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
OS_ERROR = 64  # the process ends with this + errno for one of them


def require_tensorflow() -> None:
    """Raises `InputError` that says what to install; TensorFlow is looked for, not imported."""
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(WHAT_TO_INSTALL)


def train(
    config: GanConfig,
    source: Sequence[Path],
    target: Sequence[Path],
    seed: int,
    workspace: Workspace,
    options: Options,
) -> None:
    """Trains a GAN into the workspace: `networks.npz`, `curves.jsonl`."""
    _run(
        workspace, options, {"task": "train", "gan": config, "source": source, "target": target, "seed": seed}
    )


def translate(
    config: GanConfig,
    style: TranslateConfig,
    gan: Stage,
    role: str,
    images: Sequence[tuple[Path, Path]],
    workspace: Workspace,
    options: Options,
) -> None:
    """Translates files with the generator `role` (`g_s2t` or `g_t2s`) of a finished GAN."""
    workspace.kept.touch()
    _run(
        workspace,
        options,
        {
            "task": "translate",
            "gan": config,
            "translate": style,
            "networks": gan.folder / "networks.npz",
            "role": role,
            "images": images,
            "seed": 0,
        },
    )


def _run(workspace: Workspace, options: Options, job: dict[str, Any]) -> None:
    require_tensorflow()
    job |= {
        "folder": workspace.folder,
        "resume": workspace.resume,
        "device": options.device,
        "threads": options.threads,
        "deterministic": options.deterministic,
        "torch_gpu": _torch_uses_gpu(options.device),
    }
    path = workspace.folder / "job.json"
    path.with_suffix(".error").unlink(missing_ok=True)
    write_atomic(path, json.dumps(job, default=_plain))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    command = [sys.executable, "-m", "spgan.gan", str(path)]
    code, stopped = _wait(
        subprocess.Popen(command, env=environment, cwd=workspace.folder, start_new_session=True)
    )
    error = path.with_suffix(".error")
    message = (
        error.read_text()
        if error.is_file()
        else f"TensorFlow's process ended with code {code}; its last words are above"
    )
    if stopped or code == 130:
        raise KeyboardInterrupt
    if code - OS_ERROR in DISK_ERRORS:
        raise OSError(code - OS_ERROR, os.strerror(code - OS_ERROR), str(workspace.folder))
    if code != 0:
        raise InputError(message) if code == 2 else RunError(message)
    path.unlink()


def _torch_uses_gpu(device: str) -> bool:
    """Whether PyTorch, where this process has it, computes on a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and device != "cpu" and torch.cuda.is_available()


def _wait(process: subprocess.Popen) -> tuple[int, bool]:
    """Exit code, and whether this process was asked to stop meanwhile; it then lets the other one save what
    it has.
    """
    stopped = []

    def pass_on(number, frame):
        stopped.append(number)
        process.send_signal(signal.SIGINT)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait(), bool(stopped)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return str(Path(value).absolute())
