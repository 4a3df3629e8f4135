"""Bounds of configuration fields: declared at the field, checked once for all papers.

    epochs: int = positive(60)
    dropout: float = below_one(0.5)

A value that a field cannot have ends with one line that names its flag: `--net.dropout nan: expected ...`.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import UnionType
from typing import Any, Literal, Union

from common.errors import InputError

LARGEST = 10**9  # of any number in a configuration


@dataclass(frozen=True)
class Bound:
    """What a number must satisfy, and the words for it."""

    words: str
    least: float = -LARGEST
    most: float = LARGEST
    above: float = -math.inf  # exclusive
    below: float = math.inf  # exclusive

    def holds(self, value: float) -> bool:
        """Returns whether `value` is within the bound; False for NaN."""
        return self.least <= value <= self.most and self.above < value < self.below


ANY = Bound(f"a number from {-LARGEST:,} to {LARGEST:,}")


def bounded(default: Any, bound: Bound, *, later: bool = False) -> Any:
    """Returns a dataclass field with a bound; `later`: see `common.hashing.LATER`."""
    return field(default=default, metadata={"bound": bound, **({"later": True} if later else {})})


def positive(default: float | str | None) -> Any:
    """Declares a number above 0."""
    return bounded(default, Bound("a positive number", above=0))


def non_negative(default: float | str | None) -> Any:
    """Declares a number of 0 or more."""
    return bounded(default, Bound("0 or more", least=0))


def probability(default: float) -> Any:
    """Declares a number from 0 to 1."""
    return bounded(default, Bound("0 to 1", least=0, most=1))


def below_one(default: float) -> Any:
    """Declares a number from 0 to less than 1: a dropout, a momentum."""
    return bounded(default, Bound("0 to less than 1", least=0, below=1))


def size(default: int | str) -> Any:
    """Declares a number of pixels, channels or dimensions."""
    return bounded(default, Bound("a positive number, at most 16,384", least=1, most=16_384))


def layers(default: int) -> Any:
    """Declares a number of layers or blocks."""
    return bounded(default, Bound("a positive number, at most 64", least=1, most=64))


def quality(default: int) -> Any:
    """Declares a JPEG quality."""
    return bounded(default, Bound("1 to 100", least=1, most=100))


def one_of(default: str, choices: Collection[str]) -> Any:
    """Declares a name out of `choices`."""
    return field(default=default, metadata={"choices": tuple(choices)})


def check_fields(config: Any, prefix: str = "") -> None:
    """Checks every field of nested dataclasses. Raises `InputError` that names the first wrong flag.

    A number without a bound must be finite and of sensible size. A value must be of its field's type (bool,
    int, float, str, None and Literal), since the values of a checkpoint or an experiment were not parsed.
    """
    types = _types(type(config))  # type: ignore[arg-type]
    for f in dataclasses.fields(config):
        value, flag = getattr(config, f.name), f"--{prefix}{f.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{prefix}{f.name}.")
        elif "choices" in f.metadata and value not in f.metadata["choices"]:
            raise InputError(f"{flag} {value}: expected one of {', '.join(f.metadata['choices'])}")
        else:
            _check_numbers(flag, value, f.metadata.get("bound", ANY))
            if not _fits(value, types[f.name]):
                raise InputError(f"{flag} {value!r}: expected {f.type}")


@lru_cache
def _types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) in (Union, UnionType):
        return any(_fits(value, option) for option in typing.get_args(kind))
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in (bool, str, type(None)) else True


def _check_numbers(flag: str, value: Any, bound: Bound) -> None:
    for number in _numbers(value):
        if not bound.holds(number):
            shown = number if isinstance(number, float) or abs(number) < 10**15 else _rounded(number)
            raise InputError(f"{flag} {shown}: expected {bound.words}")


def _rounded(number: int) -> str:
    return f"{number:.0e}" if abs(number) < 10**300 else "a huge number"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
