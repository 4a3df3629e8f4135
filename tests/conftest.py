"""What the tests of several papers share: one thread, closed formulas that stand in for random numbers, the
golden arrays, a tiny data root.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

# in every test process: two cores are shared by whatever else runs
os.environ.setdefault("OMP_NUM_THREADS", "1")
GOLDEN = Path(__file__).parent / "golden"
PRIME = 2**31 - 1
PARITY: Any = None  # the plugin of parity.py, if the errors of parity are measured


def pytest_configure(config: pytest.Config) -> None:
    global PARITY
    if os.environ.get("MEASURE_PARITY"):
        spec = importlib.util.spec_from_file_location("parity", Path(__file__).with_name("parity.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        PARITY = module.ParityErrors()
        config.pluginmanager.register(PARITY)


def scatter(name: str, *shape: int) -> np.ndarray:
    """float64 values in -1..1 that look random: a quadratic in the index modulo 2^31 - 1, shifted by the CRC
    of a name; exact on every machine.
    """
    k = np.arange(int(np.prod(shape)), dtype=np.int64) + 1
    value = (k * k % PRIME * 1583458089 + zlib.crc32(name.encode())) % PRIME
    return (2 * value / PRIME - 1).reshape(shape)


def fingerprint(arrays: Mapping) -> np.ndarray:
    """One row an array or tensor, in order of name: root mean square, mean, and 14 entries at even distances;
    float64 `(arrays, 16)`.
    """
    rows = []
    for _, array in sorted(arrays.items()):
        flat = np.asarray(array.detach() if hasattr(array, "detach") else array, np.float64).ravel()
        rows.append(
            [np.sqrt(np.mean(flat**2)), flat.mean(), *flat[np.linspace(0, len(flat) - 1, 14).astype(int)]]
        )
    return np.array(rows)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Each file begins and ends with one thread in PyTorch, where PyTorch is loaded (beside TensorFlow it is
    not).
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def formulas() -> SimpleNamespace:
    """The functions above; a paper's own conftest adds how its golden networks were filled."""
    return SimpleNamespace(scatter=scatter, fingerprint=fingerprint)


@pytest.fixture
def torchrun() -> list[str]:
    """The start of a command that runs a script in two processes of one computer, on a port that is free now:
    tests in other processes, and CI beside a training, must not meet on one port.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [sys.executable, *f"-m torch.distributed.run --nproc-per-node 2 --master-port {port}".split()]


@pytest.fixture
def killed_then_resumed(monkeypatch) -> Callable[..., None]:
    """`killed_then_resumed(run, label, when)`: kills `run()` in the training `label` at the first step with
    `when(loop, step)`. A further run is refused, `run("--resume")` finishes.
    """

    def run_three_times(run: Callable[..., int], label: str, when: Callable[[Any, int], bool]) -> None:
        from common.training import Loop

        original = Loop.log

        def dying(self, at, **terms):
            if self.label == label and when(self, at):
                raise SystemError("killed")
            original(self, at, **terms)

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "log", dying)
            with pytest.raises(SystemError):
                run()
        assert run() == 2  # neither --resume nor --fresh: nothing is overwritten
        assert run("--resume") == 0

    return run_three_times


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """`golden("hhl_model")` -> the arrays of tests/golden/hhl_model.npz."""

    def load(name: str) -> dict[str, np.ndarray]:
        if PARITY is not None:
            PARITY.loaded.add(name)
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


def draw_layouts(root: Path, *, train_ids: int = 6, test_ids: int = 4) -> Path:
    """Draws people into `root` in the layouts of Market-1501 and DukeMTMC-reID, their true masks in
    `<split>_mask`.
    """
    from common.datasets.synthetic import load_synthetic

    for name, folder in (("synthetic-market", "Market-1501-v15.09.15"), ("synthetic-duke", "DukeMTMC-reID")):
        drawn = load_synthetic(name, root / "drawn", train_ids=train_ids, test_ids=test_ids).root
        for split in ("bounding_box_train", "bounding_box_test", "query"):
            people, masks = root / folder / split, root / folder / f"{split}_mask"
            people.mkdir(parents=True)
            masks.mkdir()
            for path in (drawn / split).glob("*.jpg"):
                pid, camera, sequence, frame = re.match(r"(-?\d+)_c(\d)s(\d)_(\d+)", path.name).groups()
                market = folder.startswith("Market")
                if market or pid != "-1":
                    stem = path.stem if market else f"{pid}_c{camera}_f{sequence}{frame}"
                    shutil.copyfile(path, people / f"{stem}.jpg")
                    shutil.copyfile(drawn / "masks" / split / f"{path.stem}.png", masks / f"{stem}.png")
    return root


@pytest.fixture(scope="session")
def draw_data_root(tmp_path_factory) -> Callable[..., Path]:
    """`draw_data_root(train_ids=6, test_ids=4)`: see `draw_layouts`."""

    def draw(train_ids: int = 6, test_ids: int = 4) -> Path:
        return draw_layouts(tmp_path_factory.mktemp("data"), train_ids=train_ids, test_ids=test_ids)

    return draw


@pytest.fixture(scope="session")
def data_root(draw_data_root) -> Path:
    """Ten people a dataset, six of them to train on."""
    return draw_data_root()
