"""The dataset doctor: reports differences from the published dataset, broken images, and how to fix them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from common.datasets.base import SPLITS, Counts, ReIDDataset, count
from common.datasets.images import decode
from common.datasets.layout import shorten
from common.datasets.own import skipped_text
from common.datasets.validate import differences, errors_of, unmatched_text
from common.errors import InputError


@dataclass(frozen=True)
class Report:
    """The result of `examine`; each finding is a pair (problem, remedy)."""

    dataset: ReIDDataset
    findings: list[tuple[str, str]] = field(default_factory=list)
    decoded: int = 0
    identical: list[list[Path]] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)  # unusual form of a file -> images


def examine(dataset: ReIDDataset, *, decode: bool = True, jobs: int = 2) -> Report:
    """Checks content, counts and, with `decode`, every image file; `jobs` threads decode."""
    findings = [(problem, "rename, restore or delete these files") for problem in dataset.problems]
    errors = list(errors_of(dataset))
    for error in errors:
        problem = error.removeprefix(f"{dataset.root}: {dataset.name}: ")
        findings.append((problem, "nothing runs on this dataset until this is fixed"))
    different = differences(dataset)
    if not errors and (unmatched := unmatched_text(dataset)):
        remedy = "restore the images if they are missing; if not, go on: train and evaluate repeat the count"
        findings.append((unmatched, remedy))
    if different:
        splits = [split for split in SPLITS if any(line.startswith(f"{split}: ") for line in different)]
        problem = f"{' and '.join(splits)}: counts differ from the published ones, see the table"
        remedy = "unpack the archive again; if this is a subset on purpose, go on: training only warns"
        findings.append((problem, remedy))
    if not decode:
        return Report(dataset, findings)
    paths = sorted({s.path for split in SPLITS for s in getattr(dataset, split)})
    groups: dict[bytes, list[Path]] = defaultdict(list)
    forms: Counter[str] = Counter()
    broken: dict[Path, str] = {}
    bar = partial(tqdm, total=len(paths), desc="decoding", unit=" images", leave=False, disable=None)
    with ThreadPoolExecutor(jobs) as pool:
        for path, (digest, found, fault) in zip(paths, bar(pool.map(_decode, paths)), strict=True):
            forms.update(found)
            if fault:
                broken[path] = fault
            else:
                groups[digest].append(path)
    if broken:
        names = shorten([dataset.name_of(path) for path in broken], 10)
        problem = f"{len(broken)} of {len(paths):,} images cannot be decoded: {names}"
        first = next(iter(broken.values()))
        remedy = "replace these files by those of the archive"
        findings.append((problem, f"convert these files; the first: {first}" if dataset.own else remedy))
    identical = [group for group in groups.values() if len(group) > 1]
    return Report(dataset, findings, len(paths) - len(broken), identical, forms)


def _decode(path: Path) -> tuple[bytes, tuple[str, ...], str]:
    """Returns a hash of the file's bytes, its unusual forms, and what is wrong with it."""
    try:
        forms = decode(path)[1]
    except InputError as error:
        return b"", (), str(error)
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest(), forms, ""


def report_lines(report: Report) -> Iterator[str]:
    """Yields the lines of the printed report."""
    dataset = report.dataset
    yield f"{dataset.name}   {dataset.root}"
    yield ""
    yield from _count_table(dataset)
    yield from _gallery_arithmetic(dataset)
    yield ""
    yield from _name_lines(dataset)
    yield from _image_lines(report)
    yield ""
    if not report.findings:
        yield f"No findings: ready to use{_use(dataset)}."
        return
    yield f"{len(report.findings)} finding{'s' * (len(report.findings) > 1)}:"
    for number, (problem, remedy) in enumerate(report.findings, start=1):
        yield f"{number:3}. {problem}"
        yield f"     -> {remedy}"


def _use(dataset: ReIDDataset) -> str:
    """Returns what a folder of your own can be used as, where it lacks parts."""
    if dataset.query and dataset.train and dataset.labelled:
        return ""
    if not dataset.train:
        return " as a test set (evaluate.py --target)"
    scored = "" if dataset.query else ", which is not scored"
    return f" as a --{'source, or as a --' * dataset.labelled}target{scored}"


def _name_lines(dataset: ReIDDataset) -> Iterator[str]:
    """Yields how the names of an own dataset's cameras and people were mapped to numbers."""
    cameras = {f"{n + 1}": name for n, name in enumerate(dataset.camera_names)}
    people = {f"{pid}": name for pid, name in sorted(dataset.people.items())}
    for what, names in (("Cameras", cameras), ("People", people)):
        if any(number != name.lstrip("0") for number, name in names.items()):
            yield f"{what}: {shorten([f'{number} = {name}' for number, name in names.items()], 8)}"
    if not dataset.labelled:
        yield "Training images without a person: they can be adapted to, not learned from."
    if skipped_text(dataset.skipped):
        yield f"Other files {skipped_text(dataset.skipped)}."


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
    for form, images in report.forms.most_common():
        yield f"  {images:,} of them with {form}"
    if report.identical:
        name_of = report.dataset.name_of
        names = shorten([" = ".join(map(name_of, group)) for group in report.identical])
        groups = f"{len(report.identical)} group{'s' * (len(report.identical) > 1)}"
        yield f"{groups} of files with identical content: {names}"
