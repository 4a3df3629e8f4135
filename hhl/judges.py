"""Judges the camera styles of a row by networks that HHL never sees (see common/evaluation/yardsticks.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.datasets import ReIDDataset, Sample
from common.datasets.synthetic import DOMAINS, oracle
from common.evaluation.transfers import edge_correlation, oracle_distances
from common.evaluation.yardsticks import (
    build_person_judge,
    build_style_judge,
    judged_styles,
    load_person_judge,
    load_style_judge,
    share_found,
)
from common.job import Job, Workspace
from hhl.styles import CameraStyles
from hhl.views import StyleFolder

IMAGES = 100  # training images, spread evenly, whose styles are judged


def judge_styles(job: Job, styles: CameraStyles) -> dict[str, float]:
    """Returns the measures of `judge`, or none where the row has no styles or asks for no judges.

    The judges depend on the target and the number of steps alone: all rows and seeds share them.
    """
    steps, target = job.config.style.judge_steps, job.target
    if styles.folder is None or steps == 0:
        return {}
    folder, cameras = styles.folder, [sample.camid for sample in target.train]
    style = job.stage(
        "style-judge",
        {"target": target.manifest, "steps": steps},
        lambda work: build_style_judge(work, target.train, cameras, steps),
    )
    person = job.stage(
        "person-judge",
        {"target": target.manifest, "steps": steps},
        lambda work: build_person_judge(work, target.train, 3 * steps),
    )

    def measure(work: Workspace) -> None:
        work.write_json("judged.json", judge(work, target, folder, style.folder, person.folder))

    depends_on = {
        "styles": styles.hash,
        "style_judge": style.hash,
        "person_judge": person.hash,
        "measures": "with edges and distances to the oracle",
    }
    return job.stage("judged", depends_on, measure).json("judged.json")


@torch.no_grad()
def judge(work: Workspace, target: ReIDDataset, folder: Path, style: Path, person: Path) -> dict[str, float]:
    """Returns, for the fakes, for the images left as they are and, on a synthetic target, for the oracle:

    `style_share*`: the share that the style judge takes for the target camera. `people_found*`: the share
    whose nearest real image of another camera, by the person judge, shows the same person. `edges_kept*`: see
    `edge_correlation`. `oracle_distance*` and `oracle_person_distance*`: the mean cosine distance to the
    oracle's image in the features of the style judge and of the person judge. `style_judge_accuracy`: on the
    target's test images, whose people the judge has not seen.
    """
    style_network = load_style_judge(style, target.num_cameras, work.device)
    person_network = load_person_judge(person, len(target.train_labels), work.device)
    samples = target.train[:: max(1, len(target.train) // IMAGES)]
    pairs = [(s, camera) for s in samples for camera in range(target.num_cameras) if camera != s.camid]
    originals, target_cameras = [s for s, _ in pairs], np.array([camera for _, camera in pairs])
    styles = StyleFolder(folder)
    images: dict[str, Sequence[Path | Sample]] = {
        "": [styles.path(s, camera) for s, camera in pairs],
        "_untouched": originals,
    }
    if target.name in DOMAINS:
        images["_oracle"] = draw_oracle(work.folder / "oracle", pairs)
    measures = {}
    for name, paths in images.items():
        measures[f"style_share{name}"] = float(
            (judged_styles(style_network, paths, work.device) == target_cameras).mean()
        )
        measures[f"people_found{name}"] = share_found(
            person_network, paths, originals, target.train, work.device
        )
        measures[f"edges_kept{name}"] = edge_correlation(originals, paths)
    measures |= oracle_distances(style_network, person_network, images, work.device)
    test = [*target.query, *target.gallery]
    predicted = judged_styles(style_network, test, work.device)
    measures["style_judge_accuracy"] = float((predicted == np.array([s.camid for s in test])).mean())
    return {name: round(value, 4) for name, value in measures.items()}


def draw_oracle(folder: Path, pairs: Sequence[tuple[Sample, int]]) -> list[Path]:
    """Draws each image in its true target style and returns the files."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, (sample, camera) in enumerate(pairs):
        paths.append(folder / f"{number:05}.png")
        Image.fromarray(oracle(sample, camera)).save(paths[-1])
    return paths
