"""Masks of every kind: files and their faults, a segmentation network, soft and constant ones, coverage."""

from __future__ import annotations

import hashlib
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from common.datasets import Sample
from common.errors import InputError
from common.job import Workspace
from ptgan import masks
from ptgan.config import SEGMENTERS, GANConfig, MaskConfig
from ptgan.data import gan_transform
from ptgan.masks import (
    COMPUTED,
    SEGMENTED,
    file_key,
    file_masks,
    load_segmenter,
    log_coverage,
    mask_source,
    read_mask,
    segment,
    write_masks,
)
from ptgan.train import check_masks

HEIGHT, WIDTH = 12, 6


@pytest.fixture
def sample(tmp_path) -> Sample:
    folder = tmp_path / "bounding_box_train"
    folder.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), (200, 10, 10)).save(folder / "0001_c1s1_000001_01.jpg")
    return Sample(folder / "0001_c1s1_000001_01.jpg", 1, 0)


@pytest.fixture
def binary() -> np.ndarray:
    return (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3 == 0).astype(np.uint8)


def store(path, array) -> None:
    path.parent.mkdir(exist_ok=True)
    np.save(path, array) if path.suffix == ".npy" else Image.fromarray(array).save(path)


@pytest.mark.parametrize("suffix, scale", [(".png", 255), (".png", 1), (".npy", 1)])
def test_disk(sample, binary, suffix, scale, tmp_path):
    store(tmp_path / "bounding_box_train_mask" / f"{sample.path.stem}{suffix}", binary * scale)
    mask = mask_source("disk")(sample)
    assert mask.dtype == np.float32 and np.array_equal(mask, binary)


def test_disk_in_a_given_folder_and_the_datasets_own(sample, binary, tmp_path):
    store(tmp_path / "elsewhere" / f"{sample.path.stem}.png", 255 * binary)
    store(tmp_path / "own" / "x.png", 255 * (1 - binary))
    own = Sample(sample.path, 1, 0, mask=tmp_path / "own" / "x.png")
    assert np.array_equal(mask_source("disk", tmp_path / "elsewhere")(own), binary)
    for kind in ("disk", "oracle"):
        assert np.array_equal(mask_source(kind)(own), 1 - binary)


def test_released_npy_of_65536_values(sample, tmp_path):
    """They are resized by what uses them only: the released loader feeds them to the loss as they are."""
    square = (np.indices((256, 256)).sum(axis=0) % 5 < 2).astype(np.float64)
    for shape in ((256, 256), (256, 256, 1), (65_536,)):
        path = tmp_path / "bounding_box_train_mask" / f"{sample.path.stem}.npy"
        store(path, square.reshape(shape))
        mask = mask_source("disk")(sample)
        assert mask.dtype == np.float32 and np.array_equal(mask, square)
    loaded = gan_transform(GANConfig(), "released")(Image.open(sample.path), mask, random.Random(0))
    assert np.array_equal(loaded[3], square)


@pytest.mark.parametrize(
    "name, array, words",
    [
        (".png", np.zeros((10, 6), np.uint8), "a mask of 10x6 for an image of 12x6"),
        (".png", np.full((12, 6), 128, np.uint8), "found values such as 0.50"),
        (".npy", np.full((12, 6), 255), "found values such as 255"),
        (".npy", np.full((256, 256), 255.0), "found values such as 255"),
        (".npy", np.zeros((7, 5)), "a mask of 7x5 for an image of 12x6"),
    ],
)
def test_wrong_masks_are_named(sample, tmp_path, name, array, words):
    path = tmp_path / "bounding_box_train_mask" / f"{sample.path.stem}{name}"
    store(path, array)
    with pytest.raises(InputError, match=words) as error:
        mask_source("disk")(sample)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_broken_files(sample, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=str(path)):
        read_mask(path, (HEIGHT, WIDTH))


def test_equal_names_in_two_folders(tmp_path, binary):
    """PRID2011's: in a flat folder they would share a mask; segmented ones are in a folder per camera."""
    samples = [
        Sample(tmp_path / camera / "person_0001.png", 1, i) for i, camera in enumerate(("cam_a", "cam_b"))
    ]
    store(tmp_path / "flat" / "person_0001.png", binary * 255)
    with pytest.raises(
        InputError,
        match="person_0001.png: the mask of both .*cam_a.* and .*cam_b.*: expected one for each image",
    ):
        file_key("disk", samples, str(tmp_path / "flat"))
    for sample, mask in zip(samples, (binary, 1 - binary)):
        store(sample.path, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        (tmp_path / "deep").mkdir(exist_ok=True)
        store(tmp_path / "deep" / sample.path.parent.name / "person_0001.png", mask * 255)
    masks = mask_source("disk", tmp_path / "deep")
    assert np.array_equal(masks(samples[0]), binary) and np.array_equal(masks(samples[1]), 1 - binary)
    assert file_key("disk", samples, str(tmp_path / "deep")) != file_key(
        "disk", samples[::-1], str(tmp_path / "deep")
    )


def test_a_missing_mask_is_an_error_never_ones(sample):
    with pytest.raises(
        InputError, match="expected its mask .*_mask/0001_c1s1_000001_01.png or .npy, found none"
    ):
        mask_source("disk")(sample)
    with pytest.raises(InputError, match="only the synthetic domains have true masks"):
        mask_source("oracle")(sample)


def test_every_kind_that_can_be_configured_is_read_or_computed():
    kinds = set(get_args(get_type_hints(MaskConfig)["kind"]))
    assert kinds == {"disk", "oracle", *SEGMENTED, *COMPUTED}
    for kind in COMPUTED:
        assert file_masks(kind, []) == (COMPUTED[kind], None)


def test_gaussian(sample):
    mask = mask_source("gaussian")(sample)
    assert mask.shape == (HEIGHT, WIDTH) and 0.9 < mask.max() <= 1 and mask.min() < 0.2
    assert np.allclose(mask, mask[::-1, ::-1]) and mask[6, 3] > mask[2, 3] > mask[0, 0]
    assert mask[HEIGHT // 2, 3] / mask[HEIGHT // 2, 0] == pytest.approx(
        np.exp(8 * ((2.5 / 6) ** 2 - (0.5 / 6) ** 2)), rel=1e-5
    )


def test_coverage_is_logged_and_extremes_warned_of(sample, caplog):
    caplog.set_level(logging.INFO, logger="run")
    assert log_coverage(lambda s: np.full((2, 2), 0.4), [sample] * 3, "toy") == pytest.approx(0.4)
    assert "masks of toy: mean coverage 0.40" in caplog.text and "WARNING" not in caplog.text
    log_coverage(lambda s: np.ones((2, 2)), [sample], "toy")
    assert "cover 100 % of the image" in caplog.text


# ---------------------------------------------------------------- torchvision


def test_person_is_class_15_of_every_network():
    for name in SEGMENTERS:
        weights = torchvision.models.get_model_weights(name).COCO_WITH_VOC_LABELS_V1
        assert (
            weights.meta["categories"].index("person") == masks.PERSON == 15
            and len(weights.meta["categories"]) == 21
        )


def failing_fetch(monkeypatch, cache: Path, error: Exception) -> None:
    """Makes `cache` torch's cache, lets fetching weights raise `error`, and makes the network empty."""

    def get_state_dict(self, *args, **options):
        raise error

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(cache))
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", get_state_dict)
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, **options: nn.Identity())


def test_offline_the_message_names_address_cache_and_alternative(monkeypatch, tmp_path):
    failing_fetch(monkeypatch, tmp_path, URLError("no network"))
    with pytest.raises(InputError, match="could not be downloaded") as error:
        load_segmenter("deeplabv3_resnet50")
    text = str(error.value)
    assert (
        "https://" in text
        and str(tmp_path / "checkpoints") in text
        and "--masks.kind disk" in text
        and "\n" not in text
    )


def test_weights_with_another_hash_are_named(monkeypatch, tmp_path):
    """Truncated or foreign in the cache; or, from torch.hub, other than announced when they were fetched."""
    failing_fetch(monkeypatch, tmp_path, RuntimeError('invalid hash value (expected "cd0a2569", got "0123")'))
    with pytest.raises(InputError, match="could not be downloaded .invalid hash value"):
        load_segmenter("deeplabv3_resnet50")
    cached = tmp_path / "checkpoints" / "deeplabv3_resnet50_coco-cd0a2569.pth"
    cached.parent.mkdir()
    cached.write_bytes(b"half of them")
    with pytest.raises(
        InputError, match="not the weights of deeplabv3_resnet50, its SHA-256 is another"
    ) as error:
        load_segmenter("deeplabv3_resnet50")
    assert str(error.value).startswith(f"{cached}: ") and "\n" not in str(error.value)
    right = cached.with_name(f"lraspp_mobilenet_v3_large-{hashlib.sha256(b'whole').hexdigest()[:8]}.pth")
    right.write_bytes(b"whole")
    network = torchvision.models.get_model_weights("lraspp_mobilenet_v3_large").COCO_WITH_VOC_LABELS_V1
    monkeypatch.setattr(type(network), "url", f"https://toy/{right.name}")
    with pytest.raises(InputError, match="could not be downloaded"):  # past the check of the file
        load_segmenter("lraspp_mobilenet_v3_large")


class RedIsPerson(nn.Module):
    """A segmentation network: red pixels are people (15), blue ones boats (4), the rest is background."""

    def forward(self, x):
        logits = torch.zeros(len(x), 21, *x.shape[2:])
        logits[:, 0] = 0.5
        logits[:, 15] = (x[:, 0] > 1).float()
        logits[:, 4] = (x[:, 2] > 1).float()
        return {"out": logits}


@pytest.fixture
def halves() -> Image.Image:
    """Red above, blue below, black to the right."""
    pixels = np.zeros((128, 64, 3), np.uint8)
    pixels[:64, :32, 0] = 255
    pixels[64:, :32, 2] = 255
    return Image.fromarray(pixels)


def test_segmentation(halves):
    person, foreground = (segment(RedIsPerson(), halves, classes) for classes in ("person", "any_fg"))
    assert person.shape == (128, 64) and person.dtype == np.uint8
    assert person[:63, :31].all() and not person[65:].any() and not person[:, 33:].any()
    assert foreground[:, :31].all() and not foreground[:, 33:].any()


def test_segmented_masks_are_kept_and_read_like_any_other(halves, tmp_path, monkeypatch):
    # two people of one name
    pictures = {"cam_a": halves, "cam_b": Image.fromarray(np.asarray(halves)[::-1])}
    for camera, picture in pictures.items():
        (tmp_path / camera).mkdir()
        picture.save(tmp_path / camera / "a.png")
    dataset = SimpleNamespace(
        name="toy", train=[Sample(tmp_path / camera / "a.png", 1, 0) for camera in pictures]
    )
    monkeypatch.setattr(masks, "load_segmenter", lambda name: RedIsPerson())
    config, work = MaskConfig(), Workspace(tmp_path / "stage", device=torch.device("cpu"))
    work.folder.mkdir()
    write_masks(config, [dataset], work)
    mask = mask_source("torchvision", work.folder / "toy")(dataset.train[0])
    assert mask.shape == (128, 64) and mask[:63, :31].all() and not mask[65:].any()
    assert np.array_equal(mask_source("torchvision", work.folder / "toy")(dataset.train[1])[::-1], mask)
    monkeypatch.setattr(masks, "segment", None)  # a second pass makes no mask again
    write_masks(config, [dataset], work)


@pytest.mark.parametrize(
    "kind, words", [("oracle", "only the synthetic domains"), ("disk", "expected its mask")]
)
def test_absent_masks_are_named_before_any_stage(sample, binary, tmp_path, kind, words):
    def job(lambda_id: float, domain: SimpleNamespace) -> SimpleNamespace:
        gan = SimpleNamespace(lambda_id=lambda_id)
        return SimpleNamespace(
            config=SimpleNamespace(masks=MaskConfig(kind=kind), gan=gan), source=domain, target=domain
        )

    domain = SimpleNamespace(train=[sample])
    check_masks(job(0, domain))  # without an identity loss none is read
    with pytest.raises(InputError, match=words):
        check_masks(job(10, domain))
    store(tmp_path / "x.png", binary)
    check_masks(job(10, SimpleNamespace(train=[Sample(sample.path, 1, 0, tmp_path / "x.png")])))
