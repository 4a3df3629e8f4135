"""The papers' own numbers, read from `reports/published/<paper>.toml` (each lives there once, with its source)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from common.errors import InputError
from common.records import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# the dataset of the papers that a synthetic domain stands in for, by number of cameras
STANDS_FOR = {"synthetic-market": "market1501", "synthetic-duke": "dukemtmc"}


@dataclass(frozen=True)
class Published:
    """One row of a paper: values in percent, as printed."""

    key: str
    source: str
    target: str
    where: str      # "Table 2"
    how: str        # text | plot +-0.1 | ...
    ap: str         # trapezoid | step | unknown
    kind: str       # ours | other_method | out_of_scope
    status: str     # verified | read from plot | unverified
    values: Mapping[str, float]


@lru_cache
def published(paper: str) -> dict[tuple[str, str, str], Published]:
    """(key, source, target) -> row; empty for a paper without a file. Raises `InputError` if the file contradicts itself."""
    path = ROOT / "reports" / "published" / f"{paper}.toml"
    if not path.is_file():
        return {}
    rows: dict[tuple[str, str, str], Published] = {}
    for table in tomllib.loads(path.read_text())["table"]:
        source, target = table["pair"].split("->")
        for key, numbers in table["rows"].items():
            if len(numbers) != len(table["columns"]):
                raise InputError(f"{path.name}: {key}: {len(numbers)} numbers for {len(table['columns'])} columns")
            if (key, source, target) in rows:
                raise InputError(f"{path.name}: {key} on {table['pair']} stands twice")
            rows[key, source, target] = Published(
                key, source, target, table["where"], table["how"], table["ap"], table["kind"], table["status"],
                dict(zip(table["columns"], numbers)),
            )
    return rows


def published_for(paper: str, key: str, source: str, target: str) -> Published | None:
    """The paper's row for this key on this pair, or on the real pair that a synthetic one stands for."""
    return published(paper).get((key, STANDS_FOR.get(source, source), STANDS_FOR.get(target, target)))
