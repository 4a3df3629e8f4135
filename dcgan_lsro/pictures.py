"""The pictures of a run: its curves, generated people beside real ones, and what a few queries retrieve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.curves import draw_curves, stage_curves
from common.datasets import ReIDDataset, Sample
from common.evaluation.features import load_features
from common.evaluation.pictures import image_grid
from common.evaluation.ranked_lists import ranked_lists
from common.runs import Run

CURVES = {
    "real images": ("real_ce",),
    "generated images": ("gan_kl", "gan_confidence"),
    "accuracy, real images": ("accuracy",),
    "DCGAN": ("d_real", "d_fake", "g_loss"),
}


def draw(run: Run, dataset: ReIDDataset, unlabelled: Sequence[Sample]) -> None:
    """Writes `curves.png`, `ranked_lists.png` and, for rows with unlabelled images, `unlabelled.png` into the
    run's folder.
    """
    draw_curves(stage_curves(run, ("reid", "dcgan")), CURVES, run.picture("curves.png"))
    query, gallery = (
        load_features(run.stages["scores"].folder / f"{name}.npz") for name in ("query", "gallery")
    )
    ranked_lists(
        query.features, dataset.query, gallery.features, dataset.gallery, run.picture("ranked_lists.png")
    )
    if unlabelled:
        samples_grid(dataset.train, unlabelled, run.picture("unlabelled.png"))


def samples_grid(real: Sequence[Sample], unlabelled: Sequence[Sample], path: Path, columns: int = 12) -> None:
    """Three rows of the network's unlabelled images, and one of labelled ones, all spread evenly over their
    lists.
    """
    drawn, people = (
        [samples[i * len(samples) // count].path for i in range(min(count, len(samples)))]
        for samples, count in ((unlabelled, 3 * columns), (real, columns))
    )
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    image_grid([*rows, people], path, row_titles=["unlabelled"] * len(rows) + ["labelled"], cell_height=112)
