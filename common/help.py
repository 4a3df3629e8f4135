"""The help of `train.py`: the flags that a first user needs on one screen; `--help-all` lists every field."""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
from collections.abc import Sequence

from common.job import Options
from common.records import Paper
from common.switches import field_comments, switches

# of `Options`, in this order
FIRST = (
    "preset",
    "experiment",
    "list_experiments",
    "source",
    "target",
    "data_root",
    "seed",
    "out",
    "resume",
    "fresh",
    "device",
    "workers",
)
EXPANDED = "--help-all"
MARGIN, WIDEST = 26, 100  # characters


def asks_for_help(argv: Sequence[str]) -> bool:
    """Returns whether the short help is asked for."""
    return bool({"--help", "-h"} & set(argv)) and EXPANDED not in argv


def expanded(argv: Sequence[str]) -> list[str]:
    """Returns the words with `--help-all` replaced by the `--help` of the parser of all fields."""
    return ["--help" if word == EXPANDED else word for word in argv]


def short_help(paper: Paper, preset: str) -> str:
    """Returns the help of a paper's first flags, on one screen."""
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 30)).columns)
    comments, defaults = field_comments(Options), Options(source=paper.source, target=paper.target)
    fields = {field.name: field for field in dataclasses.fields(Options)}
    lines = [
        "usage: python train.py [--preset NAME] [--experiment KEY ...] [flags]",
        "",
        f"{paper.name}: runs experiments and prints published beside measured numbers.",
        "",
    ]
    for name in FIRST:
        value = getattr(defaults, name)
        metavar = " KEY ..." if name == "experiment" else _metavar(str(fields[name].type))
        flag = f"--{name.replace('_', '-')}{metavar}"
        shown = "" if value in (None, False, ()) else f" (default {value})"
        text = comments.get(name, "").split("; ")[0]
        if name == "preset":
            text = f"starting values: {', '.join(paper.presets)}"
        lines += _entry(flag, text + shown, width)
    count = len(fields) + len(switches({preset: paper.presets[preset]}))
    lines += [
        "",
        f"{EXPANDED} lists all {count} flags with their values; SWITCHES.md has their sources.",
        "Completion in your shell: --tyro-print-completion bash (or zsh, tcsh).",
    ]
    return "\n".join(lines)


def _metavar(kind: str) -> str:
    if kind == "bool":
        return ""
    if kind.startswith("Literal"):
        return " " + re.sub("[\"' ]", "", kind[8:-1]).replace(",", "|")
    return " N" if kind == "int" else " DIR" if kind.startswith("Path") else " NAME"


def _entry(flag: str, text: str, width: int) -> list[str]:
    """Returns one flag with its text beside it, or below it if the flag is long."""
    indent = " " * MARGIN
    wrapped = textwrap.wrap(text, max(30, width - MARGIN), initial_indent=indent, subsequent_indent=indent)
    head = f"  {flag}"
    if len(head) < MARGIN and wrapped:
        return [head.ljust(MARGIN) + wrapped[0].lstrip(), *wrapped[1:]]
    return [head, *wrapped]
