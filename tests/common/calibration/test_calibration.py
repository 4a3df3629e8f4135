"""The criteria script: its colour jitter against torchvision's, its verdicts, one tiny measurement, and the
table in the README.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as functional

from common.calibration import augmentation, criteria
from common.datasets import synthetic


def test_hues_turn_as_in_torchvision():
    images, turns = (
        torch.rand(5, 3, 8, 6, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.1, -0.1, 0.05, -0.03, 0.0]),
    )
    turned = augmentation.turn_hue(images, turns[:, None, None, None])
    for image, turn, result in zip(images, turns, turned, strict=True):
        torch.testing.assert_close(result, functional.adjust_hue(image, float(turn)), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "name, changed",
    [
        ("brightness", functional.adjust_brightness),
        ("contrast", functional.adjust_contrast),
        ("saturation", functional.adjust_saturation),
    ],
)
def test_the_jitter_changes_each_image_by_one_factor_as_torchvision_does(name, changed, monkeypatch):
    """With one of the four changes drawn alone, some factor in 1 +- strength explains the result exactly."""
    position = ("brightness", "contrast", "saturation").index(name)
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: torch.tensor([position]))
    images = torch.rand(3, 3, 8, 6, generator=torch.Generator().manual_seed(1))
    jittered = augmentation.colour_jitter(images, 0.3, torch.Generator().manual_seed(2))
    for image, result in zip(images, jittered, strict=True):
        errors = [
            float((changed(image, factor) - result).abs().max()) for factor in np.linspace(0.7, 1.3, 601)
        ]
        assert min(errors) < 2e-3 < max(errors)


def test_augmentation_keeps_shape_and_range():
    images = torch.rand(16, 3, 64, 32, generator=torch.Generator().manual_seed(3))
    out = augmentation.augment(images, torch.Generator().manual_seed(4))
    assert out.shape == images.shape and 0 <= out.min() and out.max() <= 1
    assert (out != images).flatten(1).any(dim=1).all()


def test_verdicts():
    row = {"supervised": 0.9, "direct": 0.4, "unstyled": 0.8, "jitter 0.15": 0.5, "jitter 0.3": 0.6}
    verdict = criteria.judge(row)
    assert verdict["style_share"] == pytest.approx(0.8) and verdict["jitter_share"] == pytest.approx(0.4)
    assert all(verdict[name] for name in ("supervised_ok", "direct_ok", "style_ok", "jitter_ok"))
    assert not criteria.judge(row | {"jitter 0.15": 0.7})["jitter_ok"]
    assert not criteria.judge(row | {"unstyled": 0.5})["style_ok"]
    assert (
        not criteria.judge(row | {"direct": 0.6})["direct_ok"]
        and not criteria.judge(row | {"supervised": 0.8})["supervised_ok"]
    )


def test_a_tiny_measurement_runs(monkeypatch):
    monkeypatch.setattr(criteria, "TRAIN_IDS", 3)
    monkeypatch.setattr(criteria, "TEST_IDS", 2)
    monkeypatch.setattr(criteria, "BATCH", 8)
    measured = criteria.measure(5, iterations=2)
    assert set(measured) == {"synthetic-duke->synthetic-market", "synthetic-market->synthetic-duke"}
    for row in measured.values():
        assert set(row) == {"supervised", "direct", "unstyled", "jitter 0.15", "jitter 0.3"}
        assert all(0 <= value <= 1 for value in row.values())


def test_the_readme_shows_the_committed_measurements():
    measured = json.loads(Path(criteria.__file__).with_suffix(".json").read_text(encoding="utf-8"))
    assert set(measured) == {"0", "1", "2", "3"}
    assert criteria.table(measured) in Path(synthetic.__file__).with_name("README.md").read_text(
        encoding="utf-8"
    )
