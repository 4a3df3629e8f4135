"""Several processes on one output folder: who builds, who stops when, and what a resume continues from."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import os, signal, sys, torch
from pathlib import Path
from common.job import Workspace
from common.runs import StageStore, rank_and_world
from common.training import Loop, average_gradients, seed_everything, start_processes

out, stop_at, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume"
cpu = torch.device("cpu")
start_processes(cpu)
rank = rank_and_world()[0]

def build(work):
    seed_everything(3)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loop = Loop(work, 8, {"model": model, "optimizer": optimizer}, label="toy", save_every=100)
    for step in loop:
        images = torch.sin(torch.arange(8.0) + step).reshape(2, 4)[rank : rank + 1]
        optimizer.zero_grad()
        model(images).square().mean().backward()
        average_gradients(model.parameters())
        optimizer.step()
        if rank == 1 and step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
    if loop.main:
        torch.save(model.state_dict(), work.folder / "model.pt")
        (out / "built").open("a").write("x")

store = StageStore(out, resume=resume)
store.obtain("net", {"net": 1}, build, Workspace(out, device=cpu, collective=True))
"""


def start(script: Path, out: Path, stop_at: int = -1, mode: str = "new") -> list[subprocess.Popen]:
    """Starts the two processes of one command, as `torchrun` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out.mkdir(exist_ok=True)
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(script), str(out), str(stop_at), mode],
            env={**os.environ, **group, "RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]


def finish(processes: list[subprocess.Popen]) -> list[int]:
    for process in processes:
        process.communicate(timeout=240)
    return [process.returncode for process in processes]


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("script") / "toy.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def weights(out: Path) -> dict:
    (path,) = out.glob("stages/net-*/model.pt")
    return torch.load(path)


def test_a_signal_to_one_process_stops_all_and_a_resume_equals_an_uninterrupted_run(script, tmp_path):
    assert finish(start(script, tmp_path / "whole")) == [0, 0]
    assert all(code != 0 for code in finish(start(script, tmp_path / "killed", stop_at=3)))
    (checkpoint,) = (tmp_path / "killed").glob("stages/net-*.partial/checkpoint.pt")
    saved = torch.load(checkpoint)
    assert saved["step"] == 4 and len(saved["random"]) == 2
    assert not torch.equal(saved["random"][0]["torch"], saved["random"][1]["torch"])
    assert finish(start(script, tmp_path / "killed", mode="resume")) == [0, 0]
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_two_commands_on_one_folder_build_a_stage_once(script, tmp_path):
    commands = [start(script, tmp_path / "shared") for _ in range(2)]
    assert [finish(command) for command in commands] == [[0, 0], [0, 0]]
    assert (tmp_path / "shared" / "built").read_text(encoding="utf-8") == "x"
