"""Tests the sweep with a fake paper, a command of a few lines: plans, runs, omissions, reports, signals."""

import json
import signal
import subprocess
import sys
import time

import pytest

from common.datasets.cameras import parse_split
from common.errors import InputError, RunError
from common.provenance import ROOT
from common.records import METRICS, PAPERS
from reports import sweep as sweeps
from reports.experiments import KNOWN
from reports.processes import Job, Progress, clock
from reports.sweep import Choice, Setup, parse_seeds, plan_jobs, planned_cells, sweep

# Writes one record per key; exits at a key with "fails"; at a key with "slow", waits for SIGTERM and saves.
FAKE = """
import json, os, pathlib, signal, sys, time
flags = sys.argv[1:]
keys = ["hhl/table2/a", "hhl/table2/b", "hhl/fig5/beta=1", "hhl/fig5/fails", "hhl/fig5/slow", "hhl/fig6/c"]
salt = pathlib.Path("salt").read_text()
if "--list-experiments" in flags:
    same = {"alias_of": None, "score": "last", "demo": True, "overrides": {}}
    rows = [{"key": k, "title": k, **same, "config_hash": salt + k[-1]} for k in keys]
    rows.append({**rows[0], "key": "hhl/table3/a", "title": "", "alias_of": "hhl/table2/a", "demo": False})
    print(json.dumps({"experiments": rows, "switches": []}))
    sys.exit()
given = dict(zip(flags[:-1], flags[1:]))
out, pair, seed = pathlib.Path(given["--out"]), (given["--source"], given["--target"]), int(given["--seed"])
assert "--resume" in flags and os.environ["OMP_NUM_THREADS"] == given["--threads"]
for key in flags[flags.index("--experiment") + 1:]:
    print("runs", key, flush=True)
    if key.endswith("fails"):
        print("error: the loss is NaN"); sys.exit(1)
    if key.endswith("slow"):
        signal.signal(signal.SIGTERM, lambda *_: (out.joinpath("kept").write_text("saved"), sys.exit(130)))
        out.joinpath("ready").touch()
        time.sleep(60)
    score = dict(zip(SCORES, (0.5, 0.6, 0.7, 0.8, 0.3, 0.3)))
    preset = "" if given["--preset"] == "demo" else given["--preset"] + "+"
    folder = out / "runs" / key.replace("/", "+") / "+".join(pair) / f"{preset}seed={seed}"
    folder.mkdir(parents=True, exist_ok=True)
    record = dict(paper="hhl", key=key, preset=given["--preset"], source=pair[0], target=pair[1], seed=seed,
                  config={}, config_hash=salt + key[-1], data={}, scores={"last": score}, measures={},
                  stages={}, selection="last epoch", code_version="v", libraries={}, hardware={}, seconds=1.0,
                  curves=[], pictures=[], created="2026-01-01", schema=1)
    folder.joinpath("record.json").write_text(json.dumps(record))
""".replace("SCORES", repr(METRICS))

SWEEPS = """
[[sweep]]
paper = "hhl"
keys = ["hhl/table2/*", "hhl/table3/*"]
source = "s"
target = "t"
seeds = 2

[[sweep]]
paper = "hhl"
keys = ["hhl/fig*/*"]
source = "s"
target = "t"
seeds = 1

[[sweep]]
paper = "hhl"
keys = ["hhl/table2/*"]
source = "t"
target = "s"
seeds = 1
"""


@pytest.fixture
def root(tmp_path):
    for name in ("hhl", "reports/results"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "hhl" / "train.py").write_text(FAKE, encoding="utf-8")
    (tmp_path / "hhl" / "salt").write_text("x", encoding="utf-8")
    (tmp_path / "reports" / "sweeps.toml").write_text(SWEEPS, encoding="utf-8")
    KNOWN.clear()
    yield tmp_path
    KNOWN.clear()


def keys(cells):
    return sorted((cell.key.removeprefix("hhl/"), cell.source, cell.seed) for cell in cells)


def test_cells_are_the_union_of_the_entries_with_aliases_resolved(root):
    cells = planned_cells(Choice(), root)
    assert keys(cells) == sorted(
        [
            ("table2/a", "s", 0),
            ("table2/b", "s", 0),
            ("table2/a", "s", 1),
            ("table2/b", "s", 1),
            ("fig5/beta=1", "s", 0),
            ("fig5/fails", "s", 0),
            ("fig5/slow", "s", 0),
            ("fig6/c", "s", 0),
            ("table2/a", "t", 0),
            ("table2/b", "t", 0),
        ]
    )
    assert {cell.config_hash for cell in cells if cell.key == "hhl/table2/a"} == {"xa"}


@pytest.mark.parametrize(
    "choice, expected",
    [
        (Choice(table="fig6"), [("fig6/c", "s", 0)]),
        (Choice(table="hhl/*/a"), [("table2/a", "s", 0), ("table2/a", "s", 1), ("table2/a", "t", 0)]),
        (Choice(table="table2", pair="t->s"), [("table2/a", "t", 0), ("table2/b", "t", 0)]),
        (
            Choice(table="hhl/table2/b", pair="s->*", seeds=(7, 9)),
            [("table2/b", "s", 7), ("table2/b", "s", 9)],
        ),
    ],
)
def test_flags_narrow_the_choice(root, choice, expected):
    assert keys(planned_cells(choice, root)) == expected


@pytest.mark.parametrize(
    "choice, message",
    [
        (Choice(paper="none"), "--paper none: expected one of arn"),
        (Choice(paper="arn"), "nothing in reports/sweeps.toml is left"),
        (Choice(table="table9"), "nothing in reports/sweeps.toml is left"),
    ],
)
def test_choices_that_leave_nothing_are_refused(root, choice, message):
    with pytest.raises(InputError, match=message):
        planned_cells(choice, root)


def test_a_pattern_without_experiment_is_refused(root):
    (root / "reports" / "sweeps.toml").write_text(
        SWEEPS.replace("hhl/fig*/*", "hhl/fig9/*"), encoding="utf-8"
    )
    with pytest.raises(InputError, match="hhl/fig9/\\* matches no experiment of hhl"):
        planned_cells(Choice(), root)


def test_cells_on_real_photographs_wait_for_a_data_root_and_entries_have_flags(root, capsys):
    entry = SWEEPS.replace(
        'keys = ["hhl/fig*/*"]', 'keys = ["hhl/fig6/c"]\nreal = true\nflags = ["--precision", "bf16"]'
    )
    (root / "reports" / "sweeps.toml").write_text(entry, encoding="utf-8")
    sweep(Choice(), Setup(root=root), dry_run=True)
    assert capsys.readouterr().out.startswith(
        "1 cells on real photographs are left out: they need --data-root DIR\n6 cells: "
    )
    (real,) = [cell for cell in planned_cells(Choice(), root) if cell.real]
    (job,) = plan_jobs([real], {real: 1.0}, Setup(data_root=root / "data", root=root))
    assert job.command[-5:] == ("--resume", "--precision", "bf16", "--data-root", str(root / "data"))
    sweep(Choice(), Setup(data_root=root, root=root), dry_run=True)
    assert capsys.readouterr().out.startswith("7 cells: ")


def test_two_presets_of_one_pair_do_not_take_each_others_place(root):
    """Both have the fake paper's configurations; each is found in a folder of its own, and so runs once."""
    entry = SWEEPS.split("[[sweep]]")[1]
    (root / "reports" / "sweeps.toml").write_text(
        f'[[sweep]]{entry}[[sweep]]\npreset = "paper"{entry}', encoding="utf-8"
    )
    cells = planned_cells(Choice(), root)
    assert {cell.preset for cell in cells} == {"demo", "paper"}
    sweep(Choice(), Setup(root=root))
    assert all(sweeps.is_done(cell, root / "hhl" / "runs") for cell in cells)


def test_two_numerics_of_one_experiment_are_two_cells(root):
    entry = SWEEPS.split("[[sweep]]")[1]
    bf16, compiled = 'flags = ["--precision", "bf16"]', 'flags = ["--compile"]'
    (root / "reports" / "sweeps.toml").write_text(
        f"[[sweep]]{entry}[[sweep]]\n{bf16}{entry}[[sweep]]\n{compiled}{entry}", encoding="utf-8"
    )
    cells = planned_cells(Choice(), root)
    assert len(cells) == len(set(cells)) == 2 * len({cell.key for cell in cells}) * 2
    assert {cell.flags for cell in cells} == {(), ("--precision", "bf16")}  # --compile is no other result


def test_cells_for_a_gpu_wait_to_be_asked_for(root, capsys):
    (root / "reports" / "sweeps.toml").write_text(
        SWEEPS.replace('keys = ["hhl/fig*/*"]', 'keys = ["hhl/fig6/c"]\nreal = true\ngpu = true'),
        encoding="utf-8",
    )
    sweep(Choice(), Setup(data_root=root, root=root), dry_run=True)
    assert capsys.readouterr().out.startswith("1 cells for a GPU are left out: they need --gpu\n6 cells: ")
    sweep(Choice(), Setup(data_root=root, gpu=True, root=root), dry_run=True)
    assert capsys.readouterr().out.startswith("7 cells: ")


def test_seeds():
    assert parse_seeds("0-2,5,1") == (0, 1, 2, 5)
    for text in ("", "a", "3-1", "-1", "0-9999999999", "0-999,2000-2001", "1" * 5000, "10000000000", "²"):
        with pytest.raises(InputError, match="--seeds"):
            parse_seeds(text)


def test_a_thousand_seeds_are_planned_quickly(root, capsys):
    start = time.monotonic()
    sweep(Choice(seeds=parse_seeds("0-999")), Setup(root=root), dry_run=True)
    assert "8000 cells" in capsys.readouterr().out.split("\n")[0] and time.monotonic() - start < 20


def test_an_output_folder_that_is_removed_while_a_job_runs_is_one_line(root, capsys):
    """The job removes its log with the folder, fails, and the others run."""
    fails = 'if key.endswith("fails"):'
    removing = FAKE.replace(fails, fails + '\n        __import__("shutil").rmtree(out)')
    (root / "hhl" / "train.py").write_text(
        removing.replace("time.sleep(60)", "time.sleep(0)"), encoding="utf-8"
    )
    with pytest.raises(RunError, match=r"hhl/fig5/fails: exit code 1: its log is gone \(No such file"):
        sweep(Choice(table="fig[56]"), Setup(jobs=1, root=root))


def test_a_dry_run_says_what_it_would_do_and_does_nothing(root, capsys):
    sweep(Choice(table="table2"), Setup(root=root), dry_run=True)
    text = capsys.readouterr().out
    assert text.startswith(
        "6 cells: 0 in reports/results, 0 in the output folder, 6 to run in 3 processes, 2 at a time"
    )
    assert "hhl t->s seed 0: 2 cells, about 2 min\n    hhl/table2/a\n    hhl/table2/b\n" in text
    assert not (root / "hhl" / "runs").exists()


def test_done_cells_are_left_out_until_their_config_changes(root, capsys):
    sweep(Choice(table="table2"), Setup(root=root))
    text = capsys.readouterr().out
    assert (
        "6 cells done in 0:00:0" in text
        and "hhl: all cells done; now: python -m reports collect --replace" in text
    )
    assert (
        "0/6 cells | 0:00:00 used | about 0:03:00 left | hhl s->t seed 0, hhl s->t seed 1\n" in text
        and "6/6 cells" in text
        and "\r" not in text
    )
    assert len(list((root / "hhl" / "runs" / "logs").iterdir())) == 3
    sweep(Choice(table="table2"), Setup(root=root))
    assert "6 in the output folder, 0 to run" in capsys.readouterr().out
    record = root / "hhl" / "runs" / "runs" / "hhl+table2+a" / "s+t" / "seed=0" / "record.json"
    (root / "reports" / "results" / "hhl.jsonl").write_text(
        record.read_text(encoding="utf-8") + "\n", encoding="utf-8"
    )
    record.unlink()
    sweep(Choice(table="table2"), Setup(root=root), dry_run=True)
    assert "1 in reports/results, 5 in the output folder, 0 to run" in capsys.readouterr().out
    (root / "hhl" / "salt").write_text("y", encoding="utf-8")
    KNOWN.clear()
    sweep(Choice(table="table2"), Setup(root=root), dry_run=True)
    assert "0 in reports/results, 0 in the output folder, 6 to run" in capsys.readouterr().out


def test_a_failure_is_reported_and_stops_nothing_else(root, capsys):
    with pytest.raises(
        RunError, match="1 failed.*\n.*hhl s->t seed 0: hhl/fig5/fails: exit code 1: error: the loss is NaN"
    ):
        sweep(Choice(table="hhl/*/[!s]*"), Setup(root=root))
    text = capsys.readouterr().out
    assert "8 cells done" in text and "hhl: 1 cells missing" in text
    assert (root / "hhl" / "runs" / "runs" / "hhl+fig6+c").is_dir()  # behind the key that failed


def test_the_longest_job_goes_first_by_what_cells_took_before(root):
    cells = planned_cells(Choice(table="table2"), root)
    seconds = {cell: 100.0 if cell.seed == 1 else 50.0 for cell in cells}
    queue = sweeps.plan_jobs(cells, seconds, Setup(out=root / "out", root=root))
    assert [job.name for job in queue] == ["hhl s->t seed 1", "hhl s->t seed 0", "hhl t->s seed 0"]


@pytest.mark.parametrize("line, seconds", [("", sweeps.GUESS), ("minutes = 7\n", 420.0)])
def test_without_a_record_the_estimate_of_the_file_counts(root, line, seconds):
    entry = SWEEPS.split("[[sweep]]")[1]
    (root / "reports" / "sweeps.toml").write_text(f"[[sweep]]{entry}{line}", encoding="utf-8")
    assert set(sweeps.expected_seconds(planned_cells(Choice(), root), root).values()) == {seconds}


def test_time_left_follows_what_the_finished_cells_took(tmp_path):
    job = Job("j", (), tmp_path, tmp_path / "log", 1, {"a": 10.0, "b": 30.0}, lambda key: key == "a")
    progress = Progress(
        {("j", "a"): 10.0, ("j", "b"): 30.0},
        parallel=2,
        stream=(tmp_path / "out").open("w", encoding="utf-8"),
    )
    assert progress.left(0) == 20
    progress.update([job])
    assert progress.left(5) == 15  # a took half of what was expected
    progress.failed.add(("j", "b"))
    assert progress.left(5) == 0 and clock(3725) == "1:02:05"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_children_cleanly_and_the_next_call_goes_on(root, number):
    code = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from common.cli import exit_code\n"
        "from reports.sweep import Choice, Setup, sweep\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"choice, setup = Choice(table='hhl/fig[56]/[cs]*'), Setup(root=Path({str(root)!r}))\n"
        "sys.exit(exit_code(lambda: sweep(choice, setup)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    ready, deadline = root / "hhl" / "runs" / "ready", time.monotonic() + 30
    while not ready.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 130 and "stopping 1 processes" in text, text
    assert (root / "hhl" / "runs" / "kept").read_text(encoding="utf-8") == "saved"
    sweep(Choice(table="fig6"), Setup(root=root))
    assert list((root / "hhl" / "runs" / "runs").iterdir())


def test_the_committed_sweeps_name_papers_keys_and_pairs_that_exist():
    for paper in PAPERS:
        cells = planned_cells(Choice(paper=paper))
        assert cells and json.loads(json.dumps(sorted({cell.seed for cell in cells})))[0] == 0
        drawn = {"synthetic-duke", "synthetic-market"}
        assert all({cell.source, cell.target} <= drawn or cell.real for cell in cells)
        for name in {cell.source for cell in cells} | {cell.target for cell in cells}:
            parse_split(name)  # an InputError for a split that cannot be


def test_the_command_answers_what_this_process_does(answers_in_this_process):
    """The other tests of the reports take a paper's experiments from this process."""
    from reports import experiments

    assert answers_in_this_process("hhl", "released") == experiments.ask("hhl", "released")


def test_all_papers_are_asked_in_one_process_with_the_same_answers(capsys, monkeypatch):
    from reports import experiments, listing

    listing.main(["hhl:demo", "spgan:released"])
    printed = json.loads(capsys.readouterr().out)
    for name, answer in printed.items():
        assert list(experiments.experiments(*name.split(":")).values()) == answer["experiments"]
        assert experiments.switches(name.split(":")[0]) == answer["switches"]
    asked = []
    monkeypatch.setattr(experiments, "list_all", lambda questions, root: asked.append(questions) or {})
    experiments.ask_all()
    [questions] = asked
    assert {paper for paper, preset in questions if preset == "demo"} == set(PAPERS)
    assert ("hhl", "scratch_cpu") in questions and len(set(questions)) == len(questions)
