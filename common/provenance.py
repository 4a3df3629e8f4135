"""Where a record comes from: the code's version, the libraries, the hardware. Nothing that identifies a
machine.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def code_version() -> str:
    """Returns the checkout's commit or tag, `-dirty` if a tracked file outside reports/, on which no measured
    number depends, differs from it; the installed version, if this is no checkout of its own (inside another
    repository, say).
    """
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return _installed_version()
        commit = _git("describe", "--always", "--abbrev=10")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)reports")
    except (OSError, subprocess.SubprocessError, ValueError):
        return _installed_version()
    return f"{commit}-dirty" if changed else commit


def _installed_version() -> str:
    try:
        return metadata.version("crossdomain-reid")
    except metadata.PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> str:
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set in a hook of another repository
    return subprocess.run(
        ["git", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in elsewhere},
        capture_output=True,
        timeout=10,
        check=True,
        encoding="utf-8",
    ).stdout.strip()


def library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "tensorflow", "numpy", "scipy", "pillow"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware(device: str) -> dict[str, Any]:
    """Returns processor model, usable cores and the device's name; nothing that identifies a machine."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model
        )
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": model, "cores": cores, "device": device}
