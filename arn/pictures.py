"""The pictures of a run: every term of the loss over training, the content of the codes, and what a few
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

from arn.config import NetConfig
from arn.data import STATISTICS, eval_transform
from arn.evaluate import load_network
from arn.model import ARNNet
from common.curves import draw_curves, stage_curves
from common.datasets import ReIDDataset
from common.datasets.images import read_image
from common.evaluation.features import load_features
from common.evaluation.pictures import image_grid
from common.evaluation.ranked_lists import ranked_lists
from common.job import Job

PANELS = {  # of the terms before their weights
    "E_I: cross-entropy": ("cross_entropy",),
    "L_class": ("cls",),
    "L_ctrs": ("ctr",),
    "L_rec": ("rec",),
    "L_diff": ("diff",),
    "L_MMD": ("mmd",),
    "mean |cos(e_c, e_p)|": ("cosine_source", "cosine_target"),
    "accuracy on the source": ("ei_accuracy", "source_accuracy"),
}


def draw(job: Job) -> None:
    """Writes `curves.png`, `ranked_lists.png` and `codes.png` into the run's folder."""
    curves = stage_curves(job, ("pretrain", "joint"))
    draw_curves(curves, PANELS, job.picture("curves.png"), columns=4)
    folder, target = job.stages["scores"].folder, job.target
    query, gallery = (load_features(folder / f"{name}.npz").features for name in ("query", "gallery"))
    ranked_lists(query, target.query, gallery, target.gallery, job.picture("ranked_lists.png"))
    net, network = load_network(job.stages["joint"].folder / "model.pt")
    draw_codes(network.to(job.device), net, target, job.picture("codes.png"), job.device)


@torch.no_grad()
def draw_codes(
    network: ARNNet, net: NetConfig, target: ReIDDataset, path: Path, device: torch.device
) -> None:
    """Draws six target images, what D_C should rebuild, and what it rebuilds from e_c + e_p, from e_c alone
    and from e_p alone; maps as their mean over channels.
    """
    samples = target.query[:: max(1, len(target.query) // 6)][:6]
    pictures = [read_image(sample.path) for sample in samples]
    images = torch.stack([eval_transform(net)(picture) for picture in pictures]).to(device)
    x = network.encoder_base(images)
    common = network.encoder_c(x)
    original = images if network.paints_image else x
    columns = {"image": pictures, "to rebuild": pixels(original, original, net)}
    codes = {"from e_c": common}
    if network.encoder_t is not None:
        private = network.encoder_t(x)
        codes = {"of both": common + private, "of e_c": common, "of e_p": private}
    for name, code in codes.items():
        columns[name] = pixels(network.decoder_base(code), original, net)
    image_grid(list(zip(*columns.values())), path, column_titles=list(columns), cell_height=96)


def pixels(maps: Tensor, original: Tensor, net: NetConfig) -> list[np.ndarray]:
    """Turns `(B, C, h, w)` into `uint8` pictures `(h, w, 3)`: images without their normalisation, maps by
    their mean over channels, in the colours of their `original`.
    """
    if maps.shape[1] == 3:
        mean, std = (
            torch.tensor(values, device=maps.device).view(3, 1, 1) for values in STATISTICS[net.normalise]
        )
        levels = (maps * std + mean).clamp(0, 1).permute(0, 2, 3, 1)
        return [(255 * picture.cpu().numpy()).astype(np.uint8) for picture in levels]
    means, scales = (values.mean(dim=1).cpu().numpy() for values in (maps, original))
    colours = plt.get_cmap("viridis")
    return [
        (255 * colours((m - s.min()) / max(float(np.ptp(s)), 1e-12))[..., :3]).astype(np.uint8)
        for m, s in zip(means, scales)
    ]
