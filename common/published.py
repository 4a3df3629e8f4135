"""Reads the papers' numbers from `reports/published/<paper>.toml`; each is stored once, with its source."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypedDict

from common.content import NumberOrNan, check_shape, read_text
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
LARGEST_FILE = 10_000_000  # bytes of a TOML file
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


class TableFields(TypedDict, total=False):
    """Fields of a `[[table]]`, and of `[defaults]`."""

    where: str
    how: str
    error: float
    ap: str
    kind: str
    status: str
    unit: str
    pair: str
    pairs: list[str]
    columns: list[str]
    rows: dict[str, list[NumberOrNan] | list[list[NumberOrNan]]]


class RisingRule(TypedDict):
    """Keys whose numbers rise in this order."""

    keys: list[str]


class SameRule(RisingRule, total=False):
    """Keys that print the same numbers, for each pair of datasets or for each target."""

    by: Literal["pair", "target"]


class GainRule(TypedDict):
    """Gains of one key over another that the text quotes."""

    left: str
    right: str
    pair: str
    values: dict[str, float]


class _Contradicting(TypedDict):
    key: str
    against: str
    reason: str


class KnownRule(_Contradicting, total=False):
    """A contradiction in the paper itself."""

    pair: str
    metric: str


class _Cited(TypedDict):
    title: str
    link: str


class PublishedFile(_Cited, total=False):
    """The whole of `reports/published/<paper>.toml`."""

    defaults: TableFields
    table: list[TableFields]
    same: list[SameRule]
    rising: list[RisingRule]
    gain: list[GainRule]
    known: list[KnownRule]


@lru_cache
def published(paper: str, folder: Path = FOLDER) -> dict[tuple[str, str, str], Published]:
    """Maps (key, source, target) to rows; empty without a file. Raises `InputError` for a contradiction."""
    data = published_file(paper, folder)
    rows: dict[tuple[str, str, str], Published] = {}
    for table in data.get("table", ()):
        for row in _rows(
            {**data.get("defaults", {}), **table}, f"{paper}.toml, {table.get('where', 'a table')}"
        ):
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
    return read_toml(path, PublishedFile) if path.is_file() else {}


def read_toml(path: Path, shape: Any = dict[str, Any]) -> dict[str, Any]:
    """Reads a TOML file whose content has the type `shape`.

    Raises `InputError` with the position of a syntax error, or with the name of the first wrong field.
    """
    try:
        data = tomllib.loads(read_text(path, LARGEST_FILE, links=True))
    except RecursionError:
        raise InputError(f"{path}: not TOML: nested too deeply") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not TOML: {error}") from None
    check_shape(data, shape, path.name)
    return data


def split_pair(pair: str, origin: str) -> tuple[str, str]:
    """Splits `source->target`. Raises `InputError` for anything else."""
    source, arrow, target = pair.partition("->")
    if not source or not arrow or not target or "->" in target:
        raise InputError(f"{origin}: pair {pair!r}: expected source->target")
    return source, target


def _rows(table: Mapping[str, Any], origin: str) -> Iterator[Published]:
    absent = {"where", "how", "error", "columns", "rows", *CHOICES} - set(table)
    if absent or not {"pair", "pairs"} & set(table):
        raise InputError(
            f"{origin}: expected {', '.join(sorted(absent)) or 'pair or pairs'} in the table or in [defaults]"
        )
    for name, choices in CHOICES.items():
        if table[name] not in choices:
            raise InputError(f"{origin}: {name} {table[name]!r}: expected one of {', '.join(choices)}")
    pairs = table["pairs"] if "pairs" in table else [table["pair"]]
    check_shape(table["rows"], _rows_shape("pairs" in table), origin)
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
                source, target = split_pair(pair, origin)
                facts = {name: table[name] for name in ("where", "how", "error", *CHOICES)}
                yield Published(key, source, target, **facts, values=values)


def _rows_shape(several_pairs: bool) -> Any:
    """Returns the type of a table's rows: numbers for each column, or a list of them for each pair."""
    return dict[str, list[list[NumberOrNan]]] if several_pairs else dict[str, list[NumberOrNan]]
