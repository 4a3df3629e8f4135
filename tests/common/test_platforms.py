"""What macOS and Windows lack is absent here too: everything imports, and what needs no Linux runs."""

import pickle
import subprocess
import sys

import pytest

from common.datasets.base import Sample
from common.datasets.loading import EvalTransform, SampleImages, ordered_loader, planned_loader
from common.datasets.plans import epoch_plan
from common.errors import InputError
from common.files import locked
from common.provenance import ROOT

# modules and names that Windows does not have, most of which macOS has
WITHOUT_LINUX = """
import os, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None  # an import of it raises ImportError
for name in ("O_NONBLOCK", "O_NOFOLLOW", "killpg", "sched_getaffinity", "getuid", "geteuid"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP"):
    delattr(signal, name)
"""
USE = """
import importlib, pkgutil
from pathlib import Path
for room in ("common", "arn", "hhl", "spgan", "ptgan", "dcgan_lsro", "reports"):
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, f"{room}."):
        if not module.name.startswith("spgan.gan") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
from common.content import read_text
from common.datasets.synthetic import load_synthetic
from common.files import locked, write_atomic
from common.provenance import hardware
folder = Path(sys.argv[1])
with locked(folder / "stage.lock", "stage"):
    write_atomic(folder / "text.txt", "whole")
assert read_text(folder / "text.txt", 100) == "whole"
assert hardware("cpu")["cores"] >= 1
print(len(load_synthetic("synthetic-market", folder / "drawn", train_ids=2, test_ids=2).query))
"""


def test_everything_imports_and_draws_data_without_what_linux_adds(tmp_path):
    command = [sys.executable, "-W", "error::ImportWarning", "-c", WITHOUT_LINUX + USE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_no_file_imports_fcntl():
    rooms = ("common", "arn", "hhl", "spgan", "ptgan", "dcgan_lsro", "reports")
    paths = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert paths and not [path for path in paths if "import fcntl" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError("no flock")])
def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch, error):
    def acquire(self, *args, **kwargs):
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.raises(InputError, match="cannot lock files"), locked(tmp_path / "stage.lock", "stage"):
        pass


def test_workers_that_start_afresh_can_be_given_their_images(tmp_path):
    """macOS and Windows start workers by spawning: dataset and collation are pickled, as here."""
    samples = [Sample(tmp_path / "a.png", 1, 0)]
    images = SampleImages(samples, EvalTransform(8, 4))
    plan = epoch_plan(1, 1, seed=0)
    for loader in (ordered_loader(images, 1), planned_loader(images, plan, 0, 1)):
        copied = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
        assert len(copied[0]) == 1
