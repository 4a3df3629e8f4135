"""The dataset doctor: reports differences from the published dataset, broken images, and how to fix them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from common.datasets.base import SPLITS, Counts, ReIDDataset, count
from common.datasets.images import read_image
from common.datasets.layout import shorten
from common.datasets.validate import differences, errors_of
from common.errors import InputError


@dataclass(frozen=True)
class Report:
    """The result of `examine`; each finding is a pair (problem, remedy)."""

    dataset: ReIDDataset
    findings: list[tuple[str, str]] = field(default_factory=list)
    decoded: int = 0
    identical: list[list[Path]] = field(default_factory=list)


def examine(dataset: ReIDDataset, *, decode: bool = True, jobs: int = 2) -> Report:
    """Checks content, counts and, with `decode`, every image file; `jobs` threads decode."""
    findings = [(problem, "rename, restore or delete these files") for problem in dataset.problems]
    for error in errors_of(dataset):
        problem = error.removeprefix(f"{dataset.root}: {dataset.name}: ")
        findings.append((problem, "nothing runs on this dataset until this is fixed"))
    different = differences(dataset)
    if different:
        splits = [split for split in SPLITS if any(line.startswith(f"{split}: ") for line in different)]
        problem = f"{' and '.join(splits)}: counts differ from the published ones, see the table"
        remedy = "unpack the archive again; if this is a subset on purpose, go on: training only warns"
        findings.append((problem, remedy))
    if not decode:
        return Report(dataset, findings)
    paths = sorted({s.path for split in SPLITS for s in getattr(dataset, split)})
    broken, identical = _decode(paths, jobs)
    if broken:
        names = shorten([str(path.relative_to(dataset.root)) for path in broken], 10)
        problem = f"{len(broken)} of {len(paths):,} images cannot be decoded: {names}"
        findings.append((problem, "replace these files by those of the archive"))
    return Report(dataset, findings, len(paths) - len(broken), identical)


def _decode(paths: list[Path], jobs: int) -> tuple[list[Path], list[list[Path]]]:
    """Returns the broken images, and groups of files with identical bytes."""
    groups: dict[bytes | None, list[Path]] = defaultdict(list)
    bar = partial(tqdm, total=len(paths), desc="decoding", unit=" images", leave=False, disable=None)
    with ThreadPoolExecutor(jobs) as pool:
        for path, digest in zip(paths, bar(pool.map(_digest, paths)), strict=True):
            groups[digest].append(path)
    broken = groups.pop(None, [])
    return broken, [group for group in groups.values() if len(group) > 1]


def _digest(path: Path) -> bytes | None:
    """Hashes the file's bytes; returns None for a broken image."""
    try:
        read_image(path)
    except InputError:
        return None
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()


def report_lines(report: Report) -> Iterator[str]:
    """Yields the lines of the printed report."""
    dataset = report.dataset
    yield f"{dataset.name}   {dataset.root}"
    yield ""
    yield from _count_table(dataset)
    yield from _gallery_arithmetic(dataset)
    yield ""
    yield from _image_lines(report)
    yield ""
    if not report.findings:
        yield "No findings: ready to use."
        return
    yield f"{len(report.findings)} finding{'s' * (len(report.findings) > 1)}:"
    for number, (problem, remedy) in enumerate(report.findings, start=1):
        yield f"{number:3}. {problem}"
        yield f"     -> {remedy}"


def _count_table(dataset: ReIDDataset) -> Iterator[str]:
    cameras = "".join(f"{f'cam {c + 1}':>8}" for c in range(dataset.num_cameras))
    yield f"{'':9}{'images':>8}{'ids':>7}{'junk':>7}{'distractors':>13}{cameras}"
    for split in SPLITS:
        counts = count(getattr(dataset, split), dataset.num_cameras)
        official = getattr(dataset.official, split, None)
        yield f"{split:9}{_row(counts)}"
        if official and replace(counts, cameras=official.cameras and counts.cameras) != official:
            yield f"{'official':>8} {_row(official)}"
    if dataset.official and not differences(dataset):
        yield "All counts as published."


def _row(counts: Counts) -> str:
    cameras = "".join(f"{n:>8,}" for n in counts.cameras or ())
    return f"{counts.images:>8,}{counts.ids:>7,}{counts.junk:>7,}{counts.distractors:>13,}{cameras}"


def _gallery_arithmetic(dataset: ReIDDataset) -> Iterator[str]:
    gallery = count(dataset.gallery, dataset.num_cameras)
    if gallery.junk or gallery.distractors:
        ranked = gallery.images - gallery.junk
        yield ""
        yield (
            f"Why {ranked:,}?  {gallery.images:,} gallery files - {gallery.junk:,} junk = "
            f"{ranked:,} images to rank, incl. {gallery.distractors:,} distractors."
        )
        yield "  junk (id -1): unusable detections, neither right nor wrong; the protocol ignores them"
        yield "  distractor (id 0): false detections and people outside the test ids, always wrong"


def _image_lines(report: Report) -> Iterator[str]:
    if not report.decoded:
        yield "Images not decoded."
        return
    yield f"{report.decoded:,} images decoded without error."
    if report.identical:
        root = report.dataset.root
        names = shorten([" = ".join(str(p.relative_to(root)) for p in group) for group in report.identical])
        groups = f"{len(report.identical)} group{'s' * (len(report.identical) > 1)}"
        yield f"{groups} of files with identical content: {names}"
