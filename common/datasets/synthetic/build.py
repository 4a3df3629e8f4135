"""Writes the domains as files in Market-1501's layout, on first use.

    <root>/synthetic-market-<hash>/
        bounding_box_train/  bounding_box_test/  query/     PPPP_cCsS_FFFFFF_00.jpg
        masks/<the same three>/                             PPPP_cCsS_FFFFFF_00.png
        manifest.json                                       the parameters, and every file with its size

A folder is built under a temporary name, under a lock, and renamed when it is complete. A folder with the
final name is therefore complete, and two processes that request the same data at the same time build it once.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
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
from common.files import locked, regular_file

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
MAX_IDS = 9999  # four digits in a file name
MAX_DATA_SEED = 2**63 - 1
MAX_WORKERS = 256


def load_synthetic(
    name: str,
    root: str | Path | None = None,
    *,
    data_seed: int = 0,
    train_ids: int = TRAIN_IDS,
    test_ids: int = TEST_IDS,
    workers: int = 2,
) -> ReIDDataset:
    """Loads `synthetic-market` or `synthetic-duke`, which is drawn into a folder below `root` on first use.

    The default `root` is `$XDG_CACHE_HOME` (or `~/.cache`) `/crossdomain-reid`. The folder's name contains a
    hash of all parameters, so each set of parameters has a separate folder. The files do not depend on
    `workers`, the number of drawing processes. Raises `InputError` for an unknown name, impossible numbers,
    and a folder that was damaged after it was built.
    """
    if not 0 <= workers <= MAX_WORKERS:
        raise InputError(f"{name}: expected 0 to {MAX_WORKERS} workers, found another number")
    folder = dataset_folder(name, root, data_seed=data_seed, train_ids=train_ids, test_ids=test_ids)
    plan = make_plan(get_domain(name), data_seed, train_ids, test_ids)
    # a read-only `root`, such as a folder of real data: use the cache
    if not folder.exists() and folder.parent.is_dir() and not os.access(folder.parent, os.W_OK):
        folder = dataset_folder(name, data_seed=data_seed, train_ids=train_ids, test_ids=test_ids)
    if not folder.exists():
        _make_once(folder, _parameters(name, data_seed, train_ids, test_ids), plan, workers)
    _check_files(folder)
    train, query, gallery = (
        [_sample(folder, FOLDERS[split], key) for key in getattr(plan, split)] for split in FOLDERS
    )
    return ReIDDataset(name, folder, train, query, gallery, get_domain(name).num_cameras, drawn=True)


def dataset_folder(
    name: str,
    root: str | Path | None = None,
    *,
    data_seed: int = 0,
    train_ids: int = TRAIN_IDS,
    test_ids: int = TEST_IDS,
) -> Path:
    """Returns the folder in which `load_synthetic` stores the files for these parameters."""
    parameters = _parameters(name, data_seed, train_ids, test_ids)
    if root is None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(cache) / "crossdomain-reid"
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    return Path(root) / f"{name}-{digest[:12]}"


def _parameters(name: str, data_seed: int, train_ids: int, test_ids: int) -> dict:
    """Validates and returns everything that determines the content of the files."""
    domain = get_domain(name)
    if min(train_ids, test_ids) < 1 or train_ids + test_ids > MAX_IDS:
        raise InputError(
            f"{train_ids} train ids and {test_ids} test ids: "
            f"expected at least one of each and at most {MAX_IDS} together"
        )
    if not 0 <= data_seed <= MAX_DATA_SEED:
        raise InputError(f"data seed: expected 0 to {MAX_DATA_SEED:,}, found another number")
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
        with locked(folder.with_name(f".{folder.name}.lock"), str(folder)):
            if folder.exists():  # another process was faster
                return
            partial_folder = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(partial_folder, ignore_errors=True)  # left by a killed run
            sizes = _draw_files(partial_folder, parameters, plan, workers)
            manifest = json.dumps(parameters | {"files": sizes}, indent=0) + "\n"
            (partial_folder / "manifest.json").write_text(manifest, encoding="utf-8")
            os.rename(partial_folder, folder)
    except OSError as error:
        raise InputError(
            f"{folder}: the synthetic data could not be written ({error}); "
            "give another --data-root or free some space"
        ) from None


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
    mask = folder / "masks" / name / _mask_name(key)
    return Sample(folder / name / key.file_name, key.pid, key.camid, mask)


def read_manifest(folder: Path) -> dict:
    """Reads a folder's parameters and file sizes. Raises `InputError` if there is no valid manifest."""
    path = folder / "manifest.json"
    try:
        regular_file(path, "a manifest")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if {"domain", "data_seed", "files"} <= manifest.keys() and isinstance(manifest["files"], dict):
            return manifest
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    raise InputError(
        f"{path}: expected the manifest of a synthetic domain, found none that can be read; "
        f"delete {folder} to have it built again"
    )


def _check_files(folder: Path) -> None:
    """Compares the names and sizes of the folder's files with its manifest."""
    expected = read_manifest(folder)["files"]
    sizes: dict[str, int] = {}
    for name in (*FOLDERS.values(), *(f"masks/{name}" for name in FOLDERS.values())):
        if (folder / name).is_dir():
            sizes |= {f"{name}/{entry.name}": entry.stat().st_size for entry in os.scandir(folder / name)}
    wrong = sorted(path for path in expected.keys() | sizes.keys() if expected.get(path) != sizes.get(path))
    if wrong:
        path = wrong[0]
        state = f"has {sizes[path]} bytes" if path in sizes else "is missing"
        rule = f"expected {expected[path]} bytes" if path in expected else "it does not belong there"
        raise InputError(
            f"{folder / path}: {rule}, it {state} ({len(wrong)} such files); "
            f"delete {folder} to have it built again"
        )
