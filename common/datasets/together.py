"""Several datasets as one, `--source dukemtmc,cuhk03`: people and cameras of each are numbered after those of
the ones before, so that no two datasets share one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from os.path import commonpath
from pathlib import Path

from common.datasets.base import SPLITS, ReIDDataset, Sample


def together(parts: Sequence[ReIDDataset]) -> ReIDDataset:
    """Returns the union of several datasets, split by split; junk and distractors stay such."""
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    people: dict[int, str] = {}
    first_person = cameras = 0
    for part in parts:
        for split in SPLITS:
            samples[split] += [_moved(s, first_person, cameras) for s in getattr(part, split)]
        people |= {first_person + pid: name for pid, name in part.people.items()}
        everyone = [s.pid for split in SPLITS for s in getattr(part, split)]
        first_person += max([0, *everyone])
        cameras += part.num_cameras
    train, query, gallery = (_unique_names(samples[split], parts) for split in SPLITS)
    return ReIDDataset(
        ",".join(part.name for part in parts),
        Path(commonpath([part.root.absolute() for part in parts])),
        train,
        query,
        gallery,
        num_cameras=cameras,
        problems=tuple(problem for part in parts for problem in part.problems),
        skipped=dict(sum((Counter(part.skipped) for part in parts), Counter())),
        camera_names=tuple(name for part in parts for name in _camera_names(part)),
        people=people,
        own=all(part.own for part in parts),
        parts=tuple(parts),
    )


def _moved(sample: Sample, first_person: int, first_camera: int) -> Sample:
    pid = sample.pid + first_person if sample.pid > 0 else sample.pid
    return replace(sample, pid=pid, camid=sample.camid + first_camera)


def _camera_names(part: ReIDDataset) -> list[str]:
    names = part.camera_names or [str(camera + 1) for camera in range(part.num_cameras)]
    return [f"{part.name} {name}" for name in names]


def _unique_names(samples: Sequence[Sample], parts: Sequence[ReIDDataset]) -> list[Sample]:
    """Puts the dataset's number before the names that two datasets share."""
    shared = {name for name, count in Counter(s.stem.lower() for s in samples).items() if count > 1}
    if not shared:
        return list(samples)
    bounds = [0]
    for part in parts:
        bounds.append(bounds[-1] + part.num_cameras)
    number_of = {c: n for n, (a, b) in enumerate(zip(bounds, bounds[1:]), start=1) for c in range(a, b)}
    return [
        replace(s, key=f"{number_of[s.camid]}+{s.stem}") if s.stem.lower() in shared else s for s in samples
    ]
