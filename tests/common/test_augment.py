"""Packed images and their augmentation on the device, beside Pillow's."""

import errno
import json
import os
import random
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from common import files
from common.augment import (
    Drawn,
    PackedImages,
    PackedSamples,
    Result,
    crop_resize_flip,
    erase,
    normalise,
    on_device,
)
from common.datasets import loading, packed
from common.datasets.loading import planned_loader
from common.datasets.packed import pack
from common.datasets.plans import epoch_plan
from common.errors import InputError

CPU = torch.device("cpu")
SIZES = [(40, 20), (40, 20), (56, 25), (33, 31)]  # height, width


@pytest.fixture
def photos(tmp_path, formulas) -> list:
    """Four files, losslessly stored, of three sizes."""
    paths = [tmp_path / "images" / f"{number}.png" for number in range(len(SIZES))]
    paths[0].parent.mkdir()
    for path, size in zip(paths, SIZES):
        Image.fromarray(pixels(formulas, path.stem, *size)).save(path)
    return paths


def pixels(formulas, name: str, height: int, width: int) -> np.ndarray:
    """Edges, noise and extremes."""
    noise = 127.5 + 127.5 * formulas.scatter(name, height, width, 3)
    return np.where(noise > 200, 255, np.where(noise < 50, 0, noise)).astype(np.uint8)


# ---------------------------------------------------------------- crop, resize, flip


def random_boxes(rng: random.Random, sizes: list[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    boxes = []
    for height, width in sizes:
        w, h = rng.randint(1, width), rng.randint(1, height)
        left, top = rng.randint(0, width - w), rng.randint(0, height - h)
        boxes.append((left, top, left + w, top + h))
    return boxes


def with_pillow(image: np.ndarray, box, flip: bool, size: tuple[int, int]) -> np.ndarray:
    crop = Image.fromarray(image).crop(box).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(16, 8), (32, 16), (61, 47)])  # smaller, about as large, larger
def test_boxes_of_images_of_all_sizes_equal_pillow(formulas, size):
    rng = random.Random(size[0])
    sizes = [(rng.randint(5, 50), rng.randint(5, 30)) for _ in range(40)]
    images = [pixels(formulas, f"{number}", *shape) for number, shape in enumerate(sizes)]
    boxes, flips = random_boxes(rng, sizes), [rng.random() < 0.5 for _ in sizes]
    boxes[0] = (0, 0, sizes[0][1], sizes[0][0])
    canvas = np.full((len(sizes), 50, 30, 3), 77, np.uint8)  # what lies beside an image is not looked at
    for place, image in zip(canvas, images):
        place[: image.shape[0], : image.shape[1]] = image
    ours = crop_resize_flip(torch.from_numpy(canvas), torch.tensor(boxes), torch.tensor(flips), size)
    theirs = np.stack([with_pillow(*one, size) for one in zip(images, boxes, flips)])
    difference = np.abs(ours.numpy() - theirs)
    # all equal with Pillow 13; the order of its passes is its own business
    assert difference.max() <= 1 and (difference == 0).mean() > 0.99
    assert ours.dtype == torch.float32 and ours.is_contiguous(memory_format=torch.channels_last)


def test_a_box_of_the_wanted_size_is_a_crop(formulas):
    image = torch.from_numpy(pixels(formulas, "crop", 20, 12))
    boxes, flips = torch.tensor([[2, 5, 10, 21 - 2], [0, 0, 8, 14]]), torch.tensor([False, True])
    out = crop_resize_flip(torch.stack([image, image]), boxes, flips, (14, 8))
    assert torch.equal(out[0], image[5:19, 2:10].permute(2, 0, 1).float())
    assert torch.equal(out[1], image[:14, :8].permute(2, 0, 1).flip(2).float())


def test_normalised_bits_are_those_of_the_workers(formulas):
    image = pixels(formulas, "levels", 16, 16)
    ours = normalise(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    assert torch.equal(ours[0], loading.normalise(Image.fromarray(image)))


def test_erased_boxes():
    images, fill = torch.zeros(2, 3, 6, 4), (0.25, 0.5, 0.75)
    out = erase(images, torch.tensor([[1, 2, 3, 6], [0, 0, 0, 0]]), fill)
    assert torch.equal(out[0, :, 2:, 1:3], torch.tensor(fill)[:, None, None].expand(3, 4, 2))
    assert out[0].sum() == pytest.approx(8 * sum(fill)) and not out[1].any()


# ---------------------------------------------------------------- the file


def test_packed_images_are_the_decoded_ones(photos, tmp_path, formulas):
    images = pack(photos, tmp_path / "cache")
    assert len(images) == 4 and images[0].dtype == np.uint8
    assert all(
        np.array_equal(image, pixels(formulas, path.stem, *size))
        for image, path, size in zip(images, photos, SIZES)
    )
    with pytest.raises(ValueError, match="read-only"):
        images[0][0, 0] = 0


def test_packed_images_of_one_size(photos, tmp_path, formulas):
    images = pack(photos, tmp_path / "cache", size=(32, 16), interpolation="bicubic")
    expected = Image.fromarray(pixels(formulas, "2", *SIZES[2])).resize((16, 32), Image.Resampling.BICUBIC)
    assert {image.shape for image in images} == {(32, 16, 3)} and np.array_equal(
        images[2], np.asarray(expected)
    )
    pack(photos, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2  # another size, another file


@pytest.fixture
def decoded(monkeypatch) -> list:
    """The names of the images that are decoded from here on."""
    names, original = [], packed.read_image
    monkeypatch.setattr(packed, "read_image", lambda path: (names.append(path.name), original(path))[1])
    return names


def rewritten(path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "damage, again",
    [
        (lambda cache, photo: None, 0),
        (lambda cache, photo: rewritten(next(cache.glob("*.npy")), lambda content: content[:-1]), 4),
        (lambda cache, photo: rewritten(next(cache.glob("*.json")), lambda content: content[:-9]), 4),
        (lambda cache, photo: next(cache.glob("*.npy")).unlink(), 4),
        (lambda cache, photo: rewritten(photo, lambda content: content + b"\0"), 4),
        (lambda cache, photo: os.utime(photo, (1, 1)), 0),
    ],
)
def test_a_file_that_does_not_match_is_made_anew(photos, tmp_path, decoded, damage, again):
    before = [image.copy() for image in pack(photos, tmp_path / "cache")]
    decoded.clear()
    damage(tmp_path / "cache", photos[1])
    images = pack(photos, tmp_path / "cache")
    assert len(decoded) == again and all(map(np.array_equal, images, before))


def test_other_contents_of_the_same_length_are_decoded(photos, tmp_path, decoded):
    pack(photos, tmp_path / "cache")
    decoded.clear()
    rewritten(photos[3], lambda content: content[:-1] + b"\1")  # as long as before
    pack(photos, tmp_path / "cache")
    assert len(decoded) == 4


def test_contents_of_unchanged_files_are_read_once(photos, tmp_path, decoded, monkeypatch):
    for photo in photos:
        os.utime(photo, (1, 1))
    pack(photos, tmp_path / "cache")
    monkeypatch.setattr(packed, "settled", lambda status, now: True)  # as two seconds later
    pack(photos, tmp_path / "cache")
    monkeypatch.setattr(packed, "_contents", None)
    decoded.clear()
    pack(photos, tmp_path / "cache")
    assert not decoded


def test_a_missing_and_a_broken_image_are_named_and_leave_nothing(photos, tmp_path):
    rewritten(photos[2], lambda content: content[:100])
    with pytest.raises(InputError, match="2.png: broken image"):
        pack(photos, tmp_path / "cache")
    photos[2].unlink()
    with pytest.raises(InputError, match="2.png: expected an image"):
        pack(photos, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_full_disk_leaves_nothing(photos, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        pack(photos, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_two_at_once_decode_once(photos, tmp_path, decoded):
    threads = [threading.Thread(target=pack, args=(photos, tmp_path / "cache")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 4
    assert json.loads(next((tmp_path / "cache").glob("*.json")).read_text(encoding="utf-8"))["sizes"] == [
        list(size) for size in SIZES
    ]


# ---------------------------------------------------------------- batches


class Corner:
    """A crop of 8 x 6 at a random corner, flipped at even odds."""

    def draw(self, width: int, height: int, rng: random.Random) -> Drawn:
        left, top = rng.choice([0, width - 6]), rng.choice([0, height - 8])
        return Drawn((left, top, left + 6, top + 8), rng.random() < 0.5)

    def on_device(self):
        from common.augment import DeviceTransform

        return DeviceTransform(self.draw, Result(8, 6, (0.0,) * 3, (1 / 255,) * 3))

    def __call__(self, image: Image.Image, rng: random.Random) -> torch.Tensor:
        drawn = self.draw(*image.size, rng)
        return torch.from_numpy(with_pillow(np.asarray(image), drawn.box, drawn.flip, (8, 6)).copy()).float()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_images_of_many_sizes(photos, tmp_path, workers):
    plan = epoch_plan(len(photos), 3, seed=0)
    kinds = (
        loading.SampleImages(photos, Corner(), seed=4, stream="x", period=2),
        PackedSamples(photos, Corner(), tmp_path / "cache", seed=4, stream="x", period=2),
    )
    ours, theirs = (list(planned_loader(images, plan, 0, 3, workers=workers)) for images in kinds)
    for (images, chosen), (views, indices) in zip(ours, theirs, strict=True):
        assert (
            isinstance(views, PackedImages)
            and torch.equal(chosen, indices)
            and views.images.dtype == torch.uint8
        )
        assert torch.allclose(on_device(views, CPU), on_device(images, CPU))
