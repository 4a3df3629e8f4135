"""The pictures of a run: its curves, the paper's figure (source, mask, CycleGAN, PTGAN), and what a few
queries retrieve.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.curves import draw_curves, stage_curves
from common.datasets import ReIDDataset
from common.datasets.images import read_image
from common.evaluation.features import load_features
from common.evaluation.pictures import image_grid
from common.evaluation.ranked_lists import ranked_lists
from common.runs import Run
from ptgan.config import PTGANConfig
from ptgan.transfer import Transferred
from ptgan.translate import translated_samples

CURVES = {
    "re-ID": ("cross_entropy", "accuracy"),
    "G, adversarial": ("g_adv_s2t", "g_adv_t2s"),
    "G, cycle": ("g_cyc", "g_idt"),
    "G, identity": ("g_id",),
    "D": ("d_source", "d_target"),
}
PEOPLE = 8  # the paper's figure has eight panels


def draw(
    run: Run, config: PTGANConfig, source: ReIDDataset, target: ReIDDataset, images: Transferred
) -> None:
    """Writes `curves.png`, `ranked_lists.png` and, for rows that transfer, `transfer.png` into the run's
    folder.
    """
    # one GAN, or one for each camera
    stages = [name for name in run.stages if name.startswith(("reid", "gan"))]
    draw_curves(stage_curves(run, stages), CURVES, run.picture("curves.png"))
    query, gallery = (
        load_features(run.stages["scores"].folder / f"{name}.npz") for name in ("query", "gallery")
    )
    ranked_lists(
        query.features, target.query, gallery.features, target.gallery, run.picture("ranked_lists.png")
    )
    if images.hash:
        transfer_grid(source, images, row_name(config), run.picture("transfer.png"))


def row_name(config: PTGANConfig) -> str:
    """What stands beside the row's own pictures."""
    if config.translation.kind == "identity":
        return "identity"
    return "CycleGAN" if config.gan.lambda_id == 0 else "PTGAN"


def transfer_grid(source: ReIDDataset, images: Transferred, name: str, path: Path) -> None:
    """Source people (columns): the image, its mask where there is one, CycleGAN's picture where it has been
    made, and the row's own.
    """
    chosen = list(range(0, len(source.train), max(1, len(source.train) // PEOPLE)))[:PEOPLE]
    rows = {"source": [source.train[i].path for i in chosen]}
    if images.reference is not None:
        masks = [images.reference(source.train[i]) for i in chosen]
        rows["mask"] = [np.repeat((255 * mask).astype(np.uint8)[:, :, None], 3, axis=2) for mask in masks]
    if images.cyclegan is not None:
        rows["CycleGAN"] = [
            sample.path for sample in translated_samples([source.train[i] for i in chosen], images.cyclegan)
        ]
    rows[name] = [images.samples[i].path for i in chosen]
    pictures = [
        [read_image(cell) if isinstance(cell, Path) else cell for cell in row] for row in rows.values()
    ]
    image_grid(pictures, path, row_titles=list(rows))
