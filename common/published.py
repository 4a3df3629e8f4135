"""Reads the papers' numbers from `reports/published/<paper>.toml`; each is stored once, with its source."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.provenance import ROOT
from common.records import KEY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = ROOT / "reports" / "published"
# the papers' dataset that a synthetic domain replaces, by number of cameras
STANDS_FOR = {"synthetic-market": "market1501", "synthetic-duke": "dukemtmc"}
ANY = "any"  # as source and target: the paper does not name the datasets

CHOICES = {
    "ap": ("trapezoid", "step", "unknown"),
    # reprint: a row of ours that this or another paper prints a second time; never measured under this key
    "kind": ("ours", "reprint", "other_method", "out_of_scope"),
    "status": ("verified", "read from plot", "unverified"),
    "unit": ("%", "distance", "rms"),  # rms: change of an image whose values lie in -1..1
}


@dataclass(frozen=True)
class Published:
    """One row of a paper on one pair of datasets; `values` in `unit`, as printed."""

    key: str
    source: str
    target: str
    where: str  # "Table 2"
    how: str  # text | vector paths of the PDF | ...
    error: float  # of the reading, in the unit of the values; 0 for a printed number
    ap: str  # trapezoid | step | unknown
    kind: str  # ours | reprint | other_method | out_of_scope
    status: str  # verified | read from plot | unverified (shown greyed, never compared)
    unit: str  # % | distance | rms
    values: Mapping[str, float]

    @property
    def comparable(self) -> bool:
        """Whether a measured number may be compared with it."""
        return self.kind == "ours" and self.status != "unverified"


@dataclass(frozen=True)
class Source:
    """The paper behind the numbers of one file."""

    title: str
    link: str


@lru_cache
def published(paper: str, folder: Path = FOLDER) -> dict[tuple[str, str, str], Published]:
    """Maps (key, source, target) to rows; empty without a file. Raises `InputError` for a contradiction."""
    data = published_file(paper, folder)
    rows: dict[tuple[str, str, str], Published] = {}
    for table in data.get("table", ()):
        for row in _rows({**data["defaults"], **table}, f"{paper}.toml, {table.get('where', 'a table')}"):
            identity = (row.key, row.source, row.target)
            if identity in rows or not KEY.fullmatch(row.key) or not row.key.startswith(f"{paper}/"):
                raise InputError(
                    f"{paper}.toml: {row.key} on {row.source}->{row.target}: "
                    f"expected a key of {paper}/, once; repeated or malformed"
                )
            rows[identity] = row
    return rows


def published_for(paper: str, key: str, source: str, target: str) -> Published | None:
    """Returns the paper's row for this key: on this pair, on the real pair it replaces, or without a pair."""
    rows = published(paper)
    pair = (STANDS_FOR.get(source, source), STANDS_FOR.get(target, target))
    return rows.get((key, *pair)) or rows.get((key, ANY, ANY))


def published_source(paper: str, folder: Path = FOLDER) -> Source:
    """Returns title and address of the paper."""
    data = published_file(paper, folder)
    return Source(data["title"], data["link"])


def published_file(paper: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Reads the whole file, including its rules of consistency (`same`, `rising`, ...); empty if none."""
    path = folder / f"{paper}.toml"
    return read_toml(path) if path.is_file() else {}


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file. Raises `InputError` with the position of a syntax error."""
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from None


def _rows(table: Mapping[str, Any], origin: str) -> Iterator[Published]:
    absent = {"where", "how", "error", "columns", "rows", *CHOICES} - set(table)
    if absent or not {"pair", "pairs"} & set(table):
        raise InputError(
            f"{origin}: expected {', '.join(sorted(absent)) or 'pair or pairs'} in the table or in [defaults]"
        )
    for name, choices in CHOICES.items():
        if table[name] not in choices:
            raise InputError(f"{origin}: {name} {table[name]!r}: expected one of {', '.join(choices)}")
    pairs = table.get("pairs") or [table["pair"]]
    for key, lists in table["rows"].items():
        lists = lists if "pairs" in table else [lists]
        if len(lists) != len(pairs):
            raise InputError(f"{origin}: {key}: {len(lists)} lists of numbers for {len(pairs)} pairs")
        for pair, numbers in zip(pairs, lists):
            if len(numbers) != len(table["columns"]):
                counts = f"{len(numbers)} numbers for {len(table['columns'])} columns"
                raise InputError(f"{origin}: {key}: {counts}")
            values = {
                name: number for name, number in zip(table["columns"], numbers) if not math.isnan(number)
            }
            if values:  # nan: the paper prints a dash
                source, target = pair.split("->")
                facts = {name: table[name] for name in ("where", "how", "error", *CHOICES)}
                yield Published(key, source, target, **facts, values=values)
