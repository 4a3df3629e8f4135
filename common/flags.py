"""Typed command-line flags: a dataclass from a command's words, or one line that names the wrong word."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import io
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import tyro

from common.errors import InputError

Parsed = TypeVar("Parsed")
HELP = " (see --help)"


def parse_flags(
    kind: type[Parsed],
    argv: Sequence[str],
    *,
    default: Parsed | None = None,
    prog: str | None = None,
    description: str | None = None,
) -> Parsed:
    """Returns the dataclass `kind` with the values that `argv` gives.

    Raises `InputError`, one line instead of tyro's box, for an unknown flag (it suggests a similar one), a
    value that does not parse, and whatever the dataclass itself refuses.
    """
    _check_names(argv, set(_names(kind if default is None else default)))
    options: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(argv), prog=prog, description=description, **options)
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise InputError(one_line(complaint.getvalue()) + HELP) from None
    except InputError:
        raise
    except ValueError as error:  # raised by a dataclass that checks its fields
        raise InputError(str(error)) from None


class OneLineParser(argparse.ArgumentParser):
    """A parser of commands whose errors are one `InputError`; an unknown flag suggests a similar one."""

    def error(self, message: str) -> NoReturn:
        """Raises `InputError`."""
        raise InputError(f"{' '.join(message.split())} (see {self.prog} --help)")

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        """Parses all words. Raises `InputError` for anything that does not parse."""
        words = sys.argv[1:] if args is None else list(args)
        known = {name for name in self._known() if name.startswith("--")}
        for word in words:
            name = word.split("=", 1)[0]
            if name.startswith("--") and not any(flag.startswith(name) for flag in known):
                near = difflib.get_close_matches(name, known, 1)
                hint = f", did you mean {near[0]}?" if near else ""
                raise InputError(f"unknown flag {name}{hint} (see {self.prog} --help)")
        return super().parse_args(words, namespace)

    def _known(self) -> Iterator[str]:
        """Yields the flags of this parser and of its commands."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    yield from command._option_string_actions


def check_listed(argv: Sequence[str], flag: str) -> None:
    """Raises `InputError` if a flag that takes a list is given without a value, or twice (the last list would
    replace the others).
    """
    places = [i for i, word in enumerate(argv) if word == flag or word.startswith(f"{flag}=")]
    if len(places) > 1:
        raise InputError(f"{flag} is given {len(places)} times: list all values after one {HELP.strip()}")
    for i in places:
        if argv[i] == flag and (i + 1 == len(argv) or argv[i + 1].startswith("--")):
            raise InputError(f"{flag}: expected one or more values, found none{HELP}")


def _check_names(argv: Sequence[str], known: set[str]) -> None:
    """Raises `InputError` for the first word that looks like a flag and is none."""
    for word in argv:
        name = word.split("=", 1)[0].replace("_", "-")
        if word.startswith("--") and name not in known and not name.startswith("--tyro-"):
            near = difflib.get_close_matches(name, known, 1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise InputError(f"unknown flag {name}{hint}{HELP}")


def _names(group: Any, prefix: str = "") -> Iterator[str]:
    """Yields the flags of a dataclass or of an instance, with those of nested ones: `--net.dropout`."""
    yield "--help"
    hints = typing.get_type_hints(group if isinstance(group, type) else type(group), include_extras=True)
    for field in dataclasses.fields(group):
        hint, name = hints[field.name], field.name.replace("_", "-")
        unnamed = any(getattr(part, "name", None) == "" for part in getattr(hint, "__metadata__", ()))
        value = hint if isinstance(group, type) else getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            yield from _names(value, prefix if unnamed else f"{prefix}{name}.")
        else:
            yield f"--{prefix}{name}"
            if isinstance(value, bool) or hint is bool:
                yield f"--{prefix}no-{name}"


def one_line(box: str) -> str:
    """Returns the text between the title of tyro's box and its next ruler; in ASCII it has no frame."""
    texts = [line.strip("│ ") for line in box.splitlines()[1:]]
    lines: list[str] = []
    for text in texts:
        if text.startswith(("───", "---", "╰──")):
            if lines:
                break
        elif text:
            lines.append(text)
    return " ".join(lines)
