"""Builds figures, pages and README tables from published numbers and records: `python -m reports build`.

Two builds of the same files are equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from common.files import write_atomic
from common.provenance import ROOT
from common.records import PAPERS
from reports.collect import read_results
from reports.consistency import check_published
from reports.experiments import REPORTS, ask_all
from reports.figures import figure_data, figure_specs
from reports.integrity import BUILT, built, changes, check_records, last_build, text_of
from reports.judge import judge
from reports.page import pages
from reports.readme import update_readmes
from reports.svg import draw_panel, panel_size, standalone


def build(root: Path = ROOT, reports: Path = REPORTS) -> list[str]:
    """Writes the files that have changed; returns a line for each, after warnings and what has changed since
    the last build. Removes figures that `figures.toml` lacks.

    Raises `InputError`, and writes nothing, if published numbers contradict each other in a way that their
    files do not list, or if a record contradicts itself.
    """
    ask_all(root)
    check_published()
    records = {paper: read_results(paper, reports) for paper in PAPERS}
    lines = check_records(records)
    judged = judge(records, reports)
    state, before = built(chain.from_iterable(records.values()), judged), last_build(reports)
    lines += changes(before, state) if before else []
    files = {reports / "figures" / name: text for name, text in figure_files(reports)}
    stale = [path for path in _own_figures(reports / "figures") if path not in files]
    files |= {reports / path: text for path, text in pages(reports, judged).items()}
    files[reports / BUILT] = text_of(state)
    changed = [
        path for path, text in files.items() if not path.is_file() or path.read_bytes() != text.encode()
    ]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, files[path])
    for path in stale:
        path.unlink(missing_ok=True)
    update_readmes(root, reports, judged)
    return [*lines, *(f"wrote reports/{path.relative_to(reports).as_posix()}" for path in changed)]


def _own_figures(folder: Path) -> Iterator[Path]:
    """Yields the files that an earlier build made: figure data as JSON, and the drawing of that name."""
    for path in folder.glob("*.json"):
        try:
            data = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if (
            isinstance(data, dict)
            and set(data) - {"order"} == {"name", "title", "kind", "panels"}
            and data["name"] == path.stem
        ):
            yield from (path, path.with_suffix(".svg"))


def figure_files(reports: Path = REPORTS) -> Iterator[tuple[str, str]]:
    """Yields name and content of every figure: its data as JSON, and its drawing."""
    for spec in figure_specs(reports):
        data = figure_data(spec, reports)
        panels = [draw_panel(data["kind"], panel) for panel in data["panels"]]
        sizes = [panel_size(data["kind"], panel) for panel in data["panels"]]
        yield f"{data['name']}.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        yield f"{data['name']}.svg", standalone(panels, sizes, data["title"])
