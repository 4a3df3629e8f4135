"""Reads and checks `coverage.toml`, which lists where each part of the blog post is found in this project.

The check imports nothing: it looks functions up in the source text, so that SPGAN's need no TensorFlow.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from common.content import check_fields_of
from common.errors import InputError
from common.provenance import ROOT
from common.published import published, read_toml
from common.records import PAPERS
from reports.experiments import REPORTS, experiments, switches

KINDS = ("figure", "table", "formula", "code", "setting", "question")
PLACES = ("keys", "fields", "functions")
REASONS = ("not_run", "remark")


class Section(TypedDict):
    """One section of the blog post."""

    number: str
    title: str
    items: list[dict[str, Any]]


class CoverageFile(TypedDict):
    """The whole of `coverage.toml`."""

    counts: dict[str, int]
    section: list[Section]


@dataclass(frozen=True)
class Item:
    """One part of the blog post, the `place`-th `kind` of its section, and where it is found here."""

    section: str
    title: str
    kind: str
    place: int
    what: str
    keys: tuple[str, ...] = ()  # experiments, or published rows of the leaderboard
    fields: tuple[str, ...] = ()  # "hhl.config: method.beta"
    functions: tuple[str, ...] = ()  # "hhl.losses.batch_hard_triplet"
    not_run: str = ""  # "needs ..."
    remark: str = ""  # nothing to run, and why

    @property
    def name(self) -> str:
        return f"{self.section} {self.kind} {self.place} ({self.what})"


def read_coverage(reports: Path = REPORTS) -> list[Item]:
    """Reads the items. Raises `InputError` for one without a kind or with an unknown field."""
    sections = read_toml(reports / "coverage.toml", CoverageFile)["section"]
    return [_item(section, entry) for section in sections for entry in section["items"]]


def coverage_problems(reports: Path = REPORTS) -> list[str]:
    """Returns one sentence for each item that is not found or not counted; none if the file is correct."""
    data, items = read_toml(reports / "coverage.toml", CoverageFile), read_coverage(reports)
    return [*_miscounted(data, items), *(sentence for item in items for sentence in _problems(item))]


def _item(section: Mapping[str, Any], entry: dict[str, Any]) -> Item:
    kinds = [kind for kind in KINDS if kind in entry]
    unknown = set(entry) - {*KINDS, *PLACES, *REASONS, "what"}
    if len(kinds) != 1 or unknown or "what" not in entry:
        raise InputError(
            f"coverage.toml, section {section['number']}: {entry}: "
            f"expected what, one of {', '.join(KINDS)}, and no {sorted(unknown)}"
        )
    kind = kinds[0]
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in entry.items() if name != kind
    }
    check_fields_of({**values, "place": entry[kind]}, Item, f"coverage.toml, section {section['number']}")
    return Item(section["number"], section["title"], kind, entry[kind], **values)


def _miscounted(data: Mapping[str, Any], items: list[Item]) -> Iterator[str]:
    numbers = [section["number"] for section in data["section"]]
    listed = Counter(item.kind for item in items) | Counter(section=len(numbers))
    for kind, count in data["counts"].items():
        if listed[kind] != count:
            yield f"{listed[kind]} items of kind {kind}, the blog has {count}"
    for number, count in Counter(numbers).items():
        if count > 1:
            yield f"section {number} is listed twice"
    places: dict[tuple[str, str], list[int]] = {}
    for item in items:
        places.setdefault((item.section, item.kind), []).append(item.place)
    for (section, kind), order in places.items():
        if order != list(range(1, len(order) + 1)):
            yield f"section {section}: {kind} {order}: expected 1, 2, ... in order"


def _problems(item: Item) -> Iterator[str]:
    if not any(getattr(item, name) for name in (*PLACES, *REASONS)):
        yield f"{item.name}: where is it? name a key, a field or a function, or say why not"
    yield from (f"{item.name}: no experiment {key}" for key in item.keys if not _has_key(key))
    yield from (f"{item.name}: no switch {field}" for field in item.fields if not _has_field(field))
    yield from (f"{item.name}: no function {name}" for name in item.functions if not has_definition(name))


def _has_key(key: str) -> bool:
    paper = key.split("/")[0]
    if paper == "leaderboard":
        return any(key == row.key for row in published(paper).values())
    return paper in PAPERS and key in experiments(paper)


def _has_field(field: str) -> bool:
    module, _, name = field.partition(": ")
    paper = module.removesuffix(".config")
    return paper in PAPERS and any(entry["name"] == name for entry in switches(paper))


@lru_cache
def has_definition(dotted: str, root: Path = ROOT) -> bool:
    """Returns whether the source defines `package.module.name` or `package.module.Class.method`."""
    parts = dotted.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        path = root.joinpath(*parts[:depth]).with_suffix(".py")
        if path.is_file():
            return _defines(ast.parse(path.read_text(encoding="utf-8")).body, parts[depth:])
    return False


def _defines(body: list[ast.stmt], names: list[str]) -> bool:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == names[0]:
            return len(names) == 1 or _defines(node.body, names[1:])
    return False
