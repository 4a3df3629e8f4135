"""Precision, compilation and throughput: what the flags change, and that a plain run stays what it was."""

import copy
import json
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from common import training
from common.backbones import adabn, build_backbone
from common.errors import InputError
from common.hashing import digest
from common.job import Options, Workspace
from common.training import Loop, accelerate, count_images, seed_everything

CPU = torch.device("cpu")
PLAIN, BF16 = Options(), Options(precision="bf16")


class Net(nn.Module):
    """The stem of the thin ResNet and one linear layer."""

    def __init__(self):
        super().__init__()
        seed_everything(1)
        self.base = nn.Sequential(*list(build_backbone("thin"))[:3])
        self.classifier = nn.Linear(16, 5)

    def forward(self, x):
        return self.classifier(self.base(x).mean((2, 3)))


def images(count: int = 4) -> torch.Tensor:
    return torch.sin(torch.arange(count * 3 * 32 * 16.0)).reshape(count, 3, 32, 16)


# ---------------------------------------------------------------- precision


def test_plain_options_change_neither_bits_nor_classes():
    model = accelerate(Net(), CPU, PLAIN)
    assert type(model.base) is nn.Sequential
    assert torch.equal(model.eval()(images()), Net().to(memory_format=torch.channels_last).eval()(images()))


def test_bf16_is_close_returns_float32_and_keeps_names_and_weights():
    plain, half = Net(), accelerate(Net(), CPU, BF16)
    assert list(half.state_dict()) == list(plain.state_dict())
    out, reference = half.train()(images()), plain.train()(images())
    assert out.dtype == torch.float32 and half.base(images()).dtype == torch.float32
    assert not torch.equal(out, reference) and torch.allclose(out, reference, atol=0.05)
    out.sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in half.parameters())
    assert not torch.is_autocast_enabled("cpu")
    plain.load_state_dict(half.state_dict())  # a checkpoint of either goes into the other


def test_a_bf16_network_is_copied_with_its_own_weights():
    model = accelerate(Net(), CPU, BF16).eval()
    adapted = adabn(model, [(images(),)], CPU)
    with torch.no_grad():
        adapted.base[0].weight.zero_()
        assert torch.equal(adapted(images())[0], adapted(images())[1]) and not torch.equal(
            model(images())[0], model(images())[1]
        )


def test_compiled_networks_give_the_same_and_keep_names(monkeypatch):
    """Without code generation: the captured graph runs as it is."""
    original = nn.Module.compile
    compiled = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda module: (compiled.append(module), original(module, backend="eager"))
    )
    options = Options(compile=True, precision="bf16")
    model, reference = (accelerate(Net(), CPU, o).eval() for o in (options, replace(options, compile=False)))
    assert compiled == [model.base]  # the linear layer is not worth it
    assert torch.allclose(model(images()), reference(images()), atol=1e-5)
    assert list(model.state_dict()) == list(reference.state_dict())
    assert torch.equal(copy.deepcopy(model)(images()), reference(images()))


def test_compilation_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(training.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="--compile: torch.compile needs a C"):
        accelerate(Net(), CPU, Options(compile=True))


# ---------------------------------------------------------------- keys and records


def test_keys_of_plain_runs_are_what_they_were():
    assert PLAIN.numerics == Options(compile=True).numerics == {}
    uses = {"net": {"height": 64}, "seed": 0} | PLAIN.numerics
    assert digest({"stage": "reid", **uses}) == "2e88aad4175a"
    others = (PLAIN, BF16, Options(pack=True), Options(precision="bf16", pack=True))
    assert len({digest({"stage": "reid", **uses, **options.numerics}) for options in others}) == 4


@pytest.mark.parametrize(
    "options, said",
    [
        (PLAIN, {}),
        (BF16, {"precision": "bf16"}),
        (Options(compile=True, pack=True), {"compile": True, "pack": True}),
        (Options(deterministic=True), {"deterministic": True}),
    ],
)
def test_the_record_says_how(tmp_path, toy_job, options, said):
    job = toy_job(tmp_path, options=options)
    caches = []

    def build(work: Workspace) -> None:
        caches.append(work.cache)
        list(Loop(work, 3, {}, label="toy").over([images()] * 3))

    job.stage("reid", dict(options.numerics), build)
    job.stage("scores", {}, lambda work: None)
    score = {"R-1": 0.5, "R-5": 0.6, "R-10": 0.7, "R-20": 0.8, "mAP": 0.3, "mAP_step": 0.31}
    record = job.record({"last": score})
    assert {
        name: value for name, value in record.hardware.items() if name not in ("cpu", "cores", "device")
    } == {"precision": "fp32", "pack": False, "processes": 1, "threads": 1} | said
    assert set(record.stages["reid"]) == {"hash", "reused", "seconds", "images_per_second", "waiting"}
    assert set(record.stages["scores"]) == {"hash", "reused", "seconds"}
    assert caches == [tmp_path / "cache" if options.pack else None]


# ---------------------------------------------------------------- throughput


def test_images_of_a_batch():
    batch = [images(4), torch.arange(4)]
    assert count_images(batch) == count_images(images(4)) == 4
    assert count_images({"classify": images(4), "target": images(3)}) == 7
    assert count_images((batch, [images(2), torch.arange(2)])) == 6


def test_the_loop_tells_images_a_second_and_the_share_of_waiting(tmp_path):
    def slow():
        for _ in range(4):
            time.sleep(0.05)
            yield [images(8), torch.arange(8)]

    loop = Loop(Workspace(tmp_path, resume=False), 4, {}, label="toy")
    for step, (batch, _) in loop.over(slow()):
        time.sleep(0.05)
        loop.log(step, size=float(len(batch)))
    measured = json.loads((tmp_path / "throughput.json").read_text(encoding="utf-8"))
    assert measured["images"] == 32 and measured["from_step"] == 0
    assert measured["images_per_second"] == pytest.approx(32 / measured["seconds"], rel=0.05)
    assert 0.2 < measured["waiting"] < 0.8 and measured["seconds"] >= 0.4


def test_an_interrupted_loop_tells_nothing(tmp_path):
    with pytest.raises(KeyError):
        for _ in Loop(Workspace(tmp_path, resume=False), 4, {}, label="toy").over([images()] * 4):
            raise KeyError
    assert not (tmp_path / "throughput.json").exists()


@pytest.mark.parametrize("capability, lines", [("AVX2", 1), ("NO AVX", 1), ("AVX512", 0), ("SVE256", 0)])
def test_a_cpu_that_computes_bf16_in_software_says_so_once(capability, lines, monkeypatch, caplog):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    training._warn_of_emulated_bf16.cache_clear()
    for device in ("cuda", "cpu", "cpu"):
        training.under_autocast(torch.nn.Linear, device)
    training._warn_of_emulated_bf16.cache_clear()
    assert caplog.text.count("bf16: this CPU has no AVX-512") == lines
