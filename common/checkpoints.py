"""Checkpoints: written atomically, read without executing pickled code."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from common.checks import check_fields
from common.errors import InputError
from common.files import regular_file, write_atomic

Config = TypeVar("Config")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes tensors, numbers, strings and containers of them."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomic(path, buffer.getbuffer())


def load_checkpoint(path: str | Path, *, expected: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU. Raises `InputError` if it is missing, unreadable or lacks an entry."""
    size = regular_file(path, "a checkpoint").st_size
    try:
        _refuse_bomb(path, size)
        with _scalars_allowed():
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file raises anything
        raise InputError(
            f"{path}: not a checkpoint that torch can read safely ({type(error).__name__}); {_cause(error)}"
        ) from None
    if not isinstance(state, dict):
        raise InputError(f"{path}: expected a checkpoint with named entries, found a {type(state).__name__}")
    missing = [name for name in expected if name not in state]
    if missing:
        raise InputError(f"{path}: this checkpoint has no {', '.join(missing)}")
    return state


def _scalars_allowed() -> contextlib.AbstractContextManager:
    """Admits what other programs save beside their tensors and what runs no code: NumPy's scalars (an
    accuracy) and `argparse`'s options.

    A scalar is pickled as a function, a dtype and its bytes; NumPy 2 renamed the function's module.
    """
    scalar = getattr(np, "_core", None) or np.core  # NumPy 1 has no `_core`
    function = scalar.multiarray.scalar
    dtypes = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdSU"}
    names = [(function, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    try:
        return torch.serialization.safe_globals([np.dtype, *dtypes, argparse.Namespace, *names])
    except (AttributeError, TypeError):  # before torch 2.6
        return contextlib.nullcontext()


def _cause(error: Exception) -> str:
    """Returns the probable reason why torch refuses a file."""
    named = re.search(r"GLOBAL (\S{1,100}) was not an allowed", str(error))
    if named is None:
        return "damaged, or written by another program"
    return (
        f"it holds a {named[1]}, which only its own program can read: "
        "save the network's state_dict() alone, there"
    )


def _refuse_bomb(path: str | Path, size: int) -> None:
    """Raises `ValueError` for an archive whose content is larger than the file: torch does not compress."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > size:
                raise ValueError


# entries under which programs keep their network: most; fast-reid; OpenUnReID and others; SPGAN's authors
ENTRIES = ("state_dict", "model", "model_state_dict", "net", "IDE")


def read_state_dict(checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Returns the state dict in a file or mapping, bare or one of `ENTRIES`, without `module.` prefixes."""
    content = checkpoint if isinstance(checkpoint, Mapping) else load_checkpoint(checkpoint)
    return _named_tensors(network_entry(content), origin(checkpoint))


def network_entry(content: Mapping) -> Any:
    """Returns the network of a checkpoint: the first of `ENTRIES` that holds tensors, or all of it."""
    for name in ENTRIES:
        entry = content.get(name)
        if isinstance(entry, Mapping) and any(isinstance(value, Tensor) for value in entry.values()):
            return entry
    return content.get("state_dict", content)


def _named_tensors(state: Any, where: str) -> dict[str, Tensor]:
    """Returns names to dense real tensors. Raises `InputError` for anything else."""
    if not isinstance(state, Mapping) or not state:
        raise InputError(f"{where}: does not fit a network: expected a state dict (names to tensors)")
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("module.") if isinstance(key, str) else None
        if name is None or name in tensors or not _is_plain(value):
            raise InputError(
                f"{where}: does not fit a network: expected a state dict (names to tensors), found "
                f"{_shown(key)} with {_described(value)}"
            )
        tensors[name] = value
    return tensors


def _is_plain(value: Any) -> bool:
    """Returns whether a value is a dense, real tensor whose every element is in its storage."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
        return False
    stored = value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    return stored and not value.is_quantized and not value.is_complex()


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of {value.dtype}, {value.layout}, shape {tuple(value.shape)}"


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], checkpoint: str | Path | Mapping) -> None:
    """Applies `model.load_state_dict`; its `InputError` names the checkpoint and the differences."""
    own = model.state_dict()
    for name, value in state.items():
        if name in own and own[name].is_floating_point() and not value.is_floating_point():
            raise InputError(
                f"{origin(checkpoint)}: does not fit this network: {name} holds {value.dtype}, "
                f"expected {own[name].dtype}"
            )
    try:
        on_meta = any(tensor.is_meta for tensor in model.parameters())  # only shapes are compared
        model.load_state_dict(state, assign=on_meta)
    except RuntimeError as error:
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
    *,
    entry: str = "net",
    classes: str = "num_ids",
) -> tuple[Config, int, dict[str, Tensor]]:
    """Reads a `model.pt`: the configuration of its network, `kind(**saved[entry])`, the number of classes and
    the state dict.

    Raises `InputError` for a file without these entries, for a network of another paper, for settings outside
    their bounds, and for a number of classes that no tensor of the file can have.
    """
    saved = load_checkpoint(path)
    missing = [name for name in ("state_dict", entry, classes) if name not in saved]
    if missing:
        raise InputError(
            f"{path}: this checkpoint has no {', '.join(missing)}: expected a model.pt of {paper}; "
            "python -m common.evaluation reads those of other programs"
        )
    try:
        config = kind(**saved[entry])
        check_fields(config)
    except InputError as error:
        raise InputError(f"{path}: settings of the network: {error}") from None
    except Exception:  # the file holds anything
        raise InputError(
            f"{path}: expected a re-ID network of {paper}, found one of another paper or program, with the "
            f"settings {_shown(saved[entry])}"
        ) from None
    state = _named_tensors(saved["state_dict"], str(path))
    largest = max((max(tensor.shape, default=0) for tensor in state.values() if tensor.numel()), default=0)
    for name in {"num_ids", classes} & saved.keys():
        number = saved[name]
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= largest:
            raise InputError(
                f"{path}: expected a positive number of identities, found {name} = {_shown(number)}"
            )
    return config, saved[classes], state


def _shown(value: Any) -> str:
    """Describes a value of a foreign file in one line."""
    try:
        return " ".join(repr(value).split())[:200]
    except Exception:  # an integer of too many digits, a tree too deep
        return f"a {type(value).__name__}"


def weights_content(weights: str) -> dict[str, str]:
    """Identifies the content of a weights file for a stage's key; empty for `none` and `imagenet`."""
    return {} if weights in ("none", "imagenet") else {"weights": file_hash(weights)}


def file_hash(path: str | Path) -> str:
    """Identifies a file by its content."""
    regular_file(path, "a file of weights")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def packaged_file(package: str, file: str) -> Path | None:
    """Returns the place of a file in an installed package, without importing it; None without the package."""
    spec = find_spec(package)
    found = spec is not None and spec.submodule_search_locations
    return Path(found[0]) / file if found else None


def check_sha256(path: Path, expected: str, remedy: str) -> None:
    """Raises `InputError`, which ends in the remedy, for a file that is missing or not the expected one."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: {remedy}") from None
    if found != expected:
        raise InputError(f"{path}: expected the sha256 {expected[:12]}, found {found[:12]}: {remedy}")


def origin(checkpoint: str | Path | Mapping) -> str:
    return "checkpoint" if isinstance(checkpoint, Mapping) else str(checkpoint)
