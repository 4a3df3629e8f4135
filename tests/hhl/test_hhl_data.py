"""Augmentation, sampling, restarts, pseudo-labels and camera-style views against the released rules."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.datasets.base import ReIDDataset, Sample
from common.datasets.loading import IMAGENET_MEAN, SampleImages, planned_loader
from common.datasets.plans import IdentityPlan, epoch_plan, identity_plan
from common.errors import InputError
from hhl.augmentation import TrainTransform, crop_box, erasing_box
from hhl.data import pseudo_labels, released_restarts
from hhl.views import TargetViews, camera_style_views, check_cameras, fake_path

# width, height
SIZES = [(64, 128), (100, 180), (128, 256), (48, 140), (60, 75), (64, 128), (90, 200), (33, 71)]


@pytest.fixture
def photos(formulas) -> list[Image.Image]:
    """64 images of noise, eight sizes in turn; the 60 x 75 ones are too wide for most boxes."""

    def photo(width: int, height: int) -> Image.Image:
        return Image.fromarray(
            ((formulas.scatter(f"photo {width}x{height}", height, width, 3) + 1) * 127.5).astype(np.uint8)
        )

    return [photo(*SIZES[i % 8]) for i in range(64)]


def erased_rectangle(image: torch.Tensor) -> list[int]:
    """(top, left, bottom, right) of the pixels that hold the erasing fill, -1s if there are none."""
    hit = (image == torch.tensor(IMAGENET_MEAN)[:, None, None]).all(0).nonzero()
    return [*hit.min(0).values.tolist(), *(hit.max(0).values + 1).tolist()] if len(hit) else [-1] * 4


def test_augmentation_equals_the_released_one_under_one_seed(photos, golden):
    """One generator runs through 64 images, so a draw too many or too few anywhere would shift all that
    follow.
    """
    expected = golden("hhl_data")
    transform, rng = TrainTransform(64, 32, erasing=0.5), random.Random(11)
    images = [transform(photo, rng) for photo in photos]
    assert [erased_rectangle(image) for image in images] == expected["erased"].tolist()
    pixels = np.stack([image.flatten()[::997].numpy() for image in images])
    np.testing.assert_allclose(pixels, expected["pixels"], atol=0.02)  # one grey level is 0.017

    rng = random.Random(11)
    boxes = []
    for photo in photos:
        boxes.append(crop_box(*photo.size, rng))
        rng.random()
        erasing_box(64, 32, 0.5, rng)
    assert boxes == [tuple(box) for box in expected["boxes"].tolist()]
    assert boxes[4] == (0, 0, 60, 75)  # the fallback occurs


def test_crop_statistics_of_one_to_two_images():
    """Section 4.1: the mean accepted aspect is 2.34 and the mean area 0.755; one image in a thousand falls
    back.
    """
    rng = random.Random(0)
    boxes = np.array([crop_box(64, 128, rng) for _ in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    cropped = (w < 64) | (h < 128)
    assert (h / w)[cropped].mean() == pytest.approx(2.34, abs=0.02)
    assert (w * h / 8192)[cropped].mean() == pytest.approx(0.755, abs=0.01)
    assert (~cropped).mean() < 0.005 and (w <= 64).all() and (h <= 128).all() and (boxes >= 0).all()


def test_transform_is_picklable_and_leaves_the_image_alone(photos):
    transform = TrainTransform(64, 32, erasing=1.0, flip=1.0, colour_jitter=0.3)
    before = photos[0].tobytes()
    image = pickle.loads(pickle.dumps(transform))(photos[0], random.Random(3))
    assert image.shape == (3, 64, 32) and image.dtype == torch.float32 and photos[0].tobytes() == before
    assert torch.equal(image, transform(photos[0], random.Random(3)))
    assert not torch.equal(image, transform(photos[0], random.Random(4)))


def test_flip_and_jitter_do_what_they_say(photos):
    def transformed(**options) -> torch.Tensor:
        return TrainTransform(64, 32, **options)(photos[0], random.Random(5))

    plain, flipped, jittered = (
        transformed(flip=0.0),
        transformed(flip=1.0),
        transformed(flip=0.0, colour_jitter=0.4),
    )
    assert torch.equal(plain.flip(2), flipped)
    assert (
        not torch.allclose(plain, jittered)
        and torch.corrcoef(torch.stack([plain.flatten(), jittered.flatten()]))[0, 1] > 0.5
    )


def identity_passes(pids, *, ids: int = 8, images_per_id: int = 8, seed: int = 0) -> IdentityPlan:
    return identity_plan(pids, ids=ids, images_per_id=images_per_id, seed=seed, stream="t")


def test_identity_passes_follow_the_released_sampler(golden):
    expected = golden("hhl_data")
    for num_ids, length in expected["pass_lengths"].tolist():
        # 87 for Duke, 93 for Market
        assert identity_passes(np.repeat(np.arange(num_ids), 9)).steps_per_epoch == length

    pids = np.repeat(np.arange(16), np.arange(16) + 1)  # identity p has p + 1 images
    passes = identity_passes(pids)
    indices = np.concatenate([passes.batch(0, 0), passes.batch(0, 1)])
    rows = pids[indices].reshape(16, 8)
    assert (rows == rows[:, :1]).all()  # 8 of one identity side by side
    np.testing.assert_array_equal(np.sort(rows[:, 0]), expected["identities_in_pass"])
    for pid, released in enumerate(expected["distinct_images"]):
        distinct = len(set(indices.reshape(16, 8)[rows[:, 0] == pid][0]))
        # without replacement if there are 8, else with
        assert distinct == released == 8 if pid >= 7 else distinct <= pid + 1


def test_identity_passes_are_a_pure_function_of_the_place():
    pids = ["b", "a", "c", "a", "b", "c", "c"] * 3
    first, second = (identity_passes(pids, ids=2, images_per_id=4, seed=1) for _ in range(2))
    assert first.steps_per_epoch == 1
    batches = {place: first.batch(*place).tolist() for place in [(0, 0), (1, 0), (2, 0), (3, 0)]}
    assert {place: second.batch(*place).tolist() for place in reversed(batches)} == batches
    assert len({tuple(batch) for batch in batches.values()}) == 4
    other = identity_passes(pids, ids=2, images_per_id=4, seed=2)
    assert other.batch(0, 0).tolist() != batches[0, 0]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"ids": 5}, "expected at least 5 identities for one batch, found 4"),
        ({"images_per_id": 0}, "expected at least 1 x 1"),
    ],
)
def test_identity_passes_that_cannot_be(options, words):
    with pytest.raises(InputError, match=words):
        identity_passes([0, 1, 2, 3], **options)


def test_shuffled_passes_cover_the_list_once_a_pass():
    passes = epoch_plan(10, 3, seed=0, stream="target")
    assert passes.steps_per_epoch == 3
    seen = [np.concatenate([passes.batch(number, position) for position in range(3)]) for number in range(2)]
    assert (
        all(len(set(indices)) == 9 and set(indices) < set(range(10)) for indices in seen)
        and (seen[0] != seen[1]).any()
    )
    with pytest.raises(InputError, match="2 images do not fill"):
        epoch_plan(2, 3, seed=0, stream="target")


@pytest.mark.parametrize("direction", ["duke_to_market", "market_to_duke", "short_target", "one_pass"])
def test_restarts_equal_those_of_the_released_loop(direction, golden):
    arrays = golden("hhl_data")
    steps_per_epoch, shorter = arrays[f"epoch_{direction}"].tolist()
    expected = arrays[f"restarts_{direction}"]
    np.testing.assert_array_equal(
        [released_restarts(step, steps_per_epoch, shorter) for step in range(len(expected))], expected
    )


def test_restart_lengths():
    places = [released_restarts(step, 129, 87) for step in range(129)]
    assert [sum(number == n for number, _ in places) for n in (0, 1)] == [87, 42] and places[87] == (1, 0)


def test_pseudo_labels():
    drawn = np.concatenate([pseudo_labels(step, 16, seed=0, num_ids=702) for step in range(3000)])
    assert drawn.min() == 1000 and drawn.max() == 10999
    shared = np.mean([len(set(batch)) < 16 for batch in drawn.reshape(-1, 16)])
    assert 0.006 < shared < 0.018  # 1.19 % in expectation
    assert (drawn[:16] == pseudo_labels(0, 16, seed=0, num_ids=702)).all() and (
        drawn[:16] != drawn[16:32]
    ).any()
    assert pseudo_labels(5, 4, kind="unique", seed=0, num_ids=1367).tolist() == [1367, 1368, 1369, 1370]
    with pytest.raises(InputError, match="1001 identities: use --method.pseudo unique"):
        pseudo_labels(0, 16, seed=0, num_ids=1001)
    with pytest.raises(InputError, match="expected random10k or unique"):
        pseudo_labels(0, 16, kind="random", seed=0, num_ids=10)


@pytest.fixture
def target(tmp_path) -> tuple[list[Sample], Path]:
    """Five training images of three cameras and a folder with all their styles; view k of image i is grey, 10
    (5k + i) + 5.
    """
    train = [Sample(tmp_path / f"{i:04d}_c{i % 3 + 1}s1.jpg", i, i % 3) for i in range(5)]
    folder = tmp_path / "camstyle"
    folder.mkdir()
    for i, sample in enumerate(train):
        for k in range(4):
            Image.new("RGB", (8, 16), (10 * (5 * k + i) + 5,) * 3).save(
                fake_path(folder, sample.path.stem, k) if k else sample.path
            )
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    return train, folder


def test_views_of_a_target_batch_come_in_the_released_order(target, golden):
    train, folder = target
    views = camera_style_views(train, folder, 3)
    flat = TargetViews(views, 4).of(np.array([3, 0, 4]))
    assert flat.tolist() == golden("hhl_data")["target_order"].tolist()
    read = SampleImages(views, lambda image, rng: torch.tensor(np.asarray(image)[0, 0, 0] // 10))
    ((levels, indices),) = planned_loader(read, lambda step: flat, 0, 1)
    assert levels.tolist() == indices.tolist() == flat.tolist()  # the images on disk are the ones meant


def test_views_keep_the_person_and_take_the_camera_of_their_style(target):
    train, folder = target
    views = camera_style_views(train, folder, 3)
    assert len(views) == 20 and views[:5] == train
    assert [(v.pid, v.camid, v.origin, v.path.name) for v in views[5:7]] == [
        (0, 0, "translated", "0000_c1s1_fake_1.jpg"),
        (1, 0, "translated", "0001_c2s1_fake_1.jpg"),
    ]
    others = camera_style_views(train, folder, 3, include_own=False)
    assert len(others) == 15 and all(view.camid != train[i % 5].camid for i, view in enumerate(others[5:]))
    assert all(len({others[i].path, others[5 + i].path, others[10 + i].path}) == 3 for i in range(5))


def test_style_folders_that_do_not_fit(target, tmp_path):
    train, folder = target
    with pytest.raises(InputError, match=r"expected 20 .* 5 are missing, the first is 0000_c1s1_fake_4.jpg"):
        camera_style_views(train, folder, 4)
    with pytest.raises(
        InputError,
        match=r"expected 10 .* 5 are not of these images and cameras, the first is 0000_c1s1_fake_3.jpg",
    ):
        camera_style_views(train, folder, 2)
    with pytest.raises(InputError, match="3 are not of these"):
        camera_style_views(train[:4], folder, 3)
    with pytest.raises(InputError, match="translate the target's training images first"):
        camera_style_views(train, tmp_path / "none", 3)


# ---------------------------------------------------------------- folders of other programs


def renamed(folder, rename) -> None:
    for path in list(folder.glob("*_fake_*")):
        stem, _, style = path.stem.rpartition("_fake_")
        name = rename(stem, int(style))
        if name is None:
            path.unlink()
        else:
            Image.open(path).save(folder / name)
            if name != path.name:
                path.unlink()


def test_styles_of_camstyle_and_ecn_are_understood(target):
    """`_fake_1to3.jpg`, without a style of the own camera, whose place the image itself takes."""
    train, folder = target
    own = {sample.path.stem: sample.camid + 1 for sample in train}
    renamed(folder, lambda stem, k: None if k == own[stem] else f"{stem}_fake_{own[stem]}to{k}.png")
    views = camera_style_views(train, folder, 3)
    assert len(views) == 20
    for place, view in enumerate(views[5:]):
        style, sample = place // 5, train[place % 5]
        if style == sample.camid:
            assert view == sample
        else:
            assert view.path.name == f"{sample.path.stem}_fake_{sample.camid + 1}to{style + 1}.png"
            assert (view.camid, view.origin) == (style, "translated")
    assert len(camera_style_views(train, folder, 3, include_own=False)) == 15


def test_only_the_styles_that_are_read_are_demanded(target):
    train, folder = target
    fake_path(folder, train[0].path.stem, train[0].camid + 1).unlink()
    assert len(camera_style_views(train, folder, 3, include_own=False)) == 15
    with pytest.raises(InputError, match="expected 15 .* 1 are missing, the first is 0000_c1s1_fake_1.jpg"):
        camera_style_views(train, folder, 3)


def test_released_names_with_two_endings_are_understood(target):
    train, folder = target
    renamed(folder, lambda stem, k: f"{stem}.jpg_fake_{k}.jpg")
    assert len(camera_style_views(train, folder, 3)) == 20


@pytest.mark.parametrize(
    "cameras, message",
    [
        ([0, 2], r"all 6 cameras of market1501, found cameras 1, 3 only: use those, --target market1501@c13"),
        ([2], "the training images are of one camera: camera styles need at least two"),
    ],
)
def test_styles_of_cameras_without_images_are_refused(tmp_path, cameras, message):
    train = [Sample(tmp_path / f"{i}.jpg", i, cameras[i % len(cameras)]) for i in range(6)]
    with pytest.raises(InputError, match=message):
        check_cameras(ReIDDataset("market1501", tmp_path, train, [], [], 6))
    check_cameras(ReIDDataset("own", tmp_path, [Sample(tmp_path / "a", 1, c) for c in (0, 1)], [], [], 2))
