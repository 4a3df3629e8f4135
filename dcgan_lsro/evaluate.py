"""Scores a network on a test set: L2-normalised pool5, Euclidean ranking, equal to cosine ranking (Sec. 5.2).

    python evaluate.py --checkpoint runs/stages/reid-<hash>/model.pt --target synthetic-market --view dense256
    python evaluate.py --checkpoint ... --target cuhk03 --cuhk03-split 3 --data-root DIR  # trained on split 3

Released counterpart: `test/test_gallery_query_crazy.m` and `evaluation/zzd_evaluation_res_fast.m`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from common.checkpoints import saved_network
from common.checks import check_fields
from common.datasets import DISTRACTOR, ReIDDataset, Sample
from common.datasets.contents import images_key
from common.datasets.layout import market_name, read_folder
from common.datasets.loading import EvalTransform
from common.datasets.names import parse_options
from common.datasets.synthetic import DOMAINS
from common.errors import InputError
from common.evaluation import scoring
from common.evaluation.protocols import POOLINGS, evaluate_single_shot, multi_query
from common.evaluation.ranking import ids_of
from common.evaluation.scoring import Embedder, Scores, evaluate_command, save_test_features
from common.job import Workspace
from dcgan_lsro.config import NetConfig, TestConfig
from dcgan_lsro.data import load
from dcgan_lsro.model import ReIDNet, build_network, load_weights

GT_BBOX = "gt_bbox"  # Market-1501's hand-drawn boxes


def embedder(model: ReIDNet, device: torch.device, workers: int = 0, *, view: str = "paper") -> Embedder:
    """Returns the test feature, pool5 `(N, D)`, of one view.

    `paper`: one image of the training crop's size. `dense256`: the uncropped size, all positions of the
    pooling window, and the mirror image.
    """
    net = model.net
    if view == "paper":
        transform = EvalTransform(net.height, net.width, "bicubic")
        return Embedder(lambda network, x: {"pool5": network.pool5(x)}, transform, device, workers)
    transform, window = EvalTransform(net.resize_height, net.resize_width, "bicubic"), model.pooling_window()
    return Embedder(
        lambda network, x: {"pool5": network.dense_pool5(x, window)}, transform, device, workers, flip=True
    )


def embed(model: ReIDNet, samples: Sequence[Sample], view: Embedder) -> np.ndarray:
    """Returns the feature of each image, `(N, D)`."""
    return view.embed(model, samples)["pool5"]


def score(model: ReIDNet, target: ReIDDataset, test: TestConfig, work: Workspace) -> None:
    """Writes `scores.json` and the features of `last`.

    `last`: the paper's single view. `last+dense256`: the released script's. `last+mq_mean`, `last+mq_max`:
    multi-query with the paper's view (the released evaluator swaps the two printed rank-1 values).
    """
    refuse_generated(target)
    single = embedder(model, work.device, work.options.workers)
    query, gallery = embed(model, target.query, single), embed(model, target.gallery, single)
    save_test_features(work.folder, target, (query, gallery), model="DCGAN+LSRO pool5", normalised=True)
    scores = {"last": rank(target, query, gallery, test)}
    if test.dense256:
        dense = embedder(model, work.device, work.options.workers, view="dense256")
        views = embed(model, target.query, dense), embed(model, target.gallery, dense)
        scores["last+dense256"] = rank(target, *views, test)
    boxes = multi_query_boxes(target) if test.multi_query else []
    if boxes:
        row_of = dict(zip((s.path for s in (*target.query, *target.gallery)), (*query, *gallery)))
        known = boxes[0].path in row_of
        rows = np.stack([row_of[s.path] for s in boxes]) if known else embed(model, boxes, single)
        for pooling in POOLINGS:
            pooled = multi_query(*ids_of(target.query), rows, *ids_of(boxes), pooling=pooling)
            scores[f"last+mq_{pooling}"] = rank(target, pooled, gallery, test)
    work.write_json("scores.json", scores)


def refuse_generated(target: ReIDDataset) -> None:
    """Raises `InputError` if query or gallery contains a generated image."""
    generated = [s for s in (*target.query, *target.gallery) if s.origin != "real"]
    if generated:
        raise InputError(
            f"{generated[0].path}: expected real images only in query and gallery, "
            f"found {len(generated)} generated ones: take them out"
        )


def multi_query_boxes(target: ReIDDataset) -> list[Sample]:
    """Returns the images that multi-query pools: those of a query's person and camera in `gt_bbox`.

    The synthetic domains use the query and gallery images that a ranking leaves out. Empty for other datasets
    without the folder, and for a camera split, which renumbers the cameras.
    """
    boxes: Sequence[Sample] = []
    if "@" not in target.name:
        if (target.root / GT_BBOX).is_dir():
            boxes = read_folder(target.root / GT_BBOX, market_name, [])
        elif target.name in DOMAINS:
            boxes = [*target.query, *target.gallery]
    queries = {(s.pid, s.camid) for s in target.query}
    return [s for s in boxes if (s.pid, s.camid) in queries and s.pid > DISTRACTOR]


def box_files(target: ReIDDataset, test: TestConfig) -> dict[str, str]:
    """Returns a hash of the names and contents of the boxes in `gt_bbox`, if any: no manifest lists them."""
    boxes = multi_query_boxes(target) if test.multi_query else []
    paths = [s.path for s in boxes if s.path.parent.name == GT_BBOX]
    return {"boxes": images_key(paths, target.root / GT_BBOX)} if paths else {}


def rank(target: ReIDDataset, query: np.ndarray, gallery: np.ndarray, test: TestConfig, **options) -> Scores:
    """Returns the scores of a ranking; CUHK03's classic protocol draws 20 random single-shot galleries."""
    protocol = target.options.get("protocol", test.cuhk03_protocol)
    if target.name == "cuhk03" and protocol == "classic":
        query_ids, gallery_ids = ids_of(target.query), ids_of(target.gallery)
        return evaluate_single_shot(query, *query_ids, gallery, *gallery_ids, repeats=20).scores()
    return scoring.rank(target, query, gallery, cut=test.cut, **options)


def load_network(path: Path) -> ReIDNet:
    """Returns the network in a `model.pt`, in evaluation mode."""
    net, classes, state = saved_network(path, NetConfig, "DCGAN+LSRO", classes="num_classes")
    model = build_network(replace(net, weights="none"), classes)
    load_weights(model, state, str(path))
    return model.to(memory_format=torch.channels_last).eval()


@dataclass(frozen=True)
class Evaluate(scoring.Evaluate):
    """Scores a checkpoint on a test set and prints the scores as JSON."""

    view: Literal["paper", "dense256"] = "paper"  # one 224 x 224 view, or the released script's
    multi_query: Literal["none", "mean", "max"] = "none"  # pool all images of the query's person and camera
    # only the first images of the ranked list can be correct matches; released code: 2000
    cut: int | None = None
    # the protocol that the checkpoint was trained with; Table 5: classic
    cuhk03_protocol: Literal["classic", "767/700"] = TestConfig.cuhk03_protocol
    # of the 20 classic splits: the checkpoint's own; the others test people of its training set
    cuhk03_split: int = TestConfig.cuhk03_split


def scores(options: Evaluate, device: torch.device) -> Scores:
    """Returns the scores of the checkpoint."""
    test = TestConfig(
        cut=options.cut, cuhk03_protocol=options.cuhk03_protocol, cuhk03_split=options.cuhk03_split
    )
    check_fields(test, "eval.")
    name, given = parse_options(options.target)
    protocol = given.get("protocol", test.cuhk03_protocol)
    if name == "cuhk03" and protocol == "classic" and (options.rerank or test.cut):
        raise InputError(
            "--cuhk03-protocol classic: its single-shot draws take neither --rerank nor --cut: "
            "leave them out, or use 767/700"
        )
    model = load_network(options.checkpoint).to(device)
    target = load(options.target, options.data_root, test, scoring.needed_splits(options))
    view = embedder(model, device, options.workers, view=options.view)
    if options.adabn:
        model = view.adapt(model, target.train)
    query, gallery = (
        query_features(model, target, view, options.multi_query),
        embed(model, target.gallery, view),
    )
    return rank(target, query, gallery, test, rerank=options.rerank or None)


def query_features(model: ReIDNet, target: ReIDDataset, view: Embedder, pooling: str) -> np.ndarray:
    """Returns a feature per query: its own, or pooled over its person and camera (`mean`, `max`)."""
    if pooling == "none":
        return embed(model, target.query, view)
    boxes = multi_query_boxes(target)
    if not boxes:
        raise InputError(f"{missing_boxes(target)}: use --multi-query none")
    return multi_query(*ids_of(target.query), embed(model, boxes, view), *ids_of(boxes), pooling=pooling)


def missing_boxes(target: ReIDDataset) -> str:
    """Returns why a dataset has no images to pool for its queries."""
    if "@" in target.name:
        return (
            f"{target.name}: multi-query needs the cameras of the files' names, "
            "and a camera split renumbers its cameras"
        )
    return (
        f"{target.root}: multi-query needs the folder {GT_BBOX} with images of the queries' people and "
        "cameras, found none"
    )


def main(argv: Sequence[str] | None = None) -> int:
    return evaluate_command(Evaluate, scores, argv)


if __name__ == "__main__":
    sys.exit(main())
