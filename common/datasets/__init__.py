"""Loads datasets: `load_dataset("market1501", root)` returns train, query and gallery, in sorted order.

This package does not import PyTorch (`common.datasets.loading` does) and downloads nothing. The synthetic
domains are rendered on first use. `python -m common.datasets check market1501 --root DIR` checks a copy.

To add a dataset, write one file with a reader and its `ABOUT`, and add one entry to `DATASETS`.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from common.datasets import cuhk03, dukemtmc, market1501, msmt17, prid2011
from common.datasets.base import DISTRACTOR, JUNK, About, Counts, Official, ReIDDataset, Sample, count
from common.datasets.cameras import camera_split, parse_split
from common.datasets.validate import differences, validate
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
    "load_dataset",
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
    """Reads a dataset, or a camera split of one (`NAME@c123`), without checking its content.

    `NAME:key=value,...` gives the reader's options within the name: `cuhk03:images=labeled,protocol=classic`.
    """
    plain_name, given = parse_options(name)
    base_name, cameras = parse_split(plain_name)
    if base_name not in DATASETS:
        near = difflib.get_close_matches(base_name.lower(), DATASETS, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"unknown dataset {base_name!r}{hint}: expected one of {', '.join(DATASETS)}")
    load = DATASETS[base_name].load
    options |= given
    _check_options(base_name, load, options)
    dataset = load(root, **options)
    if given:
        dataset = replace(dataset, options=given)
    return camera_split(dataset, cameras) if cameras else dataset


def load_dataset(
    name: str, root: str | Path | None = None, *, strict: bool = False, **options
) -> ReIDDataset:
    """Loads and checks one of `DATASETS`, or a camera split of one (`market1501@c123`).

    `root` is the folder that holds the datasets (`--data-root`) or the dataset's folder itself; the synthetic
    domains need none. `options` are the keyword arguments of the dataset's reader, e.g. `images="labeled"`
    for `load_cuhk03`. Counts that differ from the published ones, as in a subset, are logged as warnings;
    with `strict` they are an error. Raises `InputError` for an unknown name or option, a missing or
    unexpected layout, and for whatever `common.datasets.validate` rejects.
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


def parse_options(name: str) -> tuple[str, dict[str, int | str]]:
    """Parses `cuhk03:images=labeled,split=3` to ("cuhk03", {"images": "labeled", "split": 3}).

    Raises `InputError` for anything after the colon that is no list of KEY=VALUE.
    """
    plain_name, colon, text = name.partition(":")
    return plain_name, dict(map(parse_option, text.split(","))) if colon else {}


def parse_option(text: str) -> tuple[str, int | str]:
    """Parses `KEY=VALUE`; a value of digits is a number. Raises `InputError` for anything else."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"option {text}: expected KEY=VALUE, as images=labeled")
    if key in ("name", "root"):
        raise InputError(f"unknown option {key!r}: it has its own place on the command line")
    return key, int(value) if re.fullmatch(r"-?[0-9]{1,30}", value) else value


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
