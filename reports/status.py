"""What has been run, what is missing, and what that would take: key by key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.published import STANDS_FOR, published
from common.records import PAPERS, Record
from reports.collect import read_results
from reports.experiments import REPORTS, ask_all, built_papers, experiments
from reports.sweep import Cell, Choice, planned_cells


def status(reports: Path = REPORTS) -> str:
    """For every paper a line of counts, then every experiment with its pairs and seeds; "earlier": measured
    with another configuration.
    """
    ask_all()
    lines = []
    for paper in PAPERS:
        if paper not in built_papers():
            lines.append(f"{paper}: not built yet")
            continue
        records, cells = read_results(paper, reports), planned_cells(Choice(paper))
        missing = [cell for cell in cells if not any(cell.matches(record) for record in records)]
        flags = " --data-root DIR" * any(cell.real for cell in missing) + " --gpu" * any(
            cell.gpu for cell in missing
        )
        rest = f"; the rest: python -m reports sweep --paper {paper}{flags}" if missing else ""
        lines.append(
            f"{paper}: {len(records)} records, {len(cells) - len(missing)} of {len(cells)} planned cells done{rest}"
        )
        rows = [
            [f"  {key}", _line(key, entry, records, missing)] for key, entry in experiments(paper).items()
        ]
        width = max(len(row[0]) for row in rows)
        lines += [f"{row[0].ljust(width)}   {row[1]}" for row in rows]
    return "\n".join(lines)


def _line(key: str, entry: Mapping, records: Sequence[Record], missing: Sequence[Cell]) -> str:
    runs_as = entry["alias_of"] or key
    counts: Counter = Counter()
    for record in records:
        if record.key == runs_as:
            earlier = (
                ", earlier" if record.preset == "demo" and record.config_hash != entry["config_hash"] else ""
            )
            counts[f"{record.source} -> {record.target} [{record.preset}{earlier}]"] += 1
    parts = [f"{place}: {_seeds(n)}" for place, n in sorted(counts.items())]
    absent = Counter(
        (cell.source, cell.target, cell.preset, _needs(cell)) for cell in missing if cell.key == runs_as
    )
    parts += [
        f"not run: {_seeds(n)} on {source} -> {target} [{preset}]{needs}"
        for (source, target, preset, needs), n in absent.items()
    ]
    return ", ".join(parts or [_not_planned(key)]) + (
        f" (as {entry['alias_of']})" if entry["alias_of"] else ""
    )


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count > 1)}"


def _needs(cell: Cell) -> str:
    names = [cell.target.partition("@")[0], *(["a GPU"] if cell.gpu else [])] if cell.real else []
    return f" (needs {' and '.join(names)})" if names else ""


def _not_planned(key: str) -> str:
    """Not in `sweeps.toml`; a row may be printed only for datasets that no synthetic domain stands in for."""
    places = [
        {row.source, row.target} - set(STANDS_FOR.values())
        for row in published(key.split("/")[0]).values()
        if row.key == key
    ]
    needed = min(places, key=len, default=set())
    return f"not run, not planned{': needs ' + ', '.join(sorted(needed)) if needed else ''}"
