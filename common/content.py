"""Reads content from outside the program: regular files of bounded size, and JSON or TOML values of a known
shape. Whatever the content is, it is accepted or ends with one `InputError`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import reprlib
import stat
import typing
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NewType, Union

from common.errors import InputError

LARGEST = 1e15  # of any number in a record or a TOML file
DEEPEST = 20  # nesting of lists and objects
# flags that Windows lacks, and the one that only Windows has: bytes are read as they are
O_NONBLOCK, O_NOFOLLOW, O_BINARY = (getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_BINARY"))
UNUSABLE = re.compile("[\0\ud800-\udfff]")  # NUL, and lone surrogates, which UTF-8 cannot encode
WORDS = {
    str: "a text",
    int: "an integer",
    float: "a finite number",
    bool: "true or false",
    type(None): "nothing",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}
NumberOrNan = NewType("NumberOrNan", float)


# ---------------------------------------------------------------- files


def read_bytes(path: Path, most: int, *, links: bool = False) -> bytes:
    """Reads a regular file of at most `most` bytes. Raises `InputError` for a file that is missing,
    unreadable or larger, for a folder or device, and (unless `links`) for a symbolic link.
    """
    flags = os.O_RDONLY | O_BINARY | O_NONBLOCK | (0 if links else O_NOFOLLOW)  # a pipe must not block
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            content = file.read(most + 1) if regular else b""
    except OSError as error:
        link = error.errno == errno.ELOOP and not links
        reason = "expected a regular file, found a symbolic link" if link else error.strerror
        raise InputError(f"{path}: {reason}") from None
    except ValueError as error:  # a name that no file can have
        raise InputError(f"{str(path)!r}: {error}") from None
    if not regular:
        raise InputError(f"{path}: expected a regular file, found a device or pipe")
    if len(content) > most:
        raise InputError(f"{path}: expected at most {most:,} bytes")
    return content


def read_text(path: Path, most: int, *, links: bool = False) -> str:
    """Reads a UTF-8 file. Raises `InputError` as `read_bytes` does, and for other encodings."""
    try:
        return read_bytes(path, most, links=links).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start})") from None


def parse_json(text: str, origin: str) -> Any:
    """Parses JSON. Raises `InputError` for a syntax error, too deep nesting, and a name that is repeated."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise InputError(f"{origin}: not JSON (nested too deeply)") from None
    except ValueError as error:
        raise InputError(f"{origin}: not JSON ({error})") from None


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"{shown(name)} appears twice")
        fields[name] = value
    return fields


# ---------------------------------------------------------------- shapes


def check_shape(value: Any, kind: Any, origin: str) -> None:
    """Checks a parsed value against a type hint: a `TypedDict`, `dict[str, float]`, `list[str]`, a union, a
    `Literal`. Raises `InputError` that names the first part which does not fit.

    A number must be finite and of sensible size (`NumberOrNan` may also be NaN), a text encodable, and a
    value of type `Any` made of such values, nested at most 20 times.
    """
    problem = _problem(value, kind, "")
    if problem:
        raise InputError(" ".join(f"{origin}: {problem}".splitlines()))


def check_fields_of(values: Mapping[str, Any], kind: type, origin: str) -> None:
    """Checks a mapping against the type hints of a dataclass, without requiring every field."""
    hints = hints_of(kind)
    for name, value in values.items():
        check_shape({name: value}, dict[str, hints[name]], origin)  # type: ignore[valid-type]


@lru_cache
def hints_of(kind: type) -> dict[str, Any]:
    """Returns the resolved type hints of a class."""
    return typing.get_type_hints(kind)


def shown(value: Any) -> str:
    """Returns a short text of any value."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"


def _problem(value: Any, kind: Any, path: str, depth: int = 0) -> str:
    """Returns `field: expected ..., found ...` for the first part that does not fit; empty if all do."""
    options = typing.get_args(kind)
    base = typing.get_origin(kind) or kind
    if base in (Union, UnionType):
        fits = any(not _problem(value, option, path) for option in options)
        return "" if fits else _mismatch(value, " or ".join(map(_words, options)), path)
    if base is Any:
        return _plain(value, path, depth)
    if typing.is_typeddict(kind):
        return _table(value, kind, path)
    if base is Literal:
        return "" if value in options else _mismatch(value, f"one of {', '.join(map(str, options))}", path)
    if base is dict and isinstance(value, dict):
        named = [(name, item, f"{path}.{name}" if path else name) for name, item in value.items()]
        return _first(
            problem
            for name, item, inside in named
            for problem in (_name_problem(name, path), _problem(item, (*options, Any, Any)[1], inside))
        )
    if base in (list, tuple) and isinstance(value, (list, tuple)):
        kinds = options if base is tuple and Ellipsis not in options else options[:1] * len(value)
        if len(kinds) != len(value):
            return _mismatch(value, f"{len(kinds)} values", path)
        return _first(_problem(item, k, f"{path}[{i}]") for i, (item, k) in enumerate(zip(value, kinds)))
    return "" if _is_a(value, base) else _mismatch(value, _words(base), path)


def _table(value: Any, kind: Any, path: str) -> str:
    """Returns the problem of an object with named fields."""
    if not isinstance(value, dict):
        return _mismatch(value, WORDS[dict], path)
    hints, prefix = hints_of(kind), f"{path}." if path else ""
    absent, unknown = sorted(kind.__required_keys__ - set(value)), sorted(set(value) - set(hints))
    if absent:
        return f"{prefix}{absent[0]}: missing"
    if unknown:
        return f"{prefix}{unknown[0]}: no such field"
    return _first(_problem(item, hints[name], f"{prefix}{name}") for name, item in value.items())


def _plain(value: Any, path: str, depth: int) -> str:
    """Returns the problem of a value whose type is not known in advance."""
    if depth > DEEPEST:
        return f"{path[:80]}: nested too deeply, expected at most {DEEPEST} levels"
    if isinstance(value, dict):
        return _first(
            _name_problem(name, path) or _plain(item, f"{path}.{name}", depth + 1)
            for name, item in value.items()
        )
    if isinstance(value, list):
        return _first(_plain(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value))
    if any(_is_a(value, kind) for kind in (str, bool, float, type(None))):
        return ""
    return _mismatch(value, "a text, a finite number, a list or an object", path)


def _name_problem(name: Any, path: str) -> str:
    """Returns the problem of a field's name: names are shown in messages and tables."""
    usable = isinstance(name, str) and name.isprintable()
    return "" if usable else _mismatch(name, "a name in one line", path)


def _is_a(value: Any, kind: Any) -> bool:
    if kind is str:
        return isinstance(value, str) and not UNUSABLE.search(value)
    if kind is NumberOrNan:
        return _is_a(value, float) or (isinstance(value, float) and math.isnan(value))
    if kind in (int, float):
        number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        return number and -LARGEST <= value <= LARGEST
    return kind in (bool, type(None)) and isinstance(value, kind)


def _words(kind: Any) -> str:
    base = typing.get_origin(kind) or kind
    return "a number or nan" if base is NumberOrNan else WORDS.get(base, "an object")


def _mismatch(value: Any, words: str, path: str) -> str:
    return f"wrong type{f' in {path}' if path else ''}: expected {words}, found {shown(value)}"


def _first(problems: Iterable[str]) -> str:
    return next(filter(None, problems), "")
