"""What ends a run from outside: a signal to its whole process group, damaged files of its output folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.cli import exit_code
from common.errors import InputError
from common.job import Workspace
from common.training import Loop

SCRIPT = """
import sys, time
from pathlib import Path
import torch
from common.cli import exit_code
from common.job import Options, Workspace
from common.training import Loop


class Images(torch.utils.data.Dataset):
    def __getitem__(self, draw):
        time.sleep(0.005)
        return torch.full((3, 2, 2), float(draw.index)), draw.index


def run():
    work = Workspace(Path(sys.argv[1]), device=torch.device("cpu"), options=Options(workers=2))
    model = torch.nn.Linear(1, 1)
    loop = Loop(work, 10**6, {"model": model}, label="toy", log_every=1)
    for step, batch in loop.over(loop.load(Images(), lambda step: [step, step + 1])):
        loop.log(step, loss=batch.images.mean())


sys.exit(exit_code(run))
"""


@pytest.mark.parametrize("lines", [1, 100_000])  # within and beyond what a pipe holds
def test_a_reader_that_ends_early_is_no_traceback(lines):
    """As `head` in `python train.py --list-experiments | head`."""
    script = (
        "import sys; from common.cli import exit_code; input()\n"
        f"sys.exit(exit_code(lambda: [print('a line') for _ in range({lines})] and 0))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    writer = subprocess.Popen([sys.executable, "-c", script], encoding="utf-8", **pipes)
    writer.stdout.close()
    writer.stdin.write("\n")
    writer.stdin.close()
    assert (writer.stderr.read(), writer.wait(timeout=60)) == ("", 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_group_saves_the_present_step_and_prints_no_traceback(tmp_path, number):
    """The loader's workers receive it too: they must deliver what their parent waits for."""
    (tmp_path / "toy.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "toy.py"), str(tmp_path)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True)
    curves = tmp_path / "curves.jsonl"
    while not (curves.is_file() and curves.read_text(encoding="utf-8").count("\n") > 3):
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in said and said.splitlines()[-1] == "stopped"
    last = json.loads(curves.read_text(encoding="utf-8").splitlines()[-1])["step"]
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == last


# ---------------------------------------------------------------- damaged files

DAMAGED = [
    "",
    "{",
    "[]",
    "null",
    '{"seconds": "x"}',
    '{"seconds": NaN}',
    "[" * 10**5,
    "\xff",
    '{"a": {"b": []}}',
]


@pytest.mark.parametrize("name", ["stage.json", "scores.json", "throughput.json", "measures.json"])
@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: content[:16])
def test_a_damaged_file_of_a_stage_is_one_line_that_names_fresh(tmp_path, toy_job, capsys, name, content):
    def build(work: Workspace) -> None:
        work.write_json("throughput.json", {"images_per_second": 1.0, "waiting": 0.5})

    def run() -> None:
        stage = toy_job(tmp_path).stage("reid", {}, build)
        (stage.throughput, stage.json("scores.json"), stage.json("measures.json"))

    stage = toy_job(tmp_path).stage("reid", {}, build)
    for good in ("scores.json", "measures.json"):
        (stage.folder / good).write_text("{}", encoding="utf-8")
    run()
    (stage.folder / name).write_bytes(content.encode("latin-1"))
    assert exit_code(run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line and line.endswith("delete the folder of this stage or use --fresh")


@pytest.mark.parametrize("line", ["", "{", "7", "[]", "{}", '{"step": "x"}', "\xff", "[" * 10**5])
def test_damaged_lines_of_curves_are_skipped(tmp_path, line):
    good = '{"step": 1, "loss": 0.5}'
    (tmp_path / "curves.jsonl").write_bytes(f"{good}\n{line}\n".encode("latin-1"))
    torch.save({"step": 2, "random": {}, "state": {}}, tmp_path / "checkpoint.pt")
    Loop(Workspace(tmp_path, resume=True), 3, {}, label="toy")
    assert (tmp_path / "curves.jsonl").read_text(encoding="utf-8") == good + "\n"


@pytest.mark.parametrize(
    "change",
    [
        {"step": "x"},
        {"step": None},
        {"state": {"model": {}}},
        {"state": {"model": 3}},
        {"state": {"other": {}}},
    ],
    ids=str,
)
def test_a_checkpoint_that_does_not_fit_is_an_input_error(tmp_path, change):
    model = torch.nn.Linear(1, 1)
    saved = {"step": 2, "random": {}, "state": {"model": model.state_dict()}}
    torch.save(saved | change, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="checkpoint.pt: "):
        Loop(Workspace(tmp_path, resume=True), 3, {"model": model}, label="toy")


@pytest.mark.parametrize("steps", [1, 3])
def test_an_output_folder_removed_while_training_is_one_line(tmp_path, capsys, toy_job, steps):
    import shutil

    def build(work: Workspace) -> None:
        loop = Loop(work, 6, {"model": torch.nn.Linear(1, 1)}, label="toy", save_every=2, log_every=2)
        for step in loop:
            loop.log(step, loss=1.0)
            if step == steps:
                shutil.rmtree(tmp_path / "out")

    assert exit_code(lambda: toy_job(tmp_path / "out").stage("reid", {}, build)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No such file or directory" in line and not Path(tmp_path / "out" / "runs").exists()
