"""Image files of every form become the picture that they show, or are refused by name; contents are known."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from common.datasets import load_dataset, read_dataset
from common.datasets.__main__ import main
from common.datasets.contents import contents_of
from common.datasets.images import decode, image_size, read_image
from common.errors import InputError

LEVELS = np.linspace(0, 255, 16 * 8).reshape(16, 8).astype(np.uint8)
PHOTO = np.stack([LEVELS, 255 - LEVELS, LEVELS // 2], axis=2)


@pytest.mark.parametrize(
    "name, values",
    [
        ("a.png", LEVELS.astype(np.uint16) * 257),
        ("a.tif", LEVELS.astype(np.uint16) * 257),
        ("a.tif", (LEVELS / 255).astype(np.float32)),
        ("a.tif", LEVELS.astype(np.float32)),
    ],
)
def test_deep_pictures_look_like_their_8_bit_twins(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    image, forms = decode(tmp_path / name)
    assert image.mode == "RGB" and np.array_equal(np.asarray(image)[..., 0], LEVELS)
    assert forms == ("more than 8 bits a channel, scaled to 8",)


@pytest.mark.parametrize(
    "values, message",
    [
        (LEVELS.astype(np.float32) * 10, "floating-point pixels from 0 to 2550, whose range nothing states"),
        (LEVELS.astype(np.float32) - 1, "floating-point pixels from -1 to 254"),
        (LEVELS.astype(np.int32), "32-bit pixels from 0 to 255, whose range nothing states"),
        (np.full((4, 4), np.nan, np.float32), "expected numbers as pixels, found NaN"),
    ],
)
def test_an_unknown_range_is_refused_by_name(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=f"a.tif: {message}"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_orientation_is_applied(tmp_path, orientation, suffix):
    exif, path = Image.Exif(), tmp_path / f"a{suffix}"
    exif[0x0112] = orientation
    Image.fromarray(PHOTO).save(path, exif=exif, quality=95, lossless=True)
    image, forms = decode(path)
    turned = orientation >= 5
    assert image.size == ((16, 8) if turned else (8, 16)) == image_size(path)
    assert ("an EXIF orientation, turned upright" in forms) == (orientation > 1)
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert np.abs(np.asarray(image)[corner[orientation]].astype(int) - PHOTO[0, 0]).max() < 60


def test_transparent_pixels_are_white_and_opaque_ones_stay(tmp_path):
    alpha = np.where(LEVELS > 128, 255, 0).astype(np.uint8)
    for name, channel in (("half", alpha), ("full", np.full_like(alpha, 255))):
        Image.fromarray(np.dstack([PHOTO, channel])).save(tmp_path / f"{name}.png")
    half, forms = decode(tmp_path / "half.png")
    assert forms == ("transparent pixels, shown on white",)
    assert np.array_equal(np.asarray(half), np.where(alpha[..., None] == 255, PHOTO, 255))
    full, forms = decode(tmp_path / "full.png")
    assert forms == () and np.array_equal(np.asarray(full), PHOTO)


def test_a_plain_photo_is_decoded_as_pillow_does(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(np.asarray(read_image(tmp_path / "a.jpg")), np.asarray(image.convert("RGB")))


def test_the_doctor_counts_unusual_forms(tmp_path, capsys):
    (tmp_path / "ann").mkdir()
    Image.fromarray(LEVELS.astype(np.uint16) * 257).save(tmp_path / "ann" / "1.png")
    Image.fromarray(PHOTO).convert("CMYK").save(tmp_path / "ann" / "2.jpg")
    first = Image.fromarray(PHOTO)
    first.save(tmp_path / "ann" / "3.gif", save_all=True, append_images=[first.rotate(180)])
    Image.fromarray(LEVELS.astype(np.int32)).save(tmp_path / "ann" / "4.tif")
    assert main(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    for line in (
        "3 images decoded without error.",
        "1 of them with more than 8 bits a channel, scaled to 8",
        "1 of them with another colour space, converted to RGB",
        "1 of them with several frames, of which the first is read",
        "1 of 4 images cannot be decoded: ann/4.tif",
        "32-bit pixels from 0 to 255",
    ):
        assert line in out


# ---------------------------------------------------------------- contents


def repaint(path, levels) -> None:
    """Replaces an uncompressed image by another of the same name, size in bytes and time."""
    status = path.stat()
    Image.fromarray(levels).save(path)
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_other_pictures_of_equal_size_are_another_dataset(tmp_path):
    for person in ("a", "b"):
        (tmp_path / "photos" / person).mkdir(parents=True)
        Image.fromarray(PHOTO).save(tmp_path / "photos" / person / "1.bmp")
    before = read_dataset(str(tmp_path / "photos")).manifest
    assert read_dataset(str(tmp_path / "photos")).manifest == before
    repaint(tmp_path / "photos" / "a" / "1.bmp", PHOTO[::-1].copy())
    after = read_dataset(str(tmp_path / "photos")).manifest
    assert after["hash"] == before["hash"] and after["contents"] != before["contents"]


def test_hashes_of_unchanged_files_come_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "photos" / "1.bmp"
    path.parent.mkdir()
    Image.fromarray(PHOTO).save(path)
    first = contents_of([path], path.parent)
    assert not (tmp_path / "cache").exists()  # written within two seconds: not to be trusted
    monkeypatch.setattr("common.datasets.contents.SETTLED", -1.0)
    assert contents_of([path], path.parent) == first
    monkeypatch.setattr("pathlib.Path.read_bytes", None)
    assert contents_of([path], path.parent) == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    repaint(path, PHOTO[::-1].copy())
    assert contents_of([path], path.parent) != first


def test_a_damaged_cache_costs_time_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("common.datasets.contents.SETTLED", -1.0)
    path = tmp_path / "1.bmp"
    Image.fromarray(PHOTO).save(path)
    first = contents_of([path], tmp_path)
    (saved,) = (tmp_path / "cache").rglob("*.json")
    for text in ("{", "[]", '{"/1.bmp": 3}'):
        saved.write_text(text, encoding="utf-8")
        assert contents_of([path], tmp_path) == first


def test_the_synthetic_domains_keep_their_manifest():
    manifest = load_dataset("synthetic-duke").manifest
    assert manifest["hash"] == "675fe4ec61b467e5" and "contents" not in manifest


# ---------------------------------------------------------------- the raw CUHK03


@pytest.fixture
def raw(tmp_path):
    """A `cuhk-03.mat` of two pairs of cameras and two people each, as MATLAB 7.3 stores it."""
    h5py = pytest.importorskip("h5py")
    folder = tmp_path / "cuhk03_release"
    folder.mkdir()
    with h5py.File(folder / "cuhk-03.mat", "w") as file:
        store = file.create_group("#refs#")

        def put(values):
            return store.create_dataset(str(len(store)), data=values).ref

        def cells(references, shape) -> np.ndarray:
            table = np.empty(shape, h5py.ref_dtype)
            table.ravel()[:] = references
            return table

        pairs = []
        for _ in range(2):
            images = [
                put(
                    np.transpose(np.full((16, 8, 3), 10 * person + number, np.uint8))
                    if number in (0, 5)
                    else [0, 0]
                )
                for number in range(10)
                for person in range(2)
            ]
            pairs.append(put(cells(images, (10, 2))))
        for images in ("detected", "labeled"):
            file.create_dataset(images, data=cells(pairs, (1, 2)), dtype=h5py.ref_dtype)
        tests = [put(np.array([[1], [2]])), put(np.array([[2], [1]]))]
        file.create_dataset("testsets", data=cells(tests, (1, 2)), dtype=h5py.ref_dtype)
    return folder


def test_the_raw_file_is_extracted_once(raw, capsys):
    dataset = load_dataset("cuhk03:images=labeled,protocol=classic", raw.parent)
    assert [(s.path.name, s.pid, s.camid) for s in dataset.query] == [
        ("1_002_1_01.png", 1002, 0),
        ("1_002_2_06.png", 1002, 1),
    ]
    assert len(dataset.train) == 6 and dataset.gallery == dataset.query
    image = read_image(dataset.query[1].path)
    assert image.size == (8, 16) and image.getpixel((0, 0)) == (15, 15, 15)
    (raw / "cuhk-03.mat").unlink()
    second = load_dataset("cuhk03:images=labeled,protocol=classic,split=1", raw.parent)
    assert {s.pid for s in second.query} == {2001}
    assert main(["check", "cuhk03:images=labeled,protocol=classic", "--root", str(raw.parent)]) == 0
    assert "8 images decoded without error." in capsys.readouterr().out


def test_a_foreign_raw_file_leaves_nothing(raw):
    (raw / "cuhk-03.mat").write_bytes(b"MATLAB 7.3 MAT-file")
    with pytest.raises(InputError, match="expected CUHK03's MATLAB 7.3 file"):
        load_dataset("cuhk03", raw, protocol="classic")
    assert {path.name for path in raw.iterdir()} == {"cuhk-03.mat", ".images_detected.lock"}
