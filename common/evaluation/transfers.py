"""Judges a source that was transferred to the target's style, by networks that the method never sees.

A *domain judge* distinguishes real source from real target images; a *person judge* is a re-ID network
trained on the labelled images of both domains (see yardsticks.py). Both depend on the data and the number of
steps alone: all rows and seeds of a paper share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from common.datasets import ReIDDataset, Sample
from common.datasets.images import read_image
from common.datasets.synthetic import DOMAINS, moved
from common.evaluation.yardsticks import (
    HEIGHT,
    WIDTH,
    PersonNetwork,
    build_person_judge,
    build_style_judge,
    feature_distance,
    judged_styles,
    load_person_judge,
    load_style_judge,
    share_found,
)
from common.job import Job, Workspace

IMAGES = 400  # training images of the source, spread evenly, whose transfer is judged
SOURCE, TARGET = 0, 1


@dataclass(frozen=True)
class Judges:
    """The folders of the trained judges."""

    domain: Path
    person: Path


def judge_transfer(job: Job, transferred: Sequence[Sample], images: str, steps: int) -> dict[str, float]:
    """Returns the measures of `judge` for the images that a row trains on, none for 0 steps.

    `transferred`: one image for each of the source's training images, in their order, repeated for each of
    several GANs; `images` identifies them. `steps`: of the domain judge; the person judge takes three times
    as many.
    """
    if steps == 0:
        return {}
    source, target = job.source, job.target
    real = {"source": source.manifest, "target": target.manifest, "steps": steps}
    both, domains = [*source.train, *target.train], _domains(source.train, target.train)
    domain = job.stage("domain-judge", real, lambda work: build_style_judge(work, both, domains, steps))
    person = job.stage("person-judge", real, lambda work: build_person_judge(work, both, 3 * steps))

    def measure(work: Workspace) -> None:
        judges = Judges(domain.folder, person.folder)
        work.write_json("judged.json", judge(work, source, target, transferred, judges))

    depends_on = {
        "images": images,
        "domain_judge": domain.hash,
        "person_judge": person.hash,
        "measures": "with distances to the oracle",
    }
    return job.stage("judged", depends_on, measure).json("judged.json")


def judge(
    work: Workspace,
    source: ReIDDataset,
    target: ReIDDataset,
    transferred: Sequence[Sample],
    judges: Judges,
) -> dict[str, float]:
    """Returns, for the transferred images, for the source's own and, on synthetic domains, for the oracle:

    `target_share*`: the share that the domain judge takes for the target. `people_found*`: the share whose
    nearest real source image of another camera, by the person judge, shows the same person. `edges_kept*`:
    see `edge_correlation`. `oracle_distance*` and `oracle_person_distance*`: the mean cosine distance to the
    oracle's image in the features of the domain judge and of the person judge. `domain_judge_accuracy`: the
    mean over both domains' test images, whose people the judge has not seen.
    """
    domain = load_style_judge(judges.domain, 2, work.device)
    people = len(source.train_labels) + len(target.train_labels)
    person = load_person_judge(judges.person, people, work.device)
    count = len(source.train)
    chosen = range(0, len(transferred), max(1, len(transferred) // IMAGES))
    originals = [source.train[i % count] for i in chosen]
    images: dict[str, Sequence[Path | Sample]] = {
        "": [transferred[i] for i in chosen],
        "_untouched": originals,
    }
    if {source.name, target.name} <= set(DOMAINS):
        images["_oracle"] = draw_oracle(work.folder / "oracle", originals, target)
    measures = {}
    for name, paths in images.items():
        taken = judged_styles(domain, paths, work.device) == TARGET
        measures[f"target_share{name}"] = float(taken.mean())
        measures[f"people_found{name}"] = share_found(person, paths, originals, source.train, work.device)
        measures[f"edges_kept{name}"] = edge_correlation(originals, paths)
    measures |= oracle_distances(domain, person, images, work.device)
    measures["domain_judge_accuracy"] = accuracy(partial(judged_styles, domain), source, target, work.device)
    return {name: round(value, 4) for name, value in measures.items()}


def oracle_distances(
    style: nn.Sequential,
    person: PersonNetwork,
    images: Mapping[str, Sequence[Path | Sample]],
    device: torch.device,
) -> dict[str, float]:
    """Returns `oracle_distance*` and `oracle_person_distance*` of the lists of `images`; none without the
    oracle's, `_oracle`.
    """
    if "_oracle" not in images:
        return {}
    found = {}
    for name, paths in images.items():
        if name != "_oracle":
            pair = (paths, images["_oracle"], device)
            found[f"oracle_distance{name}"] = feature_distance(style[:-1], *pair)
            found[f"oracle_person_distance{name}"] = feature_distance(person.features, *pair)
    return found


def accuracy(
    judged: Callable[..., np.ndarray], source: ReIDDataset, target: ReIDDataset, device: torch.device
) -> float:
    """Returns the share of test images whose domain is recognised, a mean over both domains."""
    shares = [
        (judged([*data.query, *data.gallery], device) == domain).mean()
        for domain, data in ((SOURCE, source), (TARGET, target))
    ]
    return float(np.mean(shares))


def draw_oracle(folder: Path, originals: Sequence[Sample], target: ReIDDataset) -> list[Path]:
    """Draws the people before the target's cameras, which take turns, and returns the files."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, sample in enumerate(originals):
        paths.append(folder / f"{number:05}.png")
        Image.fromarray(moved(sample, target.root, number % target.num_cameras)).save(paths[-1])
    return paths


def edge_correlation(before: Sequence[Path | Sample], after: Sequence[Path | Sample]) -> float:
    """Returns the mean correlation of the edge strength of two lists of images, 1 for equal edges.

    The edge strength of a pixel is the sum of the absolute differences of brightness to its lower and to its
    right neighbour, at 64x32.
    """
    first, second = (np.stack([edges(image) for image in images]) for images in (before, after))
    first, second = (e - e.mean(axis=1, keepdims=True) for e in (first, second))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / np.maximum(norms, 1e-9)).mean())


def edges(image: Path | Sample) -> np.ndarray:
    """Returns the edge strength of an image's pixels, `(63 * 31,)`."""
    path = image.path if isinstance(image, Sample) else image
    grey = read_image(path).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR).convert("L")
    values = np.asarray(grey, np.float64)
    down, right = np.diff(values, axis=0)[:, :-1], np.diff(values, axis=1)[:-1]
    return (np.abs(down) + np.abs(right)).ravel()


def _domains(source: Sequence[Sample], target: Sequence[Sample]) -> list[int]:
    return [SOURCE] * len(source) + [TARGET] * len(target)
