"""Lists, checks, splits and makes datasets: `python -m common.datasets list | check NAME --root DIR |
check DIR | split DIR | make NAME`.

Exit codes: 0 without findings, 1 with findings, 2 for bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.cli import exit_code
from common.datasets import DATASETS, load_dataset, parse_option, read_dataset
from common.datasets.base import SPLITS
from common.datasets.doctor import examine, report_lines
from common.datasets.split import split_folder
from common.datasets.table import read_table, write_names
from common.errors import InputError
from common.flags import OneLineParser

REAL = {name: entry.about for name, entry in DATASETS.items() if entry.about is not None}
MAX_JOBS = 256  # threads
SYNTHETIC = tuple(name for name in DATASETS if name not in REAL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return exit_code(lambda: _run(_parser().parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    return options.command(options)


def check(options: argparse.Namespace) -> int:
    """Prints the doctor's report; returns 1 if it contains findings."""
    if not 1 <= options.jobs <= MAX_JOBS:
        raise InputError(f"--jobs {options.jobs}: expected at least 1 and at most {MAX_JOBS}")
    dataset = read_dataset(options.name, options.root, **dict(map(parse_option, options.option)))
    report = examine(dataset, decode=not options.no_decode, jobs=options.jobs)
    print("\n".join(report_lines(report)))
    if options.names:
        write_names(options.names, dataset)
        print(f"Names of people and cameras: {options.names}")
    about = REAL.get(options.name)
    if about and about.status:
        print(f"Note: {about.status}.")
    return 1 if report.findings else 0


def split(options: argparse.Namespace) -> int:
    """Writes the table of a test protocol and prints its counts."""
    table = split_folder(
        options.folder,
        options.out,
        query_per_camera=options.query_per_camera,
        test_people=options.test_people,
        seed=options.seed,
        camera_pattern=options.camera_pattern,
        overwrite=options.overwrite,
    )
    images = read_table(table, [])
    counts = Counter(image.split for image in images)
    ids = {(i.split, i.person) for i in images if i.person not in ("-1", "0")}
    people = Counter(split for split, _ in ids)
    parts = [f"{counts[split]:,} {split} images ({people[split]:,} ids)" for split in SPLITS]
    print(f"{table}: {', '.join(parts)}")
    return 0


def list_datasets(options: argparse.Namespace) -> int:
    """Prints every dataset with its published counts and its source."""
    print(f"{'name':18}{'cameras':>7}{'train':>8}{'ids':>7}{'query':>8}{'gallery':>9}")
    for name, about in REAL.items():
        train, query, gallery = about.official.train, about.official.query, about.official.gallery
        counts = f"{train.images:>8,}{train.ids:>7,}{query.images:>8,}{gallery.images:>9,}"
        print(f"{name:18}{about.num_cameras:>7}{counts}   {about.counts_of}".rstrip())
        print(f"{'':18}{about.paper}; {about.where}{': ' + about.status if about.status else ''}")
    for name in SYNTHETIC:
        print(f"{name:18}python -m common.datasets make {name}")
    print("\nOnly the synthetic domains are made here; nothing is downloaded.")
    return 0


def make(options: argparse.Namespace) -> int:
    """Renders a synthetic domain and prints its folder."""
    dataset = load_dataset(options.name, options.root, data_seed=options.data_seed)
    train, query, gallery = map(len, (dataset.train, dataset.query, dataset.gallery))
    print(f"{dataset.name}: {train:,} train, {query:,} query, {gallery:,} gallery images in {dataset.root}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m common.datasets",
        description="The datasets: list them, check a copy, make the synthetic ones.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("list", help="names, published counts, sources")
    command.set_defaults(command=list_datasets)

    command = commands.add_parser(
        "check", help="layout, counts, junk and distractors, broken images, and what to do"
    )
    add = command.add_argument
    add("name", metavar="NAME", help=f"{', '.join(DATASETS)}, or a folder of your own")
    add("--root", metavar="DIR", help="the folder that holds the datasets, or the dataset's folder itself")
    add("--names", metavar="FILE", type=Path, help="write the numbers of people and cameras as CSV")
    examples = "e.g. images=labeled, protocol=classic, version=V2"
    add("--option", metavar="KEY=VALUE", action="append", default=[], help=examples)
    jobs = min(8, os.cpu_count() or 1)
    add("--jobs", metavar="N", type=int, default=jobs, help="decoding threads (default %(default)s)")
    add("--no-decode", action="store_true", help="names and counts only")
    command.set_defaults(command=check)

    command = commands.add_parser(
        "split", help="make a test protocol of a folder with people and cameras: writes images.csv"
    )
    add = command.add_argument
    add("folder", metavar="DIR", type=Path, help="one folder a person, or names PERSON_cCAMERA...")
    add("--out", metavar="FILE", type=Path, help="the table (default: images.csv in the folder)")
    add("--query-per-camera", metavar="N", type=int, default=1, help="of each test person (default 1)")
    add("--test-people", metavar="SHARE", type=float, default=0.5, help="of all people (default 0.5)")
    add("--seed", metavar="N", type=int, default=0)
    add("--camera-pattern", metavar="REGEX", help="its group is the camera in an image's path")
    add("--overwrite", action="store_true", help="replace a table that is there")
    command.set_defaults(command=split)

    command = commands.add_parser("make", help="render a synthetic domain")
    add = command.add_argument
    add("name", metavar="NAME", choices=SYNTHETIC, help=", ".join(SYNTHETIC))
    add("--root", metavar="DIR", help="output folder (default: the cache folder)")
    add("--data-seed", metavar="N", type=int, default=0)
    command.set_defaults(command=make)
    return parser


if __name__ == "__main__":
    sys.exit(main())
