"""The rows of ARN's ablation, the questions that the blog leaves open, and our controls, as named
configurations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arn.config import PRESETS
from common.records import Experiment, Paper

Rows = dict[str, tuple[str, dict[str, Any]]]  # row -> title, overrides

_NO_LABELS = {"w.cls": 0.0, "w.ctr": 0.0}
_NO_PRIVATE = {"latent.private": False, "w.diff": 0.0}
_FIXED_EI = {"lr.ei": 0.0, "recipe.ei_bn_eval": True}  # its weights and its statistics

# the blog's ablation (section 1.3); its column heads are reversed: the first pair is Duke -> Market
ABLATION: Rows = {
    "baseline": ("direct transfer: pooled X of E_I", {"recipe.epochs": 0, "test.feature": "X"}),
    "rec": ("L_rec", {**_NO_LABELS, **_NO_PRIVATE, **_FIXED_EI}),
    "rec_private": ("L_rec, E_T and E_S", _NO_LABELS),
    "rec_class_ctrs": ("L_rec, L_class and L_ctrs", _NO_PRIVATE),
    "full": ("ARN", {}),
}

QUESTIONS: Rows = {
    "no_rec": ("what does L_rec do? ARN without it", {"w.rec": 0.0}),
    "no_diff": ("ARN without L_diff", {"w.diff": 0.0}),
    "no_ctrs": ("ARN without L_ctrs", {"w.ctr": 0.0}),
    "diff=dxd": ("L_diff with images as rows of H", {"diff.form": "dxd"}),
    "diff=dot": ("L_diff as a dot product, of signed codes of length 1", {"diff.form": "dot"}),
    "conv678=plain": (
        "conv6-8 without BN and ReLU (its loss runs to infinity in the demo)",
        {"latent.batch_norm": False, "latent.relu": False, "latent.last": "none"},
    ),
    "conv678=relu": ("conv6-8 without BN", {"latent.batch_norm": False, "latent.last": "none"}),
    "conv678=bn": ("conv6-8 without ReLU", {"latent.relu": False}),
    "conv678=bn_relu": ("BN and ReLU after conv8 too", {"latent.last": "bn_relu"}),
    "decoder=plain": ("D_C without BN and ReLU", {"dec.norm": False}),
    "decoder=relu": ("D_C that ends in a ReLU", {"dec.last": "relu"}),
    "decoder=bn_relu": ("D_C that ends in BN and ReLU", {"dec.last": "bn_relu"}),
    "rec=pixel": (
        "L_rec summed over channels, as the released code normalises it",
        {"rec.reduction": "pixel"},
    ),
    "rec_alone=pixel": (
        "L_rec, summed over channels",
        {**_NO_LABELS, **_NO_PRIVATE, **_FIXED_EI, "rec.reduction": "pixel"},
    ),
    "warmup=none": ("no source-supervised stage: E_I keeps its initial weights", {"recipe.warmup": "none"}),
    "warmup=literal": (
        "first only E_I, at 1e-7, as printed",
        {"recipe.warmup": "literal_ei", "lr.ei": 1e-7},
    ),
    "sampler=uniform": ("uniform source batches", {"recipe.sampler": "uniform"}),
}

CONTROLS: Rows = {
    "untrained": ("e_c of an untrained E_C", {"recipe.epochs": 0}),
    "source_only": ("E_C by L_class and L_ctrs alone", {**_NO_PRIVATE, "w.rec": 0.0}),
    "train_ei": ("ARN with an E_I that learns", {"lr.ei": 1e-2, "recipe.ei_bn_eval": False}),
}

EXPERIMENTS = [
    Experiment(f"arn/{table}/{row}", title, overrides)
    for table, rows in (("ablation", ABLATION), ("question", QUESTIONS), ("control", CONTROLS))
    for row, (title, overrides) in rows.items()
]

ARN = Paper(
    name="arn",
    folder=Path(__file__).resolve().parent,
    presets=PRESETS,
    experiments=EXPERIMENTS,
    demo=tuple(f"arn/ablation/{row}" for row in ABLATION),
    headline=("arn/ablation/baseline", "arn/ablation/full"),
)
