"""Judges generated people by a re-ID network that neither the DCGAN nor LSRO ever sees.

The judge learns the people of the test set, whom the DCGAN does not see either: the features of its training
images are those of strangers, like the generated ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common.datasets import DISTRACTOR, ReIDDataset, Sample
from common.datasets.layout import list_images
from common.evaluation.yardsticks import (
    PersonNetwork,
    build_person_judge,
    embed,
    load_person_judge,
    share_found,
)
from common.job import Job, Workspace
from common.runs import Stage

IMAGES = 1000  # of each set that is compared
NEIGHBOURS = 3  # Kynkäänniemi et al., 2019


def judge_images(job: Job, dataset: ReIDDataset, samples: Stage, folder: Path) -> dict[str, float]:
    """Returns the measures of `judged`, or none where the row asks for no judge.

    `dataset`: what the DCGAN was trained on; `folder`: the generated images of the stage `samples`. The judge
    depends on the dataset and the number of steps alone: all rows and seeds share it.
    """
    steps = job.config.dcgan.judge_steps
    if steps == 0:
        return {}
    people = [s for s in dataset.gallery if s.pid > DISTRACTOR]
    person = job.stage(
        "person-judge",
        {"dataset": dataset.manifest, "split": "gallery", "steps": steps},
        lambda work: build_person_judge(work, people, steps),
    )

    def measure(work: Workspace) -> None:
        judge = load_person_judge(person.folder, len({s.pid for s in people}), work.device)
        generated = [folder / name for name in list_images(folder)[:IMAGES]]
        work.write_json("judged.json", judged(judge, dataset.train, generated, work.device))

    return job.stage("judged", {"samples": samples.hash, "judge": person.hash}, measure).json("judged.json")


def judged(
    judge: PersonNetwork, train: Sequence[Sample], generated: Sequence[Path], device: torch.device
) -> dict[str, float]:
    """Returns how much generated images resemble the training images.

    `gan_precision`, `gan_recall`: see `precision_and_recall`. `gan_mode`: the share of the generated images
    that resemble one training person, the most frequent one. As references, `real_*`: the same of one half of
    the training people against the other half; `copies_*`: of one half of the images against the other,
    which shows the same people. `judge_rank1`: the share of training images whose nearest image of another
    camera, by the judge, shows the same person.
    """
    images = embed(judge.features, train, device)
    drawn = embed(judge.features, generated, device)
    pids = np.array([s.pid for s in train])
    person, image = np.isin(pids, np.unique(pids)[::2]), np.arange(len(train)) % 2 == 0
    found = {"judge_rank1": share_found(judge, train, train, train, device)}
    for name, real, people, others in (
        ("gan", images, pids, drawn),
        ("real", images[person], pids[person], images[~person]),
        ("copies", images[image], pids[image], images[~image]),
    ):
        precision, recall = precision_and_recall(evenly(real), evenly(others))
        found |= {f"{name}_precision": precision, f"{name}_recall": recall}
        found[f"{name}_mode"] = largest_mode(real, people, others)
    return {name: round(value, 4) for name, value in found.items()}


def evenly(rows: np.ndarray) -> np.ndarray:
    """Returns at most `IMAGES` rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(IMAGES, len(rows))).astype(int)]


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Returns improved precision and recall (Kynkäänniemi et al., 2019, Eqs. 1 to 3) of features `(N, D)`.

    A set covers the balls around its rows that reach to their k-th nearest neighbour in the set. Precision:
    the share of generated images that the real ones cover; recall: the reverse.
    """
    return covered(generated, real, neighbours), covered(real, generated, neighbours)


def covered(rows: np.ndarray, centres: np.ndarray, neighbours: int) -> float:
    """Returns the share of rows `(N, D)` that lie in the ball of at least one centre `(M, D)`."""
    own = np.sort(distances(centres, centres), axis=1)  # column 0: the centre itself
    radius = own[:, min(neighbours, len(centres) - 1)]
    return float((distances(rows, centres) <= radius).any(axis=1).mean())


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns Euclidean distances `(N, M)`."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    return np.sqrt(squared.clip(min=0))


def largest_mode(real: np.ndarray, people: np.ndarray, generated: np.ndarray) -> float:
    """Returns the share of generated images whose nearest real image shows the most frequent person."""
    nearest = people[distances(generated, real).argmin(axis=1)]
    return float(np.unique(nearest, return_counts=True)[1].max() / len(nearest))
