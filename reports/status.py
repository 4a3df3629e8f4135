"""What has been run, key by key."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from common.records import PAPERS
from reports.collect import read_results
from reports.experiments import REPORTS, built_papers, experiments


def status(reports: Path = REPORTS) -> str:
    """A table: every experiment of every paper, with the pairs and the number of seeds that have records."""
    rows = [["experiment", "records"]]
    for paper in PAPERS:
        if paper not in built_papers():
            rows.append([f"{paper}/", "not built yet"])
            continue
        counts: dict[str, Counter] = {}
        for record in read_results(paper, reports):
            counts.setdefault(record.key, Counter())[f"{record.source} -> {record.target} [{record.preset}]"] += 1
        for key, entry in experiments(paper).items():
            runs = counts.get(entry["alias_of"] or key, Counter())
            text = ", ".join(f"{pair}: {n} seed{'s' * (n > 1)}" for pair, n in sorted(runs.items())) or "not run"
            rows.append([key, f"{text}{' (as ' + entry['alias_of'] + ')' if entry['alias_of'] else ''}"])
    return "\n".join(line for line in aligned_left(rows))


def aligned_left(rows: list[list[str]]) -> list[str]:
    width = max(len(row[0]) for row in rows)
    return [f"{row[0].ljust(width)}   {row[1]}" for row in rows]
