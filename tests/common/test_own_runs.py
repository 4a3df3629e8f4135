"""Runs on datasets of your own: without labels, without a test set, with queries that nothing can answer; and
all rows are checked before the first one trains.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import cli
from common.errors import InputError
from common.job import Job
from common.records import Experiment, Paper

SCORE = {"R-1": 0.5, "R-5": 0.5, "R-10": 0.5, "R-20": 0.5, "mAP": 0.3, "mAP_step": 0.3}
SEEN: list[str] = []


@dataclass(frozen=True)
class Config:
    beta: float = 0.5


TOY = Paper(
    name="toy",
    folder=Path(),
    presets={"demo": Config()},
    experiments=[
        Experiment("toy/table1/full", "full"),
        Experiment("toy/table1/other", "other", {"beta": 0.7}),
    ],
    demo=["toy/table1/full", "toy/table1/other"],
    headline=["toy/table1/full"],
)


def train(job: Job):
    SEEN.append(job.experiment.key)
    job.stage("net", {"source": job.source.manifest}, lambda work: work.write_json("net.json", {}))
    job.stage("scores", {"target": job.target.manifest}, lambda work: work.write_json("scores.json", {}))
    return job.record({"last": SCORE}, measures={"x": 1.0})


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(path.name.encode())).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def run(tmp_path):
    """`run(target, *flags)`: the toy on labelled photos and a target; returns the exit code."""
    SEEN.clear()
    for person in ("Ann", "Bob"):
        for camera in (1, 2):
            photo(tmp_path / "labelled" / person / f"c{camera}.png")

    def start(target: Path, *flags: str, source: str = "labelled", check=None) -> int:
        pair = ["--source", str(tmp_path / source), "--target", str(target)]
        return cli.main(TOY, train, ["--out", str(tmp_path / "out"), *pair, *flags], check=check)

    return start


def record(tmp_path: Path) -> dict:
    (path,) = (tmp_path / "out" / "runs").rglob("record.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_target_without_labels_is_trained_and_not_scored(run, tmp_path, caplog):
    photo(tmp_path / "new photos" / "1.png")
    assert run(tmp_path / "new photos", "--experiment", "toy/table1/full") == 0
    made = record(tmp_path)
    assert made["scores"] == {} and list(made["stages"]) == ["net"]
    assert made["source"].startswith("own-labelled-") and made["target"].startswith("own-new-photos-")
    assert "no query and gallery: networks are trained and not scored" in caplog.text
    assert f"  net: {tmp_path / 'out' / 'stages'}" in caplog.text
    (names,) = (tmp_path / "out" / "runs").rglob("source_names.csv")
    assert names.read_text(encoding="utf-8").splitlines()[-2:] == ["person,1,Ann", "person,2,Bob"]


def test_a_source_needs_labels(run, tmp_path, capsys):
    photo(tmp_path / "new" / "1.png")
    assert run(tmp_path / "new", source="new") == 2
    assert "1 of 1 training images have no person" in capsys.readouterr().err and not SEEN


def test_queries_without_a_match_stand_in_the_record(run, tmp_path, caplog):
    target = tmp_path / "target"
    for name in ("query/0001_c1.png", "query/0002_c1.png", "bounding_box_test/0001_c2.png"):
        photo(target / name)
    photo(target / "bounding_box_train" / "0003_c1.png")
    assert run(target, "--experiment", "toy/table1/full") == 0
    assert record(tmp_path)["measures"] == {"x": 1.0, "queries_without_match": 1.0}
    assert "1 of 2 queries have no image of the same person under another camera" in caplog.text


def test_a_complete_test_set_adds_no_measure(run, tmp_path):
    target = tmp_path / "target"
    for name in ("query/0001_c1.png", "bounding_box_test/0001_c2.png", "bounding_box_train/0003_c1.png"):
        photo(target / name)
    assert run(target, "--experiment", "toy/table1/full") == 0
    assert record(tmp_path)["measures"] == {"x": 1.0}


def test_all_rows_are_checked_before_the_first_one_trains(run, tmp_path, capsys):
    photo(tmp_path / "new" / "1.png")

    def check(job: Job) -> None:
        if job.config.beta == 0.7:
            raise InputError("beta is wrong")

    assert run(tmp_path / "new", check=check) == 2
    assert "beta is wrong" in capsys.readouterr().err and not SEEN


def test_folders_of_one_name_have_records_of_their_own(run, tmp_path):
    for place in ("a", "b"):
        photo(tmp_path / place / "photos" / "1.png")
        assert run(tmp_path / place / "photos", "--experiment", "toy/table1/full") == 0
    assert len(list((tmp_path / "out" / "runs").rglob("record.json"))) == 2
