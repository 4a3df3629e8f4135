from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import scipy.io

from common.datasets import DATASETS, Sample, count, load_dataset
from common.datasets.layout import market_name, refuse_equal_names
from common.datasets.prid2011 import training_people
from common.errors import InputError


def names(samples) -> list[str]:
    return [s.path.name for s in samples]


def test_importing_the_datasets_does_not_import_torch():
    frameworks = "('torch', 'torchvision', 'tensorflow')"
    code = f"import sys, common.datasets.__main__; print([m for m in {frameworks} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            encoding="utf-8",
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize(
    "folder", ["Market-1501-v15.09.15", "market1501", "Market-1501", "market1501/Market-1501-v15.09.15", "."]
)
def test_market1501_is_found_under_its_usual_names(tmp_path, folder, trees):
    trees.market(tmp_path / folder)
    dataset = load_dataset("market1501", tmp_path)
    assert dataset.root == tmp_path / folder
    assert [(s.path.name, s.pid, s.camid) for s in dataset.gallery] == [
        ("-1_c1s1_000401_03.jpg", -1, 0),
        ("-1_c2s1_000401_03.jpg", -1, 1),
        ("0000_c1s1_000151_01.jpg", 0, 0),
        ("0001_c1s1_002301_01.jpg", 1, 0),
        ("0001_c2s1_000301_01.jpg", 1, 1),
        ("0003_c4s6_015641_02.jpg", 3, 3),
    ]
    assert dataset.train_labels == {2: 0, 7: 1} and dataset.num_cameras == 6
    found = count(dataset.gallery, 6)
    assert (found.images, found.ids, found.junk, found.distractors, found.cameras) == (
        6,
        2,
        2,
        1,
        (3, 2, 0, 1, 0, 0),
    )


@pytest.mark.parametrize(
    "name, expected",
    [
        ("0002_c1s1_000451_03.jpg", (2, 0)),
        ("-1_c6s3_077467_00.jpg", (-1, 5)),
        ("0005_c8_f0046985.jpg", (5, 7)),
        ("0001_c12s1_000001_00.png", (1, 11)),
        ("0002_c1s1_000451_03.jpg_fake_2.jpg", (2, 0)),
        ("Thumbs.jpg", None),
        ("c1s1_0002.jpg", None),
    ],
)
def test_names_of_the_market_layout(name, expected):
    assert market_name(name) == expected


def test_dukemtmc(tmp_path, trees):
    trees.duke(tmp_path / "DukeMTMC-reID" / "DukeMTMC-reID")
    dataset = load_dataset("dukemtmc", tmp_path)
    assert [(s.pid, s.camid) for s in dataset.train] == [(1, 1), (1, 7)]
    assert (len(dataset.query), len(dataset.gallery), dataset.num_cameras) == (1, 3, 8)


def test_a_link_that_leads_nowhere_is_named(tmp_path, trees):
    root = tmp_path / "market1501"
    trees.market(root)
    (root / "bounding_box_train" / "0002_c1s1_000999_01.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(
        InputError, match="0002_c1s1_000999_01.jpg: expected an image, found a link that leads nowhere"
    ):
        dict(load_dataset("market1501", root).manifest)


def test_market_names_are_not_taken_for_duke(market):
    with pytest.raises(InputError, match="no images in train and query and gallery.*not understood"):
        load_dataset("dukemtmc", market)


@pytest.mark.parametrize("folder", ["cuhk03-np/detected", "cuhk03_detected", "detected", "cuhk03/detected"])
def test_cuhk03_in_market_layout(tmp_path, folder, trees):
    trees.cuhk03_np(tmp_path / folder)
    dataset = load_dataset("cuhk03", tmp_path)
    assert [(s.pid, s.camid) for s in (*dataset.train, *dataset.query)] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert dataset.official.train.images == 7365
    with pytest.raises(InputError, match="images_detected"):
        load_dataset("cuhk03", tmp_path, protocol="classic")


def test_cuhk03_takes_the_images_that_were_asked_for(tmp_path, trees):
    for images in ("detected", "labeled"):
        trees.cuhk03_np(tmp_path / "cuhk03-np" / images)
        assert load_dataset("cuhk03", tmp_path, images=images).root.name == images
    with pytest.raises(InputError, match="expected labeled images, found a folder called detected"):
        load_dataset("cuhk03", tmp_path / "cuhk03-np" / "detected", images="labeled")


@pytest.mark.parametrize("images", ["detected", "labeled"])
def test_cuhk03_extracted_images(tmp_path, images, trees):
    trees.cuhk03_extracted(tmp_path / "cuhk03", images)
    dataset = load_dataset("cuhk03", tmp_path, images=images)
    assert [(s.pid, s.camid) for s in dataset.train] == [(1001, 0), (1001, 1), (2001, 0), (2001, 1)]
    assert names(dataset.query) == ["1_002_1_01.png", "2_002_1_01.png"] and names(dataset.gallery) == [
        "1_002_2_06.png",
        "2_002_2_06.png",
    ]
    classic = load_dataset("cuhk03", tmp_path, images=images, protocol="classic", split=1)
    assert (
        {s.pid for s in classic.query} == {1002}
        and classic.query == classic.gallery
        and classic.official is None
    )


def test_cuhk03_reads_the_protocols_own_split_file(tmp_path, trees):
    folder = trees.cuhk03_extracted(tmp_path / "cuhk03")
    expected = load_dataset("cuhk03", folder)
    files = sorted(names([*expected.train, *expected.query, *expected.gallery]))
    indices = {
        f"{split}_idx": np.array([[files.index(n) + 1] for n in names(getattr(expected, split))], np.uint16)
        for split in ("train", "query", "gallery")
    }
    (folder / "splits_new_detected.json").unlink()
    scipy.io.savemat(
        folder / "cuhk03_new_protocol_config_detected.mat",
        {"filelist": np.array([[n] for n in files], object), **indices},
    )
    found = load_dataset("cuhk03", folder)
    assert (found.train, found.query, found.gallery) == (expected.train, expected.query, expected.gallery)


def test_cuhk03_says_what_to_do_with_the_raw_file(tmp_path, monkeypatch):
    (tmp_path / "cuhk03_release").mkdir()
    (tmp_path / "cuhk03_release" / "cuhk-03.mat").write_bytes(b"MATLAB 7.3 MAT-file")
    with pytest.raises(InputError, match="splits_new_detected.json or .* holds .* cuhk03:protocol"):
        load_dataset("cuhk03", tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="cuhk-03.mat: reading this file needs h5py: pip install"):
        load_dataset("cuhk03", tmp_path, protocol="classic")


@pytest.mark.parametrize(
    "content", ["{", "[]", '[{"train": []}]', '[{"train": [1], "query": [], "gallery": []}]']
)
def test_cuhk03_broken_split_file(tmp_path, content, trees):
    folder = trees.cuhk03_extracted(tmp_path)
    (folder / "splits_new_detected.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="splits_new_detected.json: expected splits as torchreid"):
        load_dataset("cuhk03", folder)


def test_cuhk03_split_file_absent_or_foreign(tmp_path, trees):
    folder = trees.cuhk03_extracted(tmp_path)
    (folder / "splits_new_detected.json").write_text(
        json.dumps([{"train": [["x/6_001_1_01.png", 0, 0]], "query": [], "gallery": []}]),
        encoding="utf-8",
    )
    with pytest.raises(InputError, match="1_001_1_01.png .*found '6_001_1_01.png'"):
        load_dataset("cuhk03", folder)
    (folder / "splits_new_detected.json").unlink()
    with pytest.raises(
        InputError, match="splits_new_detected.json or cuhk03_new_protocol_config_detected.mat"
    ):
        load_dataset("cuhk03", folder)


def test_msmt17(tmp_path, trees):
    trees.msmt17(tmp_path / "MSMT17_V1")
    dataset = load_dataset("msmt17", tmp_path)
    # sorted by path, not list after list
    assert [(s.pid, s.camid) for s in dataset.train] == [(1, 0), (1, 11), (2, 14)]
    assert [(s.pid, s.camid) for s in (*dataset.query, *dataset.gallery)] == [
        (1042, 0),
        (1042, 13),
        (1043, 2),
    ]
    assert len(load_dataset("msmt17", tmp_path, train="train").train) == 2 and dataset.num_cameras == 15


def test_lists_are_put_in_sorted_order(tmp_path, trees):
    folder = trees.msmt17(tmp_path / "MSMT17_V1")
    expected = load_dataset("msmt17", tmp_path)
    for path in folder.glob("list_*.txt"):
        path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[::-1]), encoding="utf-8")
    found = load_dataset("msmt17", tmp_path)
    assert (found.train, found.query, found.gallery) == (expected.train, expected.query, expected.gallery)
    assert names(found.gallery) == sorted(names(found.gallery)) and len(found.gallery) == 2


def test_msmt17_versions(tmp_path, trees):
    trees.msmt17(tmp_path / "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    assert load_dataset("msmt17", tmp_path).root.name == "MSMT17_V2"
    with pytest.raises(InputError, match="missing train, test"):
        load_dataset("msmt17", tmp_path, version="V1")
    trees.msmt17(tmp_path / "MSMT17_V1")
    assert load_dataset("msmt17", tmp_path).root.name == "MSMT17_V1"
    assert load_dataset("msmt17", tmp_path, version="V2").train[0].path.parts[-3] == "mask_train_v2"


def test_msmt17_lists(tmp_path, caplog, trees):
    folder = trees.msmt17(tmp_path)
    with (folder / "list_train.txt").open("a", encoding="utf-8") as file:
        file.write("0002/0002_000_02_0303morning_0008_0.jpg 2\n\n")
    assert len(load_dataset("msmt17", folder).train) == 3
    assert "1 listed images are not on disk and left out: 0002_000_02_0303morning_0008_0.jpg" in caplog.text
    (folder / "list_query.txt").write_text("0000/0000.jpg 0\n", encoding="utf-8")
    with pytest.raises(InputError, match="list_query.txt: line 1: expected 'FOLDER/NAME ID'"):
        load_dataset("msmt17", folder)


def test_prid2011(tmp_path, trees):
    trees.prid2011(tmp_path / "prid2011" / "prid_2011" / "single_shot")
    dataset = load_dataset("prid2011", tmp_path)
    chosen = training_people(0)
    assert {s.pid for s in dataset.train} == {p for p in range(1, 201, 3) if p in chosen}
    assert {s.pid for s in dataset.query} == {p for p in range(1, 201, 3) if p not in chosen} and {
        s.camid for s in dataset.query
    } == {0}
    assert {s.pid for s in dataset.gallery} == {p for p in range(1, 750, 3) if p not in chosen} and {
        s.camid for s in dataset.gallery
    } == {1}
    swapped = load_dataset("prid2011", tmp_path, query_camera="b")
    assert {s.pid for s in swapped.query} == {s.pid for s in dataset.query} and max(
        s.pid for s in swapped.gallery
    ) == 385


def test_prid2011_draws_are_fixed():
    draws = [training_people(split) for split in range(10)]
    assert (
        all(len(draw) == 100 and draw <= set(range(1, 201)) for draw in draws)
        and len(set(map(frozenset, draws))) == 10
    )
    assert sorted(draws[0])[:5] == [1, 2, 3, 13, 21]


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("market1501", {"images": "labeled"}, "market1501: unknown option 'images': expected none"),
        ("cuhk03", {"image": "labeled"}, "cuhk03: unknown option 'image': expected images, protocol, split"),
        ("cuhk03", {"images": "drawn"}, "expected detected or labeled"),
        ("cuhk03", {"protocol": "new"}, "expected one of 767/700, classic"),
        ("cuhk03", {"split": 1}, "expected 0 to 19 with protocol classic, 0 with 767/700"),
        ("cuhk03", {"protocol": "classic", "split": 20}, "expected 0 to 19"),
        ("msmt17", {"version": "V3"}, "expected V1, V2 or any"),
        ("msmt17", {"train": "val"}, "expected one of train, train"),
        ("prid2011", {"split": 10}, "expected 0 to 9"),
        ("prid2011", {"query_camera": "c"}, "expected a or b"),
        (
            "market-1501",
            {},
            r"unknown dataset 'market-1501' \(did you mean 'market1501'\?\): "
            "expected one of market1501, dukemtmc",
        ),
        ("imagenet", {}, "unknown dataset 'imagenet': expected one of"),
    ],
)
def test_bad_names_and_options(tmp_path, name, options, message):
    with pytest.raises(InputError, match=message):
        load_dataset(name, tmp_path, **options)


@pytest.mark.parametrize("name", ["market1501", "dukemtmc", "cuhk03", "msmt17", "prid2011"])
def test_a_missing_or_foreign_folder_is_one_clear_line(tmp_path, name):
    (tmp_path / "holiday.txt").write_text("", encoding="utf-8")
    for root, message in (
        (None, "pass --data-root DIR"),
        (tmp_path / "none", "found nothing"),
        (tmp_path / "holiday.txt", "found a file"),
        (tmp_path, f"{name} needs .* here or in a folder called .*; found holiday.txt"),
    ):
        with pytest.raises(InputError, match=message) as error:
            load_dataset(name, root)
        assert "\n" not in str(error.value)


def test_an_incomplete_folder_says_what_is_missing(market):
    for image in (market / "query").iterdir():
        image.unlink()
    (market / "query").rmdir()
    with pytest.raises(
        InputError,
        match="Market-1501-v15.09.15: market1501 needs .*; missing query; "
        "found bounding_box_test, bounding_box_train",
    ):
        load_dataset("market1501", market.parent)


def test_the_order_does_not_depend_on_the_file_system(market, tmp_path, monkeypatch, trees):
    trees.msmt17(tmp_path / "MSMT17_V1")
    expected = [load_dataset(name, tmp_path) for name in ("market1501", "msmt17")]
    listdir = os.listdir

    def shuffled(path="."):
        found = listdir(path)
        random.Random(len(found)).shuffle(found)
        return found

    monkeypatch.setattr(os, "listdir", shuffled)
    assert os.listdir(market / "bounding_box_test") != names(expected[0].gallery)
    found = [load_dataset(name, tmp_path) for name in ("market1501", "msmt17")]
    for before, after in zip(expected, found, strict=True):
        assert (before.train, before.query, before.gallery) == (after.train, after.query, after.gallery)
        assert before.manifest == after.manifest
        assert all(
            names(split) == sorted(names(split)) for split in (after.train, after.query, after.gallery)
        )


def test_a_folder_that_cannot_be_listed_is_one_line(market, monkeypatch):
    def refuse(path="."):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(InputError, match=r"this folder cannot be listed \(Permission denied\)"):
        load_dataset("market1501", market)


def test_other_files_are_passed_over_and_odd_names_are_named(market, caplog, trees):
    before = load_dataset("market1501", market)
    (market / "query" / "Thumbs.db").write_bytes(b"")
    (market / "query" / "._0001_c1s1_001051_00.jpg").write_bytes(b"")
    caplog.clear()
    assert load_dataset("market1501", market).query == before.query and "left out" not in caplog.text
    trees.image(market / "query" / "photo.jpg")
    assert load_dataset("market1501", market).query == before.query
    assert "1 image name not understood and left out: photo.jpg" in caplog.text


@pytest.mark.parametrize(
    "folder, name, message",
    [
        ("query", "0007_c1s1_000001_00.jpg", r"1 ids are in train and in query or gallery \(7\)"),
        (
            "query",
            "0001_c1s1_001051_00.png",
            "1 image names occur more than once in query: 0001_c1s1_001051_00",
        ),
        ("bounding_box_test", "0001_c7s1_000001_00.jpg", "camera 7, but market1501 has cameras 1 to 6"),
        ("bounding_box_train", "0009_c0s1_000001_00.jpg", "camera 0, but market1501 has cameras 1 to 6"),
    ],
)
def test_what_cannot_be_trained_or_scored_is_refused(market, folder, name, message, trees):
    trees.image(market / folder / name)
    with pytest.raises(InputError, match=message):
        load_dataset("market1501", market)


@pytest.mark.parametrize("folder", ["bounding_box_train", "query", "bounding_box_test"])
def test_an_empty_split_is_refused(market, folder):
    for image in (market / folder).iterdir():
        image.unlink()
    with pytest.raises(InputError, match="no images in (train|query|gallery): expected at least one"):
        load_dataset("market1501", market)


def test_a_test_set_of_one_camera_is_refused(tmp_path, trees):
    trees.market(
        tmp_path,
        {
            **trees.MARKET,
            "query": ["0001_c1s1_001051_00.jpg"],
            "bounding_box_test": ["0001_c1s1_002301_01.jpg"],
        },
    )
    with pytest.raises(
        InputError, match=r"under another camera in the gallery \(cameras in the test set: \[1\]\)"
    ):
        load_dataset("market1501", tmp_path)


def test_junk_does_not_train(market, caplog, trees):
    trees.image(market / "bounding_box_train" / "-1_c1s1_000001_00.jpg")
    assert -1 not in {s.pid for s in load_dataset("market1501", market).train}
    assert "1 junk images (pid -1) left out of training" in caplog.text


def test_a_subset_warns_and_strict_refuses_it(market, caplog):
    with caplog.at_level(logging.WARNING):
        load_dataset("market1501", market)
    assert "train: 4 images, officially 12,936" in caplog.text
    with pytest.raises(
        InputError, match="not the complete market1501: .*gallery: 6 images, officially 19,732"
    ):
        load_dataset("market1501", market, strict=True)


def test_synthetic_domains_are_made_only_when_asked_for(monkeypatch):
    calls = []

    def load_synthetic(name, root=None, *, data_seed=0, train_ids=100, test_ids=100):
        calls.append((name, root, data_seed))
        raise InputError("stop here")

    module = type(sys)("common.datasets.synthetic")
    module.load_synthetic = load_synthetic
    monkeypatch.setitem(sys.modules, "common.datasets.synthetic", module)
    with pytest.raises(InputError, match="stop here"):
        load_dataset("synthetic-duke", data_seed=3)
    assert calls == [("synthetic-duke", None, 3)]
    with pytest.raises(InputError, match="unknown option 'seed': expected data_seed, train_ids, test_ids"):
        load_dataset("synthetic-market", seed=3)
    assert list(DATASETS)[-2:] == ["synthetic-market", "synthetic-duke"]


def test_equal_names_in_two_folders_are_refused_where_a_translation_would_be_lost(tmp_path):
    samples = [
        Sample(tmp_path / camera / name, 1, place)
        for place, (camera, name) in enumerate((("a", "x.png"), ("b", "x.jpg")))
    ]
    with pytest.raises(InputError, match="2 training images are called x"):
        refuse_equal_names(samples)
    refuse_equal_names(samples[:1])
