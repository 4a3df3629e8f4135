"""Joins published and measured numbers row by row for tables, figures and the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from common.errors import InputError
from common.provenance import ROOT
from common.published import ANY, STANDS_FOR, Published, published, published_for
from common.records import METRICS, Record, newest_configuration
from reports.collect import read_results
from reports.experiments import REPORTS, experiment, experiments, of_one_kind, run_of, sweep_entries
from reports.verdicts import FEW

TITLES = {"arn": "ARN", "hhl": "HHL", "spgan": "SPGAN", "ptgan": "PTGAN", "dcgan_lsro": "DCGAN+LSRO"}
NAMES = {
    "market1501": "Market",
    "dukemtmc": "Duke",
    "cuhk03": "CUHK03",
    "msmt17": "MSMT17",
    "prid2011": "PRID",
    "any": "any",
}
# the synthetic domain that replaces a dataset
DRAWN = {real: synthetic for synthetic, real in STANDS_FOR.items()}
PERCENT = "%"


class Place(NamedTuple):
    """The datasets and the preset under which a row is measured."""

    source: str
    target: str
    preset: str = "demo"


@dataclass(frozen=True)
class Value:
    """Mean over seeds and sample standard deviation (None for one seed), in percent or the measure's unit."""

    mean: float
    spread: float | None
    n: int
    percent: bool = True

    @property
    def text(self) -> str:
        """`62.2 ± 1.0`; three digits for a small measure."""
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
    records: tuple[Record, ...]  # one per seed, of one configuration
    stale: bool  # the configuration has changed since

    @property
    def drawings(self) -> bool:
        """Whether its records differ in the drawing of the data, and not in the training seed alone."""
        return any(record.data_seed for record in self.records)

    def value(self, column: str, suffix: str = "") -> Value | None:
        """Returns our value of a metric of the row's score plus `suffix`, or of a measure of that name.

        A measure belongs to the run and not to one of its scores, so it has no value with a suffix.
        """
        numbers = [self._number(record, column, suffix) for record in self.records]
        return value_of([number for number in numbers if number is not None], percent=column in METRICS)

    def _number(self, record: Record, column: str, suffix: str) -> float | None:
        score = record.scores.get(self.score + suffix, {})
        if column in score:
            return 100 * score[column]
        return None if suffix else record.measure(column)


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
        """The paper's name for it, or else one made from its own."""
        printed = [row.published.where for row in self.rows if row.published]
        number = re.fullmatch(r"(table|fig)(\d+)", self.name)
        if number:
            return f"{'Table' if number[1] == 'table' else 'Fig.'} {number[2]}"
        return printed[0][0].upper() + printed[0][1:] if printed else self.name.replace("_", " ").capitalize()

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics shown: rank-1 and mAP, or what the paper measures instead."""
        other = [row.published for row in self.rows if row.published and row.published.unit != PERCENT]
        return tuple(other[0].values) if other else ("R-1", "mAP")

    @property
    def published_on(self) -> str:
        """The pair of the printed numbers, in words; empty if it is the measured one or none is printed."""
        return printed_pair(self.rows, self.source, self.target) if self.synthetic and self.printed else ""

    @property
    def synthetic(self) -> bool:
        return self.source in STANDS_FOR or self.target in STANDS_FOR

    @property
    def comparable(self) -> bool:
        """Whether data and preset are the paper's, so that a difference of the numbers is meaningful."""
        return self.preset != "demo" and not self.photographs and not self.synthetic

    @property
    def photographs(self) -> bool:
        """Whether it is about real photographs at the size that a CPU can run, or from random weights."""
        return on_photographs(self.preset)

    @property
    def printed(self) -> bool:
        return any(row.published for row in self.rows)

    @property
    def measured(self) -> bool:
        """Whether a row has records; in a table of our own, a row that is no alias."""
        return any(row.records and (self.printed or row.runs_as == row.key) for row in self.rows)

    @property
    def over(self) -> str:
        """What the spread is over: `seeds`, or `drawings` of the data with a seed each."""
        return "drawings" if any(row.drawings for row in self.rows) else "seeds"

    @property
    def order(self) -> tuple[int, int]:
        """How many pairs of rows stand in the published order by the first column, and how many have one."""
        return order(self.rows, self.columns[0])

    @property
    def adapted(self) -> bool:
        return any(row.value(column, "+adabn") for row in self.rows for column in self.columns)


def on_photographs(preset: str) -> bool:
    """Returns whether a preset is for real photographs alone: scratch*, without ImageNet weights, or
    photos_cpu, with those of a small network.
    """
    return preset.startswith(("scratch", "photos"))


def value_of(numbers: Sequence[float], *, percent: bool) -> Value | None:
    """Returns mean and spread; None for no numbers."""
    if not numbers:
        return None
    return Value(mean(numbers), stdev(numbers) if len(numbers) > 1 else None, len(numbers), percent)


def printed_pair(rows: Sequence[Row], source: str, target: str) -> str:
    """Returns, in words, the paper's pair that is shown beside the measured one in these rows."""
    printed = [row.published for row in rows if row.published]
    if printed and all(p.source == ANY for p in printed):
        return "a pair that it does not name"
    return pair_text(STANDS_FOR.get(source, source), STANDS_FOR.get(target, target))


def pair_text(source: str, target: str) -> str:
    """Returns `Duke → Market` or `Market c123 → Market c456`; one name where both are the same dataset.

    A leading "synthetic" applies to both sides.
    """
    first, second = _name(source), _name(target)
    drawn = "synthetic " if source in STANDS_FOR else ""
    real = "real " if drawn and target not in STANDS_FOR else ""
    return drawn + (first if source == target else f"{first} → {real}{second}")


def _name(dataset: str) -> str:
    name, _, cameras = STANDS_FOR.get(dataset, dataset).partition("@")
    return " ".join(filter(None, (NAMES.get(name, name), cameras)))


# ---------------------------------------------------------------- what is planned


def _planned(paper: str, root: Path, *, real: bool) -> list[tuple[Place, Mapping[str, Any]]]:
    """Returns the entries of `sweeps.toml` for a paper, on real photographs or on synthetic domains."""
    return [
        (Place(entry["source"], entry["target"], entry.get("preset", "demo")), entry)
        for entry in sweep_entries(root)
        if entry["paper"] == paper and entry.get("real", False) == real
    ]


def _names(entry: Mapping[str, Any], key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in entry["keys"])


@lru_cache
def planned_places(paper: str, root: Path = ROOT) -> tuple[Place, ...]:
    """Returns the synthetic pairs that `sweeps.toml` has for a paper, the main one first.

    Raises `InputError` if there is none.
    """
    places = tuple(dict.fromkeys(place for place, _ in _planned(paper, root, real=False)))
    if not places:
        raise InputError(f"sweeps.toml: expected an entry of {paper} on synthetic domains, found none")
    return places


@lru_cache
def planned_photographs(paper: str, key: str, root: Path = ROOT) -> dict[Place, Mapping[str, Any]]:
    """Maps each place with real photographs that `sweeps.toml` has for a key to the entry."""
    return {place: entry for place, entry in _planned(paper, root, real=True) if _names(entry, key)}


@lru_cache
def is_planned(key: str, place: Place, root: Path = ROOT) -> bool:
    """Returns whether `sweeps.toml` names a key on a synthetic pair.

    The run of an alias may be planned under another name, which `--table` does not find.
    """
    entries = _planned(key.split("/")[0], root, real=False)
    return any(planned == place and _names(entry, key) for planned, entry in entries)


# ---------------------------------------------------------------- tables


def tables(paper: str, reports: Path = REPORTS) -> list[Table]:
    """Returns every table and figure of a paper's own method: pairs of the demo, then other presets."""
    records = read_results(paper, reports)
    groups: dict[str, list[str]] = {}
    for key in experiments(paper):
        groups.setdefault(key.split("/")[1], []).append(key)
    made = [
        _table(paper, name, place, [row_of(key, place, records) for key in groups[name]])
        for name in sorted(groups, key=_order)
        for place in _places(paper, groups[name], records)
    ]
    return [table for table in made if table.rows or not table.photographs]


def _table(paper: str, name: str, place: Place, rows: Sequence[Row]) -> Table:
    """Selects the rows of a table.

    A printed table on the main pair keeps all of its rows; elsewhere, rows that neither side has run are
    omitted. On real photographs, rows that are planned or run are kept.
    """
    printed = any(row.published for row in rows)
    kept, idle = [row for row in rows if row.published or row.records], []
    if on_photographs(place.preset):
        kept = [
            row
            for row in rows
            if place in planned_photographs(paper, row.key) or (row.records and row.runs_as == row.key)
        ]
    elif not printed:
        idle = [row for row in rows if row not in kept]
    elif place[:2] == planned_places(paper)[0][:2]:
        kept = list(rows)
    return Table(paper, name, *place, tuple(kept), tuple(idle))


def _order(name: str) -> tuple[int, int]:
    """Sorts tables by number, then figures by number, then the rest in its order."""
    number = re.fullmatch(r"(table|fig)(\d+)", name)
    return (0 if number[1] == "table" else 1, int(number[2])) if number else (2, 0)


def _places(paper: str, keys: Sequence[str], records: Sequence[Record]) -> Iterator[Place]:
    """Yields where the tables of these keys are shown: the synthetic counterparts of the paper's pairs, or
    its own pairs if there is none; then other presets with records or plans.
    """
    runs = {run_of(key) for key in keys}
    measured = list(dict.fromkeys(place_of(record) for record in records if record.key in runs))
    planned = planned_places(paper)
    printed = [
        Place(DRAWN.get(row.source, row.source), DRAWN.get(row.target, row.target))
        if {row.source, row.target} <= set(DRAWN)
        else Place(row.source, row.target)
        for row in published(paper).values()
        if row.key in keys and row.kind == "ours" and row.source != ANY
    ]
    if printed:
        demos = [place for place in planned if place in printed] + printed
    else:
        demos = [place for place in planned if place in measured] or list(planned[:1])
    photographs = [place for key in keys for place in planned_photographs(paper, key)]
    yield from dict.fromkeys([*demos, *(p for p in measured if p.preset != "demo"), *photographs])


def place_of(record: Record) -> Place:
    return Place(record.source, record.target, record.preset)


def row_of(key: str, place: Place, records: Sequence[Record]) -> Row:
    """Returns one row with the records of the newest configuration."""
    entry, paper = experiment(key), key.split("/")[0]
    runs_as = run_of(key)
    matching = [r for r in records if r.key == runs_as and place_of(r) == place]
    own = tuple(sorted(of_one_kind(newest_configuration(matching)), key=lambda record: record.seed))
    theirs = published_for(paper, key, place.source, place.target)
    compared = theirs and theirs.kind == "ours" and not on_photographs(place.preset)
    stale = bool(own) and own[0].config_hash != _config_hash(key, place.preset, own[0])
    return Row(key, entry["title"], runs_as, entry["score"], theirs if compared else None, own, stale)


def _config_hash(key: str, preset: str, record: Record) -> str:
    """Returns the row's present hash; the record's for presets that people run with their own flags."""
    if preset in ("demo", "study", "shared") or on_photographs(preset):
        return experiments(key.split("/")[0], preset)[key]["config_hash"]
    return record.config_hash


def anchor(key: str, source: str, target: str, preset: str) -> str:
    """Returns the name of a group of records on the page."""
    return "r-" + re.sub(r"[^A-Za-z0-9_.-]", "-", f"{key}-{source}-{target}-{preset}")


def measured_preset(key: str, source: str, target: str, records: Sequence[Record]) -> str:
    """Returns `study` if a key has `FEW` records of that preset on a pair, else `demo`; the two never mix."""
    place = (run_of(key), source, target, "study")
    found = [r for r in records if (r.key, r.source, r.target, r.preset) == place]
    return "study" if len(of_one_kind(newest_configuration(found))) >= FEW else "demo"


def order(rows: Sequence[Row], metric: str = "R-1") -> tuple[int, int]:
    """Returns how many pairs of rows stand in the published order, and how many pairs have one.

    Rows without a verified published number or without a record are left out, and so are pairs that the paper
    prints as equal; a pair that is measured as equal is not in order.
    """
    numbers = []
    for row in rows:
        value = row.value(metric)
        if value is not None and row.published is not None and row.published.comparable:
            if metric in row.published.values:
                numbers.append((row.published.values[metric], value.mean))
    pairs = [(a, b) for i, a in enumerate(numbers) for b in numbers[:i] if a[0] != b[0]]
    return sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs), len(pairs)
