"""Where each thing of the blog post that this project follows can be found here: `coverage.toml`, and the
check that it is true.

Nothing is imported for the check: functions are looked up in the source text, so that SPGAN's need no
TensorFlow.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.provenance import ROOT
from common.published import published, read_toml
from common.records import PAPERS
from reports.experiments import REPORTS, built_papers, experiments, switches

KINDS = ("figure", "table", "formula", "code", "setting", "question")
PLACES = ("keys", "fields", "functions")
REASONS = ("planned", "not_run", "remark")


@dataclass(frozen=True)
class Item:
    """One thing of the blog: the `place`-th `kind` of its section, and where it is here."""

    section: str
    title: str
    kind: str
    place: int
    what: str
    keys: tuple[str, ...] = ()  # experiments, or published rows of the leaderboard
    fields: tuple[str, ...] = ()  # "hhl.config: method.beta"
    functions: tuple[str, ...] = ()  # "hhl.losses.batch_hard_triplet"
    planned: str = ""  # the issue that will build it
    not_run: str = ""  # "needs ..."
    remark: str = ""  # nothing to run, and why

    @property
    def name(self) -> str:
        return f"{self.section} {self.kind} {self.place} ({self.what})"


def read_coverage(reports: Path = REPORTS) -> list[Item]:
    """Raises `InputError` for an item that is of no kind or has an unknown field."""
    sections = read_toml(reports / "coverage.toml")["section"]
    return [_item(section, entry) for section in sections for entry in section["items"]]


def coverage_problems(reports: Path = REPORTS) -> list[str]:
    """One sentence for each thing that is not where the file says, or is not counted; empty if all is well."""
    data, items = read_toml(reports / "coverage.toml"), read_coverage(reports)
    return [
        *_miscounted(data, items),
        *(sentence for item in items for sentence in _problems(item, data["planned"])),
    ]


def _item(section: Mapping[str, Any], entry: dict[str, Any]) -> Item:
    entry = dict(entry)
    kinds = [kind for kind in KINDS if kind in entry]
    unknown = set(entry) - {*KINDS, *PLACES, *REASONS, "what"}
    if len(kinds) != 1 or unknown or "what" not in entry:
        raise InputError(
            f"coverage.toml, section {section['number']}: {entry}: expected what, one of {', '.join(KINDS)}, and no {sorted(unknown)}"
        )
    place = entry.pop(kinds[0])
    return Item(
        section["number"],
        section["title"],
        kinds[0],
        place,
        **{name: tuple(v) if isinstance(v, list) else v for name, v in entry.items()},
    )


def _miscounted(data: Mapping[str, Any], items: list[Item]) -> Iterator[str]:
    numbers = [section["number"] for section in data["section"]]
    found = {"section": len(numbers), **Counter(item.kind for item in items)}
    for kind, count in data["counts"].items():
        if found.get(kind, 0) != count:
            yield f"{found.get(kind, 0)} items of kind {kind}, the blog has {count}"
    yield from (
        f"section {number} is listed twice" for number, count in Counter(numbers).items() if count > 1
    )
    places: dict[tuple[str, str], list[int]] = {}
    for item in items:
        places.setdefault((item.section, item.kind), []).append(item.place)
    yield from (
        f"section {section}: {kind} {found}: expected 1, 2, ... in order"
        for (section, kind), found in places.items()
        if found != list(range(1, len(found) + 1))
    )


def _problems(item: Item, issues: Mapping[str, str]) -> Iterator[str]:
    if not any(getattr(item, name) for name in (*PLACES, *REASONS)):
        yield f"{item.name}: where is it? name a key, a field or a function, or say why not"
    if item.planned and issues.get(item.planned) not in PAPERS:
        yield f"{item.name}: {item.planned} is not listed under [planned]"
    elif item.planned and issues[item.planned] in built_papers():
        yield f"{item.name}: planned in {item.planned}, but {issues[item.planned]} is built: name its keys, fields or functions"
    yield from (f"{item.name}: no experiment {key}" for key in item.keys if not _has_key(key))
    yield from (f"{item.name}: no switch {field}" for field in item.fields if not _has_field(field))
    yield from (
        f"{item.name}: no function {function}" for function in item.functions if not _has_function(function)
    )


def _has_key(key: str) -> bool:
    """Names in papers without a command line are taken on trust: they are what its experiments, switches and
    functions shall be called.
    """
    paper = key.split("/")[0]
    if paper == "leaderboard":
        return any(key == row.key for row in published(paper).values())
    return paper in PAPERS and (paper not in built_papers() or key in experiments(paper))


def _has_field(field: str) -> bool:
    module, _, name = field.partition(": ")
    paper = module.removesuffix(".config")
    return paper in PAPERS and (
        paper not in built_papers() or name in {entry["name"] for entry in switches(paper)}
    )


def _has_function(dotted: str) -> bool:
    paper = dotted.split(".")[0]
    return has_definition(dotted) or (paper in PAPERS and paper not in built_papers())


@lru_cache
def has_definition(dotted: str, root: Path = ROOT) -> bool:
    """Whether `package.module.name` or `package.module.Class.method` is defined in the source."""
    parts = dotted.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        path = root.joinpath(*parts[:depth]).with_suffix(".py")
        if path.is_file():
            return _defines(ast.parse(path.read_text()).body, parts[depth:])
    return False


def _defines(body: list[ast.stmt], names: list[str]) -> bool:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == names[0]:
            return len(names) == 1 or _defines(node.body, names[1:])
    return False
