"""Which masks a row trains with and is measured in, and what its stages depend on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import Options, override
from common.datasets import ReIDDataset, Sample
from common.errors import InputError
from common.records import Experiment
from common.runs import Run
from ptgan import train_gan, transfer
from ptgan.config import PRESETS, PTGANConfig
from ptgan.experiments import PTGAN
from ptgan.masks import write_masks
from ptgan.transfer import Masks, gan_key, reference_masks, row_masks

HEIGHT, WIDTH = 12, 6
CPU = torch.device("cpu")
CONFIG = PTGANConfig()
CYCLEGAN = override(CONFIG, {"gan.lambda_id": 0.0})
SEGMENTED = override(CONFIG, {"masks.kind": "torchvision"})


def half(upper: bool) -> np.ndarray:
    """A mask of the upper or of the lower half."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:6] = upper
    mask[6:] = not upper
    return mask


def domain(root: Path, name: str, mask: np.ndarray) -> ReIDDataset:
    """Two images in `train`, their masks as .npy in `train_mask`."""
    (root / name / "train_mask").mkdir(parents=True)
    (root / name / "train").mkdir()
    samples = [Sample(root / name / "train" / f"{i}.jpg", i, 0) for i in range(2)]
    for sample in samples:
        Image.new("RGB", (WIDTH, HEIGHT), (200, 10, 10)).save(sample.path)
        np.save(root / name / "train_mask" / f"{sample.path.stem}.npy", mask)
    return ReIDDataset(name, root / name, samples, samples, samples, 1)


@pytest.fixture
def pair(tmp_path) -> tuple[ReIDDataset, ReIDDataset]:
    """The people of the source stand in the upper half of their images, those of the target in the lower one."""
    return domain(tmp_path, "source", half(upper=True)), domain(tmp_path, "target", half(upper=False))


@pytest.fixture
def run(tmp_path) -> Run:
    return Run("ptgan", Experiment("ptgan/t/a", ""), "paper", CONFIG, "source", "target", 0, tmp_path / "out")


def keys(pair, run: Run) -> tuple:
    """Of the masks of a PTGAN row, and of those it is measured in."""
    return row_masks(CONFIG, *pair, run, CPU).key, reference_masks(CONFIG, *pair, run).key


def test_masks_are_known_by_their_contents(pair, run):
    trained, measured = keys(pair, run)
    assert keys(pair, run) == (trained, measured)
    path = pair[1].root / "train_mask" / "1.npy"
    size = path.stat().st_size
    np.save(path, half(upper=True))
    assert path.stat().st_size == size
    other = keys(pair, run)
    assert other[0] != trained and other[1] == measured  # changes are measured in the source's masks alone
    np.save(pair[0].root / "train_mask" / "1.npy", half(upper=False))
    assert keys(pair, run)[0] != other[0] and keys(pair, run)[1] != measured


def test_the_drawn_domains_masks_are_known_by_size(pair, run):
    """Their manifest says how they were drawn: keys of the demo's stages hold from one version to the next."""
    drawn = [
        replace(
            domain,
            train=[replace(s, mask=domain.root / "train_mask" / f"{s.path.stem}.npy") for s in domain.train],
        )
        for domain in pair
    ]
    before = keys(drawn, run)
    np.save(drawn[0].train[0].mask, half(upper=False))
    assert keys(drawn, run) == before and before[1] is True


def test_a_target_folder_is_the_targets_alone(pair, run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(pair[0].root / "train_mask", elsewhere)
    plain, moved = (
        row_masks(override(CONFIG, {"masks.target_folder": folder}), *pair, run, CPU)
        for folder in ("", str(elsewhere))
    )
    source, target = pair[0].train[0], pair[1].train[0]
    assert np.array_equal(plain.target(target), half(upper=False)) and np.array_equal(
        moved.target(target), half(upper=True)
    )
    assert np.array_equal(moved.source(source), half(upper=True)) and moved.key != plain.key


def test_cyclegan_asks_no_segmentation_network(pair, run, monkeypatch):
    """It neither fetches weights nor needs them; once another row has had masks made, it is measured in
    these.
    """
    monkeypatch.setattr(transfer, "write_masks", None)
    config = override(SEGMENTED, {"gan.lambda_id": 0.0})
    assert row_masks(config, *pair, run, CPU).key is None and run.stages == {}
    assert reference_masks(config, *pair, run).masks is None

    monkeypatch.setattr(transfer, "write_masks", write_masks)
    monkeypatch.setattr("ptgan.masks.load_segmenter", lambda name: torch.nn.Identity())
    monkeypatch.setattr("ptgan.masks.segment", lambda model, image, classes, device: half(upper=False))
    row_masks(SEGMENTED, *pair, run, CPU)
    assert set(run.stages) == {"masks"}
    reference = reference_masks(config, *pair, run)
    # not those beside the images
    assert np.array_equal(reference.masks(pair[0].train[0]), half(upper=False))
    assert (
        reference.key == reference_masks(SEGMENTED, *pair, run).key != reference_masks(CONFIG, *pair, run).key
    )


def test_masks_are_no_part_of_a_cyclegan(pair, run):
    masks = row_masks(CONFIG, *pair, run, CPU)
    with_masks, without = (
        gan_key(CYCLEGAN, *pair, found, None, 0) for found in (masks, Masks(None, None, None))
    )
    assert with_masks == without != gan_key(CONFIG, *pair, masks, None, 0)


def test_aliases_hold_in_every_preset():
    """An alias's own words, as overrides, change nothing: neither in its origin's configuration nor, without
    weight, in its masks.
    """
    own = {
        "ptgan/id_loss/mse": {"gan.id_loss": "mse", "gan.id_reduce": "all"},
        "ptgan/lambda_id/10": {"gan.lambda_id": 10.0},
        "ptgan/lambda_id/0": {"gan.lambda_id": 0.0},
        "ptgan/masks/zeros": {"gan.lambda_id": 0.0},
        "ptgan/figure/CycleGAN": {"gan.lambda_id": 0.0},
        "ptgan/figure/PTGAN": {},
        "ptgan/prid/direct": {"translation.kind": "none"},
    }
    table = {experiment.key: experiment for experiment in PTGAN.experiments}
    assert {key for key, experiment in table.items() if experiment.alias_of} == set(own)
    for key, changes in own.items():
        for preset in PRESETS.values():
            assert override(preset, changes) == override(preset, table[table[key].alias_of].overrides)


def test_deterministic_reaches_the_gan(pair, run, monkeypatch):
    asked = []

    def stop(*args, deterministic: bool, **options):
        asked.append(deterministic)
        raise InputError("far enough")

    row = (CONFIG, *pair, row_masks(CONFIG, *pair, run, CPU), None, run, CPU)
    monkeypatch.setattr(train_gan, "seed_everything", stop)
    for wanted in (True, False):
        with pytest.raises(InputError, match="far enough"):
            transfer.by_gan(*row, Options(deterministic=wanted))
    assert asked == [True, False]
    with pytest.raises(InputError, match="no deterministic gradient on CUDA"):
        train_gan.check_gan(CONFIG.gan, torch.device("cuda"), deterministic=True)
