"""The pictures of a run: its curves, translations as in the paper's Fig. 4, SiaNet's distances over training,
and what a few queries retrieve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.cli import override
from common.curves import draw_curves, stage_curves
from common.datasets import ReIDDataset, Sample
from common.datasets.images import read_image
from common.evaluation.features import load_features
from common.evaluation.pictures import image_grid
from common.evaluation.ranked_lists import ranked_lists
from common.runs import Run
from spgan.config import PRESETS, SPGANConfig
from spgan.experiments import ROWS
from spgan.translations import FOLDER, gan_curves, gan_uses, samples_in, translation_uses

CURVES = {
    "re-ID": ("cross_entropy", "accuracy"),
    "generators": ("g_adv_target", "g_adv_source"),
    "cycle, identity": ("cycle_source", "cycle_target", "identity_source", "identity_target"),
    "discriminators": ("d_target", "d_source"),
    "contrastive": ("contrastive", "positive_s", "positive_t", "negative", "sianet"),
}
DISTANCES = {
    "image and its translation (cosine)": ("sia_cos_source", "sia_cos_target"),
    "two real images (distance)": ("sia_within_source", "sia_within_target", "sia_across"),
}
SHOWN_ROWS = ("CycleGAN", "CycleGAN+L_ide", "SPGAN")  # the columns of Fig. 4


def draw(
    run: Run, config: SPGANConfig, source: ReIDDataset, target: ReIDDataset, fakes: Sequence[Sample]
) -> None:
    """Writes `curves.png`, `ranked_lists.png` and, for rows with translations, `translations.png` and
    `sianet.png`.
    """
    gan = gan_curves(run.stages["gan"], source, target) if "gan" in run.stages else []
    draw_curves([*stage_curves(run, ("reid",)), *gan], CURVES, run.picture("curves.png"))
    if any("sia_across" in line for line in gan):
        draw_curves(gan, DISTANCES, run.picture("sianet.png"), prefix="sia_")
    query, gallery = (
        load_features(run.stages["scores"].folder / f"{name}.npz") for name in ("query", "gallery")
    )
    ranked_lists(
        query.features, target.query, gallery.features, target.gallery, run.picture("ranked_lists.png")
    )
    if fakes:
        translations(run, config, source, target, fakes, run.picture("translations.png"))


def translations(
    run: Run,
    config: SPGANConfig,
    source: ReIDDataset,
    target: ReIDDataset,
    fakes: Sequence[Sample],
    path: Path,
    people: int = 5,
) -> None:
    """Source images (rows), their translations by the rows of Table 2 that this output folder holds, by this
    run, and a target image beside.
    """
    columns = {
        "source": source.train,
        **other_rows(run, config, source, target),
        run.experiment.runs_as.rsplit("/", 1)[1]: fakes,
    }
    chosen = [int(i * len(source.train) / people) for i in range(people)]
    beside = [target.train[int((i + 0.5) * len(target.train) / people)] for i in range(people)]
    rows = [
        [*(read_image(samples[i].path) for samples in columns.values()), read_image(other.path)]
        for i, other in zip(chosen, beside)
    ]
    image_grid(
        rows,
        path,
        column_titles=[*columns, "target"],
        row_titles=[f"camera {source.train[i].camid + 1}" for i in chosen],
    )


def other_rows(
    run: Run, config: SPGANConfig, source: ReIDDataset, target: ReIDDataset
) -> dict[str, list[Sample]]:
    """The translations of Fig. 4's other columns by the same seed, as far as they are on disk already."""
    method = {
        name: getattr(PRESETS[run.preset].gan, name)
        for name in ("lambda2", "lambda3", "margin", "neg", "sia_dropout", "pool")
    }
    base = replace(config, gan=replace(config.gan, **method), translate=replace(config.translate, kind="gan"))
    found = {}
    for row in SHOWN_ROWS:
        other = override(base, ROWS[row][1])
        gan = run.finished("gan", gan_uses(other.gan, source, target, run.seed))
        made = (
            run.finished("translation", translation_uses(other, gan.name.removeprefix("gan-"), source))
            if gan
            else None
        )
        if made and run.experiment.runs_as != f"spgan/table2/{row}":
            found[row] = samples_in(made / FOLDER, source.train)
    return found
