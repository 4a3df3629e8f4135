"""`python -m common.datasets list | check NAME --root DIR | make synthetic-market`: exit code 0 fine, 1
findings, 2 bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from common.datasets import (
    DATASETS,
    cuhk03,
    dukemtmc,
    load_dataset,
    market1501,
    msmt17,
    prid2011,
    read_dataset,
)
from common.datasets.doctor import examine, report_lines
from common.errors import InputError

REAL = {
    "market1501": market1501,
    "dukemtmc": dukemtmc,
    "cuhk03": cuhk03,
    "msmt17": msmt17,
    "prid2011": prid2011,
}
SYNTHETIC = tuple(name for name in DATASETS if name not in REAL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def check(options: argparse.Namespace) -> int:
    """Prints the doctor's report; 1 if it has findings."""
    if options.jobs < 1:
        raise InputError(f"--jobs {options.jobs}: expected at least 1")
    dataset = read_dataset(options.name, options.root, **dict(map(_key_value, options.option)))
    report = examine(dataset, decode=not options.no_decode, jobs=options.jobs)
    print("\n".join(report_lines(report)))
    if options.name in REAL and REAL[options.name].ABOUT.status:
        print(f"Note: {REAL[options.name].ABOUT.status}.")
    return 1 if report.findings else 0


def list_datasets(options: argparse.Namespace) -> int:
    """Prints every dataset with its published counts and where to get it."""
    print(f"{'name':18}{'cameras':>7}{'train':>8}{'ids':>7}{'query':>8}{'gallery':>9}")
    for name, module in REAL.items():
        about, official = module.ABOUT, module.ABOUT.official
        images = f"{official.train.images:>8,}{official.train.ids:>7,}{official.query.images:>8,}{official.gallery.images:>9,}"
        print(f"{name:18}{module.CAMERAS:>7}{images}   {about.counts_of}".rstrip())
        print(f"{'':18}{about.paper}; {about.where}{': ' + about.status if about.status else ''}")
    for name in SYNTHETIC:
        print(f"{name:18}python -m common.datasets make {name}")
    print("\nOnly the synthetic domains are made here; nothing is downloaded.")
    return 0


def make(options: argparse.Namespace) -> int:
    """Renders a synthetic domain and prints where it is."""
    dataset = load_dataset(options.name, options.root, data_seed=options.data_seed)
    print(
        f"{dataset.name}: {len(dataset.train):,} train, {len(dataset.query):,} query, {len(dataset.gallery):,} gallery images in {dataset.root}"
    )
    return 0


def _key_value(text: str) -> tuple[str, str | int]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--option {text}: expected KEY=VALUE, as images=labeled")
    return key, int(value) if value.isdigit() else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m common.datasets",
        description="The datasets: list them, check a copy, make the synthetic ones.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("list", help="names, published counts, where to get them")
    command.set_defaults(command=list_datasets)

    command = commands.add_parser(
        "check", help="layout, counts, junk and distractors, broken images, and what to do"
    )
    command.add_argument("name", metavar="NAME", help=", ".join(DATASETS))
    command.add_argument(
        "--root", metavar="DIR", help="the folder that holds the datasets, or the dataset's own"
    )
    command.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="as images=labeled, protocol=classic, version=V2",
    )
    command.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="images decoded at a time (default %(default)s)",
    )
    command.add_argument("--no-decode", action="store_true", help="names and counts only")
    command.set_defaults(command=check)

    command = commands.add_parser("make", help="render a synthetic domain")
    command.add_argument("name", metavar="NAME", choices=SYNTHETIC, help=", ".join(SYNTHETIC))
    command.add_argument("--root", metavar="DIR", help="where to put it (default: the cache folder)")
    command.add_argument("--data-seed", metavar="N", type=int, default=0)
    command.set_defaults(command=make)
    return parser


if __name__ == "__main__":
    sys.exit(main())
