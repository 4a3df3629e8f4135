"""Published and measured numbers row by row: what tables, figures and the page are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from statistics import mean, stdev

from common.provenance import ROOT
from common.published import ANY, STANDS_FOR, Published, published, published_for
from common.records import METRICS, Record, newest_configuration
from reports.collect import read_results
from reports.experiments import REPORTS, built_papers, experiments, sweep_entries

TITLES = {"arn": "ARN", "hhl": "HHL", "spgan": "SPGAN", "ptgan": "PTGAN", "dcgan_lsro": "DCGAN+LSRO"}
NAMES = {
    "market1501": "Market",
    "dukemtmc": "Duke",
    "cuhk03": "CUHK03",
    "msmt17": "MSMT17",
    "prid2011": "PRID",
    "any": "any",
}
# the synthetic domain that stands in for a dataset
DRAWN = {real: synthetic for synthetic, real in STANDS_FOR.items()}
PERCENT = "%"


@dataclass(frozen=True)
class Value:
    """Mean over the seeds and their sample standard deviation (None for one seed), in percent or in the
    measure's own unit.
    """

    mean: float
    spread: float | None
    n: int
    percent: bool = True

    @property
    def text(self) -> str:
        """`62.2 ± 1.0`; a small measure with three digits."""
        digits = 1 if self.percent or self.mean >= 2 else 3
        return f"{self.mean:.{digits}f}" + ("" if self.spread is None else f" ± {self.spread:.{digits}f}")


@dataclass(frozen=True)
class Row:
    """One experiment on one pair: the paper's numbers and ours."""

    key: str
    title: str
    runs_as: str
    score: str
    published: Published | None
    records: tuple[Record, ...]  # one a seed, of one configuration
    stale: bool  # the configuration has changed since

    def value(self, column: str, suffix: str = "") -> Value | None:
        """Ours for a metric of the row's score (`suffix` "+adabn": of that one), or for a measure of that
        name (`Record.measure`).

        A measure belongs to the run and not to one of its scores, so it has no value with a suffix.
        """
        name = self.score + suffix
        found = [
            100 * r.scores[name][column]
            if column in r.scores.get(name, ())
            else None
            if suffix
            else r.measure(column)
            for r in self.records
        ]
        return value_of([number for number in found if number is not None], percent=column in METRICS)


@dataclass(frozen=True)
class Table:
    """The rows of one table or figure on one pair of datasets, measured under one preset."""

    paper: str
    name: str  # the middle part of its keys: "table2"
    source: str  # measured on
    target: str
    preset: str
    rows: tuple[Row, ...]
    idle: tuple[Row, ...] = ()  # our own rows (no paper prints them) that have not been run

    @property
    def title(self) -> str:
        """As the paper calls it, or else from its name."""
        printed = [row.published.where for row in self.rows if row.published]
        number = re.fullmatch(r"(table|fig)(\d+)", self.name)
        if number:
            return f"{'Table' if number[1] == 'table' else 'Fig.'} {number[2]}"
        return printed[0][0].upper() + printed[0][1:] if printed else self.name.replace("_", " ").capitalize()

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics shown: rank-1 and mAP, or what the paper measures instead."""
        odd = [row.published for row in self.rows if row.published and row.published.unit != PERCENT]
        return tuple(odd[0].values) if odd else ("R-1", "mAP")

    @property
    def published_on(self) -> str:
        """In words, the pair that the printed numbers belong to; empty where the measured ones are on the
        paper's own, or nothing is printed.
        """
        return printed_pair(self.rows, self.source, self.target) if self.synthetic and self.printed else ""

    @property
    def synthetic(self) -> bool:
        return self.source in STANDS_FOR or self.target in STANDS_FOR

    @property
    def comparable(self) -> bool:
        """Whether the data and the preset are the paper's, so that a difference of the numbers means
        something.
        """
        return self.preset != "demo" and not self.scratch and not self.synthetic

    @property
    def scratch(self) -> bool:
        """Real photographs, networks that start at random."""
        return from_scratch(self.preset)

    @property
    def printed(self) -> bool:
        return any(row.published for row in self.rows)

    @property
    def measured(self) -> bool:
        """Whether a row has records; in a table of our own one that is not another table's as well."""
        return any(row.records and (self.printed or row.runs_as == row.key) for row in self.rows)

    @property
    def adapted(self) -> bool:
        return any(row.value(column, "+adabn") for row in self.rows for column in self.columns)


def from_scratch(preset: str) -> bool:
    """Whether a preset trains on real photographs without ImageNet weights: their names say so."""
    return preset.startswith("scratch")


def value_of(numbers: Sequence[float], *, percent: bool) -> Value | None:
    """None for no numbers."""
    if not numbers:
        return None
    return Value(mean(numbers), stdev(numbers) if len(numbers) > 1 else None, len(numbers), percent)


def stands_for(source: str, target: str) -> tuple[str, str]:
    """The pair of real datasets that a synthetic one stands in for; a real one itself."""
    return STANDS_FOR.get(source, source), STANDS_FOR.get(target, target)


def printed_pair(rows: Sequence[Row], source: str, target: str) -> str:
    """In words, the paper's pair that stands beside the measured one in these rows."""
    printed = [row.published for row in rows if row.published]
    return (
        "a pair that it does not name"
        if printed and all(p.source == ANY for p in printed)
        else pair_text(*stands_for(source, target))
    )


def pair_text(source: str, target: str) -> str:
    """`Duke → Market`, `Market c123 → Market c456`; one name where both are the same dataset. "synthetic" in
    front means both sides.
    """
    first, second = (_name(name) for name in (source, target))
    drawn = "synthetic " if source in STANDS_FOR else ""
    real = "real " if drawn and target not in STANDS_FOR else ""
    return drawn + (first if source == target else f"{first} → {real}{second}")


def _name(dataset: str) -> str:
    name, _, cameras = STANDS_FOR.get(dataset, dataset).partition("@")
    return " ".join(filter(None, (NAMES.get(name, name), cameras)))


@lru_cache
def planned_pairs(paper: str, root: Path = ROOT) -> tuple[tuple[str, str], ...]:
    """The pairs that `sweeps.toml` has for a paper, the main one first."""
    own = [entry for entry in sweep_entries(root) if entry["paper"] == paper and not entry.get("real")]
    return tuple(dict.fromkeys((entry["source"], entry["target"]) for entry in own))


@lru_cache
def planned_photographs(paper: str, key: str, root: Path = ROOT) -> dict[tuple[str, str, str], bool]:
    """Where `sweeps.toml` wants a key on real photographs: (source, target, preset) -> whether it needs a
    GPU.
    """
    return {
        (entry["source"], entry["target"], entry.get("preset", "demo")): entry.get("gpu", False)
        for entry in sweep_entries(root)
        if entry["paper"] == paper
        and entry.get("real")
        and any(fnmatchcase(key, pattern) for pattern in entry["keys"])
    }


@lru_cache
def is_planned(paper: str, key: str, source: str, target: str, root: Path = ROOT) -> bool:
    """Whether `sweeps.toml` names a key on a pair, in the demo. The run of an alias may be planned under
    another name: `--table` does not find it.
    """
    return any(
        (entry["paper"], entry["source"], entry["target"]) == (paper, source, target)
        and not entry.get("real")
        and any(fnmatchcase(key, pattern) for pattern in entry["keys"])
        for entry in sweep_entries(root)
    )


def tables(paper: str, reports: Path = REPORTS) -> list[Table]:
    """Every table and figure of a paper's own method, pair by pair: as published, and as measured in the
    demo; then other presets.
    """
    entries = entries_of(paper)
    records = read_results(paper, reports)
    found = []
    for name in sorted(dict.fromkeys(key.split("/")[1] for key in entries), key=_order):
        keys = [key for key in entries if key.split("/")[1] == name]
        for source, target, preset in _places(paper, keys, entries, records):
            rows = [row_of(paper, key, entries[key], source, target, preset, records) for key in keys]
            found.append(_table(paper, name, source, target, preset, rows))
    return [table for table in found if table.rows or not table.scratch]


def _table(paper: str, name: str, source: str, target: str, preset: str, rows: Sequence[Row]) -> Table:
    """Without the rows that neither side has run, but for those of a printed table on the main pair. Real
    photographs: what is planned or run.
    """
    if from_scratch(preset):
        planned = [
            row
            for row in rows
            if (source, target, preset) in planned_photographs(paper, row.key)
            or (row.records and row.runs_as == row.key)
        ]
        return Table(paper, name, source, target, preset, tuple(planned))
    if (source, target) == planned_pairs(paper)[0] and any(row.published for row in rows):
        return Table(paper, name, source, target, preset, tuple(rows))
    kept = tuple(row for row in rows if row.published or row.records)
    idle = () if any(row.published for row in rows) else tuple(row for row in rows if row not in kept)
    return Table(paper, name, source, target, preset, kept, idle)


def _order(name: str) -> tuple[int, int]:
    """Tables by number, then figures by number, then the rest as it stands."""
    number = re.fullmatch(r"(table|fig)(\d+)", name)
    return (0 if number[1] == "table" else 1, int(number[2])) if number else (2, 0)


def entries_of(paper: str) -> dict[str, dict]:
    """What `--list-experiments` says, or for a paper that is not built the keys of its published rows."""
    if paper in built_papers():
        return experiments(paper)
    own = dict.fromkeys(row.key for row in published(paper).values() if row.kind == "ours")
    return {
        key: {
            "title": key.split("/", 2)[2].replace("_", " "),
            "alias_of": None,
            "score": "last",
            "config_hash": "",
        }
        for key in own
    }


def _places(
    paper: str, keys: Sequence[str], entries: dict[str, dict], records: Sequence[Record]
) -> Iterator[tuple[str, str, str]]:
    """(source, target, preset) of the tables to show: where the paper has numbers, drawn by a program where
    that can be, and where we have.
    """
    runs = {entries[key]["alias_of"] or key for key in keys}
    printed = dict.fromkeys(
        (row.source, row.target)
        for row in published(paper).values()
        if row.key in keys and row.kind == "ours"
    )
    places = [
        (DRAWN.get(source, source), DRAWN.get(target, target))
        if {source, target} <= set(DRAWN)
        else (source, target)
        for source, target in printed
        if source != ANY
    ]
    wanted = [pair for pair in planned_pairs(paper) if pair in places] + places
    if not places:
        ran = {(r.source, r.target) for r in records if r.key in runs and r.preset == "demo"}
        wanted = [pair for pair in planned_pairs(paper) if pair in ran] or list(planned_pairs(paper)[:1])
    yield from ((source, target, "demo") for source, target in dict.fromkeys(wanted))
    others = [(r.source, r.target, r.preset) for r in records if r.key in runs and r.preset != "demo"]
    yield from dict.fromkeys([*others, *(place for key in keys for place in planned_photographs(paper, key))])


def _config_hash(paper: str, key: str, entry: dict, preset: str, record: Record) -> str:
    """The configuration that a row has now; for presets that people run with flags of their own, that of the
    record.
    """
    if preset == "demo":
        return entry["config_hash"]
    return experiments(paper, preset)[key]["config_hash"] if from_scratch(preset) else record.config_hash


def row_of(
    paper: str, key: str, entry: dict, source: str, target: str, preset: str, records: Sequence[Record]
) -> Row:
    """One row. Of records with several configurations those of the newest count."""
    runs_as = entry["alias_of"] or key
    theirs = published_for(paper, key, source, target)
    own = [r for r in records if (r.key, r.source, r.target, r.preset) == (runs_as, source, target, preset)]
    own = sorted(newest_configuration(own), key=lambda r: r.seed)
    stale = bool(own) and own[0].config_hash != _config_hash(paper, key, entry, preset, own[0])
    compared = theirs and theirs.kind == "ours" and not from_scratch(preset)
    return Row(key, entry["title"], runs_as, entry["score"], theirs if compared else None, tuple(own), stale)
