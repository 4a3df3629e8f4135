"""The pictures of a run: its curves, the paper's figure (source, mask, CycleGAN, PTGAN), and what a few queries retrieve."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")   # before pyplot: no display is needed
import matplotlib.pyplot as plt
import numpy as np

from common.datasets import ReIDDataset
from common.datasets.images import read_image
from common.evaluation.features import load_features
from common.evaluation.pictures import image_grid
from common.evaluation.ranked_lists import ranked_lists
from common.runs import Run, read_curves
from ptgan.config import PTGANConfig
from ptgan.transfer import Transferred
from ptgan.translate import translated_samples

CURVES = {"re-ID": ("cross_entropy", "accuracy"), "G, adversarial": ("g_adv_s2t", "g_adv_t2s"), "G, cycle": ("g_cyc", "g_idt"),
          "G, identity": ("g_id",), "D": ("d_source", "d_target")}
PEOPLE = 8   # the paper's figure has eight panels


def draw(run: Run, config: PTGANConfig, source: ReIDDataset, target: ReIDDataset, images: Transferred) -> None:
    """Writes `curves.png`, `ranked_lists.png` and, for rows that transfer, `transfer.png` into the run's folder."""
    curves(run)
    query, gallery = (load_features(run.stages["scores"].folder / f"{name}.npz") for name in ("query", "gallery"))
    ranked_lists(query.features, target.query, gallery.features, target.gallery, run.picture("ranked_lists.png"))
    if images.hash:
        transfer_grid(source, images, "CycleGAN" if config.gan.lambda_id == 0 else "PTGAN", run.picture("transfer.png"))


def curves(run: Run) -> None:
    """One panel a group of terms, means over the logged steps."""
    lines = [line for name, stage in run.stages.items() if name.startswith(("reid", "gan")) for line in read_curves(stage.folder / "curves.jsonl")]
    panels = {title: [n for n in names if any(n in line for line in lines)] for title, names in CURVES.items()}
    panels = {title: names for title, names in panels.items() if names}
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 2.8), squeeze=False, constrained_layout=True)
    for axis, (title, names) in zip(axes[0], panels.items()):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            axis.plot(*zip(*points), label=name, linewidth=1.2)
        axis.set(title=title, xlabel="step")
        axis.legend(fontsize=7)
    figure.savefig(run.picture("curves.png"), dpi=90)
    plt.close(figure)


def transfer_grid(source: ReIDDataset, images: Transferred, name: str, path: Path) -> None:
    """Source people (columns): the image, its mask where there is one, CycleGAN's picture where it has been made, and the row's own."""
    chosen = list(range(0, len(source.train), max(1, len(source.train) // PEOPLE)))[:PEOPLE]
    rows = {"source": [source.train[i].path for i in chosen]}
    if images.reference is not None:
        masks = [images.reference(source.train[i]) for i in chosen]
        rows["mask"] = [np.repeat((255 * mask).astype(np.uint8)[:, :, None], 3, axis=2) for mask in masks]
    if images.cyclegan is not None:
        rows["CycleGAN"] = [sample.path for sample in translated_samples([source.train[i] for i in chosen], images.cyclegan)]
    rows[name] = [images.samples[i].path for i in chosen]
    pictures = [[read_image(cell) if isinstance(cell, Path) else cell for cell in row] for row in rows.values()]
    image_grid(pictures, path, row_titles=list(rows))
