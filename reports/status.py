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
    """For every paper a line of counts, then every experiment with its pairs and seeds; "earlier": measured with another configuration."""
    ask_all()
    lines = []
    for paper in PAPERS:
        if paper not in built_papers():
            lines.append(f"{paper}: not built yet")
            continue
        records, cells = read_results(paper, reports), planned_cells(Choice(paper))
        done = sum(any(cell.matches(record) for record in records) for cell in cells)
        missing = f"; the rest: python -m reports sweep --paper {paper}" if done < len(cells) else ""
        lines.append(f"{paper}: {len(records)} records, {done} of {len(cells)} planned cells done{missing}")
        rows = [[f"  {key}", _line(key, entry, records, cells)] for key, entry in experiments(paper).items()]
        width = max(len(row[0]) for row in rows)
        lines += [f"{row[0].ljust(width)}   {row[1]}" for row in rows]
    return "\n".join(lines)


def _line(key: str, entry: Mapping, records: Sequence[Record], cells: Sequence[Cell]) -> str:
    runs_as = entry["alias_of"] or key
    counts: Counter = Counter()
    for record in records:
        if record.key == runs_as:
            earlier = ", earlier" if record.preset == "demo" and record.config_hash != entry["config_hash"] else ""
            counts[f"{record.source} -> {record.target} [{record.preset}{earlier}]"] += 1
    parts = [f"{pair}: {n} seed{'s' * (n > 1)}" for pair, n in sorted(counts.items())] or [_not_run(key, runs_as, cells)]
    return ", ".join(parts) + (f" (as {entry['alias_of']})" if entry["alias_of"] else "")


def _not_run(key: str, runs_as: str, cells: Sequence[Cell]) -> str:
    """Planned, or not; or printed only for datasets that no synthetic domain stands in for."""
    planned = [cell for cell in cells if cell.key == runs_as]
    if planned:
        needed = [planned[0].target.partition("@")[0], *(["a GPU"] if planned[0].gpu else [])] if all(cell.real for cell in planned) else []
        return f"not run{': needs ' * bool(needed)}{' and '.join(needed)}"
    places = [{row.source, row.target} - set(STANDS_FOR.values()) for row in published(key.split("/")[0]).values() if row.key == key]
    needed = min(places, key=len, default=set())
    return f"not run, not planned{': needs ' + ', '.join(sorted(needed)) if needed else ''}"
