from __future__ import annotations

import json
import shutil
import sys

import pytest

from common.datasets import DATASETS, read_dataset
from common.datasets.__main__ import main
from common.datasets.base import SPLITS, Official, count
from common.datasets.doctor import examine, report_lines
from common.datasets.market1501 import OFFICIAL as MARKET_OFFICIAL


@pytest.fixture
def complete(market, monkeypatch):
    """The small tree with its own counts as the published ones."""
    dataset = read_dataset("market1501", market)
    own = Official(*(count(getattr(dataset, split), 6) for split in SPLITS))
    monkeypatch.setattr("common.datasets.market1501.OFFICIAL", own)
    return market


def check(capsys, *arguments) -> tuple[int, str, str]:
    code = main(["check", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def test_a_complete_copy_has_no_findings(complete, capsys):
    code, out, err = check(capsys, "market1501", "--root", complete.parent)
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[0] == f"market1501   {complete}"
    assert lines[2].split() == "images ids junk distractors cam 1 cam 2 cam 3 cam 4 cam 5 cam 6".split()
    assert lines[5].split() == "gallery 6 2 2 1 3 2 0 1 0 0".split()
    assert "All counts as published." in lines and "12 images decoded without error." in lines
    assert "Why 4?  6 gallery files - 2 junk = 4 images to rank, incl. 1 distractors." in lines
    assert lines[-1] == "No findings: ready to use."


def test_the_question_of_the_field_is_answered_by_the_published_counts():
    gallery = MARKET_OFFICIAL.gallery
    assert gallery.images - gallery.junk == 15_913
    for split in SPLITS:
        counts = getattr(MARKET_OFFICIAL, split)
        assert sum(counts.cameras) == counts.images


@pytest.mark.parametrize("name", ["market1501", "dukemtmc", "cuhk03"])
def test_published_camera_counts_add_up(name):
    for split in SPLITS:
        counts = getattr(DATASETS[name].about.official, split)
        assert counts.cameras is None or sum(counts.cameras) == counts.images


def test_a_subset_is_a_finding_with_both_counts(market, capsys):
    code, out, _ = check(capsys, "market1501", "--root", market)
    assert code == 1
    assert out.splitlines()[4].split()[:3] == ["official", "12,936", "751"]
    assert "  1. train and query and gallery: counts differ from the published ones" in out
    assert "     -> unpack the archive again; if this is a subset on purpose" in out


def test_broken_images_are_named(complete, capsys):
    truncate(complete / "bounding_box_train" / "0002_c1s1_000451_03.jpg")
    (complete / "query" / "0003_c3s1_000551_00.jpg").write_bytes(b"")
    (complete / "bounding_box_test" / "0000_c1s1_000151_01.jpg").write_text(
        "<html>404</html>", encoding="utf-8"
    )
    code, out, _ = check(capsys, "market1501", "--root", complete, "--jobs", 2)
    assert code == 1 and "9 images decoded without error." in out
    assert (
        "3 of 12 images cannot be decoded: bounding_box_test/0000_c1s1_000151_01.jpg, "
        "bounding_box_train/0002_c1s1_000451_03.jpg, query/0003_c3s1_000551_00.jpg"
    ) in out
    assert "-> replace these files by those of the archive" in out
    code, out, _ = check(capsys, "market1501", "--root", complete, "--no-decode")
    assert code == 0 and "Images not decoded." in out


def test_identical_files_are_reported_without_being_a_finding(complete, capsys):
    shutil.copy(
        complete / "query" / "0001_c1s1_001051_00.jpg",
        complete / "bounding_box_test" / "0001_c1s1_002301_01.jpg",
    )
    code, out, _ = check(capsys, "market1501", "--root", complete)
    assert code == 0
    names = "bounding_box_test/0001_c1s1_002301_01.jpg = query/0001_c1s1_001051_00.jpg"
    assert f"1 group of files with identical content: {names}" in out


def test_everything_wrong_is_said_at_once(market, trees):
    trees.image(market / "query" / "0007_c1s1_000001_00.jpg")
    trees.image(market / "query" / "0001_c1s1_001051_00.png")
    trees.image(market / "bounding_box_test" / "0001_c7s1_000001_00.jpg")
    trees.image(market / "bounding_box_test" / "holiday.jpg")
    report = examine(read_dataset("market1501", market))
    whats = [what for what, _ in report.findings]
    assert len(whats) == 5
    for part in (
        "holiday.jpg",
        "camera 7",
        "occur more than once in query",
        "ids are in train and in query",
        "counts differ",
    ):
        assert sum(part in what for what in whats) == 1
    text = "\n".join(report_lines(report))
    assert "5 findings:" in text and "  5. " in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["market", "--root", "."], "unknown dataset 'market' (did you mean 'market1501'?)"),
        (["market1501"], "market1501: no folder given"),
        (
            ["market1501", "--root", "no/such/folder"],
            "no/such/folder: expected a folder with market1501, found nothing",
        ),
        (["market1501", "--root", ".", "--jobs", "0"], "--jobs 0: expected at least 1"),
        (["cuhk03", "--root", ".", "--option", "images"], "option images: expected KEY=VALUE"),
        (
            ["cuhk03", "--root", ".", "--option", "split=3"],
            "cuhk03: split 3: expected 0 to 19 with protocol classic",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, message):
    code, out, err = check(capsys, *arguments)
    assert code == 2 and out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1


def test_options_reach_the_reader(tmp_path, trees, capsys):
    trees.cuhk03_extracted(tmp_path / "cuhk03")
    code, out, _ = check(
        capsys, "cuhk03", "--root", tmp_path, "--option", "protocol=classic", "--option", "split=1"
    )
    # the counts of the classic splits are not published one by one
    assert code == 0 and "official" not in out


def test_duke_is_called_withdrawn(tmp_path, trees, capsys):
    trees.duke(tmp_path / "DukeMTMC-reID")
    assert (
        "Note: withdrawn by its authors in 2019; nothing here fetches it."
        in check(capsys, "dukemtmc", "--root", tmp_path)[1]
    )


def test_list_names_every_dataset(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert (
        all(f"\n{name} " in out for name in DATASETS)
        and "withdrawn by its authors in 2019" in out
        and "12,936    751   3,368   19,732" in out
    )


def test_make_renders_into_the_given_folder(capsys, monkeypatch, tmp_path, market):
    calls = []

    def load_synthetic(name, root=None, *, data_seed=0):
        calls.append((name, root, data_seed))
        return read_dataset("market1501", market)

    module = type(sys)("common.datasets.synthetic")
    module.load_synthetic = load_synthetic
    monkeypatch.setitem(sys.modules, "common.datasets.synthetic", module)
    assert main(["make", "synthetic-market", "--root", str(tmp_path), "--data-seed", "2"]) == 0
    assert calls == [("synthetic-market", str(tmp_path), 2)] and str(market) in capsys.readouterr().out
    assert main(["make", "market1501"]) == 2
    assert "invalid choice: 'market1501'" in capsys.readouterr().err


def test_manifest_identifies_a_copy(market):
    before = read_dataset("market1501", market).manifest
    assert (before["train"], before["train_ids"], before["query"], before["gallery"], before["cameras"]) == (
        4,
        2,
        2,
        6,
        6,
    )
    assert json.loads(json.dumps(before)) == before
    truncate(market / "query" / "0003_c3s1_000551_00.jpg")
    assert read_dataset("market1501", market).manifest["hash"] != before["hash"]
