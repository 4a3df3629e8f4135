"""The domains as files in Market-1501's layout, made on first use.

    <root>/synthetic-market-<hash>/
        bounding_box_train/  bounding_box_test/  query/     PPPP_cCsS_FFFFFF_00.jpg
        masks/<the same three>/                             PPPP_cCsS_FFFFFF_00.png
        manifest.json                                       the parameters, and every file with its size

A folder is made under a temporary name and renamed when it is complete, under a lock; so a folder with the
final name is whole, and two processes that ask for the same data at once build it once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tqdm import tqdm

from common.datasets.base import ReIDDataset, Sample
from common.datasets.synthetic.domains import (
    GENERATOR_VERSION,
    TEST_IDS,
    TRAIN_IDS,
    ImageKey,
    Plan,
    get_domain,
    make_plan,
)
from common.datasets.synthetic.render import SyntheticDomain
from common.errors import InputError

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
MAX_IDS = 9999  # four digits in a file name


def load_synthetic(
    name: str,
    root: str | Path | None = None,
    *,
    data_seed: int = 0,
    train_ids: int = TRAIN_IDS,
    test_ids: int = TEST_IDS,
    workers: int = 2,
) -> ReIDDataset:
    """`synthetic-market` or `synthetic-duke`, drawn on first use into a folder of its own below `root`.

    Without `root` the folder lies in `$XDG_CACHE_HOME` (or `~/.cache`) `/crossdomain-reid`. Its name holds a
    hash of all parameters, so other parameters go to another folder. `workers`: processes that draw; the
    files do not depend on it. Raises `InputError` for an unknown name, impossible numbers, and for a folder
    that has been damaged since it was made.
    """
    folder = dataset_folder(name, root, data_seed=data_seed, train_ids=train_ids, test_ids=test_ids)
    plan = make_plan(get_domain(name), data_seed, train_ids, test_ids)
    # beside real data that nobody may change
    if not folder.exists() and folder.parent.is_dir() and not os.access(folder.parent, os.W_OK):
        folder = dataset_folder(name, data_seed=data_seed, train_ids=train_ids, test_ids=test_ids)
    if not folder.exists():
        _make_once(folder, _parameters(name, data_seed, train_ids, test_ids), plan, workers)
    _check_files(folder)
    splits = {
        split: [_sample(folder, FOLDERS[split], key) for key in getattr(plan, split)] for split in FOLDERS
    }
    return ReIDDataset(name=name, root=folder, num_cameras=get_domain(name).num_cameras, **splits)


def dataset_folder(
    name: str,
    root: str | Path | None = None,
    *,
    data_seed: int = 0,
    train_ids: int = TRAIN_IDS,
    test_ids: int = TEST_IDS,
) -> Path:
    """Where `load_synthetic` keeps the files of these parameters."""
    parameters = _parameters(name, data_seed, train_ids, test_ids)
    if root is None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(cache) / "crossdomain-reid"
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    return Path(root) / f"{name}-{digest[:12]}"


def _parameters(name: str, data_seed: int, train_ids: int, test_ids: int) -> dict:
    """All that decides the files' content."""
    domain = get_domain(name)
    if min(train_ids, test_ids) < 1 or train_ids + test_ids > MAX_IDS:
        raise InputError(
            f"{train_ids} train ids and {test_ids} test ids: expected at least one of each and at most {MAX_IDS} together"
        )
    if data_seed < 0:
        raise InputError(f"data seed {data_seed}: expected 0 or more")
    return {
        "domain": name,
        "data_seed": data_seed,
        "train_ids": train_ids,
        "test_ids": test_ids,
        "generator_version": GENERATOR_VERSION,
        "settings": repr(domain),
    }


def _make_once(folder: Path, parameters: dict, plan: Plan, workers: int) -> None:
    """Builds `folder`, or waits for the process that is building it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f".{folder.name}.lock")):
            if folder.exists():  # another process was faster
                return
            partial_folder = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(partial_folder, ignore_errors=True)  # left by a killed run
            sizes = _draw_files(partial_folder, parameters, plan, workers)
            (partial_folder / "manifest.json").write_text(
                json.dumps(parameters | {"files": sizes}, indent=0) + "\n"
            )
            os.rename(partial_folder, folder)
    except OSError as error:
        raise InputError(
            f"{folder}: the synthetic data could not be written ({error}); give another --data-root or free some space"
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock; the kernel frees it when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _draw_files(folder: Path, parameters: dict, plan: Plan, workers: int) -> dict[str, int]:
    """Writes all images and masks; returns the size of each file by its relative path."""
    for name in FOLDERS.values():
        (folder / name).mkdir(parents=True)
        (folder / "masks" / name).mkdir(parents=True)
    jobs = [(FOLDERS[split], key) for split in FOLDERS for key in getattr(plan, split)]
    draw = partial(_draw_one, SyntheticDomain(parameters["domain"], parameters["data_seed"]), folder)
    sizes: dict[str, int] = {}
    with tqdm(total=len(jobs), desc=f"drawing {parameters['domain']}", unit="image", disable=None) as bar:
        for written in _map(draw, jobs, workers):
            sizes |= written
            bar.update()
    return dict(sorted(sizes.items()))


def _map(function: partial, jobs: list, workers: int) -> Iterator[dict[str, int]]:
    if workers <= 1:
        yield from map(function, jobs)
        return
    # fork: the children need nothing but numpy and Pillow, and a script without a __main__ guard works
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap_unordered(function, jobs, chunksize=50)


def _draw_one(domain: SyntheticDomain, folder: Path, job: tuple[str, ImageKey]) -> dict[str, int]:
    """Writes one image and its mask."""
    name, key = job
    image, mask = domain.files(key)
    paths = {f"{name}/{key.file_name}": image, f"masks/{name}/{_mask_name(key)}": mask}
    for path, data in paths.items():
        (folder / path).write_bytes(data)
    return {path: len(data) for path, data in paths.items()}


def _mask_name(key: ImageKey) -> str:
    return key.file_name.removesuffix(".jpg") + ".png"


def _sample(folder: Path, name: str, key: ImageKey) -> Sample:
    return Sample(
        folder / name / key.file_name, key.pid, key.camid, mask=folder / "masks" / name / _mask_name(key)
    )


def read_manifest(folder: Path) -> dict:
    """The parameters of a folder and the size of each file; `InputError` if it is not a folder of these
    domains.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        if {"domain", "data_seed", "files"} <= manifest.keys():
            return manifest
    except (OSError, ValueError, AttributeError):
        pass
    raise InputError(
        f"{path}: expected the manifest of a synthetic domain, found none that can be read; delete {folder} to have it made again"
    )


def _check_files(folder: Path) -> None:
    """Compares the folder with its manifest: names and sizes."""
    expected = read_manifest(folder)["files"]
    found = {}
    for name in (*FOLDERS.values(), *(f"masks/{name}" for name in FOLDERS.values())):
        if (folder / name).is_dir():
            found |= {f"{name}/{entry.name}": entry.stat().st_size for entry in os.scandir(folder / name)}
    wrong = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    if wrong:
        path = wrong[0]
        state = f"has {found[path]} bytes" if path in found else "is missing"
        wanted = f"expected {expected[path]} bytes" if path in expected else "it does not belong there"
        raise InputError(
            f"{folder / path}: {wanted}, it {state} ({len(wrong)} such files); delete {folder} to have it made again"
        )
