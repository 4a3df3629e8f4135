"""Scores a trained network on a test set: L2-normalised pool5, Euclidean ranking, which is the cosine's order
(Sec. 5.2).

    python evaluate.py --checkpoint runs/stages/reid-<hash>/model.pt --target synthetic-market --view dense256
    python evaluate.py --checkpoint runs/stages/reid-<hash>/model.pt --target cuhk03 --cuhk03-split 3
    --data-root DIR   # trained on split 3

Released counterpart: `test/test_gallery_query_crazy.m` and `evaluation/zzd_evaluation_res_fast.m`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from common.backbones import extract_features
from common.checkpoints import load_checkpoint, saved_config
from common.cli import exit_code
from common.datasets import DISTRACTOR, ReIDDataset, Sample
from common.datasets.layout import market_name, read_folder
from common.datasets.loading import EvalTransform, SampleImages, ordered_loader
from common.datasets.synthetic import DOMAINS
from common.errors import InputError
from common.evaluation.features import save_features
from common.evaluation.protocols import POOLINGS, evaluate_single_shot, multi_query
from common.evaluation.ranking import evaluate
from common.hashing import digest
from common.runs import Workspace
from common.training import pick_device
from dcgan_lsro.config import EvalConfig, NetConfig
from dcgan_lsro.data import load
from dcgan_lsro.model import ReIDNet, build_network, load_weights

BATCH = 128
GT_BBOX = "gt_bbox"  # Market-1501's hand-drawn boxes


def score(
    model: ReIDNet,
    target: ReIDDataset,
    config: EvalConfig,
    device: torch.device,
    workspace: Workspace,
    workers: int = 0,
) -> None:
    """Writes `scores.json` and the features of `last` into the workspace.

    `last`: the paper's single view. `last+dense256`: the released script's. `last+mq_mean`, `last+mq_max`:
    multi-query with the paper's view (the released evaluator prints the two rank-1 values in each other's
    place).
    """
    refuse_generated(target)
    splits = {"query": target.query, "gallery": target.gallery}
    rows = {name: embed(model, samples, device, workers) for name, samples in splits.items()}
    for name, samples in splits.items():
        save_features(
            workspace.folder / f"{name}.npz",
            rows[name],
            [s.pid for s in samples],
            [s.camid for s in samples],
            [s.path.name for s in samples],
            normalised=True,
            model="DCGAN+LSRO pool5",
        )
    scores = {"last": rank(target, rows["query"], rows["gallery"], config)}
    if config.dense256:
        dense = (embed(model, samples, device, workers, view="dense256") for samples in splits.values())
        scores["last+dense256"] = rank(target, *dense, config)
    boxes = multi_query_boxes(target) if config.multi_query else []
    if boxes:
        of_path = {s.path: row for name, samples in splits.items() for s, row in zip(samples, rows[name])}
        features = (
            np.stack([of_path[s.path] for s in boxes])
            if boxes[0].path in of_path
            else embed(model, boxes, device, workers)
        )
        for pooling in POOLINGS:
            pooled = multi_query(*_ids(target.query), features, *_ids(boxes), pooling=pooling)
            scores[f"last+mq_{pooling}"] = rank(target, pooled, rows["gallery"], config)
    workspace.write_json("scores.json", scores)


def refuse_generated(target: ReIDDataset) -> None:
    """Raises `InputError` if an image that a network has drawn stands in query or gallery."""
    drawn = [s for s in (*target.query, *target.gallery) if s.origin != "real"]
    if drawn:
        raise InputError(
            f"{drawn[0].path}: expected real images only in query and gallery, found {len(drawn)} generated ones: take them out"
        )


def embed(
    model: ReIDNet, samples: Sequence[Sample], device: torch.device, workers: int = 0, *, view: str = "paper"
) -> np.ndarray:
    """Test features `(N, D)`, L2-normalised, of one view.

    `paper`: one image of the training crop's size. `dense256`: the uncropped size, all places of the pooling
    window, and the mirror image.
    """
    net: NetConfig = model.net
    if view == "paper":
        images, function = SampleImages(samples, EvalTransform(net.height, net.width, "bicubic")), model.pool5
    else:
        images = SampleImages(samples, EvalTransform(net.resize_height, net.resize_width, "bicubic"))
        window = pooling_window(model, device)
        function = lambda x: model.dense_pool5(x, window)  # noqa: E731
    rows = extract_features(
        function, ordered_loader(images, BATCH, workers=workers), device, flip=view == "dense256"
    )
    return rows.numpy()


@torch.inference_mode()
def pooling_window(model: ReIDNet, device: torch.device) -> tuple[int, int]:
    """Height and width of the feature map of a training image: what the classifier's pooling saw."""
    return tuple(model.base(torch.zeros(1, 3, model.net.height, model.net.width, device=device)).shape[2:])


def multi_query_boxes(target: ReIDDataset) -> list[Sample]:
    """The images that multi-query pools for a query: those of its person and camera in `gt_bbox`; empty if
    the dataset has no such folder.

    The synthetic domains have none: there it is the query and the gallery images that its ranking leaves out.
    A camera split has none either, since its cameras are numbered anew.
    """
    wanted = {(s.pid, s.camid) for s in target.query}
    if "@" in target.name:
        boxes = []
    elif (target.root / GT_BBOX).is_dir():
        boxes = read_folder(target.root / GT_BBOX, market_name, [])
    else:
        boxes = [*target.query, *target.gallery] if target.name in DOMAINS else []
    return [s for s in boxes if (s.pid, s.camid) in wanted and s.pid > DISTRACTOR]


def box_files(target: ReIDDataset, config: EvalConfig) -> dict[str, str]:
    """What identifies the boxes of multi-query in `gt_bbox`, which no manifest lists: a hash of names and
    sizes; empty without such boxes.
    """
    boxes = multi_query_boxes(target) if config.multi_query else []
    files = [(s.path.name, s.path.stat().st_size) for s in boxes if s.path.parent.name == GT_BBOX]
    return {"boxes": digest(files)} if files else {}


def rank(
    target: ReIDDataset, query: np.ndarray, gallery: np.ndarray, config: EvalConfig, **options
) -> dict[str, float]:
    """Scores of a ranking; CUHK03's classic protocol draws one gallery image a person, again and again."""
    query_ids, gallery_ids = _ids(target.query), _ids(target.gallery)
    if target.name == "cuhk03" and config.cuhk03_protocol == "classic":
        return evaluate_single_shot(query, *query_ids, gallery, *gallery_ids, repeats=20).scores()
    return evaluate(query, *query_ids, gallery, *gallery_ids, cut=config.cut, **options).scores()


def _ids(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([s.pid for s in samples]), np.array([s.camid for s in samples])


def load_network(path: Path) -> ReIDNet:
    """The network in a `model.pt`, in evaluation mode, with its configuration as `model.net`."""
    saved = load_checkpoint(path, expected=("state_dict", "num_classes", "net"))
    net = saved_config(NetConfig, saved["net"], path, "DCGAN+LSRO")
    model = build_network(replace(net, weights="none"), saved["num_classes"])
    load_weights(model, saved["state_dict"], str(path))
    model.net = net
    return model.to(memory_format=torch.channels_last).eval()


@dataclass(frozen=True)
class Evaluate:
    """Scores a checkpoint on a test set and prints the scores as JSON."""

    checkpoint: Path  # model.pt of a finished re-ID stage
    target: str = "synthetic-market"  # dataset that is tested on
    data_root: Path | None = None  # folder that holds the datasets
    view: Literal["paper", "dense256"] = "paper"  # one 224 x 224 view, or the released script's
    multi_query: Literal["none", "mean", "max"] = "none"  # pool all images of the query's person and camera
    cut: int | None = None  # only the first images of the ranked list can be hits; released code: 2000
    rerank: bool = False  # k-reciprocal re-ranking; no published number has it
    # the one that the checkpoint was trained by; Table 5: classic
    cuhk03_protocol: Literal["classic", "767/700"] = EvalConfig.cuhk03_protocol
    # of the 20 classic splits: the checkpoint's own, others test people whom it has seen
    cuhk03_split: int = EvalConfig.cuhk03_split
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 0


def run(options: Evaluate) -> None:
    device = pick_device(options.device)
    config = EvalConfig(
        cut=options.cut, cuhk03_protocol=options.cuhk03_protocol, cuhk03_split=options.cuhk03_split
    )
    if options.target == "cuhk03" and config.cuhk03_protocol == "classic" and (options.rerank or options.cut):
        raise InputError(
            "--cuhk03-protocol classic: its single-shot draws take neither --rerank nor --cut: leave them out, or use 767/700"
        )
    model = load_network(options.checkpoint).to(device)
    target = load(config, options.target, options.data_root)
    query, gallery = (
        embed(model, samples, device, options.workers, view=options.view)
        for samples in (target.query, target.gallery)
    )
    if options.multi_query != "none":
        boxes = multi_query_boxes(target)
        if not boxes:
            raise InputError(f"{missing_boxes(target)}: use --multi-query none")
        rows = embed(model, boxes, device, options.workers, view=options.view)
        query = multi_query(*_ids(target.query), rows, *_ids(boxes), pooling=options.multi_query)
    print(json.dumps(rank(target, query, gallery, config, rerank=options.rerank or None), indent=1))


def missing_boxes(target: ReIDDataset) -> str:
    """Why a dataset has no images to pool for its queries."""
    if "@" in target.name:
        return f"{target.name}: multi-query needs the cameras of the files' names, and a camera split has numbered its own anew"
    return f"{target.root}: multi-query needs the folder {GT_BBOX} with images of the queries' people and cameras, found none"


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: run(tyro.cli(Evaluate, args=argv)))


if __name__ == "__main__":
    sys.exit(main())
