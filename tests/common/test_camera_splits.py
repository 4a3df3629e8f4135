"""Camera splits: no person and no view in common, cameras renumbered, and names that are refused."""

from itertools import combinations
from pathlib import Path

import pytest

from common.datasets import load_dataset
from common.datasets.base import DISTRACTOR, JUNK, ReIDDataset, Sample
from common.datasets.cameras import camera_split, parse_split
from common.datasets.validate import errors_of
from common.errors import InputError


def whole(ids: int = 13, cameras: int = 6) -> ReIDDataset:
    def shots(split: str, pids) -> list[Sample]:
        return [
            Sample(Path(f"/d/{split}/{pid:04d}_c{camera + 1}.jpg"), pid, camera)
            for pid in pids
            for camera in range(cameras)
        ]

    train, test = [2 * i + 5 for i in range(ids)], [100, 101]
    return ReIDDataset(
        "drawn",
        Path("/d"),
        shots("train", train),
        shots("query", test),
        shots("gallery", [*test, DISTRACTOR, JUNK]),
        cameras,
    )


@pytest.mark.parametrize("first", list(combinations(range(6), 3)))
def test_two_splits_share_no_person_and_no_view_and_together_hold_all_people(first):
    dataset, second = whole(), tuple(set(range(6)) - set(first))
    parts = [camera_split(dataset, cameras) for cameras in (first, second)]
    people = [set(part.train_labels) for part in parts]
    assert not people[0] & people[1] and people[0] | people[1] == set(dataset.train_labels)
    paths = [{s.path for split in (part.train, part.query, part.gallery) for s in split} for part in parts]
    assert not paths[0] & paths[1]
    for part, cameras in zip(parts, (first, second)):
        assert part.num_cameras == 3 and not list(errors_of(part))
        for sample in (*part.train, *part.query, *part.gallery):
            assert sample.path.stem.endswith(f"_c{cameras[sample.camid] + 1}")  # renumbered in order
        assert {s.pid for s in part.gallery} == {100, 101, DISTRACTOR, JUNK} and {
            s.pid for s in part.query
        } == {100, 101}


def test_ids_go_to_cameras_by_their_place_not_by_their_number():
    part = camera_split(whole(ids=13), (0, 2))
    assert sorted(part.train_labels) == [5, 9, 17, 21, 29]  # places 0, 2, 6, 8, 12
    assert part.name == "drawn@c13" and part.official is None


@pytest.mark.parametrize(
    "name, found",
    [
        ("market1501", ("market1501", ())),
        ("x@c31", ("x", (0, 2))),
        ("market1501@c123", ("market1501", (0, 1, 2))),
        ("msmt17@c1,10", ("msmt17", (0, 9))),
    ],
)
def test_names(name, found):
    assert parse_split(name) == found


@pytest.mark.parametrize(
    "name",
    [
        "market1501@",
        "market1501@c",
        "market1501@123",
        "market1501@c1x",
        "market1501@c113",
        "market1501@c102",
        "@c12",
        "market1501@c1,,2",
    ],
)
def test_names_that_are_refused(name):
    with pytest.raises(InputError, match="market1501@c123"):
        parse_split(name)


@pytest.mark.parametrize(
    "cameras, words", [((0, 6), "has cameras 1 to 6"), ((2,), "at least two"), (tuple(range(6)), "not all 6")]
)
def test_cameras_that_are_refused(cameras, words):
    with pytest.raises(InputError, match=words):
        camera_split(whole(), cameras)


def test_by_name_and_with_a_manifest_of_its_own(data_root):
    dataset, part = load_dataset("market1501", data_root), load_dataset("market1501@c123", data_root)
    assert (
        part.manifest["name"] == "market1501@c123"
        and part.manifest["cameras"] == 3
        and part.manifest["hash"] != dataset.manifest["hash"]
    )
    with pytest.raises(InputError, match="unknown dataset 'market1502' .*did you mean 'market1501'"):
        load_dataset("market1502@c123", data_root)
