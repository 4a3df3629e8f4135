"""The pictures of a run: every term of the loss over training, what the codes hold of X, and what a few
queries retrieve.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from arn.config import ARNConfig
from arn.data import STATISTICS, eval_transform
from arn.evaluate import load_network
from arn.model import ARNNet
from common.curves import draw_curves, stage_curves
from common.datasets import ReIDDataset
from common.datasets.images import read_image
from common.evaluation.features import load_features
from common.evaluation.pictures import image_grid
from common.evaluation.ranked_lists import ranked_lists
from common.runs import Run

PANELS = {
    "E_I: cross-entropy": ("cross_entropy",),
    "L_class": ("cls",),
    "L_ctrs": ("ctr",),
    "L_rec": ("rec",),
    "L_diff": ("diff",),
    "L_MMD": ("mmd",),
    "mean |cos(e_c, e_p)|": ("cosine_source", "cosine_target"),
    "accuracy on the source": ("ei_accuracy", "source_accuracy"),
}


def draw(run: Run, config: ARNConfig, target: ReIDDataset, device: torch.device) -> None:
    """Writes `curves.png` (the healthy-run figure), `codes.png` and `ranked_lists.png` into the run's folder."""
    # terms before their weights
    draw_curves(stage_curves(run, ("pretrain", "joint")), PANELS, run.picture("curves.png"), columns=4)
    query, gallery = (
        load_features(run.stages["scores"].folder / f"{name}.npz") for name in ("query", "gallery")
    )
    ranked_lists(
        query.features, target.query, gallery.features, target.gallery, run.picture("ranked_lists.png")
    )
    model = load_network(run.stages["joint"].folder / "model.pt")[1].to(device)
    what_codes_hold(model, config, target, run.picture("codes.png"), device)


@torch.no_grad()
def what_codes_hold(
    model: ARNNet, config: ARNConfig, target: ReIDDataset, path: Path, device: torch.device, people: int = 6
) -> None:
    """Target images, what D_C should rebuild, and what it makes of e_c + e_p, of e_c alone and of e_p alone;
    maps as their mean over channels.
    """
    step = max(1, len(target.query) // people)
    samples = list(target.query[::step][:people])
    pictures = [read_image(sample.path) for sample in samples]
    images = torch.stack([eval_transform(config.net)(picture) for picture in pictures]).to(device)
    x = model.encoder_base(images)
    common = model.encoder_c(x)
    original = images if model.paints_image else x
    columns = {"image": pictures, "to rebuild": shown(original, original, config)}
    codes = {"from e_c": common}
    if model.encoder_t is not None:
        private = model.encoder_t(x)
        codes = {"of both": common + private, "of e_c": common, "of e_p": private}
    for name, code in codes.items():
        columns[name] = shown(model.decoder_base(code), original, config)
    image_grid(list(zip(*columns.values())), path, column_titles=list(columns), cell_height=96)


def shown(maps: Tensor, original: Tensor, config: ARNConfig) -> list[np.ndarray]:
    """`(B, C, h, w)` as `uint8` pictures `(h, w, 3)`: images as they are, maps by their mean over channels,
    in the colours of their `original`.
    """
    if maps.shape[1] == 3:
        mean, std = (
            torch.tensor(values, device=maps.device).view(3, 1, 1)
            for values in STATISTICS[config.net.normalise]
        )
        pixels = (maps * std + mean).clamp(0, 1).permute(0, 2, 3, 1)
        return [np.uint8(255 * picture.cpu().numpy()) for picture in pixels]
    means, scales = (values.mean(dim=1).cpu().numpy() for values in (maps, original))
    colours = plt.get_cmap("viridis")
    return [
        np.uint8(255 * colours((m - s.min()) / max(float(np.ptp(s)), 1e-12))[..., :3])
        for m, s in zip(means, scales)
    ]
