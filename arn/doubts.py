"""Warnings about settings that run, but probably not as meant."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from arn.config import ARNConfig

log = logging.getLogger("run")


def warn(config: ARNConfig) -> None:
    """Warns about settings that are probably mistakes: weights that belong to other forms, and a warm-up in
    which nothing moves.
    """
    for doubt in [*doubts_about_warmup(config), *doubts_about_weights(config), *doubts_about_diff(config)]:
        log.warning("%s", doubt)


def doubts_about_warmup(config: ARNConfig) -> Iterator[str]:
    """Yields a line where the first epochs move no weight."""
    recipe = config.recipe
    if recipe.warmup == "literal_ei" and recipe.warmup_epochs and config.lr.ei == 0:
        yield (
            f"--recipe.warmup literal_ei: its {recipe.warmup_epochs} epochs move no weight, because --lr.ei "
            "is 0; the blog's is 1e-7"
        )


def doubts_about_weights(config: ARNConfig) -> Iterator[str]:
    """Yields a line for each weight of L_rec and L_ctrs that belongs to the other preset's form."""
    rec, ctr = config.w.rec, config.w.ctr
    if rec >= 1 and config.rec.reduction == "sum":
        yield (
            f"--w.rec {rec:g} belongs to a mean (preset blog); with --rec.reduction sum it drowns every "
            "other term"
        )
    if 0 < rec <= 0.1 and config.rec.reduction == "mean":
        yield (
            f"--w.rec {rec:g} belongs to a sum over channels (preset released); with --rec.reduction mean "
            "it counts for nothing"
        )
    if 0 < ctr <= 0.01 and config.ctr.reduction == "mean":
        yield (
            f"--w.ctr {ctr:g} belongs to a sum over pairs (preset blog); with --ctr.reduction mean it counts "
            "for nothing"
        )
    if ctr >= 0.1 and config.ctr.reduction == "sum":
        yield (
            f"--w.ctr {ctr:g} belongs to a mean over pairs (preset released); with --ctr.reduction sum it "
            "drowns every other term"
        )


def doubts_about_diff(config: ARNConfig) -> Iterator[str]:
    """Yields a line for each weight of L_diff that belongs to another form."""
    weight, diff = config.w.diff, config.diff
    mean_of_unit_codes = diff.row_norm and diff.reduction == "mean"
    if weight >= 10 and not mean_of_unit_codes:
        raw = "" if diff.row_norm else " and --diff.no-row-norm"
        yield (
            f"--w.diff {weight:g} belongs to the mean over codes of length 1 (preset blog); with "
            f"--diff.reduction {diff.reduction}{raw} it drowns every other term"
        )
    elif weight >= 10 and diff.form == "dot" and has_signed_codes(config):
        yield (
            f"--w.diff {weight:g} with --diff.form dot drives signed codes to opposite directions, past "
            "orthogonal ones: the dot product belongs to codes of 0 or more (preset released)"
        )
    if 0 < weight <= 1 and mean_of_unit_codes:
        yield (
            f"--w.diff {weight:g} belongs to raw codes (preset released); with the mean over codes of length "
            "1 it counts for nothing"
        )


def has_signed_codes(config: ARNConfig) -> bool:
    """Returns whether codes can be negative: not in `released`, whose last stage ends in a ReLU."""
    return config.net.arch == "blog" and config.latent.last != "bn_relu"
