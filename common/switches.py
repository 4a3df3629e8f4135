"""Lists the fields of a paper's configuration: dotted name, type, comment, value in every preset."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

from common.hashing import canonical


def switches(presets: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns one entry per field: `name`, `type`, `comment`, `group` (its class's docstring), `values`.

    `presets` maps names to nested dataclasses, all of one class; entries are in the order of its fields.
    """
    first = next(iter(presets.values()))
    return [
        {
            "name": name,
            "type": kind,
            "comment": comment,
            "group": group,
            "values": {preset: canonical(_value(config, name)) for preset, config in presets.items()},
        }
        for name, kind, comment, group in _fields(first, "")
    ]


def _fields(config: Any, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    comments = field_comments(type(config))
    group = " ".join((inspect.getdoc(type(config)) or "").split("\n\n", 1)[0].split())
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            name = getattr(field.type, "__name__", str(field.type))
            kind = field.type if isinstance(field.type, str) else name
            yield f"{prefix}{field.name}", kind, comments.get(field.name, ""), group


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def field_comments(cls: type) -> dict[str, str]:
    """Maps each commented field to its comments, joined: those directly above it and those on its lines."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    words: dict[int, str] = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    comments = {}
    for node in ast.iter_child_nodes(ast.parse(source).body[0]):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first, last = node.lineno, node.end_lineno or node.lineno
            while lines[first - 2].lstrip().startswith("#"):
                first -= 1
            text = " ".join(words[line] for line in range(first, last + 1) if line in words)
            if text:
                comments[node.target.id] = text
    return comments
