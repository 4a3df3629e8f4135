"""Draws the pictures of a run: curves, the target's camera styles, feature spaces and ranked lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from common.curves import draw_curves, stage_curves
from common.datasets import ReIDDataset, Sample
from common.datasets.images import read_image
from common.datasets.synthetic import DOMAINS, oracle
from common.evaluation.features import load_features
from common.evaluation.pictures import image_grid
from common.evaluation.ranked_lists import ranked_lists
from common.job import Job
from hhl.views import StyleFolder

CURVES = {
    "re-ID losses": ("cross_entropy", "triplet"),
    "re-ID training": ("accuracy", "triplet_precision", "triplet_active"),
    "StarGAN D": ("d_real", "d_fake", "d_cls", "d_gp"),
    "StarGAN G": ("g_fake", "g_cls", "g_rec"),
}


def draw(job: Job, style_folder: Path | None) -> None:
    """Writes `curves.png`, `ranked_lists.png`, `feature_spaces.png` and, with styles, `camera_styles.png`."""
    target, scores = job.target, job.stages["scores"].folder
    draw_curves(stage_curves(job, ("reid", "stargan")), CURVES, job.picture("curves.png"))
    feature_spaces(job)
    query, gallery = (load_features(scores / f"{name}.npz").features for name in ("query", "gallery"))
    ranked_lists(query, target.query, gallery, target.gallery, job.picture("ranked_lists.png"))
    if style_folder is not None:
        camera_styles(target, style_folder, job.picture("camera_styles.png"))


def feature_spaces(job: Job) -> None:
    """Draws both domains on their first two principal components: by domain, and the target by camera."""
    analysis, options = job.stages["analysis"], job.options
    measures = analysis.json("measures.json")
    with np.load(analysis.folder / "feature_spaces.npz") as saved:
        plane, is_target, camera = saved["plane"], saved["is_target"], saved["camera"]
    figure, (domains, cameras) = plt.subplots(
        1, 2, figsize=(8, 3.6), sharex=True, sharey=True, constrained_layout=True
    )
    for name, rows, colour in (
        (options.source, ~is_target, "#c2571a"),
        (options.target, is_target, "#2a6fb0"),
    ):
        domains.scatter(*plane[rows].T, s=6, alpha=0.6, color=colour, label=name, linewidths=0)
    for number in np.unique(camera[is_target]):
        rows = is_target & (camera == number)
        cameras.scatter(*plane[rows].T, s=6, alpha=0.7, label=f"camera {number + 1}", linewidths=0)
    domains.set(
        title=f"mixing {measures['domain_mixing']:.2f}, separable {100 * measures['domain_accuracy']:.0f} %",
        xlabel="first component",
        ylabel="second component",
    )
    cameras.set(title=f"{options.target} by camera", xlabel="first component")
    for axis in (domains, cameras):
        axis.legend(fontsize=7, markerscale=2)
    figure.savefig(job.picture("feature_spaces.png"), dpi=90)
    plt.close(figure)


def camera_styles(target: ReIDDataset, folder: Path, path: Path, people: int = 4) -> None:
    """Draws target images (rows) in each camera's style (columns); synthetic targets also in the true one."""
    rows, names = [], []
    styles = StyleFolder(folder)
    for sample in spread_over_cameras(target.train, people):
        fakes = [read_image(styles.path(sample, k)) for k in range(target.num_cameras)]
        rows.append([read_image(sample.path), *fakes])
        names.append(f"camera {sample.camid + 1}")
        if target.name in DOMAINS:
            truth = [Image.fromarray(oracle(sample, k)) for k in range(target.num_cameras)]
            rows.append([read_image(sample.path), *truth])
            names.append("oracle")
    image_grid(
        rows,
        path,
        column_titles=["image", *(f"style {k + 1}" for k in range(target.num_cameras))],
        row_titles=names,
    )


def spread_over_cameras(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Returns the first image of each of `count` people, from different cameras as far as there are any."""
    chosen: list[Sample] = []
    cameras = sorted({s.camid for s in samples})
    for number in range(count):
        camera = cameras[number * max(1, len(cameras) // count) % len(cameras)]
        shown = {s.pid for s in chosen}
        chosen += [s for s in samples if s.camid == camera and s.pid not in shown][:1]
    return chosen
