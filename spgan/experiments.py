"""Named configurations: the rows of SPGAN's tables, the points of its figures, the blog's open question as a
grid, and our controls.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from common.records import Experiment, Paper
from spgan.config import PRESETS, RECIPES

_DIRECT = {"method.images": "source"}
_NO_SIANET = {"gan.lambda3": 0.0}
PARTS, MODES = (1, 2, 3, 7), ("avg", "max")

# Table 2 (LMP pools the same trained network in 7 parts): row -> title, overrides
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "supervised": ("supervised on the target", {"method.images": "target"}),
    "direct": ("direct transfer", _DIRECT),
    "CycleGAN": ("CycleGAN", {"gan.lambda2": 0.0, **_NO_SIANET}),
    "CycleGAN+L_ide": ("CycleGAN + L_ide", _NO_SIANET),
    "SPGAN,m=0": ("SPGAN, m = 0", {"gan.margin": 0.0}),
    "SPGAN,m=1": ("SPGAN, m = 1", {"gan.margin": 1.0}),
    "SPGAN": ("SPGAN, m = 2", {}),
}
MECHANISMS: dict[str, tuple[str, dict[str, Any]]] = {
    "demo": (
        "CycleGAN trained as in the preset demo",
        {
            "gan.augment_d": False,
            "gan.g_norm": "instance",
            "gan.d_norm": "instance",
            "gan.lr": 2e-4,
            "gan.lr_decay": "none",
            "gan.epochs": 1.25,
            "translate.quality": 75,
        },
    ),
    "no_augmentation": ("CycleGAN whose discriminators see whole images", {"gan.augment_d": False}),
    "instance_norm": (
        "CycleGAN with the released instance norm",
        {"gan.g_norm": "instance", "gan.d_norm": "instance"},
    ),
}
HEADS, NORMS, RATES = ("fc", "bottleneck"), ("train", "eval"), (1e-3, 1e-2)


def score_name(parts: int, mode: str) -> str:
    """Returns the name in records of a pooling of Table 3; `last` is the plain mean."""
    return "last" if (parts, mode) == (1, "avg") else f"lmp{parts}{mode}"


def tables() -> list[Experiment]:
    """Returns the rows of Tables 2 and 3."""
    rows = [Experiment(f"spgan/table2/{row}", title, overrides) for row, (title, overrides) in ROWS.items()]
    rows.append(
        Experiment(
            "spgan/table2/SPGAN+LMP", "SPGAN + LMP, 7 parts", alias_of="spgan/table2/SPGAN", score="lmp7max"
        )
    )
    rows += [
        Experiment(
            f"spgan/table3/parts={parts},{mode}",
            f"{parts} part{'s' * (parts > 1)}, {mode}",
            alias_of="spgan/table2/SPGAN",
            score=score_name(parts, mode),
        )
        for parts, mode in product(PARTS, MODES)
    ]
    return rows


def figures() -> list[Experiment]:
    """Returns the points of Fig. 7 (base models; SVDNet is not built) and Fig. 8 (the weight of the
    contrastive loss).
    """
    plus = {"net.head": "bottleneck", "recipe.bn": "eval", "recipe.lr": 1e-3}  # the grid's cell of IDE+
    points = [
        Experiment(f"spgan/fig7/IDE,{row}", f"IDE, {ROWS[row][0]}", alias_of=f"spgan/table2/{row}")
        for row in ("direct", "CycleGAN+L_ide", "SPGAN")
    ]
    points.append(
        Experiment(
            "spgan/fig7/IDE+,direct",
            "IDE+, direct transfer",
            alias_of="spgan/grid/head=bottleneck,bn=eval,lr=0.001",
        )
    )
    points += [
        Experiment(f"spgan/fig7/IDE+,{row}", f"IDE+, {ROWS[row][0]}", {**ROWS[row][1], **plus})
        for row in ("CycleGAN+L_ide", "SPGAN")
    ]
    same = {0: "spgan/table2/CycleGAN+L_ide", 2: "spgan/table2/SPGAN"}
    points += [
        Experiment(
            f"spgan/fig8/lambda3={weight}",
            f"lambda3 = {weight}" + " (0.5 in study and shared)" * (weight == 2),
            {} if weight in same else {"gan.lambda3": float(weight)},
            alias_of=same.get(weight),
        )
        for weight in (0, 1, 2, 4, 6, 10)
    ]
    return points


def cell(head: str, bn: str, lr: float) -> str:
    """Returns the key of a cell of the grid."""
    return f"spgan/grid/head={head},bn={bn},lr={lr:g}"


def grid() -> list[Experiment]:
    """Returns direct transfer over head x batch norm x learning rate, to explain the gap between IDE and
    IDE+, and by the scripts of both with all their settings.
    """
    rows = []
    for head, bn, lr in product(HEADS, NORMS, RATES):
        overrides: dict[str, Any] = {"net.head": head, "recipe.bn": bn, "recipe.lr": lr}
        default = (head, bn, lr) == ("fc", "eval", 1e-3)
        rows.append(
            Experiment(
                cell(head, bn, lr),
                f"direct: {head}, BN {bn}, {lr:g}",
                {} if default else {**_DIRECT, **overrides},
                alias_of="spgan/table2/direct" if default else None,
            )
        )
    rows += [
        Experiment(f"spgan/recipe/{name}", f"direct: the script of {name}", {**_DIRECT, **overrides})
        for name, overrides in RECIPES.items()
    ]
    return rows


def controls() -> list[Experiment]:
    """Returns SiaNet's negative pairs, and runs that neither the paper nor the code has."""
    rows = [
        Experiment(
            "spgan/negatives/real_real",
            "negatives: two real images (code; preset paper has its own)",
            alias_of="spgan/table2/SPGAN",
        )
    ]
    rows += [
        Experiment(f"spgan/negatives/{kind}", f"negatives: {pairs}", {"gan.neg": kind})
        for kind, pairs in (
            ("fake_real", "a translated and a real image (paper)"),
            ("espgan", "translated for G, real for SiaNet (eSPGAN)"),
        )
    ]
    rows += [
        Experiment(
            "spgan/control/colour_jitter",
            "direct transfer with colour jitter on the source",
            {**_DIRECT, "recipe.colour_jitter": 0.3},
        ),
        Experiment(
            "spgan/control/statistics",
            "colour mean and deviation of the target in place of a GAN",
            {"translate.kind": "statistics"},
        ),
        Experiment("spgan/control/both", "SPGAN, translated and original images", {"method.images": "both"}),
        Experiment(
            "spgan/control/sia_dropout=off", "SPGAN without SiaNet's dropout", {"gan.sia_dropout": "off"}
        ),
        Experiment("spgan/control/pool=lag1", "SPGAN, the demo script's pool", {"gan.pool": "lag1"}),
    ]
    freezes = {"freeze_affine": True, "freeze_conv1_res2": True}
    # layers that the released Market baseline trains and the nets of the translated images freeze
    for name in ("direct", "SPGAN"):
        rows.append(
            Experiment(
                f"spgan/control/frozen,{name}",
                f"{ROWS[name][0]}, first layers and BN's gamma, beta frozen",
                {**ROWS[name][1], **{f"recipe.{field}": value for field, value in freezes.items()}},
            )
        )
    return rows


def mechanisms() -> list[Experiment]:
    """Returns CycleGAN without the deviations of the preset study, whose translations are to be judged."""
    return [
        Experiment(f"spgan/mechanism/{name}", title, {**ROWS["CycleGAN"][1], **overrides})
        for name, (title, overrides) in MECHANISMS.items()
    ]


EXPERIMENTS = [*tables(), *figures(), *grid(), *controls(), *mechanisms()]

SPGAN = Paper(
    name="spgan",
    folder=Path(__file__).resolve().parent,
    presets=PRESETS,
    experiments=EXPERIMENTS,
    demo=tuple(f"spgan/table2/{row}" for row in ("direct", "CycleGAN", "SPGAN", "SPGAN+LMP")),
    headline=("spgan/table2/direct", "spgan/table2/SPGAN", "spgan/table2/SPGAN+LMP"),
)
