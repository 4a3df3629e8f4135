"""Extracts features, ranks a gallery, scores and exports: `python -m common.evaluation COMMAND --help`.

    extract --checkpoint MODEL --images DIR --out FEATURES.npz|.mat|.csv
    rank --query IMAGE|DIR|FEATURES --gallery DIR|FEATURES [--checkpoint MODEL] --out ranked.png|.csv|.html
    score QUERY GALLERY
    export --checkpoint MODEL --out WEIGHTS.pt|MODEL.onnx

`QUERY.npz GALLERY.npz` alone scores the two, as before there were commands.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli import exit_code
from common.errors import InputError
from common.evaluation.distances import METRICS
from common.evaluation.features import FeatureFile, check_one_model
from common.evaluation.folders import LABELS, folder_samples, image_sample
from common.evaluation.formats import SUFFIXES, read_features, write_features
from common.evaluation.protocols import POOLINGS
from common.evaluation.ranking import NO_MATCH, RankingResult, evaluate
from common.evaluation.retrieval import OUTPUTS, pooled, rank, with_folder, write_rankings
from common.files import write_atomic
from common.flags import OneLineParser

DEVICES = ("auto", "cpu", "cuda")
MOST = 4096  # images at once, processes, threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, or 2 for bad input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        words = ["score", *words]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return exit_code(lambda: _run(_parser().parse_args(words)))


def _run(options: argparse.Namespace) -> None:
    COMMANDS[options.command](options)


# ---------------------------------------------------------------- extract


def _extract(options: argparse.Namespace) -> None:
    _check_ending(options.out, SUFFIXES)
    samples = folder_samples(options.images, options.labels)
    content = _features_of(options, samples, Path(options.images))
    write_features(options.out, content)
    people = len({pid for pid in content.pids.tolist() if pid > 0})
    known = f"{people:,} people" if people else "no labels"
    print(f"{options.out}: {len(samples):,} images, {content.features.shape[1]:,} numbers each, {known}")


def _features_of(options: argparse.Namespace, samples: Sequence, folder: Path) -> FeatureFile:
    for name, least in (("batch", 1), ("workers", 0), ("threads", 0)):
        if not least <= getattr(options, name) <= MOST:
            raise InputError(f"--{name} {getattr(options, name)}: expected {least} to {MOST:,}")
    from common.evaluation.extraction import Extraction, extract  # imports PyTorch
    from common.training import pick_device, set_threads

    set_threads(options.threads)
    how = Extraction(
        Path(options.checkpoint),
        pick_device(options.device),
        _size(options.size),
        options.flip,
        None if options.adabn is None else Path(options.adabn),
        options.workers,
        options.batch,
    )
    return extract(how, samples, folder)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (
        height.isdecimal() and width.isdecimal() and 1 <= int(height) <= 4096 and 1 <= int(width) <= 4096
    ):
        raise InputError(f"--size {text}: expected HEIGHTxWIDTH, as 256x128")
    return int(height), int(width)


def _check_ending(path: str, expected: Sequence[str]) -> None:
    """Raises `InputError` for an ending that could not be written, before anything is computed."""
    if Path(path).suffix.lower() not in expected:
        raise InputError(f"--out {path}: expected a name that ends in {', '.join(expected)}")


# ---------------------------------------------------------------- rank


def _rank(options: argparse.Namespace) -> None:
    _check_ending(options.out, OUTPUTS)
    if options.top < 1:
        raise InputError(f"--top {options.top}: expected at least 1")
    query, gallery = (_side(options, name) for name in ("query", "gallery"))
    check_one_model(query, gallery, f"{options.query} and {options.gallery}")
    if options.tracklets:
        query, gallery = pooled(query, options.tracklets), pooled(gallery, options.tracklets)
    rankings = rank(query, gallery, top=options.top, metric=options.metric)
    shown = write_rankings(options.out, rankings)
    left = len(query.names) - shown
    more = f" ({left:,} more in a .csv or .html)" if left else ""
    queries = "1 query" if shown == 1 else f"{shown:,} queries"
    print(f"{options.out}: the nearest {rankings.nearest.shape[1]} images of {queries}{more}")


def _side(options: argparse.Namespace, role: str) -> FeatureFile:
    """Returns the features of the query or the gallery, from their file or from the images."""
    given = Path(getattr(options, role)).expanduser()
    if given.suffix.lower() in SUFFIXES:
        return with_folder(read_features(given, role), options.images if role == "gallery" else None)
    if options.checkpoint is None:
        raise InputError(f"--{role} {given}: images need --checkpoint MODEL, the network of their features")
    if given.is_dir():
        return _features_of(options, folder_samples(given, options.labels), given)
    return _features_of(options, [image_sample(given)], given.parent)


# ---------------------------------------------------------------- score


def _score(options: argparse.Namespace) -> None:
    both = options.gallery or options.query  # layumi's file holds query and gallery
    if options.gallery is None and Path(options.query).suffix.lower() != ".mat":
        raise InputError(f"{options.query}: expected a second file, GALLERY; only layumi's .mat holds both")
    query = read_features(options.query, "query", options.labels)
    gallery = read_features(both, "gallery", options.labels)
    check_one_model(query, gallery, f"{options.query} and {both}")
    _check_labels(query, gallery, options)
    if options.tracklets:
        query, gallery = pooled(query, options.tracklets), pooled(gallery, options.tracklets)
    result = evaluate(
        query.features,
        query.pids,
        query.camids,
        gallery.features,
        gallery.pids,
        gallery.camids,
        metric=options.metric,
        rerank=options.rerank,
        no_match=options.no_match,
        cut=options.cut,
        same_camera="keep" if options.keep_same_camera else "remove",
    )
    _print_scores(result)
    if options.out:
        _check_ending(options.out, (".json",))
        write_atomic(Path(options.out), json.dumps(result.scores(), indent=1) + "\n")


def _check_labels(query: FeatureFile, gallery: FeatureFile, options: argparse.Namespace) -> None:
    for content, where in ((query, options.query), (gallery, options.gallery or options.query)):
        unknown = int((content.pids < -1).sum())
        if unknown:
            raise InputError(
                f"{where}: {unknown:,} of {len(content.pids):,} images have no known person: "
                "extract them with --labels market or folders, or use rank, which needs none"
            )
    cameras = {*query.camids.tolist(), *gallery.camids.tolist()}
    if len(cameras) == 1 and not options.keep_same_camera:
        raise InputError(
            f"{options.query}: all images are of one camera, and matches in the query's camera do not count: "
            "give --keep-same-camera"
        )


def _print_scores(result: RankingResult) -> None:
    for name, value in result.scores().items():
        print(f"{name:9}{100 * value:6.2f}")
    print(
        f"{result.num_valid_queries:,} of {len(result.ap):,} queries have a match; "
        "mAP by trapezoid, mAP_step by steps; in percent"
    )


# ---------------------------------------------------------------- export


def _export(options: argparse.Namespace) -> None:
    _check_ending(options.out, (".pt", ".pth", ".onnx"))
    from common.evaluation.exporting import export_onnx, export_torchvision  # import PyTorch
    from common.evaluation.extraction import describe
    from common.evaluation.networks import load_feature_network

    network = load_feature_network(options.checkpoint, size=_size(options.size), flip=options.flip)
    print("\n".join(describe(network)), file=sys.stderr)
    if Path(options.out).suffix.lower() == ".onnx":
        difference = export_onnx(network, Path(options.out))
        print(f"{options.out}: features differ from PyTorch's by at most {difference:.1e}")
    else:
        export_torchvision(network, Path(options.out))
        names = "torchreid's" if network.found.program.osnet else "torchvision's"
        print(f"{options.out}: {network.found.backbone} under {names} names, without a classifier")


COMMANDS = {"extract": _extract, "rank": _rank, "score": _score, "export": _export}


# ---------------------------------------------------------------- flags


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m common.evaluation",
        description="Features of images, ranked lists, scores, and networks for other programs.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_extract(commands.add_parser("extract", help="features of the images in a folder"))
    _add_rank(
        commands.add_parser("rank", help="the nearest gallery images of each query, as a picture or table")
    )
    _add_score(commands.add_parser("score", help="rank-1/5/10/20 and both mAPs of two files of features"))
    _add_export(commands.add_parser("export", help="a network as torchvision's state dict or as ONNX"))
    return parser


def _add_extract(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_network(parser, required=True)
    add(
        "--images", metavar="DIR", required=True, help="folder of images, searched below too; needs no labels"
    )
    add("--out", metavar="FILE", required=True, help=f"features to write: {', '.join(SUFFIXES)}")
    _add_images(parser)


def _add_rank(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--query", required=True, help="an image, a folder of images, or a file of features")
    add("--gallery", required=True, help="a folder of images, or a file of features")
    add("--out", metavar="FILE", required=True, help=f"what to write: {', '.join(OUTPUTS)}")
    add("--top", metavar="N", type=int, default=10, help="images for each query (default %(default)s)")
    add("--images", metavar="DIR", help="the gallery's images, if its file of features does not name them")
    _add_ranking(parser)
    _add_network(parser, required=False)
    _add_images(parser)


def _add_score(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("query", metavar="QUERY", help="features without junk and distractors: .npz, .mat, .csv")
    add("gallery", metavar="GALLERY", nargs="?", help="may contain junk (pid -1) and distractors (pid 0)")
    add(
        "--labels",
        metavar="DIR",
        help="folder of queryID.mat, testID.mat, ... of the Market-1501 MATLAB code",
    )
    _add_ranking(parser)
    add("--rerank", action="store_true", help="k-reciprocal re-ranking (20, 6, 0.3)")
    add("--no-match", choices=NO_MATCH, default="skip", help="queries without a match (default %(default)s)")
    add(
        "--cut",
        metavar="N",
        type=int,
        help="only the first N of the raw list can be hits (2000 in some code)",
    )
    add("--keep-same-camera", action="store_true", help="matches in the query's own camera count")
    add("--out", metavar="FILE.json", help="also write the scores, as fractions")


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_network(parser, required=True)
    add = parser.add_argument
    add(
        "--out",
        metavar="FILE",
        required=True,
        help=".pt: torchvision's names; .onnx: needs the extra 'export'",
    )


def _add_ranking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric", choices=METRICS, default="euclidean", help="default: %(default)s")
    parser.add_argument(
        "--tracklets", choices=POOLINGS, help="pool the features of each person and camera to one"
    )


def _add_network(parser: argparse.ArgumentParser, *, required: bool) -> None:
    words = "model.pt of a run, or a network of torchreid, fast-reid, layumi, HHL, SPGAN, torchvision"
    parser.add_argument("--checkpoint", metavar="MODEL", required=required, help=words)
    parser.add_argument("--size", metavar="HxW", help="of the images, as 256x128 (default: the checkpoint's)")
    flip: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": None}
    parser.add_argument(
        "--flip", **flip, help="add the mirrored image's feature (default: as its program does)"
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--adabn", metavar="DIR", help="re-estimate batch norm on these images, of the same cameras")
    add(
        "--labels",
        choices=LABELS,
        default="auto",
        help="people and cameras from names like 0002_c1..., from "
        "folders, or none (default: from the names if all fit)",
    )
    add("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    add(
        "--workers", metavar="N", type=int, default=0, help="processes that load images (default %(default)s)"
    )
    add("--threads", metavar="N", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    add("--batch", metavar="N", type=int, default=128, help="images at once (default %(default)s)")


if __name__ == "__main__":
    sys.exit(main())
