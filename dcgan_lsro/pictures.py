"""The pictures of a run: training curves, generated people beside real ones, and some ranked lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.curves import draw_curves, stage_curves
from common.datasets import Sample
from common.evaluation.features import load_features
from common.evaluation.pictures import image_grid
from common.evaluation.ranked_lists import ranked_lists
from common.job import Job

CURVES = {
    "real images": ("real_ce",),
    "generated images": ("gan_kl", "gan_confidence"),
    "accuracy, real images": ("accuracy",),
    "DCGAN": ("d_real", "d_fake", "g_loss"),
}


def draw(job: Job, unlabelled: Sequence[Sample]) -> None:
    """Writes `curves.png`, `ranked_lists.png` and, for rows with unlabelled images, `unlabelled.png`."""
    draw_curves(stage_curves(job, ("reid", "dcgan")), CURVES, job.picture("curves.png"))
    query, gallery = (
        load_features(job.stages["scores"].folder / f"{name}.npz").features for name in ("query", "gallery")
    )
    dataset = job.source
    ranked_lists(query, dataset.query, gallery, dataset.gallery, job.picture("ranked_lists.png"))
    if unlabelled:
        samples_grid(dataset.train, unlabelled, job.picture("unlabelled.png"))


def samples_grid(real: Sequence[Sample], unlabelled: Sequence[Sample], path: Path, columns: int = 12) -> None:
    """Draws three rows of the network's unlabelled images and one of labelled ones, sampled evenly."""
    drawn, people = (
        [samples[i * len(samples) // count].path for i in range(min(count, len(samples)))]
        for samples, count in ((unlabelled, 3 * columns), (real, columns))
    )
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    image_grid([*rows, people], path, row_titles=["unlabelled"] * len(rows) + ["labelled"], cell_height=112)
