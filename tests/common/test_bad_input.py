"""A table of bad inputs: each ends in one line, exit code 2, and changes nothing on disk.

To extend it, add a line: the words after the command, and a part of the expected line. Contents of files
(checkpoints, images, features, TOML, records) have their own tables in `test_doors.py` and
`tests/reports/test_reports_input.py`.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from common.flags import one_line
from common.records import PAPERS

# {out}: an output folder that does not exist yet; {file}: a text file; {folder}: a folder
TRAIN = {
    "--sede 1": "unknown flag --sede, did you mean --seed? (see --help)",
    "--recipe.weight-dacay 1": "unknown flag --recipe.weight-dacay, did you mean --recipe.weight-decay?",
    "--recipe.no-epochs": "unknown flag --recipe.no-epochs, did you mean --recipe.epochs?",
    "--zzz": "unknown flag --zzz (see --help)",
    "stray": "Unrecognized options: stray (see --help)",
    "--seed": "Missing value for argument '--seed'",
    "--seed x": "Error parsing --seed: invalid literal for int() with base 10: 'x' (see --help)",
    "--seed -1": "--seed -1: expected 0 or more",
    "--seed 1e20": "Error parsing --seed",
    "--seed 1000000000000000000000000000000": "--seed 1e+30: expected 0 or more",
    "--data-seed -1": "--data-seed -1: expected 0 or more",
    "--workers -1": "--workers -1: expected 0 or more",
    "--threads -1": "--threads -1: expected 0 or more",
    "--device gpu": "invalid choice 'gpu' for argument '--device'",
    "--precision fp16": "invalid choice 'fp16' for argument '--precision'",
    "--preset dmo": "unknown preset 'dmo'",
    "--preset --seed 1": "unknown preset '--seed'",
    "--experiment": "--experiment: expected one or more values, found none (see --help)",
    "--experiment --seed 1": "--experiment: expected one or more values, found none (see --help)",
    "--experiment a --experiment b": "--experiment is given 2 times: list all values after one",
    "--experiment nobody/t/x": "unknown experiment 'nobody/t/x': see --list-experiments",
    "--resume --fresh": "--resume and --fresh contradict each other",
    "--recipe.epochs 1.5": "Error parsing --recipe.epochs: invalid literal for int()",
    "--recipe.epochs nan": "Error parsing --recipe.epochs",
    "--recipe.weight-decay nan": "--recipe.weight-decay nan: expected",
    "--recipe.weight-decay inf": "--recipe.weight-decay inf: expected",
    "--net.weights {out}/gone.pth": "gone.pth",
    "--net.weights {file}": "not a checkpoint that torch can read safely",
    "--source nowhere": "unknown dataset 'nowhere'",
    "--target synthetic-markt": "did you mean 'synthetic-market'?",
    "--source market1501 --target market1501 --data-root {folder}": "market1501 needs bounding_box_train",
    "--source market1501 --target market1501 --data-root {file}": "market1501",
    "--out {file}": "{file}",
    "--out /proc/none/out": "no finished file has been overwritten",
}
EVALUATE = {
    "": "Missing from ",
    "--chekpoint x": "unknown flag --chekpoint, did you mean --checkpoint? (see --help)",
    "--checkpoint": "Missing value for argument '--checkpoint'",
    "--checkpoint {out}/model.pt": "model.pt: expected a checkpoint, found no such file",
    "--checkpoint {folder}": "expected a checkpoint, found a folder",
    "--checkpoint {file}": "not a checkpoint that torch can read safely",
    "--checkpoint /dev/null": "expected a checkpoint, found a pipe or a device",
    "--checkpoint x --workers -1": "--workers -1: expected 0 or more",
    "--checkpoint x --workers many": "Error parsing --workers: invalid literal for int()",
    "--checkpoint x --device gpu": "invalid choice 'gpu' for argument '--device'",
    "--checkpoint x --rerank 3": "Unrecognized options: 3 (see --help)",
    "--checkpoint x stray": "Unrecognized options: stray (see --help)",
}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Runs `main(words)` in an empty folder and returns its only line of error."""
    monkeypatch.setenv("COLUMNS", "200")  # tyro breaks lines at the terminal's width

    def run(module: str, words: str) -> str:
        (tmp_path / "file").write_text("a text", encoding="utf-8")
        (tmp_path / "folder").mkdir()
        before = files(tmp_path)
        main = importlib.import_module(module).main
        argv = words.format_map(places(tmp_path)).split()
        if module.endswith("train") and "--out" not in argv:
            argv += ["--out", str(tmp_path / "out")]
        assert main(argv) == 2
        assert files(tmp_path) == before
        (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("== "))
        assert line.startswith("error: ")
        return line

    return run


def places(folder: Path) -> dict[str, str]:
    return {name: str(folder / name) for name in ("out", "file", "folder")}


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_paper_each(cases: dict[str, str]) -> list[tuple[str, str]]:
    """Returns the papers in turn, one for each case: they share the code that refuses."""
    return list(zip(itertools.cycle(PAPERS), cases))


@pytest.mark.parametrize("paper, words", one_paper_each(TRAIN))
def test_train(refused, tmp_path, paper, words):
    # a row that needs no TensorFlow, which may be missing
    row = "--experiment spgan/table2/direct " if paper == "spgan" and "{" in words else ""
    assert TRAIN[words].format_map(places(tmp_path)) in refused(f"{paper}.train", row + words)


@pytest.mark.parametrize("paper, words", one_paper_each(EVALUATE))
def test_evaluate(refused, paper, words):
    assert EVALUATE[words] in refused(f"{paper}.evaluate", words)


COMMANDS = {
    "common.datasets": {
        "": "the following arguments are required: COMMAND",
        "chek market1501": "invalid choice: 'chek'",
        "check": "the following arguments are required: NAME",
        "check market1501 --rot x": "unknown flag --rot, did you mean --root?",
        "check market1501 --jobs x": "argument --jobs: invalid int value: 'x'",
    },
    "reports": {
        "": "the following arguments are required: command",
        "bild": "invalid choice: 'bild'",
        "sweep --papr hhl": "unknown flag --papr, did you mean --paper?",
        "sweep --jobs x": "argument --jobs: invalid int value: 'x'",
        "collect": "the following arguments are required: FOLDER",
    },
}


@pytest.mark.parametrize("module, words", [(m, words) for m, cases in COMMANDS.items() for words in cases])
def test_commands(capsys, module, words):
    main = importlib.import_module(f"{module}.__main__").main
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and COMMANDS[module][words] in line


FRAMED = """
╭─ Value error ─────────╮
│ Error parsing --seed: │
│ no number             │
│ ───────────────────── │
│ Argument helptext:    │
╰───────────────────────╯
"""
PLAIN = """
 Value error
 ---------------------
  Error parsing --seed:
  no number
  ---------------------
  Argument helptext:
"""


@pytest.mark.parametrize("box", [FRAMED, PLAIN], ids=["utf-8", "ascii"])
def test_boxes_become_one_line(box):
    assert one_line(box.strip("\n")) == "Error parsing --seed: no number"
