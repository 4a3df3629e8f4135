"""Makes the pretrained networks, or draws images in the style of each camera."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from common.cli import exit_code
from common.datasets import load_dataset
from common.datasets.base import Sample
from common.datasets.images import read_image
from common.datasets.loading import EvalTransform
from common.errors import InputError
from common.evaluation.folders import folder_samples
from common.evaluation.pictures import image_grid
from common.flags import OneLineParser
from hhl.pictures import spread_over_cameras
from hhl.pretrained import RECORD, STARGAN, load_stargan, make
from hhl.stargan.model import camera_one_hot
from hhl.stargan.train import HALF
from hhl.stargan.translate import to_uint8

RUNS = Path(__file__).parent.parent / "runs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    return exit_code(lambda: _run(_parser().parse_args(arguments)))


def _run(options: argparse.Namespace) -> None:
    options.run(options)


def _make(options: argparse.Namespace) -> None:
    for path in make(options.runs, record=options.record):
        print(f"{path}: {path.stat().st_size:,} bytes")


def _styles(options: argparse.Namespace) -> None:
    if options.people < 1:
        raise InputError(f"--people {options.people}: expected at least 1")
    if options.images is None:
        samples = spread_over_cameras(load_dataset("synthetic-market").train, options.people)
    else:
        samples = folder_samples(options.images)[: options.people]
    draw_styles(samples, options.out, options.generator)
    print(f"{options.out}: {len(samples)} images in the style of each camera")


@torch.inference_mode()
def draw_styles(samples: Sequence[Sample], path: Path, generator_file: Path = STARGAN) -> None:
    """Draws images (rows) as they are and in the style of each camera (columns)."""
    generator, gan, cameras = load_stargan(generator_file)
    transform = EvalTransform(gan.height, gan.width, "bilinear", HALF, HALF)
    styles = camera_one_hot(torch.arange(cameras), cameras)
    rows = []
    for sample in samples:
        image = read_image(sample.path)
        fakes = generator(transform(image)[None].expand(cameras, -1, -1, -1), styles)
        rows.append([image, *to_uint8(fakes, truncate=False)])
    titles = ["image", *(f"style {camera + 1}" for camera in range(cameras))]
    image_grid(rows, path, column_titles=titles)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m hhl.pretrained", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("make", help="write reid.pt and stargan.pt from a finished run")
    command.add_argument("--runs", type=Path, default=RUNS, help="output folder of the run (hhl/runs)")
    command.add_argument("--record", default=RECORD, help="the run's record in it (L_CD of the preset study)")
    command.set_defaults(run=_make)
    command = commands.add_parser("styles", help="draw images in the style of each camera")
    command.add_argument("--images", metavar="DIR", help="folder of images (default: drawn people)")
    command.add_argument("--people", metavar="N", type=int, default=4, help="images (default %(default)s)")
    command.add_argument("--generator", metavar="FILE", type=Path, default=STARGAN, help="a stargan.pt")
    command.add_argument("--out", metavar="FILE.png", type=Path, required=True)
    command.set_defaults(run=_styles)
    return parser


if __name__ == "__main__":
    sys.exit(main())
