"""The training loop: exact resume, curves, the NaN guard, Ctrl-C, safe checkpoints, several processes."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from common.backbones import SplitBatchNorm2d, adabn, build_backbone, split_batch_norm
from common.checkpoints import load_checkpoint, save_checkpoint, weights_content
from common.errors import InputError, RunError
from common.job import Options, Workspace
from common.runs import read_curves
from common.training import Loop, pick_device, seed_everything


class Killed(Exception):
    pass


def train(
    workspace: Workspace, *, total: int = 12, kill_at: int | None = None, save_every: int = 4
) -> dict[str, torch.Tensor]:
    """Dropout draws from torch's generator, momentum lives in the optimiser: both must survive a resume."""
    seed_everything(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loop = Loop(
        workspace,
        total,
        {"model": model, "optimizer": optimizer},
        label="toy",
        save_every=save_every,
        log_every=2,
    )
    for step in loop:
        if step == kill_at:
            raise Killed
        x = torch.sin(torch.arange(24.0).reshape(4, 6) * (step + 1))
        loss = model(x).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.log(step, loss=loss)
    return model.state_dict()


@pytest.mark.parametrize("kill_at", [2, 4, 7, 11])
def test_kill_and_resume_equal_an_unbroken_run(tmp_path, kill_at):
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = train(Workspace(tmp_path / "whole", resume=False))
    with pytest.raises(Killed):
        train(Workspace(tmp_path / "broken", resume=False), kill_at=kill_at)
    resumed = train(Workspace(tmp_path / "broken", resume=True))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    curves = [
        [(line["step"], line["loss"]) for line in read_curves(tmp_path / name / "curves.jsonl")]
        for name in ("whole", "broken")
    ]
    assert curves[0] == curves[1] and [step for step, _ in curves[0]] == [2, 4, 6, 8, 10, 12]


def test_ctrl_c_finishes_the_step_and_leaves_a_checkpoint(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = train(Workspace(tmp_path / "whole", resume=False))
    work = Workspace(tmp_path, resume=False)
    seed_everything(0)
    before = signal.getsignal(signal.SIGINT)

    def run():
        seed_everything(3)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in Loop(
            work, 12, {"model": model, "optimizer": optimizer}, label="toy", save_every=100, log_every=2
        ):
            if step == 5:
                os.kill(os.getpid(), signal.SIGINT)  # in the middle of a step
            x = torch.sin(torch.arange(24.0).reshape(4, 6) * (step + 1))
            optimizer.zero_grad()
            model(x).pow(2).mean().backward()
            optimizer.step()

    with pytest.raises(KeyboardInterrupt):
        run()
    assert signal.getsignal(signal.SIGINT) == before
    assert load_checkpoint(work.checkpoint)["step"] == 6 and work.kept.is_file()
    resumed = train(Workspace(tmp_path, resume=True))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_nan_guard_names_term_and_step(tmp_path):
    loop = Loop(Workspace(tmp_path, resume=False), 10, {}, label="toy", log_every=4)
    with pytest.raises(RunError, match="triplet is nan at step 2 of 10"):
        for step in loop:
            loop.log(
                step,
                cross_entropy=torch.tensor(1.0),
                triplet=torch.tensor(float("nan") if step == 2 else 0.1),
            )


def test_terms_that_come_now_and_then_are_averaged_where_they_come(tmp_path):
    loop = Loop(Workspace(tmp_path, resume=False), 4, {}, label="toy", log_every=4)
    for step in loop:
        loop.log(step, d=float(step))
        if step % 2:
            loop.log(step, g=10.0 * step)
    (line,) = read_curves(tmp_path / "curves.jsonl")
    assert line["d"] == 1.5 and line["g"] == 20.0 and line["step"] == 4


def test_weights_that_are_not_finite_are_never_kept(tmp_path):
    model = nn.Linear(2, 1)
    work = Workspace(tmp_path)
    with pytest.raises(RunError, match="the weights of model are not finite after step 5 of 5"):
        for step in Loop(work, 5, {"model": model}, label="toy", save_every=2):
            if step == 4:
                nn.init.constant_(model.weight, torch.nan)
    saved = load_checkpoint(work.checkpoint)
    assert saved["step"] == 4 and saved["state"]["model"]["weight"].isfinite().all()


def test_a_half_written_last_line_of_the_curves_is_dropped(tmp_path):
    (tmp_path / "curves.jsonl").write_text(
        json.dumps({"step": 2, "loss": 1.0}) + '\n{"step": 4, "lo', encoding="utf-8"
    )
    assert read_curves(tmp_path / "curves.jsonl") == [{"step": 2, "loss": 1.0}]


def test_each_process_draws_masks_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    drawn = {}
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        seed_everything(5)
        start = torch.rand(1)
        (tmp_path / str(rank)).mkdir()
        loop = Loop(Workspace(tmp_path / str(rank), resume=False), 1, {}, label="toy")
        drawn[rank] = [start.item(), *(torch.rand(1).item() for _ in loop)]
    assert drawn[0][0] == drawn[1][0] and drawn[0][1] != drawn[1][1]  # networks begin alike


def test_processes_and_the_content_of_weights_are_part_of_a_stage(tmp_path, monkeypatch):
    assert Options().numerics == {} and weights_content("none") == weights_content("imagenet") == {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Options().numerics == {"processes": 2}
    found = []
    for content in (b"first", b"second"):
        (tmp_path / "resnet.pth").write_bytes(content)
        found.append(weights_content(str(tmp_path / "resnet.pth")))
    assert found[0] != found[1]


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="--nproc-per-node 1"):
        pick_device("auto")


def test_checkpoints_are_whole_and_read_safely(tmp_path):
    path = tmp_path / "model.pt"
    save_checkpoint(path, {"weights": torch.arange(3), "step": 5, "names": ["a"]})
    assert load_checkpoint(path, expected=("weights",))["step"] == 5
    with pytest.raises(InputError, match="no optimizer"):
        load_checkpoint(path, expected=("optimizer",))
    with pytest.raises(InputError, match="no such file"):
        load_checkpoint(tmp_path / "none.pt")
    for content in (b"", b"not a checkpoint", path.read_bytes()[:200]):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(InputError, match="bad.pt"):
            load_checkpoint(tmp_path / "bad.pt")
    torch.save({"code": print}, tmp_path / "code.pt")  # pickled code is not run
    with pytest.raises(InputError, match="code.pt"):
        load_checkpoint(tmp_path / "code.pt")


def test_a_checkpoint_of_another_stage_is_refused(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"step": 1, "random": {}, "state": {"generator": {}}})
    with pytest.raises(InputError, match="holds \\['generator'\\], expected \\['model'\\]"):
        Loop(Workspace(tmp_path, resume=True), 5, {"model": nn.Linear(1, 1)}, label="toy")


def test_devices():
    assert pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(InputError, match="no CUDA device"):
            pick_device("cuda")


def test_tensorboard_is_an_option(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    with pytest.raises(InputError, match="pip install"):
        next(
            iter(
                Loop(Workspace(tmp_path, resume=False, options=Options(tensorboard=True)), 2, {}, label="toy")
            )
        )
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    for step in (
        loop := Loop(Workspace(tmp_path, resume=False, options=Options(tensorboard=True)), 2, {}, label="toy")
    ):
        loop.log(step, loss=1.0)
    assert list((tmp_path / "tensorboard").iterdir())


# ---------------------------------------------------------------- backbones


def test_backbones_and_their_errors(tmp_path):
    thin = build_backbone("thin")
    assert sum(p.numel() for p in thin.parameters()) == 302_864
    assert thin(torch.zeros(2, 3, 64, 32)).shape == (2, 128, 8, 4)
    torch.save({**build_backbone("resnet18").state_dict(), "fc.weight": torch.zeros(1)}, tmp_path / "r18.pth")
    assert build_backbone("resnet18", str(tmp_path / "r18.pth")).num_features == 512
    for name, weights, words in [
        ("resnet19", "none", "unknown backbone"),
        ("thin", "imagenet", "no ImageNet weights"),
        ("resnet18", str(tmp_path / "no.pth"), "no such file"),
        ("thin", str(tmp_path / "r18.pth"), "does not fit"),
    ]:
        with pytest.raises(InputError, match=words):
            build_backbone(name, weights)


def test_imagenet_weights_that_cannot_be_fetched_say_where_to_put_them(tmp_path, monkeypatch):
    from urllib.error import URLError

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(URLError("offline"))
    )
    with pytest.raises(InputError, match="put https://.*resnet50-0676ba61.pth at .*checkpoints.*or none"):
        build_backbone("resnet50", "imagenet")
    cached = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    cached.write_bytes(b"half of them")
    with pytest.raises(
        InputError, match=f"{cached}: not the ImageNet weights of resnet50, its SHA-256 is another"
    ):
        build_backbone("resnet50", "imagenet")


def test_adabn_takes_the_targets_statistics_and_nothing_else():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    x = torch.sin(torch.arange(2 * 8 * 3 * 6 * 6.0)).reshape(2, 8, 3, 6, 6) + 2
    adapted = adabn(model, [(x[0],), (x[1],)], torch.device("cpu"))
    maps = model[0](x.flatten(0, 1)).detach()
    assert torch.allclose(adapted[1].running_mean, maps.mean((0, 2, 3)), atol=1e-5)
    assert torch.equal(adapted[0].weight, model[0].weight) and torch.equal(
        model[1].running_mean, torch.zeros(4)
    )
    assert not adapted.training


def test_split_batch_norm_is_two_batches_and_keeps_the_first_ones_statistics():
    x = torch.cos(torch.arange(4 * 3 * 2 * 2.0)).reshape(4, 3, 2, 2) * 3
    split = split_batch_norm(nn.Sequential(nn.BatchNorm2d(3)), 2)
    assert isinstance(split[0], SplitBatchNorm2d)
    halves = [nn.BatchNorm2d(3), nn.BatchNorm2d(3)]
    out = split(x)
    assert torch.allclose(out, torch.cat([bn(half) for bn, half in zip(halves, x.chunk(2))]))
    assert torch.allclose(split[0].running_var, halves[0].running_var) and split[0].num_batches_tracked == 1
    assert torch.equal(split.eval()(x), halves[0].eval()(x))


def test_gathered_losses_and_averaged_gradients_equal_one_process(tmp_path, torchrun):
    """Two processes with half of the batch each, a loss over all pairs of embeddings, against one process
    with the whole batch.
    """
    script = tmp_path / "pairs.py"
    script.write_text(
        """
import sys, torch
from common.runs import rank_and_world
from common.training import average_gradients, broadcast, gather, start_processes
start_processes(torch.device("cpu"))
rank, world = rank_and_world()
assert broadcast(torch.tensor([rank, 7])).tolist() == [0, 7]   # rank 0's values, on every rank
torch.manual_seed(0)
model = torch.nn.Linear(5, 3)
x = torch.sin(torch.arange(40.0)).reshape(8, 5).chunk(world)[rank]
embeddings = gather(model(x))
torch.cdist(embeddings, embeddings).pow(2).mean().backward()
average_gradients(model.parameters())
if rank == 0:
    torch.save(model.weight.grad, sys.argv[1])
""",
        encoding="utf-8",
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(tmp_path / "one.pt")], check=True, env=environment)
    subprocess.run(
        [
            *torchrun,
            str(script),
            str(tmp_path / "two.pt"),
        ],
        check=True,
        env=environment,
        capture_output=True,
    )
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert torch.allclose(one, two, rtol=1e-5, atol=1e-6)
