"""Datasets by path: layouts, names in any script, files left out, tables, protocols, several at once."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest

from common.datasets import DATASETS, label_of, load_dataset, read_dataset
from common.datasets.__main__ import main
from common.datasets.base import DISTRACTOR, JUNK, UNLABELLED
from common.datasets.layout import refuse_equal_names
from common.datasets.names import split_names
from common.datasets.validate import check_source, check_target, unmatched_queries
from common.errors import InputError

PEOPLE = ("Zoë Müller", "alice", "李雷", "bob")


@pytest.fixture
def photos(tmp_path, trees) -> Path:
    """Four people, two images under each of two cameras; equal file names in each person's folder."""
    root = tmp_path / "my photos, 2026"
    for person in PEOPLE:
        for camera in (1, 3):
            for number in range(2):
                trees.image(root / person / f"cam{camera}_{number}.JPG", (4, 8))
    return root


def rows(samples) -> list[tuple[str, int, int]]:
    return [(s.path.name, s.pid, s.camid) for s in samples]


def findings(capsys, *arguments) -> str:
    main(["check", *map(str, arguments)])
    return capsys.readouterr().out


# ---------------------------------------------------------------- layouts


def test_market_layout_under_any_name_counts_the_cameras_that_are_there(tmp_path, trees):
    trees.market(tmp_path / "Größe 2")
    dataset = load_dataset(str(tmp_path / "Größe 2"))
    assert dataset.name == "own-Größe-2" and dataset.official is None and dataset.own
    assert dataset.camera_names == ("1", "2", "3", "4", "6") and dataset.num_cameras == 5
    assert rows(dataset.train)[-1] == ("0007_c6s1_001051_00.jpg", 7, 4)
    assert [s.pid for s in dataset.gallery] == [JUNK, JUNK, DISTRACTOR, 1, 1, 3]


def test_one_folder_a_person(photos, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(str(photos))
    assert dataset.people == {1: "Zoë Müller", 2: "alice", 3: "bob", 4: "李雷"}
    assert dataset.camera_names == ("1", "3") and len(dataset.train) == 16 and not dataset.query
    assert {(s.path.parent.name, s.pid, s.camid) for s in dataset.train} == {
        (name, pid, camera) for pid, name in dataset.people.items() for camera in (0, 1)
    }
    assert not caplog.text
    check_source(dataset)
    refuse_equal_names(dataset.train)  # each has a name of its own, although the files do not
    assert dataset.train[0].stem == "Zoë Müller+cam1_0"


def test_one_folder_a_camera_below_each_person(tmp_path, trees):
    for person, camera in (("b", "hall"), ("b", "door"), ("a", "hall")):
        trees.image(tmp_path / person / camera / "1.png", (4, 8))
    dataset = load_dataset(str(tmp_path))
    assert dataset.camera_names == ("door", "hall")
    assert [(s.pid, s.camid) for s in dataset.train] == [(1, 1), (2, 0), (2, 1)]


def test_folders_of_people_in_each_split(tmp_path, trees):
    for split, person in (("train_all", "0002"), ("train", "0002"), ("query", "0005")):
        trees.image(tmp_path / split / person / f"{person}_c1s1_0.jpg", (4, 8))
    for person in ("0005", "0000", "-1"):
        trees.image(tmp_path / "gallery" / person / f"{person}_c2s1_1.jpg", (4, 8))
    dataset = load_dataset(str(tmp_path))
    assert (len(dataset.train), rows(dataset.query)) == (1, [("0005_c1s1_0.jpg", 5, 0)])
    assert [s.pid for s in dataset.gallery] == [JUNK, DISTRACTOR, 5]


@pytest.mark.parametrize(
    "names, cameras", [(("a.png", "b.webp"), ("1",)), (("c1_a.png", "c2_a.PNG"), ("1", "2"))]
)
def test_a_folder_without_labels_can_be_a_target(tmp_path, trees, names, cameras):
    for name in names:
        trees.image(tmp_path / name, (4, 8))
    dataset = load_dataset(str(tmp_path))
    assert {s.pid for s in dataset.train} == {UNLABELLED} and dataset.camera_names == cameras
    assert dataset.manifest["train_ids"] == 0
    check_target(dataset)
    with pytest.raises(InputError, match="2 of 2 training images have no person.*--target only"):
        check_source(dataset)


def test_a_folder_of_market_names_has_labels(tmp_path, trees):
    for name in ("0002_c1s1_0.jpg", "0003_c2s1_0.jpg"):
        trees.image(tmp_path / name, (4, 8))
    assert [(s.pid, s.camid) for s in load_dataset(str(tmp_path)).train] == [(2, 0), (3, 1)]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda root: None, "expected images, .* found none"),
        (lambda root: (root / "a.heic").touch(), "1 .heic"),
        (lambda root: (root / "list_train.txt").touch(), "msmt17's layout: pass its name and --data-root"),
        (lambda root: (root / "images.csv").write_text("name\nx\n", encoding="utf-8"), "line 1: expected"),
    ],
)
def test_a_folder_that_is_no_dataset_is_one_line(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        load_dataset(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, message",
    [
        ("no/such/folder", "expected a folder of images, found nothing"),
        ("photos", "unknown dataset 'photos': expected one of .*, or the path of a folder"),
        ("./market1501:images=labeled", "unknown option 'images': a folder of your own takes none"),
        ("a,,b", "expected names of datasets between the commas"),
    ],
)
def test_names_that_mean_nothing(name, message):
    with pytest.raises(InputError, match=message):
        load_dataset(name)


# ---------------------------------------------------------------- what is left out is counted


@pytest.mark.parametrize("suffix", [".jpeg", ".jfif", ".webp", ".gif", ".ppm", ".bmp", ".TIF"])
def test_formats_that_are_read(market, suffix, trees):
    trees.image(market / "query" / f"0001_c2s1_000001_00{suffix}", (4, 8))
    assert len(read_dataset("market1501", market).query) == 3


def test_other_files_are_counted(photos, capsys, trees):
    (photos / "__MACOSX").mkdir()
    (photos / "alice" / "Thumbs.db").touch()
    (photos / "alice" / "notes.txt").touch()
    (photos / "bob" / "x.heic").touch()
    trees.image(photos / "loose.jpg", (4, 8))
    trees.image(photos / "bob" / "camera 1" / "y.jpg", (4, 8))
    out = findings(capsys, photos)
    assert "Other files passed over: 1 .heic, 1 .txt, 2 hidden or of the system." in out
    assert "1 images in formats that are not read and left out: 1 .heic" in out
    assert "1 images beside the folders of people left out: loose.jpg" in out
    assert "1 images in folders below those of the people left out" in out


def test_names_with_and_without_a_camera_are_a_finding(photos, capsys, trees):
    trees.image(photos / "bob" / "holiday.jpg", (4, 8))
    out = findings(capsys, photos, "--no-decode")
    assert "1 of 17 image names have no camera (c1, cam1 or camera1), so all images count as one" in out


# ---------------------------------------------------------------- the table


def write_rows(root: Path, *lines: str) -> str:
    root.mkdir(parents=True, exist_ok=True)
    (root / "images.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return str(root)


def test_a_table_describes_any_folder(tmp_path, trees):
    for name in ("monday/1.png", "monday/2.png", "tuesday/1.png", "m/1.png"):
        trees.image(tmp_path / name, (4, 8))
    root = write_rows(
        tmp_path,
        "split;camera;person;path;mask",
        "train;hall;Ann;monday/1.png;m/1.png",
        "query;hall;Bob;monday/2.png;",
        "gallery;door;Bob;tuesday/1.png;",
        "gallery;door;;monday/1.png;",
        "gallery;door;-1;monday/2.png;",
        ";door;Bob;monday/1.png;",
        "train;hall;Ann;gone.png;",
    )
    dataset = load_dataset(root)
    assert dataset.people == {1: "Ann", 2: "Bob"} and dataset.camera_names == ("door", "hall")
    assert rows(dataset.gallery) == [("1.png", DISTRACTOR, 0), ("2.png", JUNK, 0), ("1.png", 2, 0)]
    assert dataset.train[0].mask == tmp_path / "m" / "1.png"
    assert "1 listed images are not on disk and left out: gone.png" in dataset.problems[0]
    assert "1 rows without a split left out" in dataset.problems[1]
    trees.image(tmp_path / "new" / "9.png", (4, 8))
    assert read_dataset(root).skipped == {"images that images.csv does not list": 1}


def test_a_mask_for_some_training_images_only_is_refused(tmp_path, trees):
    for name in ("a.png", "b.png"):
        trees.image(tmp_path / name, (4, 8))
    with pytest.raises(InputError, match="1 training images without a mask beside others .* b.png"):
        load_dataset(write_rows(tmp_path, "path,person,mask", "a.png,Ann,a.png", "b.png,Ann,"))


def test_a_table_of_paths_alone_is_a_target_without_labels(tmp_path, trees):
    trees.image(tmp_path / "a" / "1.png", (4, 8))
    dataset = load_dataset(write_rows(tmp_path, "path", "a/1.png"))
    assert [(s.pid, s.camid) for s in dataset.train] == [(UNLABELLED, 0)]


@pytest.mark.parametrize(
    "lines, message",
    [
        (["person,camera"], "line 1: expected the names of the columns, path and any of"),
        (["path,path"], "line 1: expected the names of the columns"),
        (["path,split", "a.png,test"], "line 2: split 'test': expected train, query, gallery or nothing"),
        (["path,split", "a.png"], "line 2: expected 2 columns, found 1"),
        (["path,camera", "a.png,"], "line 2: expected a camera, found nothing"),
        (["path,split", "a.png,query"], "line 2: expected the person of a query"),
        (["path,person", ",Ann"], "line 2: expected the path of an image"),
        (["path", "a.png", "a.png"], "a.png is listed more than once in train"),
        (["path", "b.png"], "1 listed images are not on disk"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path, trees, lines, message):
    trees.image(tmp_path / "a.png", (4, 8))
    with pytest.raises(InputError, match=message) as error:
        load_dataset(write_rows(tmp_path, *lines))
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- a protocol


def split(*arguments) -> int:
    return main(["split", *map(str, arguments)])


def test_split_makes_a_test_set_that_can_be_scored(photos, capsys):
    assert split(photos, "--query-per-camera", 1, "--test-people", 0.5, "--seed", 0) == 0
    assert (
        "8 train images (2 ids), 4 query images (2 ids), 4 gallery images (2 ids)" in capsys.readouterr().out
    )
    dataset = load_dataset(str(photos))
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (8, 4, 4)
    assert unmatched_queries(dataset) == 0
    assert not {s.pid for s in dataset.train} & {s.pid for s in (*dataset.query, *dataset.gallery)}
    before = (photos / "images.csv").read_bytes()
    assert split(photos) == 2 and "a table is there already" in capsys.readouterr().err
    assert split(photos, "--overwrite") == 0 and (photos / "images.csv").read_bytes() == before


def test_split_does_not_move_the_others_when_a_person_is_added(photos, trees):
    def splits(out: Path) -> dict[str, str]:
        assert split(photos, "--out", out) == 0
        with open(out, encoding="utf-8", newline="") as file:
            return {row["path"]: row["split"] for row in csv.DictReader(file)}

    before = splits(photos.parent / "one.csv")
    for camera in (1, 3):
        trees.image(photos / "new" / f"cam{camera}_0.jpg", (4, 8))
    after = splits(photos.parent / "two.csv")
    moved = {Path(path).parts[-2] for path in before if (before[path] == "train") != (after[path] == "train")}
    assert len(moved) <= 1  # the share of test people is rounded


def test_split_of_junk_and_distractors_keeps_them_in_the_gallery(market, capsys, trees):
    for number in range(4, 8):
        for camera in (1, 2):
            trees.image(market / "query" / f"{number:04}_c{camera}s1_000001_00.jpg", (4, 8))
    assert split(market) == 0
    assert sum(s.pid < 1 for s in load_dataset(str(market)).gallery) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--test-people", "1"], "expected at least 1, a share between 0 and 1"),
        (["--camera-pattern", "cam("], "expected a regular expression with one group"),
        (["--camera-pattern", "cam"], "expected a regular expression with one group"),
        (["--camera-pattern", "nothing_(.)"], "matches nothing in"),
        (["--camera-pattern", "(cam)"], "found 4 people and 0 under two cameras"),
    ],
)
def test_a_protocol_that_cannot_be_made(photos, capsys, arguments, message):
    assert split(photos, *arguments) == 2
    assert message in capsys.readouterr().err and not (photos / "images.csv").exists()


def test_the_camera_may_be_anywhere_in_the_path(tmp_path, trees):
    for person in "abc":
        for place in ("hall", "door"):
            trees.image(tmp_path / person / f"{place}-1.jpg", (4, 8))
    assert split(tmp_path, "--camera-pattern", r"/(\w+)-") == 0
    dataset = load_dataset(str(tmp_path))  # one image a camera: the other camera is the gallery
    assert dataset.camera_names == ("door", "hall") and len(dataset.query) == len(dataset.gallery) == 2
    assert unmatched_queries(dataset) == 0


# ---------------------------------------------------------------- names on the command line


def test_several_datasets_are_one(photos, market, trees):
    trees.duke(market.parent / "DukeMTMC-reID")
    everything = read_dataset(f"{photos},market1501,{photos}", market.parent)  # its name has a comma
    assert len(everything.parts) == 3
    both = read_dataset(f"market1501,{market.parent}/DukeMTMC-reID", market.parent)
    first, second = read_dataset("market1501", market), read_dataset(str(market.parent / "DukeMTMC-reID"))
    assert len(both.train) == len(first.train) + len(second.train)
    assert both.num_cameras == first.num_cameras + second.num_cameras
    assert len(both.train_labels) == len(first.train_labels) + len(second.train_labels)
    assert [s.pid for s in both.gallery if s.pid < 1] == [-1, -1, 0]
    assert both.manifest["hash"] not in (first.manifest["hash"], second.manifest["hash"])


def test_equal_names_of_two_datasets_get_a_number(photos, tmp_path):
    other = photos.with_name("other")
    photos.rename(photos.with_name("one"))
    (photos.with_name("one") / "alice").rename(other)
    dataset = read_dataset(f"{other},{other}")
    assert len({s.stem for s in dataset.train}) == len(dataset.train) == 8


@pytest.mark.parametrize(
    "text, names",
    [
        ("market1501", ["market1501"]),
        ("msmt17@c1,10,dukemtmc", ["msmt17@c1,10", "dukemtmc"]),
        (
            "cuhk03:images=labeled,protocol=767/700,./photos",
            ["cuhk03:images=labeled,protocol=767/700", "./photos"],
        ),
    ],
)
def test_commas_separate_datasets_options_and_cameras(text, names):
    assert split_names(text) == names


def test_options_of_a_reader_stand_in_its_name(tmp_path, trees):
    trees.cuhk03_extracted(tmp_path / "cuhk03", "labeled")
    dataset = load_dataset("cuhk03:images=labeled,protocol=classic,split=1", tmp_path)
    assert {s.pid for s in dataset.query} == {1002}
    assert dataset.manifest["options"] == {"images": "labeled", "protocol": "classic", "split": 1}


def test_labels_tell_folders_of_one_name_apart(photos, tmp_path):
    label = label_of(str(photos), DATASETS)
    assert label.startswith("own-my-photos-2026-") and label == label_of(f"{photos}/", DATASETS)
    assert label_of(f"{photos}@c12", DATASETS) == f"{label}@c12"
    (tmp_path / "b" / photos.name).mkdir(parents=True)
    assert label_of(str(tmp_path / "b" / photos.name), DATASETS) != label
    assert label_of("cuhk03:images=labeled", DATASETS) == "cuhk03:images=labeled"


def test_cameras_of_an_own_dataset(photos):
    (photos / "alice" / "cam1_0.JPG").rename(photos / "alice" / "cam7_0.JPG")
    part = read_dataset(f"{photos}@c13")
    assert part.camera_names == ("1", "7") and {s.camid for s in part.train} == {0}
    with pytest.raises(InputError, match="expected at least two cameras"):
        read_dataset(f"{photos}@c2")


def test_names_are_written_down(photos, capsys):
    out = photos.parent / "names.csv"
    assert "People: 1 = Zoë Müller, 2 = alice" in findings(capsys, photos, "--names", out)
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["kind,number,name", "camera,1,1", "camera,2,3"] and "person,4,李雷" in lines


# ---------------------------------------------------------------- what will be refused later is refused now


@pytest.mark.parametrize("pid", ["0000", "-1"])
def test_queries_that_are_no_people_are_refused_before_training(market, pid, trees):
    trees.image(market / "query" / f"{pid}_c1s1_000001_00.jpg", (4, 8))
    with pytest.raises(InputError, match=f"a query of id {int(pid)} .* neither of which can be searched for"):
        load_dataset("market1501", market)


def test_queries_without_a_match_are_counted(market, caplog, capsys):
    (market / "bounding_box_test" / "0003_c4s6_015641_02.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        assert unmatched_queries(load_dataset("market1501", market)) == 1
    assert "1 of 2 queries have no image of the same person under another camera" in caplog.text
    assert "1 of 2 queries have no image of the same person" in findings(
        capsys, "market1501", "--root", market
    )


@pytest.mark.parametrize("name", ["market1501", None])
def test_a_test_set_needs_no_training_images(market, name):
    for image in (market / "bounding_box_train").iterdir():
        image.unlink()
    (market / "bounding_box_train").rmdir()
    dataset = load_dataset(name or str(market), market, needs=("query", "gallery"))
    assert not dataset.train and len(dataset.query) == 2
    with pytest.raises(InputError, match="no images in train"):
        load_dataset(name or str(market), market, needs=("train", "query", "gallery"))
    with pytest.raises(InputError, match="a --target needs some to adapt to"):
        check_target(dataset)
