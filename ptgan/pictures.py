"""Draws the pictures of a run: its curves, the paper's figure (source, mask, CycleGAN, PTGAN), and ranked
lists.
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
from common.job import Job
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


def draw(job: Job, images: Transferred) -> None:
    """Writes `curves.png`, `ranked_lists.png` and, for rows that transfer, `transfer.png` into the run's
    folder.
    """
    # one GAN, or one for each camera
    stages = [name for name in job.stages if name.startswith(("reid", "gan"))]
    draw_curves(stage_curves(job, stages), CURVES, job.picture("curves.png"))
    folder, target = job.stages["scores"].folder, job.target
    query, gallery = (load_features(folder / f"{name}.npz").features for name in ("query", "gallery"))
    ranked_lists(query, target.query, gallery, target.gallery, job.picture("ranked_lists.png"))
    if images.hash:
        transfer_grid(job.source, images, row_name(job.config), job.picture("transfer.png"))


def row_name(config: PTGANConfig) -> str:
    """Returns the title of the row's own pictures."""
    return "identity" if config.translation.kind == "identity" else config.gan.method


def transfer_grid(source: ReIDDataset, images: Transferred, name: str, path: Path) -> None:
    """Draws a column for each person of the source: the image, its mask if any, CycleGAN's picture if it has
    been made, and the row's own.
    """
    chosen = range(0, len(source.train), max(1, len(source.train) // PEOPLE))[:PEOPLE]
    originals = [source.train[i] for i in chosen]
    rows: dict[str, list[Path] | list[np.ndarray]] = {"source": [sample.path for sample in originals]}
    if images.reference is not None:
        masks = [(255 * images.reference(sample)).astype(np.uint8) for sample in originals]
        rows["mask"] = [np.repeat(mask[:, :, None], 3, axis=2) for mask in masks]
    if images.cyclegan is not None:
        rows["CycleGAN"] = [sample.path for sample in translated_samples(originals, images.cyclegan)]
    rows[name] = [images.samples[i].path for i in chosen]
    pictures = [
        [read_image(cell) if isinstance(cell, Path) else cell for cell in row] for row in rows.values()
    ]
    image_grid(pictures, path, row_titles=list(rows))
