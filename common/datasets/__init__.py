"""Loads datasets: `load_dataset("market1501", root)` returns train, query and gallery, in sorted order.

This package does not import PyTorch (`common.datasets.loading` does) and downloads nothing. The synthetic
domains are rendered on first use. `python -m common.datasets check market1501 --root DIR` checks a copy.

To add a dataset, write one file with a reader and its `ABOUT`, and add one entry to `DATASETS`.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.datasets import cuhk03, dukemtmc, market1501, msmt17, prid2011
from common.datasets.base import DISTRACTOR, JUNK, About, Counts, Official, ReIDDataset, Sample, count
from common.datasets.cameras import camera_split, parse_split
from common.datasets.names import (
    folder_of,
    is_path,
    label_of,
    parse_option,
    parse_options,
    split_names,
)
from common.datasets.own import read_own, skipped_text
from common.datasets.together import together
from common.datasets.validate import differences, unmatched_text, validate
from common.errors import InputError

__all__ = [
    "DATASETS",
    "DISTRACTOR",
    "JUNK",
    "Counts",
    "Entry",
    "Official",
    "ReIDDataset",
    "Sample",
    "count",
    "label_of",
    "load_dataset",
    "parse_option",
    "read_dataset",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One dataset: its reader, `load(root, **options)`, and its facts (None for a synthetic domain)."""

    load: Callable[..., ReIDDataset]
    about: About | None = None


def _synthetic(name: str) -> Entry:
    def load(root: str | Path | None = None, **options) -> ReIDDataset:
        from common.datasets.synthetic import load_synthetic  # NumPy and Pillow: only when requested

        _check_options(name, load_synthetic, options)
        return load_synthetic(name, root, **options)

    return Entry(load)


DATASETS: dict[str, Entry] = {
    "market1501": Entry(market1501.load_market1501, market1501.ABOUT),
    "dukemtmc": Entry(dukemtmc.load_dukemtmc, dukemtmc.ABOUT),
    "cuhk03": Entry(cuhk03.load_cuhk03, cuhk03.ABOUT),
    "msmt17": Entry(msmt17.load_msmt17, msmt17.ABOUT),
    "prid2011": Entry(prid2011.load_prid2011, prid2011.ABOUT),
    "synthetic-market": _synthetic("synthetic-market"),
    "synthetic-duke": _synthetic("synthetic-duke"),
}


def read_dataset(name: str, root: str | Path | None = None, **options) -> ReIDDataset:
    """Reads what `common.datasets.names` describes, without checking its content: a dataset, some of its
    cameras (`NAME@c123`), a folder of your own, or several of them.

    `NAME:key=value,...` gives the reader's options within the name: `cuhk03:images=labeled,protocol=classic`.
    """
    names = split_names(name)
    if len(names) > 1:
        return together([read_dataset(part, root, **options) for part in names])
    if is_path(name) and Path(name).expanduser().is_dir() and name not in DATASETS:
        return _own(Path(name), options)
    plain_name, given = parse_options(name)
    base_name, cameras = parse_split(plain_name)
    options |= given
    folder = folder_of(base_name, DATASETS)
    dataset = _own(folder, options) if folder is not None else _known(base_name, root, options)
    if given:
        dataset = replace(dataset, options=given)
    return camera_split(dataset, cameras) if cameras else dataset


def _own(folder: Path, options: dict) -> ReIDDataset:
    if options:
        raise InputError(f"{folder}: unknown option {next(iter(options))!r}: a folder of your own takes none")
    return read_own(folder)


def _known(name: str, root: str | Path | None, options: dict) -> ReIDDataset:
    if name not in DATASETS:
        near = difflib.get_close_matches(name.lower(), DATASETS, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(
            f"unknown dataset {name!r}{hint}: expected one of {', '.join(DATASETS)}, or the path of a folder"
        )
    load = DATASETS[name].load
    _check_options(name, load, options)
    return load(root, **options)


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    strict: bool = False,
    needs: Sequence[str] | None = None,
    **options,
) -> ReIDDataset:
    """Loads and checks what `read_dataset` reads.

    `root` is the folder that holds the datasets (`--data-root`) or the dataset's folder itself; the synthetic
    domains need none. `options` are the keyword arguments of the dataset's reader, e.g. `images="labeled"`
    for `load_cuhk03`. `needs`: the splits that will be used, all by default, in a folder of your own those
    that are there. Counts that differ from the published ones, as in a subset, are logged as warnings; with
    `strict` they are an error. Raises `InputError` for an unknown name or option, a missing or unexpected
    layout, and for whatever `common.datasets.validate` rejects.
    """
    dataset = read_dataset(name, root, **options)
    validate(dataset, needs)
    findings = [*dataset.problems, *differences(dataset)]
    if findings and strict:
        raise InputError(f"{dataset.root}: not the complete {name}: {'; '.join(findings)}")
    if findings:
        what = "" if dataset.own else "not the complete dataset: "
        more = f"(and {len(findings) - 1} more; see python -m common.datasets check)"
        logger.warning("%s: %s%s %s", name, what, findings[0], more)
    if dataset.own and dataset.skipped:
        logger.info("%s: %s", name, skipped_text(dataset.skipped))
    if unmatched := unmatched_text(dataset):
        logger.warning("%s: %s", name, unmatched)
    return dataset


def _check_options(name: str, function: Callable, options: dict) -> None:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    unknown = [option for option in options if option not in known]
    if unknown:
        expected = ", ".join(known) or "none"
        raise InputError(f"{name}: unknown option {unknown[0]!r}: expected {expected}")
    types = typing.get_type_hints(function)
    for option, value in options.items():  # each reader checks its names, but numbers must be numbers
        number = types.get(option) is int
        if isinstance(value, bool) or not isinstance(value, int if number else (int, str)):
            expected = "a whole number" if number else "a name"
            raise InputError(f"{name}: option {option}: expected {expected}, found {value!r}")
