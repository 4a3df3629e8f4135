"""Every field of every configuration: what it cannot be is refused with the name of its flag, whatever
else the configuration says. A new field needs no new test here.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from common.cli import override
from common.errors import InputError
from common.records import PAPERS

ABSURD = (math.nan, math.inf, -math.inf, 10**30, -(10**30))
DEMOS = {paper: importlib.import_module(f"{paper}.config").PRESETS["demo"] for paper in PAPERS}


def fields_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted name and the type hint of each field."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name]


def parts(hint: Any) -> tuple[Any, ...]:
    """Returns the simple types of a hint: `int | None` -> int, NoneType; `tuple[int, ...]` -> int."""
    inner = typing.get_args(hint)
    if not inner or typing.get_origin(hint) is typing.Literal:
        return (hint,)
    return tuple(part for kind in inner if kind is not Ellipsis for part in parts(kind))


FIELDS = [(paper, name, hint) for paper, config in DEMOS.items() for name, hint in fields_of(config)]
NUMBERS = [(paper, name, hint) for paper, name, hint in FIELDS if {int, float} & set(parts(hint))]
CHOICES = [
    (paper, name)
    for paper, name, hint in FIELDS
    if any(typing.get_origin(part) is typing.Literal for part in parts(hint))
]


@pytest.mark.parametrize("paper, name, hint", NUMBERS, ids=lambda part: str(part))
def test_no_number_accepts_nan_infinity_or_an_absurd_size(paper, name, hint):
    flag = re.escape(f"--{name.replace('_', '-')}")
    for value in ABSURD:
        listed = (1, value) if typing.get_origin(hint) is tuple else value
        with pytest.raises(InputError, match=rf"^{flag} .*: expected "):
            override(DEMOS[paper], {name: listed})


@pytest.mark.parametrize("paper, name", CHOICES)
def test_no_choice_accepts_another_word(paper, name):
    flag = re.escape(f"--{name.replace('_', '-')}")
    with pytest.raises(InputError, match=rf"^{flag} '?unknown'?: expected "):
        override(DEMOS[paper], {name: "unknown"})


def test_every_paper_has_such_fields():
    for fields in (NUMBERS, CHOICES):
        assert {paper for paper, *_ in fields} == set(PAPERS)
