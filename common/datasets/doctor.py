"""The dataset doctor: what lies in a folder, how it differs from the published dataset, which images are
broken, and what to do.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from common.datasets.base import Counts, ReIDDataset, count
from common.datasets.images import read_image
from common.datasets.layout import shorten
from common.datasets.validate import SPLITS, differences, errors_of
from common.errors import InputError


@dataclass(frozen=True)
class Report:
    """What `examine` found; `findings` are (what, what to do)."""

    dataset: ReIDDataset
    findings: list[tuple[str, str]] = field(default_factory=list)
    decoded: int = 0
    identical: list[list[Path]] = field(default_factory=list)


def examine(dataset: ReIDDataset, *, decode: bool = True, jobs: int = 2) -> Report:
    """Checks content, counts and, with `decode`, every image file; `jobs` threads decode."""
    findings = [(problem, "rename, restore or delete these files") for problem in dataset.problems]
    findings += [
        (
            error.removeprefix(f"{dataset.root}: {dataset.name}: "),
            "nothing runs on this dataset until it is put right",
        )
        for error in errors_of(dataset)
    ]
    different = differences(dataset)
    if different:
        splits = [split for split in SPLITS if any(line.startswith(f"{split}: ") for line in different)]
        findings.append(
            (
                f"{' and '.join(splits)}: counts differ from the published ones, see the table",
                "unpack the archive again; if this is a subset on purpose, go on: training only warns",
            )
        )
    if not decode:
        return Report(dataset, findings)
    paths = sorted({s.path for split in SPLITS for s in getattr(dataset, split)})
    broken, identical = _decode(paths, jobs)
    if broken:
        names = shorten([str(path.relative_to(dataset.root)) for path in broken], 10)
        findings.append(
            (
                f"{len(broken)} of {len(paths):,} images cannot be decoded: {names}",
                "replace these files by those of the archive",
            )
        )
    return Report(dataset, findings, len(paths) - len(broken), identical)


def _decode(paths: list[Path], jobs: int) -> tuple[list[Path], list[list[Path]]]:
    """The broken images, and groups of files with the same bytes."""
    groups, broken = defaultdict(list), []
    with ThreadPoolExecutor(jobs) as pool:
        digests: Iterable[bytes | None] = tqdm(
            pool.map(_digest, paths),
            total=len(paths),
            desc="decoding",
            unit=" images",
            leave=False,
            disable=None,
        )
        for path, digest in zip(paths, digests, strict=True):
            if digest is None:
                broken.append(path)
            else:
                groups[digest].append(path)
    return broken, [group for group in groups.values() if len(group) > 1]


def _digest(path: Path) -> bytes | None:
    try:
        read_image(path)
    except InputError:
        return None
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()


def report_lines(report: Report) -> Iterator[str]:
    """The report as it is printed."""
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
    for number, (what, what_to_do) in enumerate(report.findings, start=1):
        yield f"{number:3}. {what}"
        yield f"     -> {what_to_do}"


def _count_table(dataset: ReIDDataset) -> Iterator[str]:
    cameras = "".join(f"{f'cam {c + 1}':>8}" for c in range(dataset.num_cameras))
    yield f"{'':9}{'images':>8}{'ids':>7}{'junk':>7}{'distractors':>13}{cameras}"
    for split in SPLITS:
        found, official = (
            count(getattr(dataset, split), dataset.num_cameras),
            getattr(dataset.official, split, None),
        )
        yield f"{split:9}{_row(found)}"
        if official and _row(official) != _row(found):
            same = all(
                getattr(found, what) == getattr(official, what)
                for what in ("images", "ids", "junk", "distractors")
            )
            if not same or official.cameras:
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
            f"Why {ranked:,}?  {gallery.images:,} gallery files - {gallery.junk:,} junk = {ranked:,} images to rank, "
            f"incl. {gallery.distractors:,} distractors."
        )
        yield "  junk (id -1): detections too bad to count, neither right nor wrong; the protocol ignores them"
        yield "  distractor (id 0): false detections and people outside the test ids, always wrong"


def _image_lines(report: Report) -> Iterator[str]:
    if not report.decoded:
        yield "Images not decoded."
        return
    yield f"{report.decoded:,} images decoded without error."
    if report.identical:
        names = shorten(
            [
                " = ".join(str(path.relative_to(report.dataset.root)) for path in group)
                for group in report.identical
            ]
        )
        yield f"{len(report.identical)} group{'s' * (len(report.identical) > 1)} of files with identical content: {names}"
