"""Engineering of a training loop: seeds, device, exact resume, curves, NaN guard, several processes."""

from __future__ import annotations

import atexit
import datetime
import functools
import json
import logging
import math
import operator
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_fn
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from common.augment import on_device
from common.checkpoints import load_checkpoint, save_checkpoint
from common.datasets.loading import Batch, planned_loader
from common.datasets.plans import Plan
from common.errors import InputError, RunError
from common.files import write_atomic
from common.job import Options, Workspace
from common.runs import rank_and_world, read_curves

log = logging.getLogger("run")
# Ctrl-C, a termination request, a closed terminal (which Windows does not have)
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
Network = TypeVar("Network", bound=nn.Module)
Labels = Sequence[int] | np.ndarray | Callable[[int, np.ndarray], np.ndarray]


class Stateful(Protocol):
    """Anything that can be saved and restored: modules, optimisers, an image pool."""

    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict) -> Any: ...


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seeds Python, numpy and torch; `deterministic` forbids CUDA kernels whose results vary between runs."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def pick_device(name: str) -> torch.device:
    """Returns the device: `auto` is CUDA if available. Under `torchrun` each process uses its local rank's
    GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is visible; use --device cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    rank, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if rank >= count:
        raise InputError(
            f"torchrun: expected a GPU for each process, found {count} for process {rank + 1}: "
            f"use --nproc-per-node {count}"
        )
    return torch.device("cuda", rank)


def start_processes(device: torch.device) -> None:
    """Joins the process group of `torchrun` until the program ends; does nothing without `torchrun`."""
    if rank_and_world()[1] > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # ranks wait for rank 0 while it alone trains a GAN: longer than the default of 10 or 30 minutes
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=datetime.timedelta(days=7))
        atexit.register(dist.destroy_process_group)


def gather(x: Tensor) -> Tensor:
    """Concatenates `(B, ...)` of all ranks in rank order, with gradients, for a loss over the whole batch."""
    if rank_and_world()[1] == 1:
        return x
    return torch.cat(tuple(dist_fn.all_gather(x.contiguous())))


def broadcast(x: Tensor) -> Tensor:
    """Returns rank 0's values on every rank."""
    if rank_and_world()[1] == 1:
        return x
    # nccl moves tensors on GPUs only
    values = x.cuda() if dist.get_backend() == "nccl" else x.clone()
    dist.broadcast(values, src=0)
    return values.to(x.device)


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replaces each gradient by its mean over the ranks; call it once after `backward`.

    With a loss over `gather`ed features every rank holds `world` times its share of the gradient, so the mean
    is the gradient of a single process.
    """
    world = rank_and_world()[1]
    if world > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world


class Loop:
    """The steps of a training stage: `for step, batch in loop.over(loop.load(images, plan))`.

    Every `save_every` steps and on Ctrl-C it saves `state`, torch's random state and the step, so that a
    resumed stage continues exactly as an uninterrupted one would, given batches that are a function of the
    step. With several processes each draws its own dropout masks, the random state of each is saved, and a
    signal to one of them stops all of them after the same step.
    """

    def __init__(
        self,
        workspace: Workspace,
        total: int,
        state: Mapping[str, Stateful],
        *,
        label: str,
        save_every: int = 1000,
        log_every: int = 20,
    ):
        self.workspace, self.total, self.state, self.label = workspace, total, dict(state), label
        self.save_every, self.log_every = save_every, log_every
        self.start = 0
        self._random: dict[str, Any] | None = None
        self._pending: list[tuple[int, dict[str, Tensor | float]]] = []
        self._interrupted = False
        self._board: Any = None  # TensorBoard's writer
        self.main = rank_and_world()[0] == 0
        if workspace.resume and workspace.checkpoint.is_file():
            self._load()
        self._cut_curves()

    def _load(self) -> None:
        saved = load_checkpoint(self.workspace.checkpoint, expected=("step", "random", "state"))
        if set(saved["state"]) != set(self.state):
            raise InputError(
                f"{self.workspace.checkpoint}: holds {sorted(saved['state'])}, expected {sorted(self.state)}"
            )
        try:
            for name, target in self.state.items():
                target.load_state_dict(saved["state"][name])
            self.start = operator.index(saved["step"])
        except Exception as error:  # modules and optimisers raise anything for a foreign state
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.workspace.checkpoint}: does not fit this training ({reason}); --fresh starts over"
            ) from None
        states = saved["random"]
        rank, world = self.workspace.rank_and_world
        states = states if isinstance(states, list) else [states]
        self._random = states[rank] if len(states) == world else states[0] if rank == 0 else None
        log.info("%s: continues from step %d of %d", self.label, self.start, self.total)

    def _cut_curves(self) -> None:
        if self.main:
            lines = read_curves(self.workspace.curves) if self.workspace.curves.is_file() else []
            kept = [line for line in lines if line["step"] <= self.start]
            write_atomic(self.workspace.curves, "".join(json.dumps(line) + "\n" for line in kept))

    def __iter__(self) -> Iterator[int]:
        if self._random is not None:
            _set_random_state(self._random)
        rank, _ = rank_and_world()
        if rank > 0 and self._random is None:  # all ranks start from identical weights
            torch.manual_seed(torch.initial_seed() + 1_000_003 * rank + self.start)
        self._open_board()
        previous = self._catch_interrupts()
        begun = time.perf_counter()
        bar = tqdm(
            total=self.total,
            initial=self.start,
            desc=self.label,
            disable=None if self.main else True,
            leave=False,
            mininterval=0.5,
        )
        try:
            for step in range(self.start, self.total):
                yield step
                bar.update()
                last = step + 1 == self.total
                self._interrupted = self._any_rank(self._interrupted)
                save = ((step + 1) % self.save_every == 0 and not last) or self._interrupted
                if (step + 1) % self.log_every == 0 or last or save:
                    self._flush(begun)
                if save:
                    self._save(step + 1)
                if self._interrupted:
                    log.warning(
                        "%s: stopped at step %d of %d; --resume continues from there",
                        self.label,
                        step + 1,
                        self.total,
                    )
                    raise KeyboardInterrupt
            self._check_weights(self.total)
            if self.workspace.longer and self.workspace.options.keep_state:
                self._save(self.total)
        finally:
            bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
            if self._board is not None:
                self._board.close()

    def over(self, batches: Iterable) -> Iterator[tuple[int, Any]]:
        """Yields each step with its batch and finally writes `throughput.json`; `batches` start at
        `self.start`.

        `images_per_second` counts the images of all processes over wall time; `waiting` is the share (0..1)
        of that time in which this process waited for its next batch: starting workers, decoding, clustering
        between epochs. On a GPU it bounds the time that the device idled for data. The first steps
        (compilation, warm-up) count; after a resume, only the steps since then do.
        """
        clock = _Clock(batches)
        yield from zip(self, clock)
        seconds = time.perf_counter() - clock.begun
        if self.main and clock.images:
            images = clock.images * self.workspace.rank_and_world[1]
            self.workspace.write_json(
                "throughput.json",
                {
                    "images_per_second": float(f"{images / seconds:.4g}"),
                    "waiting": round(clock.waited / seconds, 4),
                    "images": images,
                    "seconds": round(seconds, 2),
                    "from_step": self.start,
                },
            )

    def load(
        self,
        images: Dataset,
        plan: Plan,
        labels: Labels | None = None,
        *,
        start: int | None = None,
        stop: int | None = None,
    ) -> Iterator[Batch]:
        """Yields the stage's batches on its device, from the step at which the loop starts to its end.

        `labels`: of every image `(N,)`, or a function of (step, indices) that returns those of a batch.
        """
        work, start = self.workspace, self.start if start is None else start
        rank, world = work.rank_and_world
        loader = planned_loader(
            images,
            plan,
            start,
            self.total if stop is None else stop,
            workers=work.options.workers,
            rank=rank,
            world=world,
            pin_memory=work.device.type == "cuda",
        )
        for step, (part, _) in enumerate(loader, start):
            indices = loader.steps.drawn.popleft()
            yield Batch(on_device(part, work.device), indices, _labels(labels, step, indices, work.device))

    def log(self, step: int, **terms: Tensor | float) -> None:
        """Logs this step's scalars: `curves.jsonl` receives their means over `log_every` steps.

        A NaN or an infinity ends the run with a `RunError`. Tensors, all on one device, are read only when a
        line is written, so that no step waits for the device.
        """
        values = {n: v.detach().float() if isinstance(v, Tensor) else v for n, v in terms.items()}
        self._pending.append((step, values))

    def _flush(self, begun: float) -> None:
        if not self._pending:
            return
        values: dict[str, list[float]] = {}
        noted = [(step, name, value) for step, terms in self._pending for name, value in terms.items()]
        tensors = [value.reshape(()) for _, _, value in noted if isinstance(value, Tensor)]
        read = iter(torch.stack(tensors).tolist() if tensors else ())  # one wait for the device
        for step, name, value in noted:
            number = next(read) if isinstance(value, Tensor) else float(value)
            if not math.isfinite(number):
                raise RunError(
                    f"{self.label}: {name} is {number} at step {step} of {self.total}; "
                    "what was saved before is kept"
                )
            values.setdefault(name, []).append(number)
        line = {"step": self._pending[-1][0] + 1, "seconds": round(time.perf_counter() - begun, 2)}
        line |= {name: float(f"{sum(column) / len(column):.6g}") for name, column in values.items()}
        self._pending.clear()
        if self.main:
            with self.workspace.curves.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name in values:
                self._board.add_scalar(f"{self.label}/{name}", line[name], line["step"])

    def _save(self, step: int) -> None:
        self._check_weights(step)
        states = self._of_all_ranks(_random_state())
        if self.main:
            state = {name: item.state_dict() for name, item in self.state.items()}
            random = states if len(states) > 1 else states[0]
            save_checkpoint(self.workspace.checkpoint, {"step": step, "random": random, "state": state})
            self.workspace.kept.touch()

    def _check_weights(self, step: int) -> None:
        """Raises `RunError` for a NaN or an infinity in a network, before it replaces a good checkpoint."""
        for name, item in self.state.items():
            tensors = item.state_dict().values() if isinstance(item, nn.Module) else ()
            if not all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point()):
                raise RunError(
                    f"{self.label}: the weights of {name} are not finite after step {step} of {self.total}; "
                    "what was saved before is kept"
                )

    def _together(self) -> bool:
        """Returns whether several processes run this loop."""
        return self.workspace.collective and dist.is_initialized()

    def _any_rank(self, flag: bool) -> bool:
        if not self._together():
            return flag
        device = self.workspace.device if dist.get_backend() == "nccl" else "cpu"
        flags = torch.tensor([int(flag)], device=device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def _of_all_ranks(self, value: Any) -> list[Any]:
        if not self._together():
            return [value]
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values

    def _catch_interrupts(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}

        def note(number, frame):
            if self._interrupted:  # asked twice: stop at once
                raise KeyboardInterrupt
            self._interrupted = True

        return {number: signal.signal(number, note) for number in STOP_SIGNALS}

    def _open_board(self) -> None:
        if self.workspace.options.tensorboard and self.main:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise InputError(
                    "--tensorboard needs the package tensorboard: pip install -e '.[tensorboard]'"
                ) from None
            self._board = SummaryWriter(self.workspace.folder / "tensorboard")


def _labels(labels: Labels | None, step: int, indices: np.ndarray, device: torch.device) -> Tensor | None:
    if labels is None:
        return None
    of_batch = labels(step, indices) if callable(labels) else np.asarray(labels)[indices]
    return torch.as_tensor(of_batch, dtype=torch.int64, device=device)


class _Clock:
    """Forwards batches; counts their images and the seconds spent waiting for them."""

    def __init__(self, batches: Iterable):
        self.begun = time.perf_counter()
        self.batches, self.images = iter(batches), 0
        self.waited = time.perf_counter() - self.begun

    def __iter__(self) -> _Clock:
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        batch = next(self.batches)
        self.waited += time.perf_counter() - start
        self.images += count_images(batch)
        return batch


def count_images(batch: Any) -> int:
    """Returns the number of images of a batch, of a mapping or tuple of batches, or of (images, ...)."""
    if isinstance(batch, Tensor):
        return len(batch)
    if isinstance(batch, Mapping):
        return sum(map(count_images, batch.values()))
    if all(isinstance(part, (list, tuple)) for part in batch):
        return sum(map(count_images, batch))
    return count_images(batch[0])


def accelerate(model: Network, device: torch.device, options: Options) -> Network:
    """Moves a network to the device in channels-last, applies --precision and --compile, and returns it.

    bf16: each child runs under autocast and returns float32; operations between the children, losses, weights
    and optimiser stay float32. compile: the children with convolutions. Names in the state dict do not
    change. Raises `InputError` without a compiler.
    """
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for child in model.children():
        if options.precision == "bf16":
            child.__class__ = under_autocast(type(child), device.type)
        if options.compile and any(isinstance(module, nn.modules.conv._ConvNd) for module in child.modules()):
            if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
                raise InputError(
                    "--compile: torch.compile needs a C++ compiler, found none: install g++, or omit the flag"
                )
            child.compile()
    return model


@functools.cache
def _warn_of_emulated_bf16() -> None:
    """Warns once where the processor has no instructions that bf16 needs: StarGAN took 40 times as long."""
    if torch.backends.cpu.get_cpu_capability() in ("NO AVX", "AVX2"):
        log.warning("bf16: this CPU has no AVX-512 and computes it in software, many times slower than fp32")


def under_autocast(kind: type[nn.Module], device: str) -> type[nn.Module]:
    """Returns a subclass whose forward runs under autocast; its output, or each of a tuple, is float32.

    A subclass rather than a replaced `forward` method: `copy.deepcopy` (AdaBN) must yield a network that runs
    on its own weights; rather than a wrapper module: names in the state dict must not change.
    """
    if device == "cpu":
        _warn_of_emulated_bf16()

    def forward(self: nn.Module, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        with torch.autocast(device, torch.bfloat16):
            output = kind.forward(self, *inputs)
        return tuple(map(torch.Tensor.float, output)) if isinstance(output, tuple) else output.float()

    return type(kind.__name__, (kind,), {"forward": forward})


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None  # of this process's GPU
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def scale_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's rate to `factor` times its `initial_lr`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def set_threads(count: int) -> None:
    """Sets the threads of torch's CPU kernels, here and nowhere else; 0 keeps torch's own choice."""
    if count > 0:
        torch.set_num_threads(count)
