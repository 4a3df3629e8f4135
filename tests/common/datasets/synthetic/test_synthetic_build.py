"""The synthetic domains as files: layout, determinism, completeness, and errors."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.datasets.base import DISTRACTOR, JUNK
from common.datasets.synthetic import (
    DOMAINS,
    ImageKey,
    SyntheticDomain,
    dataset_folder,
    load_synthetic,
    oracle,
    unstyled,
)
from common.datasets.synthetic.build import FOLDERS
from common.errors import InputError

SMALL = {"data_seed": 5, "train_ids": 6, "test_ids": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("synthetic")


@pytest.fixture(scope="module", params=sorted(DOMAINS))
def dataset(request, root):
    return load_synthetic(request.param, root, **SMALL, workers=1)


def hashes(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_layout_and_counts(dataset):
    assert dataset.num_cameras == {"synthetic-market": 6, "synthetic-duke": 8}[dataset.name]
    assert {s.pid for s in dataset.train} == set(range(1, 7))
    assert {s.pid for s in dataset.query} == set(range(7, 12))
    assert {s.pid for s in dataset.gallery} == {JUNK, DISTRACTOR, *range(7, 12)}
    for split, folder in FOLDERS.items():
        samples = getattr(dataset, split)
        names = [s.path.name for s in samples]
        assert names == sorted(os.listdir(dataset.root / folder))
        assert [s.mask.name for s in samples] == [name.replace(".jpg", ".png") for name in names]
        assert sorted(os.listdir(dataset.root / "masks" / folder)) == sorted(s.mask.name for s in samples)
        assert all(0 <= s.camid < dataset.num_cameras for s in samples)
    assert len({s.path.name for split in FOLDERS for s in getattr(dataset, split)}) == sum(
        len(getattr(dataset, split)) for split in FOLDERS
    )


def test_junk_and_distractors_have_their_share(dataset):
    counts = Counter(s.pid if s.pid <= 0 else 1 for s in dataset.gallery)
    assert counts[DISTRACTOR] == round(0.15 * counts[1]) and counts[JUNK] == round(0.05 * counts[1])


def test_images_and_masks_are_128_by_64(dataset):
    for sample in (dataset.train[0], dataset.query[-1], dataset.gallery[0]):
        image, mask = Image.open(sample.path), Image.open(sample.mask)
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 128))
        assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (64, 128))
        assert set(np.unique(mask)) <= {0, 255}
        assert np.array_equal(mask, SyntheticDomain(dataset.name, 5).mask(ImageKey.parse(sample.path)))


def test_every_query_has_a_match_in_another_camera_and_every_id_four_cameras(dataset):
    cameras = defaultdict(set)
    for sample in dataset.gallery:
        cameras[sample.pid].add(sample.camid)
    for sample in dataset.query:
        assert cameras[sample.pid] - {sample.camid}
    queries = Counter((s.pid, s.camid) for s in dataset.query)
    assert set(queries.values()) == {1}  # one query an id and camera
    assert min(Counter(pid for pid, _ in queries).values()) >= 4


def test_the_oracle_equals_the_file_with_the_own_camera_only(dataset):
    for sample in (*dataset.train[:3], *dataset.query[:2], *dataset.gallery[:2], *dataset.gallery[-2:]):
        pixels = np.asarray(Image.open(sample.path))
        assert np.array_equal(oracle(sample, sample.camid), pixels)
        other = oracle(sample.path, (sample.camid + 1) % dataset.num_cameras)
        assert other.shape == (128, 64, 3) and other.dtype == np.uint8
        assert np.abs(other.astype(int) - pixels).mean() > 2
        assert unstyled(sample).shape == (128, 64, 3)


def test_the_oracle_refuses_what_it_cannot_know(dataset, tmp_path):
    with pytest.raises(InputError, match="camera 8|camera 6"):
        oracle(dataset.train[0], dataset.num_cameras)
    with pytest.raises(InputError, match="manifest"):
        oracle(tmp_path / "train" / "0001_c1s1_000001_00.jpg", 0)
    with pytest.raises(InputError, match="not a file name"):
        oracle(dataset.train[0].path.with_name("cat.jpg"), 0)


def test_two_processes_draw_the_same_bytes(dataset, tmp_path):
    again = load_synthetic(dataset.name, tmp_path, **SMALL, workers=2)
    assert again.root != dataset.root and again.root.name == dataset.root.name
    assert hashes(again.root) == hashes(dataset.root)


def test_an_image_does_not_depend_on_how_many_ids_there_are(dataset, tmp_path):
    more = load_synthetic(dataset.name, tmp_path, data_seed=5, train_ids=7, test_ids=1, workers=1)
    assert more.root.name != dataset.root.name
    assert (more.root / "bounding_box_train" / dataset.train[0].path.name).read_bytes() == dataset.train[
        0
    ].path.read_bytes()


def test_other_parameters_go_to_other_folders(tmp_path):
    folders = {
        dataset_folder(name, tmp_path, data_seed=seed, train_ids=train, test_ids=test)
        for name in DOMAINS
        for seed, train, test in ((0, 5, 5), (1, 5, 5), (0, 6, 5), (0, 5, 6))
    }
    assert len(folders) == 8


def test_the_cache_folder_is_used_without_a_root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert dataset_folder("synthetic-duke").parent == tmp_path / "crossdomain-reid"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dataset_folder("synthetic-duke").parent == tmp_path / ".cache" / "crossdomain-reid"


def test_a_data_root_that_nobody_may_write_to_sends_it_to_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "data")
    dataset = load_synthetic("synthetic-market", tmp_path / "data", train_ids=1, test_ids=1)
    assert dataset.root.is_relative_to(tmp_path / "cache") and not list((tmp_path / "data").iterdir())


def test_a_second_call_reads_and_draws_nothing(dataset, monkeypatch):
    monkeypatch.setattr("common.datasets.synthetic.build._draw_files", lambda *_: pytest.fail("drawn again"))
    assert load_synthetic(dataset.name, dataset.root.parent, **SMALL).manifest == dataset.manifest


def test_two_builds_at_once_make_one_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=load_synthetic, args=("synthetic-market", tmp_path), kwargs={**SMALL, "workers": 1}
        )
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [
        dataset_folder("synthetic-market", **SMALL).name
    ]


def test_a_killed_build_leaves_nothing_that_is_taken_for_good(tmp_path):
    options = {"data_seed": 5, "train_ids": 400, "test_ids": 1}
    arguments = f"'synthetic-market', {str(tmp_path)!r}, **{options}, workers=1"
    script = f"from common.datasets.synthetic import load_synthetic; load_synthetic({arguments})"
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 30
    while not any(tmp_path.rglob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = dataset_folder("synthetic-market", tmp_path, **options)
    partial = folder.with_name(f".{folder.name}.partial")
    assert partial.is_dir() and not folder.exists()

    small = dataset_folder("synthetic-market", tmp_path, **SMALL)
    # the same leftovers under a name that is quick to build
    partial.rename(small.with_name(f".{small.name}.partial"))
    assert len(load_synthetic("synthetic-market", tmp_path, **SMALL, workers=1).train_labels) == 6
    assert not list(tmp_path.glob(".*.partial"))


def test_a_failure_while_drawing_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.datasets.synthetic.build._draw_one", full)
    with pytest.raises(InputError, match="No space left"):
        load_synthetic("synthetic-duke", tmp_path, **SMALL, workers=1)
    assert not dataset_folder("synthetic-duke", tmp_path, **SMALL).exists()


def _lose(folder: Path) -> str:
    path = sorted((folder / "query").iterdir())[0]
    path.unlink()
    return path.name


def _truncate(folder: Path) -> str:
    path = sorted((folder / "bounding_box_train").iterdir())[3]
    path.write_bytes(path.read_bytes()[:200])
    return path.name


def _lose_masks(folder: Path) -> str:
    for path in (folder / "masks" / "query").iterdir():
        path.unlink()
    return "masks/query"


def _add(folder: Path) -> str:
    (folder / "bounding_box_test" / "holiday.jpg").write_bytes(b"x")
    return "holiday.jpg"


def _lose_manifest(folder: Path) -> str:
    (folder / "manifest.json").unlink()
    return "manifest.json"


def _spoil_manifest(folder: Path) -> str:
    (folder / "manifest.json").write_text(json.dumps([1, 2]), encoding="utf-8")
    return "manifest.json"


@pytest.mark.parametrize("damage", [_lose, _truncate, _lose_masks, _add, _lose_manifest, _spoil_manifest])
def test_a_damaged_folder_is_named_and_left_alone(damage, tmp_path):
    options = {"data_seed": 5, "train_ids": 1, "test_ids": 1}
    folder = load_synthetic("synthetic-market", tmp_path, **options, workers=1).root
    named = damage(folder)
    before = hashes(folder)
    with pytest.raises(InputError) as error:
        load_synthetic("synthetic-market", tmp_path, **options)
    assert named in str(error.value) and "delete" in str(error.value) and "\n" not in str(error.value)
    assert hashes(folder) == before


@pytest.mark.parametrize(
    "options", [{"train_ids": 0}, {"test_ids": -1}, {"train_ids": 9999, "test_ids": 1}, {"data_seed": -1}]
)
def test_impossible_numbers_are_refused(options, tmp_path):
    with pytest.raises(InputError):
        load_synthetic("synthetic-market", tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="synthetic-duke"):
        load_synthetic("synthetic-cuhk", tmp_path)


@pytest.mark.parametrize(
    "name", ["0001_c1s1_000151_01.jpg", "1_c1s1_000151_00.jpg", "0001_c1s1_000151_00.png", "-1.jpg"]
)
def test_foreign_file_names_are_refused(name):
    with pytest.raises(InputError):
        ImageKey.parse(name)


@pytest.mark.parametrize(
    "key", [ImageKey(7, 0, 1, 451), ImageKey(JUNK, 7, 6, 1), ImageKey(DISTRACTOR, 3, 2, 99_999)]
)
def test_names_and_keys_are_one_to_one(key):
    assert ImageKey.parse(Path("query") / key.file_name) == key


def test_importing_the_package_needs_no_torch():
    test = "'torch' in sys.modules or 'tensorflow' in sys.modules"
    script = f"import sys, common.datasets.synthetic; sys.exit({test})"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
