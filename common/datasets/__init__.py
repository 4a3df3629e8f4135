"""Datasets by name: `load_dataset("market1501", root)` gives train, query and gallery in sorted file order.

Nothing here imports PyTorch (`common.datasets.loading` does) and nothing is downloaded; the synthetic domains
are rendered on first use. The doctor: `python -m common.datasets check market1501 --root DIR`.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable
from pathlib import Path

from common.datasets.base import DISTRACTOR, JUNK, Counts, Official, ReIDDataset, Sample, count
from common.datasets.cameras import camera_split, parse_split
from common.datasets.cuhk03 import load_cuhk03
from common.datasets.dukemtmc import load_dukemtmc
from common.datasets.market1501 import load_market1501
from common.datasets.msmt17 import load_msmt17
from common.datasets.prid2011 import load_prid2011
from common.datasets.validate import differences, validate
from common.errors import InputError

__all__ = [
    "DATASETS",
    "DISTRACTOR",
    "JUNK",
    "Counts",
    "Official",
    "ReIDDataset",
    "Sample",
    "count",
    "load_dataset",
    "read_dataset",
]

logger = logging.getLogger(__name__)


def _synthetic(name: str) -> Callable[..., ReIDDataset]:
    def load(root: str | Path | None = None, **options) -> ReIDDataset:
        from common.datasets.synthetic import load_synthetic  # numpy and Pillow: only when asked for

        _check_options(name, load_synthetic, options)
        return load_synthetic(name, root, **options)

    return load


DATASETS: dict[str, Callable[..., ReIDDataset]] = {
    "market1501": load_market1501,
    "dukemtmc": load_dukemtmc,
    "cuhk03": load_cuhk03,
    "msmt17": load_msmt17,
    "prid2011": load_prid2011,
    "synthetic-market": _synthetic("synthetic-market"),
    "synthetic-duke": _synthetic("synthetic-duke"),
}


def read_dataset(name: str, root: str | Path | None = None, **options) -> ReIDDataset:
    """The dataset as it lies on disk, before any check of its content (the doctor starts here); `NAME@c123`:
    the part of some cameras.
    """
    whole, cameras = parse_split(name)
    if whole not in DATASETS:
        near = difflib.get_close_matches(whole.lower(), DATASETS, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"unknown dataset {whole!r}{hint}: expected one of {', '.join(DATASETS)}")
    _check_options(whole, DATASETS[whole], options)
    dataset = DATASETS[whole](root, **options)
    return camera_split(dataset, cameras) if cameras else dataset


def load_dataset(
    name: str, root: str | Path | None = None, *, strict: bool = False, **options
) -> ReIDDataset:
    """One of `DATASETS`, or a camera split of one (`market1501@c123`, see `common.datasets.cameras`),
    checked.

    `root`: the folder that holds the datasets (`--data-root`) or the dataset's own folder; the synthetic
    domains need none. `options` are the keyword arguments of the dataset's own function
    (`load_cuhk03(images="labeled")`, say). Counts that differ from the published ones, as in a subset, are
    logged as warnings; `strict` makes them an error. Raises `InputError` for an unknown name or option, a
    missing or foreign layout, and for what `common.datasets.validate` refuses.
    """
    dataset = read_dataset(name, root, **options)
    validate(dataset)
    findings = [*dataset.problems, *differences(dataset)]
    if findings and strict:
        raise InputError(f"{dataset.root}: not the complete {name}: {'; '.join(findings)}")
    if findings:
        logger.warning(
            "%s: not the complete dataset: %s (and %d more; see python -m common.datasets check)",
            name,
            findings[0],
            len(findings) - 1,
        )
    return dataset


def _check_options(name: str, function: Callable, options: dict) -> None:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise InputError(
            f"{name}: unknown option {unknown[0]!r}: expected {', '.join(known) if known else 'none'}"
        )
