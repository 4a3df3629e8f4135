"""The contract, tried with a toy paper: keys and aliases, presets and flags, stages and their reuse, records,
exit codes.
"""

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import pytest

import common.job as job_module
from common import cli, runs
from common.checks import check_fields, size
from common.cli import override, parse
from common.datasets import ReIDDataset, Sample
from common.errors import InputError, RunError
from common.files import write_atomic
from common.hashing import digest
from common.job import Job, Workspace
from common.provenance import code_version
from common.records import Experiment, Paper, check_experiments, read_record, read_record_file
from common.runs import StageStore
from common.tables import measures_table, results_table


@dataclass(frozen=True)
class Net:
    width: int = size(8)  # channels


@dataclass(frozen=True)
class ToyConfig:
    net: Net = field(default_factory=Net)
    beta: float = 0.5  # weight of the second term

    def __post_init__(self):
        check_fields(self)


TOY = Paper(
    name="toy",
    folder=Path("."),
    presets={"demo": ToyConfig(Net(2)), "paper": ToyConfig()},
    experiments=[
        Experiment("toy/table1/base", "baseline", {"beta": 0.0}),
        Experiment("toy/table1/full", "full"),
        Experiment("toy/fig2/beta=0.5", "full again", alias_of="toy/table1/full"),
    ],
    demo=("toy/table1/base", "toy/table1/full"),
    headline=("toy/table1/full",),
)
SCORE = {"R-1": 0.5, "R-5": 0.6, "R-10": 0.7, "R-20": 0.8, "mAP": 0.3, "mAP_step": 0.31}


def toy_train(job: Job):
    """Two stages: `data` depends on nothing of the config, `net` on all of it; each build is logged."""
    built = job.store.out / "built"

    def build_data(work):
        built.open("a", encoding="utf-8").write("data\n")
        work.write_json("data.json", [1, 2, 3])

    def build_net(work):
        built.open("a", encoding="utf-8").write("net\n")
        work.write_json("scores.json", {"last": {**SCORE, "R-1": 0.25 + job.config.beta / 2}})

    data = job.stage("data", {}, build_data, seed=job.seed)
    net = job.stage("net", {"data": data.hash, "config": job.config}, build_net)
    job.picture("a.png").write_bytes(b"not really")
    return job.record(net.json("scores.json"), measures={"x": 1.5})


def toy_data(name: str, root: Path | None, config: ToyConfig) -> ReIDDataset:
    sample = Sample(Path("toy.jpg"), 1, 0)
    data = ReIDDataset("toy", Path("."), [sample], [sample], [replace(sample, camid=1)], 2)
    data.__dict__["manifest"] = {"name": "toy", "hash": "0"}
    return data


def run_toy(out: Path, *flags: str, train=toy_train, check=None) -> int:
    return cli.main(TOY, train, ["--out", str(out), *flags], check=check, load=toy_data)


def records(out: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in out.rglob("record.json")]
    return {record["key"]: record for record in found}


# ---------------------------------------------------------------- keys


def test_aliases_lead_to_experiments_of_their_own():
    table = check_experiments("toy", list(TOY.experiments))
    assert table["toy/fig2/beta=0.5"].runs_as == "toy/table1/full"


@pytest.mark.parametrize(
    "experiments",
    [
        [Experiment("toy/table1", "too short")],
        [Experiment("other/table1/row", "another paper's")],
        [Experiment("toy/t/a", "once"), Experiment("toy/t/a", "twice")],
        [Experiment("toy/t/a", "alias of nothing", alias_of="toy/t/b")],
        [
            Experiment("toy/t/a", "a"),
            Experiment("toy/t/b", "b", alias_of="toy/t/a"),
            Experiment("toy/t/c", "alias of an alias", alias_of="toy/t/b"),
        ],
    ],
)
def test_wrong_keys_are_refused(experiments):
    with pytest.raises(ValueError):
        check_experiments("toy", experiments)


def test_list_experiments_is_json_and_needs_no_run(tmp_path, capsys):
    assert run_toy(tmp_path, "--list-experiments") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["key"] for entry in listed] == [e.key for e in TOY.experiments]
    assert [entry["demo"] for entry in listed] == [True, True, False]
    assert not list(tmp_path.iterdir())


def test_listed_config_hashes_are_those_of_the_records(tmp_path, capsys):
    for preset in ("demo", "paper"):
        run_toy(tmp_path / preset, "--preset", preset, "--experiment", *(e.key for e in TOY.experiments))
        capsys.readouterr()
        run_toy(tmp_path, "--preset", preset, "--list-experiments")
        listed = {entry["key"]: entry["config_hash"] for entry in json.loads(capsys.readouterr().out)}
        assert {key: record["config_hash"] for key, record in records(tmp_path / preset).items()} == {
            k: listed[k] for k in list(listed)[:2]
        }
        assert listed["toy/fig2/beta=0.5"] == listed["toy/table1/full"] != listed["toy/table1/base"]


# ---------------------------------------------------------------- preset, experiment, flags


def test_preset_then_experiment_then_flags():
    _, jobs = parse(TOY, [])
    assert [(e.key, c.beta, c.net.width) for e, c in jobs] == [
        ("toy/table1/base", 0.0, 2),
        ("toy/table1/full", 0.5, 2),
    ]
    _, jobs = parse(TOY, ["--preset", "paper"])
    assert [(e.key, c.net.width) for e, c in jobs] == [("toy/table1/full", 8)]
    options, jobs = parse(
        TOY,
        [
            "--preset=paper",
            "--experiment",
            "toy/table1/base",
            "toy/fig2/beta=0.5",
            "--net.width",
            "5",
            "--seed",
            "3",
        ],
    )
    assert [(c.beta, c.net.width) for _, c in jobs] == [(0.0, 5), (0.5, 5)]
    assert options.seed == 3
    _, jobs = parse(TOY, ["--experiment", "toy/table1/base", "--beta", "0.9"])
    assert jobs[0][1].beta == 0.9  # what was typed wins over the experiment


def test_a_paper_may_name_another_default_pair():
    options, _ = parse(TOY, [])
    assert (options.source, options.target) == ("synthetic-duke", "synthetic-market")
    supervised = dataclasses.replace(TOY, source="synthetic-market")
    assert (
        parse(supervised, [])[0].source == "synthetic-market"
        and parse(supervised, ["--source", "dukemtmc"])[0].source == "dukemtmc"
    )


def test_a_pattern_names_several_experiments():
    keys = [e.key for e in TOY.experiments]
    for given, expected in (
        (["toy/*"], keys),
        (["toy/table1/*", "toy/table1/base"], [key for key in keys if key.startswith("toy/table1/")]),
    ):
        _, jobs = parse(TOY, ["--experiment", *given])
        assert [experiment.key for experiment, _ in jobs] == expected
    with pytest.raises(InputError, match=r"unknown experiment 'toy/table9/\*'"):
        parse(TOY, ["--experiment", "toy/table9/*"])


def test_override_knows_its_fields():
    assert override(ToyConfig(), {"net.width": 3, "beta": 1.0}) == ToyConfig(Net(3), 1.0)
    for name in ("bet", "net.depth", "beta.x"):
        with pytest.raises(KeyError):
            override(ToyConfig(), {name: 1})


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--preset", "blog"], "unknown preset 'blog': toy has demo, paper"),
        (["--experiment", "toy/table1/none"], "unknown experiment"),
        (["--beta", "much"], "--beta"),
        (["--gamma", "1"], "--gamma"),
        (["--net.width", "-4"], "expected a positive number"),
        (["--seed", "-1"], "--seed -1: expected 0 or more"),
        (["--seed", str(10**30)], "--seed 1e+30: expected 0 or more"),
        (["--workers", "-1"], "--workers -1: expected 0 or more"),
        (["--resume", "--fresh"], "contradict"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_bad_flags_give_one_line_and_code_2(tmp_path, capsys, flags, words):
    assert run_toy(tmp_path, *flags) == 2
    complaint = capsys.readouterr().err.strip().splitlines()
    assert len(complaint) == 1 and complaint[0].startswith("error: ") and words in complaint[0]
    assert not list(tmp_path.iterdir())


def test_help_names_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(TOY, ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--net.width" in text and "weight of the second term" in text and "--data-root" in text


# ---------------------------------------------------------------- stages and records


def test_rows_share_stages_and_later_runs_reuse_them(tmp_path, capsys):
    assert run_toy(tmp_path) == 0
    assert (tmp_path / "built").read_text(encoding="utf-8").split() == ["data", "net", "net"]
    assert run_toy(tmp_path) == 0
    assert (tmp_path / "built").read_text(encoding="utf-8").split() == ["data", "net", "net"]
    assert all(stage["reused"] for stage in records(tmp_path)["toy/table1/full"]["stages"].values())
    assert run_toy(tmp_path, "--fresh") == 0  # anew, but still once for both rows
    assert (tmp_path / "built").read_text(encoding="utf-8").split().count("net") == 4
    assert "baseline" in capsys.readouterr().out


def test_an_alias_is_run_once_with_its_origin(tmp_path):
    assert run_toy(tmp_path, "--experiment", "toy/table1/full", "toy/fig2/beta=0.5") == 0
    assert list(records(tmp_path)) == ["toy/table1/full"]


def test_a_finished_stage_of_another_row_is_found(tmp_path, toy_job):
    run = toy_job(tmp_path, "toy/t/a")
    assert run.finished("net", {"beta": 1}) is None
    stage = run.stage("net", {"beta": 1}, lambda work: None)
    other = toy_job(tmp_path, "toy/t/b")
    assert other.finished("net", {"beta": 1}) == stage.folder and other.finished("net", {"beta": 2}) is None
    assert other.stages == {}


def test_other_fields_and_seeds_give_other_stages(tmp_path):
    for flags in ([], ["--beta", "0.7"], ["--seed", "1"]):
        assert run_toy(tmp_path, "--experiment", "toy/table1/full", *flags) == 0
    assert (tmp_path / "built").read_text(encoding="utf-8").split() == ["data", "net", "net", "data", "net"]
    assert len(list((tmp_path / "runs").rglob("record.json"))) == 3


def test_a_record_carries_what_the_contract_lists(tmp_path):
    run_toy(tmp_path, "--experiment", "toy/table1/full")
    (path,) = tmp_path.rglob("record.json")
    record = read_record(path.read_text(encoding="utf-8"))
    assert (
        record.config == {"net": {"width": 2}, "beta": 0.5} and record.preset == "demo" and record.seed == 0
    )
    assert (
        record.stages["net"]["reused"] is False
        and record.libraries["numpy"]
        and record.hardware["cores"] >= 1
    )
    assert [(tmp_path / picture).is_file() for picture in record.pictures] == [True]
    assert "hostname" not in path.read_text(encoding="utf-8") and str(tmp_path) not in path.read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    "change, words",
    [
        ({"scores": {"last": {**SCORE, "R-1": 50.0}}}, "0..1"),
        ({"scores": {"last": {**SCORE, "R-5": 0.4}}}, "CMC"),
        ({"scores": {"last": {"R-1": 0.5}}}, "expected R-1"),
        ({"scores": {}}, "no scores"),
        ({"key": "hhl/table2/L_CD"}, "not a key of paper"),
        ({"measures": {"x": float("inf")}}, "finite"),
        ({"seed": "0"}, "wrong type"),
        ({"schema": 99}, "schema"),
    ],
)
def test_the_schema_check_names_what_is_wrong(tmp_path, change, words):
    run_toy(tmp_path, "--experiment", "toy/table1/full")
    (path,) = tmp_path.rglob("record.json")
    with pytest.raises(InputError, match=words):
        read_record(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}))


def test_results_that_are_being_collected_do_not_make_the_code_dirty(tmp_path, monkeypatch):
    monkeypatch.setattr("common.provenance.ROOT", tmp_path)
    for name in ("hhl/losses.py", "reports/results/hhl.jsonl"):
        write_atomic(tmp_path / name, "first\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    commit = code_version()
    write_atomic(tmp_path / "reports/results/hhl.jsonl", "second\n")
    assert re.fullmatch("[0-9a-f]{10}", commit) and code_version() == commit
    write_atomic(tmp_path / "hhl/losses.py", "second\n")
    assert code_version() == f"{commit}-dirty"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "hook"))
    assert code_version() == f"{commit}-dirty"
    monkeypatch.setattr("common.provenance.ROOT", tmp_path / "hhl")  # a copy inside a foreign repository
    assert code_version() == metadata.version("crossdomain-reid")


def test_code_that_is_no_checkout_and_not_installed_is_unknown(tmp_path, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("common.provenance.ROOT", tmp_path)
    monkeypatch.setattr(metadata, "version", absent)
    assert code_version() == "unknown"


def test_missing_and_unknown_fields_of_a_record_are_named(tmp_path):
    run_toy(tmp_path, "--experiment", "toy/table1/full")
    (path,) = tmp_path.rglob("record.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    data["extra"] = data.pop("seed")
    with pytest.raises(InputError, match=r"missing fields \['seed'\], unknown fields \['extra'\]"):
        read_record(json.dumps(data))
    with pytest.raises(InputError, match="not JSON"):
        read_record("{")


def test_an_interrupted_stage_is_neither_lost_nor_taken_for_good(tmp_path, capsys):
    def stopped(job):
        def build(work):
            (work.folder / "half").write_text("1", encoding="utf-8")
            work.kept.touch()
            raise KeyboardInterrupt

        job.stage("net", {}, build)

    assert run_toy(tmp_path, "--experiment", "toy/table1/full", train=stopped) == 130
    assert run_toy(tmp_path, "--experiment", "toy/table1/full", train=stopped) == 2
    assert "--resume continues" in capsys.readouterr().err
    (half,) = tmp_path.rglob("half")
    assert half.parent.name.endswith(".partial")

    def finishing(job):
        def build(work):
            assert (work.folder / "half").exists() is work.resume
            work.write_json("scores.json", {"last": SCORE})

        stage = job.stage("net", {}, build)
        return job.record(stage.json("scores.json"))

    assert run_toy(tmp_path, "--experiment", "toy/table1/full", "--resume", train=finishing) == 0


def test_a_reused_stage_has_the_threads_that_built_it_in_the_record(tmp_path, monkeypatch):
    row = ("--experiment", "toy/table1/full")
    found = []
    for threads, options in ((1, []), (3, ["--resume"])):
        monkeypatch.setattr(runs, "cpu_threads", lambda threads=threads: threads)
        monkeypatch.setattr(job_module, "cpu_threads", lambda threads=threads: threads)
        assert run_toy(tmp_path, *row, *options) == 0
        [path] = tmp_path.glob("runs/**/record.json")
        found.append([stage.get("threads") for stage in read_record_file(path).stages.values()])
    assert found == [[None, None], [1, 1]]


@pytest.mark.parametrize("calls_before_the_kill", [0, 1])
def test_a_kill_while_fresh_replaces_a_stage_leaves_a_whole_one(tmp_path, monkeypatch, calls_before_the_kill):
    def build(content):
        return lambda work: (work.folder / "model").write_text(content, encoding="utf-8")

    def obtain(content, **options):
        store = StageStore(tmp_path, **options)
        return (store.obtain("net", {}, build(content), Workspace(Path())).folder / "model").read_text(
            encoding="utf-8"
        )

    replace, calls = os.replace, []

    def killed(source, target):
        if Path(source).is_dir():
            calls.append(target)
            if len(calls) > calls_before_the_kill:
                raise KeyboardInterrupt
        return replace(source, target)

    assert obtain("old") == "old"
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        obtain("new", fresh=True)
    monkeypatch.setattr(os, "replace", replace)
    assert obtain("never built") == ("new" if calls_before_the_kill else "old")
    assert not list(tmp_path.glob("stages/*.old"))


@pytest.mark.parametrize("content", ["", "{", None])
def test_a_damaged_stage_ends_in_one_line(tmp_path, toy_job, content):
    job = toy_job(tmp_path)
    stage = job.stage("scores", {}, lambda work: work.write_json("scores.json", {}))
    path = stage.folder / "scores.json"
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="delete the folder of this stage or use --fresh"):
        stage.json("scores.json")


def test_two_processes_do_not_build_a_stage_twice(tmp_path):
    code = f"""
import time
from pathlib import Path
from common.job import Workspace
from common.runs import StageStore
def build(work):
    (Path({str(tmp_path)!r}) / "built").open("a").write("x")
    time.sleep(0.5)
StageStore(Path({str(tmp_path)!r})).obtain("slow", {{}}, build, Workspace(Path()))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [p.wait() for p in processes] == [0, 0]
    assert (tmp_path / "built").read_text(encoding="utf-8") == "x"


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize(
    "error, code",
    [
        (InputError("folder: expected, found, do"), 2),
        (RunError("the triplet loss is nan at step 3"), 1),
        (OSError(errno.ENOSPC, "No space left on device", "stage"), 2),
    ],
)
def test_failures_end_with_one_line(tmp_path, capsys, error, code):
    def failing(job):
        raise error

    assert run_toy(tmp_path, train=failing) == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in last


def test_a_programming_error_keeps_its_traceback(tmp_path):
    def wrong(job):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run_toy(tmp_path, train=wrong)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    write_atomic(path, "good")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        write_atomic(path, "half")
    assert path.read_text(encoding="utf-8") == "good" and [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_pictures_over_1_mb_are_refused(tmp_path):
    def big(job):
        job.picture("big.png").write_bytes(bytes(2 << 20))
        return job.record({"last": SCORE})

    assert run_toy(tmp_path, train=big) == 1


def test_the_table_shows_published_beside_measured(tmp_path):
    run_toy(tmp_path, "--experiment", "toy/table1/full")
    record = read_record(next(iter(tmp_path.rglob("record.json"))).read_text(encoding="utf-8"))
    hhl = dataclasses.replace(
        record,
        paper="hhl",
        key="hhl/table2/L_CD",
        source="synthetic-duke",
        target="synthetic-market",
        scores={"last": SCORE, "last+adabn": {**SCORE, "R-1": 0.55}},
    )
    text = results_table(
        "hhl", [(Experiment("hhl/table2/L_CD", "HHL"), hhl), (Experiment("hhl/other/x", "unpublished"), hhl)]
    )
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["HHL"] == ["HHL", "62.2", "31.4", "50.0", "30.0", "55.0", "30.0"]
    assert rows["unpublished"] == ["unpublished", "-", "50.0", "30.0", "55.0", "30.0"]


def test_the_table_compares_only_where_data_and_preset_are_the_papers(tmp_path):
    run_toy(tmp_path, "--experiment", "toy/table1/full")
    record = read_record(next(iter(tmp_path.rglob("record.json"))).read_text(encoding="utf-8"))
    row = Experiment("hhl/table2/L_CD", "HHL")  # published: 62.2, 31.4
    for r1, words in (0.610, "in band"), (0.655, "outside"):
        real = dataclasses.replace(
            record,
            paper="hhl",
            key=row.key,
            preset="released",
            source="dukemtmc",
            target="market1501",
            scores={"last": {**SCORE, "R-1": r1, "mAP": 0.314}},
        )
        assert f"{100 * r1 - 62.2:+.1f}  +0.0 {words}" in results_table("hhl", [(row, real)])
        assert "difference" not in results_table("hhl", [(row, dataclasses.replace(real, preset="demo"))])
        assert "difference" not in results_table(
            "hhl", [(row, dataclasses.replace(real, source="synthetic-duke"))]
        )


def test_measures_stand_beside_what_the_paper_prints_in_their_unit(tmp_path):
    run_toy(tmp_path, "--experiment", "toy/table1/full")
    record = read_record(next(iter(tmp_path.rglob("record.json"))).read_text(encoding="utf-8"))
    moved = dataclasses.replace(
        record,
        source="synthetic-duke",
        target="synthetic-market",
        paper="ptgan",
        key="ptgan/transfer/PTGAN",
        measures={"rms_inside": 0.0851, "rms_outside": 0.131},
    )
    rows = [
        (Experiment("ptgan/figure/PTGAN", "PTGAN", alias_of="ptgan/transfer/PTGAN"), moved),
        (Experiment("ptgan/transfer/PTGAN", "PTGAN"), moved),
    ]
    head, line, last = measures_table("ptgan", rows).split("\n")
    assert head.split() == [
        "published",
        "rms_inside",
        "published",
        "rms_outside",
        "measured",
        "rms_inside",
        "measured",
        "rms_outside",
    ]
    assert line.split() == ["PTGAN", "0.23", "0.32", "0.085", "0.131"] and not last
    assert measures_table("ptgan", rows[1:]) == ""


def test_other_settings_replace_no_record(tmp_path, monkeypatch):
    """Another value of a field, another precision or number of processes has a folder of its own."""
    row = ("--experiment", "toy/table1/full")
    run_toy(tmp_path, *row)
    run_toy(tmp_path, *row, "--beta", "0.25")
    run_toy(tmp_path, *row, "--precision", "bf16")
    run_toy(tmp_path, *row, "--beta", "0.25", "--pack")
    found = {
        path.parent.name: read_record(path.read_text(encoding="utf-8")) for path in record_files(tmp_path)
    }
    changed = digest(ToyConfig(Net(2), 0.25))[:8]
    settings = ["", f"+config={changed}", "+precision=bf16", f"+config={changed},pack=True"]
    assert set(found) == {f"seed=0{setting}" for setting in settings}
    assert len({record.identity for record in found.values()}) == 4
    assert found["seed=0"].config["beta"] != 0.25 == found[f"seed=0+config={changed}"].config["beta"]


def record_files(out):
    return list(out.glob("runs/**/record.json"))


@pytest.mark.parametrize(
    "preset, flags, threads", [("demo", (), 1), ("demo", ("--threads", "2"), 2), ("paper", (), 0)]
)
def test_the_demo_computes_in_one_thread_unless_told(preset, flags, threads):
    options, _ = parse(TOY, ["--preset", preset, *flags])
    assert options.threads == threads


def test_stages_that_several_processes_train_depend_on_their_number(tmp_path, toy_job, monkeypatch):
    hashes = []
    for world in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", world)
        job = toy_job(tmp_path)
        hashes += [job.stage("gan", {}, lambda work: None, collective=both).hash for both in (False, True)]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
