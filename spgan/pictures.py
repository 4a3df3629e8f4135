"""The pictures of a run: training curves, translations as in the paper's Fig. 4, SiaNet's distances, ranked
lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.cli import override
from common.curves import draw_curves, stage_curves
from common.datasets import Sample
from common.datasets.images import read_image
from common.evaluation.features import load_features
from common.evaluation.pictures import image_grid
from common.evaluation.ranked_lists import ranked_lists
from common.job import Job
from spgan.config import PRESETS, SPGANConfig
from spgan.experiments import ROWS
from spgan.translations import FOLDER, gan_curves, gan_depends_on, samples_in, translation_depends_on

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
PEOPLE = 5  # rows of `translations.png`


def draw(job: Job, fakes: Sequence[Sample]) -> None:
    """Writes `curves.png` and `ranked_lists.png`, `sianet.png` for rows with a SiaNet, and `translations.png`
    for rows with translations.
    """
    gan = gan_curves(job.stages["gan"], job.source, job.target) if "gan" in job.stages else []
    draw_curves([*stage_curves(job, ("reid",)), *gan], CURVES, job.picture("curves.png"))
    if any("sia_across" in line for line in gan):
        draw_curves(gan, DISTANCES, job.picture("sianet.png"), prefix="sia_")
    folder, target = job.stages["scores"].folder, job.target
    query, gallery = (load_features(folder / f"{name}.npz").features for name in ("query", "gallery"))
    ranked_lists(query, target.query, gallery, target.gallery, job.picture("ranked_lists.png"))
    if fakes:
        translations(job, fakes, job.picture("translations.png"))


def translations(job: Job, fakes: Sequence[Sample], path: Path) -> None:
    """Draws source images, their translations by the rows of Table 2 that the output folder holds and by this
    run, and a target image.
    """
    source, target = job.source.train, job.target.train
    row = job.experiment.runs_as.rsplit("/", 1)[1]
    columns = {"source": source, **other_rows(job), row: fakes}
    chosen = [int(i * len(source) / PEOPLE) for i in range(PEOPLE)]
    last_column = [target[int((i + 0.5) * len(target) / PEOPLE)] for i in range(PEOPLE)]
    rows = [
        [read_image(sample.path) for sample in (*(samples[i] for samples in columns.values()), last)]
        for i, last in zip(chosen, last_column)
    ]
    image_grid(
        rows,
        path,
        column_titles=[*columns, "target"],
        row_titles=[f"camera {source[i].camid + 1}" for i in chosen],
    )


def other_rows(job: Job) -> dict[str, list[Sample]]:
    """Returns the translations of Fig. 4's other columns by the same seed, if they are on disk."""
    method = {
        name: getattr(PRESETS[job.options.preset].gan, name)
        for name in ("lambda2", "lambda3", "margin", "neg", "sia_dropout", "pool")
    }
    config = job.config
    base = replace(config, gan=replace(config.gan, **method), translate=replace(config.translate, kind="gan"))
    translated = {}
    for row in SHOWN_ROWS:
        other = override(base, ROWS[row][1])
        folder = finished_translation(job, other) if job.experiment.runs_as != f"spgan/table2/{row}" else None
        if folder is not None:
            translated[row] = samples_in(folder / FOLDER, job.source.train)
    return translated


def finished_translation(job: Job, config: SPGANConfig) -> Path | None:
    """Returns the folder of the translations that a configuration's GAN made in this output folder."""
    gan = job.finished("gan", gan_depends_on(config.gan, job.source, job.target), seed=job.seed)
    if gan is None:
        return None
    gan_hash = gan.name.removeprefix("gan-")
    return job.finished("translation", translation_depends_on(gan_hash, config.translate, job.source))
