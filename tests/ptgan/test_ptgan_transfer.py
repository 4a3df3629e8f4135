"""The masks that a row trains with and is measured in, and what its stages depend on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import override
from common.datasets import ReIDDataset, Sample
from common.errors import InputError
from common.job import Job
from ptgan import train_gan, transfer
from ptgan.config import PRESETS, PTGANConfig
from ptgan.experiments import PTGAN
from ptgan.masks import write_masks
from ptgan.transfer import gan_depends_on, gan_masks, gan_stage, reference_masks

HEIGHT, WIDTH = 12, 6
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
    """The source's people are in the upper half of their images, the target's in the lower half."""
    return domain(tmp_path, "source", half(upper=True)), domain(tmp_path, "target", half(upper=False))


def trained_key(job: Job):
    """Identifies the masks of a row's GAN."""
    return gan_depends_on(job, job.config.gan, gan_masks(job), None)["masks"]


def keys(job: Job) -> tuple:
    """Of the masks of a PTGAN row, and of those it is measured in."""
    return trained_key(job), reference_masks(job).key


def test_masks_are_identified_by_their_contents(pair, make_job):
    job = make_job(CONFIG, *pair)
    trained, measured = keys(job)
    assert keys(job) == (trained, measured)
    path = pair[1].root / "train_mask" / "1.npy"
    size = path.stat().st_size
    np.save(path, half(upper=True))
    assert path.stat().st_size == size
    other = keys(job)
    assert other[0] != trained and other[1] == measured  # changes are measured in the source's masks alone
    np.save(pair[0].root / "train_mask" / "1.npy", half(upper=False))
    assert keys(job)[0] != other[0] and keys(job)[1] != measured


def test_masks_of_synthetic_domains_are_identified_by_size(pair, make_job):
    """Their manifest describes how they were drawn: keys of the demo's stages stay valid across versions."""
    drawn = [
        replace(
            domain,
            train=[replace(s, mask=domain.root / "train_mask" / f"{s.path.stem}.npy") for s in domain.train],
        )
        for domain in pair
    ]
    job = make_job(CONFIG, *drawn)
    before = keys(job)
    np.save(drawn[0].train[0].mask, half(upper=False))
    assert keys(job) == before and before[1] is True


def test_a_target_folder_is_the_targets_alone(pair, make_job, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(pair[0].root / "train_mask", elsewhere)
    jobs = [
        make_job(override(CONFIG, {"masks.target_folder": folder}), *pair) for folder in ("", str(elsewhere))
    ]
    (_, plain_target), (moved_source, moved_target) = map(gan_masks, jobs)
    source, target = pair[0].train[0], pair[1].train[0]
    assert np.array_equal(plain_target.of(target), half(upper=False))
    assert np.array_equal(moved_target.of(target), half(upper=True))
    assert np.array_equal(moved_source.of(source), half(upper=True))
    assert trained_key(jobs[0]) != trained_key(jobs[1])


def test_each_domain_trains_with_its_own_images_and_masks(pair, make_job, monkeypatch):
    received = []
    monkeypatch.setattr(transfer, "train_gan", lambda *arguments: received.append(arguments))
    folders = {
        f"masks.{name}_folder": str(of.root / "train_mask") for name, of in zip(("source", "target"), pair)
    }
    job = make_job(override(CONFIG, {"masks.aug": "released", **folders}), *pair)
    gan_stage(job, gan_masks(job), None)
    config, transform, source, target, work = received[0]
    assert config == CONFIG.gan and transform.mask_aug == "released" and work.seed == job.seed
    for domain, data, upper in ((source, pair[0], True), (target, pair[1], False)):
        assert list(domain.samples) == data.train
        assert np.array_equal(domain.masks(data.train[1]), half(upper=upper))


def test_a_gan_for_a_camera_sees_that_camera_alone(pair):
    target = replace(pair[1], train=[replace(s, camid=i) for i, s in enumerate(pair[1].train)])
    assert transfer.images_of(target, 2) == target.train[1:]
    assert transfer.images_of(target, None) == target.train


def test_cyclegan_needs_no_segmentation_network(pair, make_job, monkeypatch):
    """It neither fetches weights nor needs them; once another row has made masks, it is measured in these."""
    monkeypatch.setattr(transfer, "write_masks", None)
    cyclegan = make_job(override(SEGMENTED, {"gan.lambda_id": 0.0}), *pair)
    assert trained_key(cyclegan) is None and cyclegan.stages == {}
    assert reference_masks(cyclegan) is None

    monkeypatch.setattr(transfer, "write_masks", write_masks)
    monkeypatch.setattr("ptgan.masks.load_segmenter", lambda name: torch.nn.Identity())
    monkeypatch.setattr("ptgan.masks.segment", lambda model, image, classes, device: half(upper=False))
    segmented = make_job(SEGMENTED, *pair)
    gan_masks(segmented)
    assert set(segmented.stages) == {"masks"}
    reference = reference_masks(cyclegan)
    # not those beside the images
    assert np.array_equal(reference.of(pair[0].train[0]), half(upper=False))
    assert reference.key == reference_masks(segmented).key != reference_masks(make_job(CONFIG, *pair)).key


def test_masks_are_no_part_of_a_cyclegan(pair, make_job):
    job = make_job(CONFIG, *pair)
    masks = gan_masks(job)
    with_masks, without = (gan_depends_on(job, CYCLEGAN.gan, some, None) for some in (masks, None))
    assert with_masks == without != gan_depends_on(job, CONFIG.gan, masks, None)


def test_aliases_hold_in_every_preset():
    """An alias's title, as overrides, changes nothing in the configuration of its origin."""
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
        for name, preset in PRESETS.items():
            if key == "ptgan/lambda_id/10" and preset.gan.lambda_id != 10:
                assert (
                    name in ("study", "shared", "photos_cpu")
                    and "(20 in study, shared and photos_cpu)" in table[key].title
                )
                continue
            assert override(preset, changes) == override(preset, table[table[key].alias_of].overrides)


def test_deterministic_reaches_the_gan(pair, make_job, monkeypatch):
    received = []

    def stop(*args, deterministic: bool, **options):
        received.append(deterministic)
        raise InputError("far enough")

    monkeypatch.setattr(train_gan, "seed_everything", stop)
    for deterministic in (True, False):
        job = make_job(CONFIG, *pair, deterministic=deterministic)
        with pytest.raises(InputError, match="far enough"):
            gan_stage(job, gan_masks(job), None)
    assert received == [True, False]
    with pytest.raises(InputError, match="no deterministic gradient on CUDA"):
        train_gan.check_gan(CONFIG.gan, torch.device("cuda"), deterministic=True)
