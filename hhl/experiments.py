"""The rows of HHL's tables, the points of its figures, and our controls, as named configurations.

Numbers in a key are the paper's (`n_t=16`); the preset's `recipe.batch_scale` scales them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.records import Experiment, Paper
from hhl.config import PRESETS

Rows = dict[str, tuple[str, dict[str, Any]]]  # key -> title, overrides

_NO_TRIPLET = {"method.source_triplet": False, "method.target_views": "none"}

# Table 2 (Duke and Market) and, with CUHK03 as source, Table 3
ROWS: Rows = {
    "baseline_target": ("supervised on the target, Basel. (T)", {**_NO_TRIPLET, "method.labels": "target"}),
    "baseline_source": ("direct transfer, Basel. (S)", _NO_TRIPLET),
    "L_T": ("+ source triplets, L_T", {"method.target_views": "none"}),
    "L_D": ("+ domain connectedness, L_D", {"method.target_views": "real"}),
    "L_C": ("+ camera invariance, L_C", {"method.source_triplet": False}),
    "L_CD": ("HHL, L_CD", {}),
}
BETAS = [number / 10 for number in range(21)]
TARGET_BATCHES = range(0, 33, 4)
TRIPLETS: Rows = {
    "hard": ("batch hard, margin 0.3", {}),
    "soft": ("batch hard, soft margin", {"method.margin": "soft"}),
    "all": ("batch all, margin 0.3", {"method.triplets": "all"}),
    "all_nonzero": ("batch all over the active triplets, margin 0.3", {"method.triplets": "all_nonzero"}),
}
CONTROLS: Rows = {
    "style/stats": ("styles: colour statistics", {"style.kind": "stats"}),
    "style/oracle": ("styles: the true ones", {"style.kind": "oracle"}),
    "style/self": ("styles: none, the image itself", {"style.kind": "self"}),
    "control/untrained": (
        "the network as it starts: on photographs, ImageNet's features",
        {**_NO_TRIPLET, "recipe.epochs": 0},
    ),
    "control/colour_jitter": (
        "direct transfer with colour jitter on the source",
        {**_NO_TRIPLET, "recipe.colour_jitter": 0.3},
    ),
    "control/colour_jitter,L_CD": ("HHL with colour jitter on the source", {"recipe.colour_jitter": 0.3}),
    "control/beta=0": (
        "HHL's passes with beta = 0: the target moves batch norm alone",
        {"method.beta": 0.0},
    ),
    "control/no_classification": ("L_CD without cross-entropy", {"method.classification": False}),
    "control/embedding=frozen": (
        "HHL, FC-1024 and FC-128 frozen at random, as released",
        {"recipe.embed_lr": None},
    ),
    "control/embedding=frozen,baseline_source": (
        "direct transfer, FC-1024 frozen at random",
        {**_NO_TRIPLET, "recipe.baseline_embed_lr": None},
    ),
    "control/single_pass": ("HHL, one forward pass a step", {"recipe.single_pass": True}),
    "control/resize_real_first": (
        "HHL, real target images as blurred as their fakes",
        {"style.resize_real_first": True},
    ),
}
# direct transfer beside a StarGAN that is only judged: what the deviations of the preset study do for styles
MECHANISMS: Rows = {
    "demo": (
        "StarGAN as in the preset demo",
        {
            "stargan.conditional_norm": False,
            "stargan.augment_d": False,
            "stargan.d_channels": 16,
            "stargan.n_critic": 3,
            "stargan.lr": 2e-4,
            "stargan.lambda_idt": 10.0,
            "stargan.iterations": 1100,
        },
    ),
    "no_conditional_norm": (
        "StarGAN with one gain and bias for all cameras",
        {"stargan.conditional_norm": False},
    ),
    "no_augmentation": ("StarGAN whose D sees whole images", {"stargan.augment_d": False}),
}


def tables() -> list[Experiment]:
    """Returns the rows of Tables 1 to 3."""
    rows = [Experiment(f"hhl/table2/{row}", title, overrides) for row, (title, overrides) in ROWS.items()]
    rows += [
        Experiment(f"hhl/table3/{row}", f"{title} (CUHK03 source)", alias_of=f"hhl/table2/{row}")
        for row, (title, _) in ROWS.items()
    ]
    return [
        *rows,
        Experiment(
            "hhl/table1/distances",
            "direct transfer, and how far crop, flip and camera style move pool5",
            {**_NO_TRIPLET, "style.measure": True},
        ),
    ]


def figures() -> list[Experiment]:
    """Returns the points of Figs. 3 (sampling), 5 (beta) and 6 (n_t); some are rows of Table 2."""
    points = [Experiment("hhl/fig3/random", "target images at random", alias_of="hhl/table2/L_CD")]
    points += [
        Experiment(f"hhl/fig3/{kind}", f"target images {chosen}", {"recipe.sampling": kind})
        for kind, chosen in (
            ("cluster", "one of each k-means cluster"),
            ("supervised", "of different people, by their labels"),
        )
    ]
    # at 0 the paper plots its baseline; see control/beta=0
    same_beta = {0.0: "hhl/table2/baseline_source", 0.5: "hhl/table2/L_CD"}
    points += [
        Experiment(
            f"hhl/fig5/beta={beta:g}",
            f"beta = {beta:g}",
            *_run_or_alias({"method.beta": beta}, same_beta.get(beta)),
        )
        for beta in BETAS
    ]
    same_n = {0: "hhl/table2/L_T", 16: "hhl/table2/L_CD"}
    points += [
        Experiment(
            f"hhl/fig6/n_t={n}",
            f"{n} target images a batch",
            *_run_or_alias({"recipe.target_batch": n}, same_n.get(n)),
        )
        for n in TARGET_BATCHES
    ]
    return points


def _run_or_alias(overrides: dict, alias_of: str | None) -> tuple[dict, str | None]:
    return ({}, alias_of) if alias_of else (overrides, None)


def triplet_comparison() -> list[Experiment]:
    """Returns the blog's appendix: kinds of source triplets, beside the cross-entropy (L_T) and alone."""
    source_only = {"method.target_views": "none"}
    rows = []
    for name, (title, overrides) in TRIPLETS.items():
        beside = _run_or_alias({**source_only, **overrides}, "hhl/table2/L_T" if name == "hard" else None)
        rows.append(Experiment(f"hhl/triplet/{name}", f"cross-entropy and {title}", *beside))
        rows.append(
            Experiment(
                f"hhl/triplet/{name},alone",
                f"{title}, no cross-entropy",
                {**source_only, **overrides, "method.classification": False, "method.beta": 1.0},
            )
        )
    return rows


def controls() -> list[Experiment]:
    """Returns what neither paper nor code ran: other styles, other explanations of a gain, open questions."""
    rows = [Experiment("hhl/style/stargan", "styles by StarGAN", alias_of="hhl/table2/L_CD")]
    rows += [Experiment(f"hhl/{name}", title, overrides) for name, (title, overrides) in CONTROLS.items()]
    rows += [
        Experiment(f"hhl/mechanism/{name}", title, {**_NO_TRIPLET, "style.measure": True, **overrides})
        for name, (title, overrides) in MECHANISMS.items()
    ]
    batch_title = "images in the cross-entropy batch"
    rows.append(Experiment("hhl/control/ce_batch=128", f"HHL, 128 {batch_title}", alias_of="hhl/table2/L_CD"))
    for batch in (16, 32, 64):
        key, title, change = (
            f"hhl/control/ce_batch={batch}",
            f"HHL, {batch} {batch_title}",
            {"recipe.batch": batch},
        )
        rows.append(Experiment(key, f"{title}, and so more steps an epoch", change))
        same_steps = {**change, "recipe.epochs_of_batch": 128}
        rows.append(Experiment(f"{key},same_steps", f"{title}, steps as with 128", same_steps))
    return rows


EXPERIMENTS = [*tables(), *figures(), *triplet_comparison(), *controls()]

HHL = Paper(
    name="hhl",
    folder=Path(__file__).resolve().parent,
    presets=PRESETS,
    experiments=EXPERIMENTS,
    demo=("hhl/table2/baseline_source", "hhl/table2/L_CD", "hhl/table2/baseline_target"),
    headline=("hhl/table2/baseline_source", "hhl/table2/L_CD"),
)
