"""Every paper end to end on CUDA, without a GPU: its tensors say they lie on cuda:0, are computed on the CPU,
and refuse to meet one that does not.

So what a GPU would refuse (labels left on the CPU, a mean over numbers and device tensors) fails here too,
and scores must come out as on the CPU, bit by bit. What the kernels of a GPU round otherwise, its memory and
its speed are not seen.
"""

import importlib
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from common.job import Workspace
from common.records import Record, read_record
from common.runs import read_curves
from common.training import Loop

pytestmark = [
    pytest.mark.skipif(
        not hasattr(torch._C, "_only_lift_cpu_tensors"),
        reason="this torch makes no tensors on a device that is not there",
    ),
    pytest.mark.filterwarnings("ignore:.*pin_memory"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
aten = torch.ops.aten
MOVES = {aten.copy_.default, aten._to_copy.default}
# take indices from anywhere
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class OnCuda(Tensor):
    """A tensor that lies on cuda:0 for whoever asks; `held` is the one that is computed with."""

    @staticmethod
    def __new__(cls, held: Tensor):
        self = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            # meta: backward then runs without a GPU's thread
            layout=held.layout,
            device="meta",
        )
        self.held = held
        return self

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def tolist(self):
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol):
        return self.held.__reduce_ex__(protocol)

    def __repr__(self, **_):
        return f"OnCuda({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class PretendedCuda(TorchDispatchMode):
    """Within it `device="cuda"` makes tensors `OnCuda`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def __enter__(self):
        self.before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") asks no driver
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self.before)
        return super().__exit__(*error)


def compute(func, args: tuple, kwargs: dict):
    """One operation on what the tensors hold, its results where the operands lie, or where `device` says."""
    leaves, spec = tree_flatten((args, kwargs))
    there = [x for x in leaves if isinstance(x, OnCuda)]
    if there and func not in MOVES:
        refuse_two_devices(
            func, args[0], [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, OnCuda)]
        )
    args, kwargs = tree_unflatten([x.held if isinstance(x, OnCuda) else x for x in leaves], spec)
    device = kwargs.get("device")
    if device is not None:
        kwargs = kwargs | {"device": CPU}
    result = func(*args, **kwargs)
    to_cuda = bool(there) if device is None else torch.device(device).type in ("cuda", "meta")
    if func is aten.copy_.default:
        to_cuda = args[0] is not leaves[0]
    known = {id(x.held): x for x in there}  # what was changed in place stays the tensor that it was

    def placed(y):
        return (
            y if not to_cuda or not isinstance(y, Tensor) else known[id(y)] if id(y) in known else OnCuda(y)
        )

    return tree_map(placed, result)


def refuse_two_devices(func, first, on_cpu: list[Tensor]) -> None:
    """As CUDA does: a CPU tensor is welcome only as a single number in an elementwise operation, or as the
    index of a CUDA tensor.
    """
    if func in INDEXING and isinstance(first, OnCuda):
        on_cpu = [x for x in on_cpu if x.dtype not in (torch.int64, torch.bool)]
    if any(x.dim() > 0 or torch.Tag.pointwise not in func.tags for x in on_cpu):
        raise RuntimeError(f"{func}: expected all tensors on one device, found cuda:0 and cpu")


@pytest.fixture
def cuda(monkeypatch) -> PretendedCuda:
    """The mode, with what PyTorch asks of a driver answered."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "pretended")
    return PretendedCuda()


# ---------------------------------------------------------------- the device itself


def test_the_pretended_device_computes_and_says_where_it_is(cuda):
    with cuda:
        x = torch.arange(6.0).reshape(2, 3).to(CUDA).requires_grad_()
        layer = torch.nn.Linear(3, 4).to(CUDA)
        loss = layer(x).square().mean() + torch.tensor(1.0)  # a single number may come from the CPU
        loss.backward()
        assert (
            x.device
            == layer.weight.device
            == layer.weight.grad.device
            == loss.device
            == torch.ones(2, device=CUDA).device
            == CUDA
        )
        assert type(x.cpu().detach()) is Tensor and x.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert x[torch.tensor([1])].device == CUDA  # indices may come from the CPU


@pytest.mark.parametrize(
    "meet",
    [
        lambda x: x + torch.ones(2),
        lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
        lambda x: torch.ones(2)[x.long()],
        lambda x: torch.nn.functional.cross_entropy(x[None], torch.tensor([1])),
        lambda x: x.numpy(),
    ],
)
def test_the_pretended_device_refuses_what_a_gpu_refuses(cuda, meet):
    with cuda, pytest.raises((RuntimeError, TypeError)):
        meet(torch.zeros(2, device=CUDA))


def test_plain_numbers_are_logged_beside_tensors_of_the_device(cuda, tmp_path):
    loop = Loop(Workspace(tmp_path, resume=False), 2, {}, label="cuda", log_every=2)
    with cuda:
        for step in loop:
            loop.log(step, loss=torch.tensor(2.0, device=CUDA), repeated_people=float(step))
    assert [(line["loss"], line["repeated_people"]) for line in read_curves(loop.workspace.curves)] == [
        (2.0, 0.5)
    ]


# ---------------------------------------------------------------- the papers

ROWS = {
    "hhl/table2/L_CD": "--recipe.epochs 2 --recipe.pretrain-epochs 1 --recipe.drop-epoch 1 "
    "--recipe.batch-scale 1 --recipe.batch 16 --recipe.ids 3 --recipe.images-per-id 2 "
    "--recipe.target-batch 4 --stargan.iterations 6 --stargan.batch 4 --stargan.channels 4 "
    "--stargan.blocks 1 --stargan.d-channels 4 --net.embed-dim 16 --net.triplet-dim 8 --pack",
    "arn/ablation/full": "--pretrain.epochs 1 --pretrain.batch 16 --recipe.epochs 1 --recipe.batch 8 "
    "--recipe.ids 2 --latent.width 8",
    "spgan/table2/direct": "--recipe.pretrain-epochs 1 --recipe.epochs 1 --recipe.drop-epoch 1",
    "ptgan/transfer/PTGAN": "--masks.kind disk --recipe.epochs 1 --recipe.drop-epoch 1 --recipe.batch 16 "
    "--gan.channels 4 --gan.blocks 1 --gan.d-channels 4 --gan.epochs 2 --gan.decay-epoch 1 --gan.batch 24 "
    "--gan.pool-size 1",
    "dcgan_lsro/table2/lsro=24000": "--recipe.epochs 2 --recipe.drop-epoch 1 --recipe.batch 16 "
    "--dcgan.epochs 1 --dcgan.batch 16 --dcgan.g-channels 2 --dcgan.d-channels 2 --pool.batch 16",
}


def run_row(key: str, device: torch.device, data_root: Path, out: Path, monkeypatch) -> Record:
    paper = key.split("/")[0]
    module = importlib.import_module(f"{paper}.train")
    monkeypatch.setattr("common.training.pick_device", lambda name: device)
    source = "market1501" if paper == "dcgan_lsro" else "dukemtmc"
    flags = [
        "--source",
        source,
        "--target",
        "market1501",
        "--data-root",
        str(data_root),
        "--out",
        str(out),
        "--threads",
        "1",
        "--experiment",
        key,
    ]
    assert module.main([*flags, *ROWS[key].split()]) == 0
    (path,) = out.rglob("record.json")
    return read_record(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("key", ROWS)
def test_a_row_on_cuda_scores_as_on_the_cpu(key, cuda, draw_data_root, tmp_path_factory, monkeypatch):
    data_root = draw_data_root(train_ids=10)
    with cuda:
        on_cuda = run_row(key, CUDA, data_root, tmp_path_factory.mktemp("cuda"), monkeypatch)
    on_cpu = run_row(key, CPU, data_root, tmp_path_factory.mktemp("cpu"), monkeypatch)
    assert on_cuda.hardware["device"] == "pretended" and on_cpu.hardware["device"] == "cpu"
    assert on_cuda.scores == on_cpu.scores and on_cuda.measures == on_cpu.measures


def test_labels_left_on_the_cpu_stop_a_row(cuda, draw_data_root, tmp_path, monkeypatch):
    load = Loop.load

    def labels_on_the_cpu(loop, *args, **options):
        for batch in load(loop, *args, **options):
            yield batch if loop.label == "StarGAN" else batch._replace(labels=batch.labels.cpu())

    monkeypatch.setattr(Loop, "load", labels_on_the_cpu)
    with cuda, pytest.raises(RuntimeError, match="expected all tensors on one device"):
        run_row("hhl/table2/L_CD", CUDA, draw_data_root(train_ids=10), tmp_path, monkeypatch)
