"""The rows of HHL's tables as named configurations."""

from __future__ import annotations

from pathlib import Path

from common.cli import Paper
from common.records import Experiment
from hhl.config import PRESETS

_NO_TRIPLET = {"method.source_triplet": False, "method.target_views": "none"}

# Table 2 (Duke and Market) and, with CUHK03 as source, Table 3
ROWS = {
    "baseline_target": ("supervised on the target, Basel. (T)", {**_NO_TRIPLET, "method.labels": "target"}),
    "baseline_source": ("direct transfer, Basel. (S)", _NO_TRIPLET),
    "L_T": ("+ source triplets, L_T", {"method.target_views": "none"}),
    "L_D": ("+ domain connectedness, L_D", {"method.target_views": "real"}),
    "L_C": ("+ camera invariance, L_C", {"method.source_triplet": False}),
    "L_CD": ("HHL, L_CD", {}),
}

EXPERIMENTS = [Experiment(f"hhl/table2/{row}", title, overrides) for row, (title, overrides) in ROWS.items()]
EXPERIMENTS += [Experiment(f"hhl/table3/{row}", f"{title} (CUHK03 source)", alias_of=f"hhl/table2/{row}") for row, (title, _) in ROWS.items()]

HHL = Paper(
    name="hhl",
    folder=Path(__file__).resolve().parent,
    presets=PRESETS,
    experiments=EXPERIMENTS,
    demo=("hhl/table2/baseline_source", "hhl/table2/L_CD", "hhl/table2/baseline_target"),
    headline=("hhl/table2/baseline_source", "hhl/table2/L_CD"),
)
