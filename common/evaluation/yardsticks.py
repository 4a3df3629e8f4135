"""Independent networks that judge translated images: is the style right, is the person still recognisable?

The methods never see these networks. A *style judge* classifies cameras or domains; a *person judge* is a
re-ID network trained with the labels of all people involved. The records hold their accuracy on real images
as well, so that a reader knows how far to trust them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import LBFGS, Adam

from common.backbones import build_backbone, extract_features, global_pool
from common.checkpoints import load_checkpoint, save_checkpoint
from common.datasets import Sample
from common.datasets.loading import EvalTransform, SampleImages, normalise, ordered_loader
from common.datasets.plans import epoch_plan
from common.job import Workspace
from common.training import Loop, seed_everything

HEIGHT, WIDTH = 64, 32  # of the images that the judges see
HALF = (0.5, 0.5, 0.5)
SEED = 0  # one judge for all rows and seeds


@dataclass(frozen=True)
class JudgeTransform:
    """Resizes, flips and shifts by up to 1/8 with reflection: RGB image -> `(3, 64, 32)` in -1..1."""

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        image = image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.pad(np.asarray(image), ((8, 8), (4, 4), (0, 0)), "reflect")
        top, left = rng.randint(0, 16), rng.randint(0, 8)
        return normalise(Image.fromarray(pixels[top : top + HEIGHT, left : left + WIDTH]), HALF, HALF)


def style_network(classes: int) -> nn.Sequential:
    """Returns three strided convolutions, global mean and a linear layer: `(B, 3, 64, 32)` to logits.

    Without its last layer it returns features `(B, 96)`.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48), (48, 96)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, classes))


class PersonNetwork(nn.Module):
    """The thin ResNet with a linear classifier; `features` are its pooled map."""

    def __init__(self, classes: int):
        super().__init__()
        self.base = build_backbone("thin")
        self.classifier = nn.Linear(self.base.num_features, classes)

    def features(self, images: Tensor) -> Tensor:
        return global_pool(self.base(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def train_judge(
    work: Workspace, network: nn.Module, samples: Sequence[Sample], labels: Sequence[int], steps: int
) -> None:
    """Trains a judge with cross-entropy (Adam, batches of 64) and writes `judge.pt`."""
    network.to(work.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    loop = Loop(work, steps, {"network": network}, label="judge", save_every=steps)
    optimizer = Adam(network.parameters(), lr=1e-3)
    images = SampleImages(samples, JudgeTransform(), seed=SEED, stream="judge", cache=True)
    plan = epoch_plan(len(samples), min(64, len(samples)), seed=SEED, stream="judge")
    for step, batch in loop.over(loop.load(images, plan, labels)):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, 2 * (1 - step / steps))
        loss = F.cross_entropy(network(batch.images), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.log(step, cross_entropy=loss)
    save_checkpoint(work.folder / "judge.pt", network.state_dict())


def build_style_judge(
    work: Workspace, samples: Sequence[Sample], styles: Sequence[int], steps: int = 500
) -> None:
    """Trains a style judge; `styles`: the camera or domain of each image, from 0."""
    seed_everything(SEED)
    train_judge(work, style_network(max(styles) + 1), samples, styles, steps)


def build_person_judge(work: Workspace, samples: Sequence[Sample], steps: int = 1500) -> None:
    """Trains a person judge on labelled images of all people whose translations it will judge."""
    seed_everything(SEED)
    labels = {pid: label for label, pid in enumerate(sorted({_person(s) for s in samples}))}
    train_judge(work, PersonNetwork(len(labels)), samples, [labels[_person(s)] for s in samples], steps)


def _person(sample: Sample) -> tuple[str, int]:
    """Two domains number their people independently: a person is a folder and an id."""
    return sample.path.parent.as_posix(), sample.pid


def load_style_judge(folder: Path, classes: int, device: torch.device) -> nn.Sequential:
    """Loads the style judge of a finished stage, in evaluation mode."""
    network = style_network(classes)
    _load(network, folder, device)
    return network


def load_person_judge(folder: Path, people: int, device: torch.device) -> PersonNetwork:
    """Loads the person judge of a finished stage, in evaluation mode."""
    network = PersonNetwork(people)
    _load(network, folder, device)
    return network


def _load(network: nn.Module, folder: Path, device: torch.device) -> None:
    network.load_state_dict(load_checkpoint(folder / "judge.pt"))
    network.to(device).eval()


def judged_styles(judge: nn.Module, paths: Sequence[Path | Sample], device: torch.device) -> np.ndarray:
    """Returns the style `(N,)` that a judge sees in each image."""
    return embed(judge, paths, device).argmax(axis=1)


def share_found(
    judge: PersonNetwork,
    queries: Sequence[Path | Sample],
    originals: Sequence[Sample],
    gallery: Sequence[Sample],
    device: torch.device,
) -> float:
    """Returns the share of queries whose nearest image of another camera shows the same person.

    `queries`: translations (or the images themselves); `originals` `(N,)`: the images they were made from.
    """
    rows, columns = (embed(judge.features, images, device) for images in (queries, gallery))
    pids, cameras = (np.array([getattr(s, name) for s in gallery]) for name in ("pid", "camid"))
    own = np.array([s.camid for s in originals])
    similarity = np.where(own[:, None] == cameras[None, :], -np.inf, rows @ columns.T)
    nearest = pids[similarity.argmax(axis=1)]
    return float((nearest == np.array([s.pid for s in originals])).mean())


def embed(
    function: Callable[[Tensor], Tensor], images: Sequence[Path | Sample], device: torch.device
) -> np.ndarray:
    """Returns L2-normalised outputs `(N, D)` of a judge."""
    transform = EvalTransform(HEIGHT, WIDTH, "bilinear", HALF, HALF)
    loader = ordered_loader(SampleImages(images, transform), 128)
    return extract_features(function, loader, device).numpy()


def feature_distance(
    function: Callable[[Tensor], Tensor],
    first: Sequence[Path | Sample],
    second: Sequence[Path | Sample],
    device: torch.device,
) -> float:
    """Returns the mean cosine distance, 0 to 2, of the features of two lists of images, pair by pair."""
    one, other = (embed(function, images, device) for images in (first, second))
    return float(1 - (one * other).sum(axis=1).mean())


def linear_probe(first: np.ndarray, second: np.ndarray, steps: int = 100) -> float:
    """Returns how well a linear classifier distinguishes the rows of `first` `(N, D)` from those of `second`
    `(M, D)`: its accuracy (a guess: 0.5) on half of the rows, after training on the other half.

    min(N, M) random rows of each count. `steps`: of L-BFGS on the cross-entropy of standardised rows.
    """
    draw, count = np.random.default_rng(SEED), min(len(first), len(second)) // 2 * 2
    drawn = [rows[draw.permutation(len(rows))[:count]] for rows in (first, second)]
    known, unknown = (
        torch.from_numpy(np.concatenate([rows[half::2] for rows in drawn])).float() for half in (0, 1)
    )
    mean, deviation = known.mean(dim=0), known.std(dim=0) + 1e-6
    labels = torch.arange(2).repeat_interleave(count // 2)
    classifier = _logistic_regression((known - mean) / deviation, labels, steps)
    with torch.no_grad():
        predicted = classifier((unknown - mean) / deviation).argmax(dim=1)
    return float((predicted == labels).float().mean())


def _logistic_regression(rows: Tensor, labels: Tensor, steps: int) -> nn.Linear:
    """Returns a linear classifier of `rows` `(N, D)`, from zero weights, with an L2 penalty of 1e-3."""
    classifier = nn.Linear(rows.shape[1], 2)
    for parameter in classifier.parameters():
        nn.init.zeros_(parameter)
    optimizer = LBFGS(classifier.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(classifier(rows), labels) + 1e-3 * classifier.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return classifier
