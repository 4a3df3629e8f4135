"""Checkpoints: written atomically, read without executing pickled code."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from common.errors import InputError
from common.files import write_atomic

Config = TypeVar("Config")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes tensors, numbers, strings and containers of them."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomic(path, buffer.getbuffer())


def load_checkpoint(path: str | Path, *, expected: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU. Raises `InputError` if it is missing, unreadable or lacks an entry."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file (expected a checkpoint)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        raise InputError(
            f"{path}: not a checkpoint that torch can read safely ({type(error).__name__}); "
            "damaged, or written by another program"
        ) from None
    missing = [name for name in expected if not isinstance(state, dict) or name not in state]
    if missing:
        raise InputError(f"{path}: this checkpoint has no {', '.join(missing)}")
    return state


def read_state_dict(checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Returns the state dict in a file or mapping, bare or as `state_dict`, without `module.` prefixes."""
    content = checkpoint if isinstance(checkpoint, Mapping) else load_checkpoint(checkpoint)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    tensors = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    if not tensors or not state:
        raise InputError(f"{origin(checkpoint)}: expected a state dict (names to tensors)")
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], checkpoint: str | Path | Mapping) -> None:
    """Applies `model.load_state_dict`; its `InputError` names the checkpoint and the differences."""
    try:
        on_meta = any(tensor.is_meta for tensor in model.parameters())  # only shapes are compared
        model.load_state_dict(state, assign=on_meta)
    except (RuntimeError, TypeError, AttributeError) as error:  # the latter two: not names to tensors
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{origin(checkpoint)}: does not fit this network: {reason}") from None


def fetched_weights(weights: WeightsEnum, what: str, otherwise: str) -> dict[str, Tensor]:
    """Returns the state dict of torchvision's `weights`, downloaded to torch's cache if absent.

    Raises `InputError` if they are unavailable, and if the cached file's SHA-256 does not match the prefix in
    its name. The message names the weights as `what` and suggests `otherwise`.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    prefix = cache.stem.rsplit("-", 1)[-1]
    if cache.is_file() and not hashlib.sha256(cache.read_bytes()).hexdigest().startswith(prefix):
        raise InputError(
            f"{cache}: not the {what}, its SHA-256 is another (truncated?): "
            f"delete it, so that it is downloaded again, or put {weights.url} there"
        )
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: wrong hash
        raise InputError(
            f"{what} are unavailable and could not be downloaded ({error}): "
            f"put {weights.url} at {cache}, or {otherwise}"
        ) from None


def saved_network(
    path: str | Path,
    kind: Callable[..., Config],
    paper: str,
    expected: Iterable[str] = ("num_ids",),
    *,
    entry: str = "net",
) -> tuple[Config, dict[str, Any]]:
    """Reads a `model.pt`: the configuration of its network, `kind(**saved[entry])`, and the whole checkpoint.

    Raises `InputError` for a file without the expected entries, and for a network of another paper.
    """
    saved = load_checkpoint(path, expected=("state_dict", entry, *expected))
    try:
        return kind(**saved[entry]), saved
    except TypeError:
        raise InputError(
            f"{path}: expected a re-ID network of {paper}, found one of another paper or program, with the "
            f"settings {str(saved[entry])[:200]}"
        ) from None


def weights_content(weights: str) -> dict[str, str]:
    """Identifies the content of a weights file for a stage's key; empty for `none` and `imagenet`."""
    return {} if weights in ("none", "imagenet") else {"weights": file_hash(weights)}


def file_hash(path: str | Path) -> str:
    """Identifies a file by its content."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def origin(checkpoint: str | Path | Mapping) -> str:
    return "checkpoint" if isinstance(checkpoint, Mapping) else str(checkpoint)
