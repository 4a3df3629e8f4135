"""Plots a run's training curves, for every paper. Imports without PyTorch and without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed
import matplotlib.pyplot as plt

from common.job import Job
from common.runs import read_curves


def stage_curves(job: Job, names: Iterable[str]) -> list[dict]:
    """Returns the lines of `curves.jsonl` of those of the named stages that the job has."""
    paths = [job.stages[name].folder / "curves.jsonl" for name in names if name in job.stages]
    return [line for path in paths if path.is_file() for line in read_curves(path)]


def draw_curves(
    lines: Sequence[Mapping],
    groups: Mapping[str, Sequence[str]],
    path: Path,
    *,
    columns: int = 5,
    prefix: str = "",
) -> None:
    """Plots one panel per group of terms (title -> names) over the logged steps; absent terms are omitted.

    `prefix` is removed from the labels.
    """
    present = {
        title: [name for name in names if any(name in line for line in lines)]
        for title, names in groups.items()
    }
    panels = {title: names for title, names in present.items() if names} or {"nothing was trained": []}
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 2.8 * rows), squeeze=False, constrained_layout=True
    )
    for axis, (title, names) in zip(axes.flat, panels.items()):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            axis.plot(*zip(*points), label=name.removeprefix(prefix), linewidth=1.2)
        axis.set(title=title, xlabel="step")
        if names:
            axis.legend(fontsize=7)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=90)
    plt.close(figure)
