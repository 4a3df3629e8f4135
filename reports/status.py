"""Lists what has been run, what is missing and what that requires, key by key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from common.published import STANDS_FOR, published
from common.records import PAPERS, Record
from reports.collect import read_results
from reports.experiments import REPORTS, ask_all, experiments
from reports.sweep import Cell, Choice, planned_cells


def status(reports: Path = REPORTS) -> str:
    """Returns a line of counts for every paper, then every experiment with its pairs and seeds.

    "earlier" marks records with another configuration than today's.
    """
    ask_all()
    return "\n".join(line for paper in PAPERS for line in _lines(paper, reports))


def _lines(paper: str, reports: Path) -> Iterator[str]:
    records, cells = read_results(paper, reports), planned_cells(Choice(paper))
    missing = [cell for cell in cells if not any(cell.matches(record) for record in records)]
    done = f"{len(records)} records, {len(cells) - len(missing)} of {len(cells)} planned cells done"
    data_root = " --data-root DIR" if any(cell.real for cell in missing) else ""
    gpu = " --gpu" if any(cell.gpu for cell in missing) else ""
    rest = f"; the rest: python -m reports sweep --paper {paper}{data_root}{gpu}" if missing else ""
    yield f"{paper}: {done}{rest}"
    width = max(map(len, experiments(paper)))
    for key, entry in experiments(paper).items():
        alias = f" (as {entry['alias_of']})" if entry["alias_of"] else ""
        yield f"  {key.ljust(width)}   {_state(key, entry, records, missing)}{alias}"


def _state(key: str, entry: Mapping, records: Sequence[Record], missing: Sequence[Cell]) -> str:
    runs_as = entry["alias_of"] or key
    made: Counter[str] = Counter()
    for record in (record for record in records if record.key == runs_as):
        changed = record.preset == "demo" and record.config_hash != entry["config_hash"]
        earlier = ", earlier" if changed else ""
        made[f"{record.source} -> {record.target} [{record.preset}{earlier}]"] += 1
    absent = Counter(
        f"{cell.source} -> {cell.target} [{cell.preset}]{_needs(cell)}"
        for cell in missing
        if cell.key == runs_as
    )
    parts = [f"{place}: {_seeds(n)}" for place, n in sorted(made.items())]
    parts += [f"not run: {_seeds(n)} on {place}" for place, n in absent.items()]
    return ", ".join(parts) or _not_planned(key)


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
