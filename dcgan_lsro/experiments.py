"""The rows of the paper's tables as named configurations, and our controls.

Out of scope: other people's methods, Verif-Identif (Tables 1 and 5: another network), CUB-200-2011 (Table 6:
birds).
"""

from __future__ import annotations

from pathlib import Path

from common.records import Experiment, Paper
from dcgan_lsro.config import MARKET_IMAGES, PRESETS

DUKE_IMAGES = 16_522  # of the training set of DukeMTMC-reID
AMOUNTS = (12_000, 18_000, 24_000, 30_000, 36_000)  # generated images of Table 2, on Market-1501
RIVALS = {"lsro": "LSRO", "all_in_one": "all in one, K+1 classes", "pseudo": "pseudo-labels"}
BASELINE, LSRO_24K, LSRO_12K = (
    "dcgan_lsro/table2/lsro=0",
    "dcgan_lsro/table2/lsro=24000",
    "dcgan_lsro/table2/lsro=12000",
)
NONE = {"method.loss": "none", "method.amount": 0.0}


def times(count: int) -> str:
    """Returns a number of generated images as a multiple of Market-1501's real ones: 24000 -> 1.86."""
    return f"{count / MARKET_IMAGES:.2f}"


TABLE1 = [  # single query; a record's scores `last+mq_mean` and `last+mq_max` are the multi-query columns
    Experiment("dcgan_lsro/table1/baseline", "baseline", alias_of=BASELINE),
    Experiment("dcgan_lsro/table1/lsro", "+ LSRO", alias_of=LSRO_24K),
]

TABLE2 = [Experiment(BASELINE, "baseline, no generated images", NONE)]
TABLE2 += [
    Experiment(f"dcgan_lsro/table2/{rival}=0", f"{title}, no generated images", alias_of=BASELINE)
    for rival, title in RIVALS.items()
    if rival != "lsro"
]
TABLE2 += [
    Experiment(
        f"dcgan_lsro/table2/{rival}={count}",
        f"{title}, {times(count)}x generated",
        {"method.loss": rival, "method.amount": count / MARKET_IMAGES},
    )
    for rival, title in RIVALS.items()
    for count in AMOUNTS
]

TABLE3 = [
    Experiment("dcgan_lsro/table3/baseline", "baseline on Duke", alias_of=BASELINE),
    Experiment(
        "dcgan_lsro/table3/lsro", "LSRO on Duke, 24,000 generated", {"method.amount": 24_000 / DUKE_IMAGES}
    ),
]

TABLE4 = [
    Experiment("dcgan_lsro/table4/none", "no outliers", alias_of=BASELINE),
    Experiment(
        "dcgan_lsro/table4/real",
        "real people without labels, 0.93x, LSRO",
        {"method.amount": 12_000 / MARKET_IMAGES, "method.images": "people"},
    ),
    Experiment("dcgan_lsro/table4/generated", "generated images, 0.93x, LSRO", alias_of=LSRO_12K),
]

# CUHK03, 1,367 / 100 ids, run with --source cuhk03 --target cuhk03, one split per run; the generated images
# come from Market-1501
TABLE5 = [
    Experiment("dcgan_lsro/table5/baseline", "baseline on CUHK03", {**NONE, "net.dropout": 0.5}),
    Experiment(
        "dcgan_lsro/table5/lsro", "LSRO on CUHK03", {"net.dropout": 0.5, "dcgan.dataset": "market1501"}
    ),
]

AMOUNT = [Experiment("dcgan_lsro/amount/0", "no generated images", alias_of=BASELINE)]
AMOUNT += [
    Experiment(
        f"dcgan_lsro/amount/{times(count)}",
        f"LSRO, {times(count)}x generated",
        alias_of=f"dcgan_lsro/table2/lsro={count}",
    )
    for count in AMOUNTS
]

CONTROLS = [
    Experiment(
        "dcgan_lsro/control/step_matched",
        "baseline, as many steps as LSRO",
        {"method.loss": "none", "method.step_matched": True},
    ),
    Experiment("dcgan_lsro/control/lsr", "baseline with LSR, eps 0.1", {**NONE, "method.eps": 0.1}),
    Experiment(
        "dcgan_lsro/control/lsr,step_matched",
        "with LSR, as many steps as LSRO",
        {"method.loss": "none", "method.step_matched": True, "method.eps": 0.1},
    ),
    Experiment("dcgan_lsro/control/lsro,eps=0.1", "LSRO, with LSR on the real images", {"method.eps": 0.1}),
    # the fork's 25 epochs in every preset; the other rows' DCGAN: 12 in the demo, 30 elsewhere
    Experiment(
        "dcgan_lsro/control/dcgan=fork",
        "LSRO with the images of the fork's DCGAN, of 25 epochs",
        {"dcgan.network": "fork", "dcgan.flip": False, "dcgan.epochs": 25, "pool.gen_bn": "running"},
    ),
]

# DCGANs that are only judged: what the deviations of the preset study do for the images
_ONLY_JUDGED = {"recipe.epochs": 1, "method.amount": 0.5, "pool.amount": 0.5, "dcgan.judge_steps": 300}
_DEMO_GAN = {
    "dcgan.network": "paper",
    "dcgan.g_channels": 8,
    "dcgan.d_channels": 8,
    "dcgan.epochs": 12,
    "dcgan.g_steps": 2,
    "dcgan.upsampling": "deconvolution",
    "dcgan.augment_d": False,
    "dcgan.average": 0.0,
}
MECHANISMS = [
    Experiment(f"dcgan_lsro/mechanism/{name}", title, {**_ONLY_JUDGED, **overrides})
    for name, title, overrides in (
        ("demo", "DCGAN as in the preset demo", _DEMO_GAN),
        ("no_augmentation", "DCGAN whose D sees whole images", {"dcgan.augment_d": False}),
        ("deconvolution", "DCGAN with deconvolutions", {"dcgan.upsampling": "deconvolution"}),
        ("no_average", "DCGAN with its last weights", {"dcgan.average": 0.0}),
    )
]

LSRO = Paper(
    name="dcgan_lsro",
    folder=Path(__file__).resolve().parent,
    presets=PRESETS,
    experiments=[*TABLE1, *TABLE2, *TABLE3, *TABLE4, *TABLE5, *AMOUNT, *CONTROLS, *MECHANISMS],
    demo=(
        BASELINE,
        "dcgan_lsro/control/step_matched",
        LSRO_24K,
        "dcgan_lsro/table2/all_in_one=24000",
        "dcgan_lsro/table2/pseudo=24000",
    ),
    headline=(BASELINE, LSRO_24K),
    source="synthetic-market",
)
