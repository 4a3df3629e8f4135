"""Lists what has been run, what is missing and what that requires, key by key, and which claims more seeds
would decide.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from common.published import STANDS_FOR, published
from common.records import PAPERS, Record
from reports.collect import read_results
from reports.experiments import REPORTS, ask_all, check_paper, experiments
from reports.judge import Judged, judge
from reports.sweep import Cell, Choice, planned_cells
from reports.verdicts import MOST_MORE, TOO_FEW

WIDTH = 118  # characters of a line


def status(reports: Path = REPORTS, *, paper: str = "", missing: bool = False) -> str:
    """Returns a line of counts for every paper (or one), then its experiments with their pairs and seeds,
    then the claims that more seeds would decide; with `missing`, experiments without gaps are left out.

    "earlier" marks records with another configuration than today's. The last line is the total.
    """
    if paper:
        check_paper(paper, "--paper")
    papers = (paper,) if paper else PAPERS
    ask_all(papers=papers)
    records = {name: read_results(name, reports) for name in papers}
    absent = {name: _missing(name, records[name]) for name in papers}
    judged = [item for item in judge(records, reports, papers) if not item.superseded]
    lines: list[str] = []
    for name in papers:
        lines += _of_paper(name, records[name], absent[name], missing)
    undecided = list(_undecided(judged))
    lines += ["", f"{len(undecided)} claims have too few seeds:", *undecided] if undecided else []
    count, planned = sum(map(len, records.values())), sum(len(planned_cells(Choice(name))) for name in papers)
    done = planned - sum(map(len, absent.values()))
    lines += [
        "",
        f"total: {count} records, {done} of {planned} planned cells done, {len(undecided)} open claims",
    ]
    return "\n".join(part for line in lines for part in _wrapped(line))


def _wrapped(line: str) -> list[str]:
    lines = textwrap.wrap(
        line,
        WIDTH,
        subsequent_indent=" " * (len(line) - len(line.lstrip()) + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [""]


def _missing(paper: str, records: Sequence[Record]) -> list[Cell]:
    made = {(record.identity, record.preset) for record in records}
    return [cell for cell in planned_cells(Choice(paper)) if cell.identity not in made]


def _of_paper(paper: str, records: Sequence[Record], absent: Sequence[Cell], gaps: bool) -> Iterator[str]:
    planned = len(planned_cells(Choice(paper)))
    yield f"{paper}: {len(records)} records, {planned - len(absent)} of {planned} planned cells done"
    if absent:
        data_root = " --data-root DIR" if any(cell.real for cell in absent) else ""
        gpu = " --gpu" if any(cell.gpu for cell in absent) else ""
        yield f"  the rest: python -m reports sweep --paper {paper}{data_root}{gpu}"
    for key, entry in experiments(paper).items():
        made, lacking = _made(key, entry, records), _lacking(key, entry, absent)
        if gaps and not lacking:
            continue
        yield f"  {key}" + (f" (as {entry['alias_of']})" if entry["alias_of"] else "")
        yield from (f"    {line}" for line in [*([] if gaps else made), *lacking] or [_not_planned(key)])


def _made(key: str, entry: Mapping, records: Sequence[Record]) -> list[str]:
    made: Counter[str] = Counter()
    for record in (record for record in records if record.key == (entry["alias_of"] or key)):
        changed = record.preset == "demo" and record.config_hash != entry["config_hash"]
        earlier = ", earlier" if changed else ""
        made[f"{record.source} -> {record.target} [{record.preset}{earlier}]"] += 1
    return [f"{place}: {_seeds(count)}" for place, count in sorted(made.items())]


def _lacking(key: str, entry: Mapping, absent: Sequence[Cell]) -> list[str]:
    counts = Counter(
        f"{cell.source} -> {cell.target} [{cell.preset}]{_needs(cell)}"
        for cell in absent
        if cell.key == (entry["alias_of"] or key)
    )
    return [f"not run: {_seeds(count)} on {place}" for place, count in counts.items()]


def _undecided(judged: Sequence[Judged]) -> Iterator[str]:
    """Yields the claims with too few seeds, those first whose missing seeds cost the least time."""
    open_ones = [item for item in judged if item.interval == TOO_FEW]
    for item in sorted(open_ones, key=_minutes):
        more = f"{item.more_seeds} more" if item.more_seeds else f"more than {MOST_MORE} more, or unknown"
        cost = f", about {_minutes(item):.0f} min" if item.more_seeds else ""
        place = f"{item.claim.measured_on} [{item.claim.preset}]"
        yield f"  {more}{cost}: {item.claim.text}: {' '.join(item.claim.keys)} on {place}"


def _minutes(item: Judged) -> float:
    """Returns the time of the seeds that would decide, as the former ones took it; shared stages count in the
    run that made them. Infinite where their number is unknown.
    """
    if not item.more_seeds or item.comparison is None:
        return math.inf
    records = item.comparison.records
    runs = len({record.key for record in records})
    return item.more_seeds * runs * sum(record.seconds for record in records) / len(records) / 60


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count > 1)}"


def _needs(cell: Cell) -> str:
    if not cell.real:
        return ""
    return f" (needs {cell.target.partition('@')[0]}{' and a GPU' if cell.gpu else ''})"


def _not_planned(key: str) -> str:
    """Names the dataset that a key outside `sweeps.toml` needs, if no synthetic domain replaces it."""
    rows = [row for row in published(key.split("/")[0]).values() if row.key == key]
    places = sorted(({row.source, row.target} - set(STANDS_FOR.values()) for row in rows), key=len)
    needed = ", ".join(sorted(places[0])) if places else ""
    return "not run, not planned" + (f": needs {needed}" if needed else "")
