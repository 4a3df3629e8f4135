"""Hands unusable records, pictures and TOML files to the reports: each ends with one line."""

import copy
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from common.content import read_bytes, read_text
from common.errors import InputError
from common.provenance import ROOT
from common.published import published_file, read_toml
from common.records import METRICS, PAPERS, read_record
from reports.__main__ import main
from reports.build import _own_figures
from reports.claims import all_claims
from reports.collect import check_together, collect, read_picture, read_results
from reports.consistency import problems
from reports.coverage import coverage_problems
from reports.experiments import sweep_entries
from reports.figures import figure_specs
from reports.views import BaselinesFile

FUZZ = settings(
    max_examples=80,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SCORE = dict(zip(METRICS, (0.5, 0.9, 0.95, 0.99, 0.3, 0.31)))
GOOD = {
    "paper": "hhl",
    "key": "hhl/table2/L_CD",
    "preset": "demo",
    "source": "synthetic-duke",
    "target": "synthetic-market",
    "seed": 0,
    "config": {"net": {"width": 2, "cut": None}, "beta": 0.5},
    "config_hash": "c",
    "data": {"source": {"name": "synthetic-duke", "hash": "1", "train": 3}},
    "scores": {"last": SCORE},
    "measures": {"style_gap": 1.5},
    "stages": {"reid": {"hash": "h", "reused": False, "seconds": 1.0}},
    "selection": "last epoch",
    "code_version": "v",
    "libraries": {"numpy": "2"},
    "hardware": {"cores": 2, "cpu": "x"},
    "seconds": 1.0,
    "curves": ["stages/reid-h/curves.jsonl"],
    "pictures": ["runs/a.png"],
    "created": "2026-01-01T00:00:00+00:00",
    "schema": 1,
}
NAN = float("nan")


def changed(path: str, value) -> dict:
    """Returns a good record with the value at a dotted path replaced."""
    data = json.loads(json.dumps(GOOD))
    *parents, last = path.split(".")
    part = data
    for name in parents:
        part = part[name]
    part[last] = value
    return data


def deep(levels: int) -> dict:
    value: dict = {}
    for _ in range(levels):
        value = {"a": value}
    return value


BAD_FIELDS = [
    *((name, None, "wrong type in") for name in GOOD if name != "schema"),
    *((name, ["x"], "wrong type in") for name in GOOD if name not in ("schema", "curves", "pictures")),
    ("scores.last", 3, "wrong type in scores.last: expected an object, found 3"),
    ("scores.last.R-1", "0.5", "wrong type in scores.last.R-1: expected a finite number, found '0.5'"),
    ("scores.last.R-1", True, "wrong type in scores.last.R-1"),
    ("scores.last.R-1", NAN, "wrong type in scores.last.R-1: expected a finite number, found nan"),
    ("measures.style_gap", 10**400, "wrong type in measures.style_gap"),
    ("measures.style_gap", {}, "wrong type in measures.style_gap"),
    ("seconds", NAN, "wrong type in seconds"),
    ("seconds", -1.0, "expected 0 or more"),
    ("config.beta", NAN, "wrong type in config.beta"),
    ("config.net.width", float("-inf"), "wrong type in config.net.width"),
    ("config.net", deep(50), "nested too deeply"),
    ("hardware.cores", NAN, "wrong type in hardware.cores"),
    ("stages.reid", [], "wrong type in stages.reid"),
    ("stages.reid.seconds", NAN, "wrong type in stages.reid.seconds"),
    ("data.source", "synthetic-duke", "wrong type in data.source"),
    ("data.source.name", ["synthetic-duke"], "data of source: wrong type in name"),
    ("data.source.hash", {}, "data of source: wrong type in hash"),
    ("data.source.train", NAN, "wrong type in data.source.train"),
    ("libraries.numpy", 2, "wrong type in libraries.numpy"),
    ("seed", True, "wrong type in seed"),
    ("seed", 1.0, "wrong type in seed"),
    ("seed", -1, "seed -1"),
    ("seed", 10**12, "seed 1000000000000"),
    ("schema", NAN, "schema: expected 1, found nan"),
    ("source", "a\nb", "source: expected one line of text"),
    ("source", "\ud800", "wrong type in source"),
    ("source", "a\0b", "wrong type in source"),
    ("preset", "", "preset: expected one line of text"),
    ("created", "yesterday", "created: expected a date or time in UTC"),
    ("created", "2026-13-01", "created: expected a date or time in UTC"),
    ("created", "2026-01-01T00:00:00+05:00", "created: expected a date or time in UTC"),
    ("pictures", ["/etc/passwd"], "expected a path below the output folder"),
    ("pictures", ["../a.png"], "expected a path below the output folder"),
    ("pictures", ["runs/../../a.png"], "expected a path below the output folder"),
    ("pictures", [""], "expected a path below the output folder"),
    ("pictures", ["."], "expected a path below the output folder"),
    ("pictures", ["a\\..\\b.png"], "expected a path below the output folder"),
    ("pictures", [3], r"wrong type in pictures\[0\]"),
    ("curves", ["/tmp/x"], "expected a path below the output folder"),
    ("curves", "abc", "wrong type in curves"),
]


@pytest.mark.parametrize("path, value, words", BAD_FIELDS)
def test_an_unusable_field_of_a_record_is_named(path, value, words):
    with pytest.raises(InputError, match=f"^there: .*{words}"):
        read_record(json.dumps(changed(path, value)), "there")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[]", "expected one JSON object"),
        ("1" * 5000, "not JSON|expected one JSON object"),
        ('{"seed": 1, "seed": 2}', "'seed' appears twice"),
    ],
)
def test_text_that_is_no_record_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        read_record(text)


def test_a_good_record_and_those_of_every_paper_are_unchanged():
    assert json.loads(read_record(json.dumps(GOOD)).to_json()) == GOOD
    for paper in PAPERS:
        for line in (
            (ROOT / "reports" / "results" / f"{paper}.jsonl").read_text(encoding="utf-8").splitlines()
        ):
            assert read_record(line).to_json() == line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PATHS = [
    *GOOD,
    *(f"{name}.{inner}" for name, value in GOOD.items() if isinstance(value, dict) for inner in value),
    *(f"scores.last.{name}" for name in METRICS),
    "data.source.name",
    "data.source.hash",
    "config.net.width",
    "stages.reid.seconds",
]


@FUZZ
@given(st.sampled_from(PATHS), JSON)
def test_any_value_in_any_field_is_accepted_whole_or_refused_in_one_line(path, value):
    try:
        record = read_record(json.dumps(changed(path, value)))
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert read_record(record.to_json()) == record
        check_together([record, record], ["a", "a"])


@FUZZ
@given(st.binary(max_size=200) | st.just(json.dumps(GOOD).encode("utf-16")))
def test_any_bytes_as_a_record_are_refused_in_one_line(tmp_path, content):
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_bytes(content)
    with pytest.raises(InputError, match="^.*record.json: not (UTF-8|JSON)|one JSON object"):
        collect([folder], tmp_path / "reports")


# ---------------------------------------------------------------- collect: files


def run_of(folder: Path, **changes) -> Path:
    """Writes a run whose picture is one that `collect` copies."""
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({**GOOD, **changes}), encoding="utf-8")
    Image.new("RGB", (2, 3)).save(folder / "a.png")
    return folder


def _symlink(path: Path) -> None:
    target = path.parent.parent / "outside"
    path.rename(target)
    path.symlink_to(target)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


SPOILT_FILES = {
    "missing": (Path.unlink, "No such file"),
    "symbolic link": (_symlink, "found a symbolic link"),
    "loop of links": (_loop, "found a symbolic link"),
    "device": (_device, "found a symbolic link"),
    "pipe": (_pipe, "found a device or pipe"),
    "folder": (_folder, "Is a directory"),
}
SPOILT_PICTURES = {
    **SPOILT_FILES,
    "50 MB": (lambda path: os.truncate(path, 50_000_000), "at most 1,048,576 bytes"),
    "empty": (lambda path: path.write_bytes(b""), "expected a PNG picture"),
    "text": (lambda path: path.write_text("png", encoding="utf-8"), "expected a PNG picture"),
    "JPEG": (lambda path: Image.new("RGB", (2, 3)).save(path, "JPEG"), "expected a PNG picture"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:40]), "expected a PNG picture"),
    "too many pixels": (lambda path: Image.new("1", (9000, 9000)).save(path), "expected a PNG picture"),
}


@pytest.mark.parametrize("case", SPOILT_PICTURES)
def test_an_unusable_picture_leaves_everything_as_it_was(tmp_path, case):
    spoil, words = SPOILT_PICTURES[case]
    reports = tmp_path / "reports"
    run_of(tmp_path / "a" / "0", seed=1)
    spoil(run_of(tmp_path / "a" / "1") / "a.png")
    with pytest.raises(InputError, match=f"^[^:]*a.png: .*({words})"):
        collect([tmp_path / "a"], reports)
    assert read_results("hhl", reports) == [] and [p for p in reports.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("case", sorted(set(SPOILT_FILES) - {"missing", "folder"}))
def test_an_unusable_record_file_leaves_everything_as_it_was(tmp_path, case):
    spoil, words = SPOILT_FILES[case]
    run_of(tmp_path / "a" / "0", seed=1)
    spoil(run_of(tmp_path / "a" / "1") / "record.json")
    with pytest.raises(InputError, match=f"^[^:]*record.json: .*({words})"):
        collect([tmp_path / "a"], tmp_path / "reports")
    assert read_results("hhl", tmp_path / "reports") == []


@pytest.mark.parametrize("place", ["pictures", "results/hhl.jsonl"])
def test_a_file_that_cannot_be_written_leaves_no_record_behind(tmp_path, place):
    reports = tmp_path / "reports"
    blocked = reports / place
    if place == "pictures":
        blocked.parent.mkdir()
        blocked.write_text("", encoding="utf-8")
    else:
        blocked.mkdir(parents=True)
    with pytest.raises((OSError, InputError)):
        collect([run_of(tmp_path / "a")], reports)
    assert [p for p in (reports / "results").rglob("*") if p.is_file()] == []


def test_the_command_answers_a_missing_paper_and_an_unknown_one_in_one_line(tmp_path, capsys):
    run_of(tmp_path / "a", paper="nobody", key="nobody/table1/x")
    for arguments in (["collect", str(tmp_path / "a")], ["collect", str(tmp_path / "none")]):
        assert main(arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["sweep", "--seeds", "0-9999999999"]) == 2
    assert main(["sweep", "--seeds", ""]) == 2
    assert all(line.startswith("error: --seeds") for line in capsys.readouterr().err.splitlines())


def test_a_results_file_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "hhl.jsonl").write_bytes(b"\xff")
    with pytest.raises(InputError, match="hhl.jsonl: not UTF-8"):
        read_results("hhl", tmp_path)


def test_a_read_file_is_bounded_and_may_be_a_link_where_that_is_allowed(tmp_path):
    (tmp_path / "a").write_text("é", encoding="utf-8")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_text(tmp_path / "b", 2, links=True) == "é"
    with pytest.raises(InputError, match="at most 1 bytes"):
        read_bytes(tmp_path / "a", 1)
    with pytest.raises(InputError, match="null"):
        read_bytes(Path("a\0b"), 1)


def test_pictures_are_read_with_their_size(tmp_path):
    content, size = read_picture(run_of(tmp_path / "a") / "a.png")
    assert size == (2, 3) and content.startswith(b"\x89PNG")


def test_build_owns_only_the_figures_that_it_made(tmp_path):
    made = {"name": "old", "title": "t", "kind": "bars", "panels": []}
    for name, text in {
        "old.json": json.dumps(made),
        "old.svg": "<svg/>",
        "mine.svg": "<svg/>",
        "notes.json": "{",
        "copy.json": json.dumps(made),
        "photo.png": "",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert {path.name for path in _own_figures(tmp_path)} == {"old.json", "old.svg"}


# ---------------------------------------------------------------- TOML files


def _claims(folder: Path) -> None:
    all_claims(folder)


def _baselines(folder: Path) -> None:
    read_toml(folder / "baselines.toml", BaselinesFile)


def _sweeps(folder: Path) -> None:
    sweep_entries.cache_clear()
    try:
        sweep_entries(folder.parent)
    finally:
        sweep_entries.cache_clear()


READERS = {
    "claims.toml": _claims,
    "figures.toml": figure_specs,
    "coverage.toml": coverage_problems,
    "baselines.toml": _baselines,
    "sweeps.toml": _sweeps,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\xff",
        b"x = " + b"[" * 100_000,
        b"x = " + b"1" * 5000,
        b"claim = 3\nfigure = 3\nsection = 3\nbaseline = 3\nsweep = 3\ncounts = 3",
        b"figure = [1]\nsection = [1]\nbaseline = [1]\nsweep = [1]\nclaim = [1]",
    ],
    ids=["none", "empty", "bytes", "deep", "long", "numbers", "lists"],
)
def test_a_toml_file_without_its_content_is_refused(tmp_path, name, content):
    folder = tmp_path / "reports"
    folder.mkdir()
    if content is not None:
        (folder / name).write_bytes(content)
    if name == "claims.toml" and content == b"":
        assert all_claims(folder) == []
        return
    with pytest.raises(InputError, match=name):
        READERS[name](folder)


def _spoilt(data, draw):
    """Replaces one value somewhere inside parsed TOML, removes it or adds one."""
    part = data
    while True:
        names = list(part) if isinstance(part, dict) else list(range(len(part)))
        if not names:
            return
        name = draw(st.sampled_from(names))
        inner = part[name]
        if not isinstance(inner, (dict, list)) or not inner or draw(st.integers(0, 3)) == 0:
            break
        part = inner
    action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
    value = draw(JSON | st.sampled_from(["", "->", "a->b->c", "*", NAN, -1, 10**30]))
    if action == "remove":
        del part[name]
    elif action == "add" and isinstance(part, dict):
        part["colour"] = value
    else:
        part[name] = value


PARSED = {name: read_toml(ROOT / "reports" / name) for name in READERS}


@pytest.mark.parametrize("name", READERS)
@FUZZ
@given(data=st.data())
def test_any_change_of_a_toml_file_is_accepted_or_refused_in_one_line(tmp_path, monkeypatch, name, data):
    parsed = copy.deepcopy(PARSED[name])
    _spoilt(parsed, data.draw)
    monkeypatch.setattr("common.published.tomllib", SimpleNamespace(loads=lambda text: parsed))
    folder = tmp_path / "reports"
    folder.mkdir(exist_ok=True)
    (folder / name).touch()
    try:
        READERS[name](folder)
    except InputError as error:
        assert len(str(error).splitlines()) == 1


PUBLISHED = {paper: published_file(paper) for paper in ("dcgan_lsro", "spgan")}


@pytest.mark.parametrize("paper", PUBLISHED)
@FUZZ
@given(data=st.data())
def test_any_change_of_published_numbers_is_accepted_or_refused_in_one_line(
    tmp_path_factory, monkeypatch, paper, data
):
    parsed = copy.deepcopy(PUBLISHED[paper])
    _spoilt(parsed, data.draw)
    folder = tmp_path_factory.mktemp("published")  # a new one, since the numbers of a folder are read once
    (folder / f"{paper}.toml").touch()
    monkeypatch.setattr("common.published.tomllib", SimpleNamespace(loads=lambda text: parsed))
    try:
        problems(folder)
    except InputError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    "file, old, new, words",
    [
        ("claims", 'measured_on = "c->d"', "measured_on = 3", r"\[hhl\]: wrong type in measured_on"),
        ("claims", 'pair = "a->b"', 'pair = "ab"', "pair 'ab': expected source->target"),
        ("claims", 'left = ["hhl/a/b"]', "left = []", "at least one key"),
        ("claims", 'left = ["hhl/a/b"]', "left = 3", "wrong type in left: expected a text or a list"),
        ("claims", 'left = ["hhl/a/b"]', 'left = "b"\nmargin = nan', "wrong type in .*margin"),
        (
            "claims",
            'left = ["hhl/a/b"]',
            'left = "b"\nscore = ["a"]',
            "wrong type in score: expected 2 values",
        ),
        ("claims", 'left = ["hhl/a/b"]', 'left = "b"\nboth_ways = 1', "both_ways: wrong type"),
        ("figures", 'name = "f"', 'name = "../f"', "expected a name of letters"),
        ("figures", 'keys = ["hhl/a/*"]', "", "expected keys or series"),
        ("figures", 'keys = ["hhl/a/*"]', 'keys = ["hhl/a/b"]', "with 1 stars in each pattern"),
        (
            "figures",
            'keys = ["hhl/a/*"]',
            'keys = ["hhl/a/*"]\nmetrcs = []',
            r"figure\[0\].metrcs: no such field",
        ),
        ("sweeps", "seeds = 2", "seeds = 9999999999", "seeds 9999999999: expected 0 to 1,000"),
        ("sweeps", "seeds = 2", 'seeds = "2"', r"wrong type in sweep\[0\].seeds: expected an integer"),
        ("sweeps", 'paper = "hhl"', 'paper = "../x"', "no paper '../x'"),
    ],
)
def test_what_is_wrong_in_a_toml_file_is_named(tmp_path, file, old, new, words):
    texts = {
        "claims": '[hhl]\npair = "a->b"\nmeasured_on = "c->d"\n[[hhl.claim]]\ntext = "t"\n'
        'left = ["hhl/a/b"]\nright = "hhl/a/c"\n',
        "figures": '[[figure]]\nname = "f"\ntitle = "t"\nkind = "curve"\nkeys = ["hhl/a/*"]\n',
        "sweeps": '[[sweep]]\npaper = "hhl"\nkeys = ["hhl/*"]\nsource = "a"\ntarget = "b"\nseeds = 2\n',
    }
    folder = tmp_path / "reports"
    folder.mkdir()
    assert old in texts[file]
    (folder / f"{file}.toml").write_text(texts[file].replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=f"{file}.toml.*{words}"):
        READERS[f"{file}.toml"](folder)
