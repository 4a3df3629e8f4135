"""The GAN's images: masks that follow them, the released loader's pictures, pairs of both domains."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.datasets import Sample
from common.datasets.loading import Draw
from common.datasets.plans import pair_plans
from common.errors import InputError
from common.job import Workspace
from common.training import Loop
from ptgan.config import GANConfig, TranslationConfig
from ptgan.data import Domain, GANTransform, MaskedImages, ReidTransform, bytescale, gan_transform
from ptgan.masks import mask_source
from ptgan.train_gan import pair_batches
from ptgan.translate import eval_transform, save_image, to_uint8, translated_samples

HEIGHT, WIDTH = 32, 16


def blob(height: int, width: int, number: int = 0) -> np.ndarray:
    """An asymmetric mask, a different one for each number."""
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    return ((y - 0.4 - 0.02 * number) ** 2 + 2 * (x - 0.35) ** 2 < 0.07).astype(np.float32)


def red(mask: np.ndarray) -> Image.Image:
    """An image whose red channel equals its mask."""
    return Image.fromarray(np.stack([255 * mask, 0 * mask + 90, 0 * mask + 30], axis=2).astype(np.uint8))


def transform(mask_aug: str = "joint") -> GANTransform:
    return GANTransform(HEIGHT, WIDTH, 36, 18, mask_aug)


@pytest.mark.parametrize("seed", range(12))
def test_masks_follow_their_images(seed):
    """No resampling: red > 0 equals the mask exactly after crop and flip."""
    mask = blob(36, 18, seed)
    out = transform()(red(mask), mask, random.Random(seed))
    assert out.shape == (4, HEIGHT, WIDTH) and out.dtype == torch.float32
    assert torch.equal(out[0] > 0, out[3] > 0) and 0.05 < out[3].mean() < 0.6


def test_masks_follow_through_a_resize():
    """From 128x64, nearest pixel against bilinear: only the outlines differ, by less than one pixel."""
    mask = blob(128, 64)
    for seed in range(12):
        out = transform()(red(mask), mask, random.Random(seed))
        assert ((out[0] > 0) != (out[3] > 0)).float().mean() < 0.03


def test_released_masks_do_not_follow():
    """Intersection over union of the mask that is used and the true one."""
    mask, overlaps = blob(36, 18), []
    for seed in range(40):
        out = transform("released")(red(mask), mask, random.Random(seed))
        true, used = out[0] > 0, out[3] > 0
        overlaps.append(((true & used).sum() / (true | used).sum()).item())
    assert min(overlaps) < 0.7 < max(overlaps) and np.mean(overlaps) < 0.85


def test_both_domains_share_their_draws_in_one_stream(tmp_path):
    samples = []
    for name in ("source", "target"):
        red(blob(36, 18)).save(tmp_path / f"{name}.png")
        samples.append(Sample(tmp_path / f"{name}.png", 1, 0))
    masks = lambda sample: blob(36, 18)  # noqa: E731

    def loaded(streams):
        images = [
            MaskedImages(Domain([s], masks), transform(), seed=3, stream=stream)
            for s, stream in zip(samples, streams)
        ]
        return [torch.stack([i[Draw(step, 0, 0)][0] for step in range(6)]) for i in images]

    assert torch.equal(*loaded(("gan", "gan")))
    assert not torch.equal(*loaded(("gan source", "gan target")))


# ---------------------------------------------------------------- the batches of a GAN

PAIRS = GANConfig(height=HEIGHT, width=WIDTH, load_height=36, load_width=18, batch=2)


@pytest.fixture
def domains(tmp_path) -> tuple[Domain, Domain]:
    """Four images each, with their masks; those of the target are upside down."""

    def draw(name: str, order: int) -> Domain:
        samples = [Sample(tmp_path / f"{name}{i}.png", i, 0) for i in range(4)]
        for i, sample in enumerate(samples):
            red(blob(36, 18, i)[::order]).save(sample.path)
        return Domain(samples, lambda sample: blob(36, 18, sample.pid)[::order])

    return draw("source", 1), draw("target", -1)


@pytest.fixture
def batches(tmp_path):
    """`batches(domains, mask_aug="joint", shared_aug=True)`: six steps."""

    def load(
        domains: tuple[Domain, Domain], mask_aug: str = "joint", shared_aug: bool = True
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        plans = pair_plans(*(len(domain.samples) for domain in domains), PAIRS.batch, seed=0)
        loop = Loop(Workspace(tmp_path, device=torch.device("cpu")), 6, {}, label="GAN")
        return list(pair_batches(loop, plans, shared_aug, gan_transform(PAIRS, mask_aug), domains))

    return load


def test_every_batch_has_the_masks_of_its_own_images(domains, batches):
    for domain in zip(*batches(domains)):
        for batch in domain:
            assert batch.shape == (2, 4, HEIGHT, WIDTH) and torch.equal(batch[:, 0] > 0, batch[:, 3] > 0)
    for domain in zip(*batches(domains, "released")):
        assert any(not torch.equal(batch[:, 0] > 0, batch[:, 3] > 0) for batch in domain)


@pytest.mark.parametrize("shared", [True, False])
def test_one_geometry_or_two_for_a_pair(domains, batches, shared):
    """All images are the same one: only crop and flip differ."""
    same = Domain([Sample(domains[0].samples[0].path, 0, 0)] * 4, lambda sample: blob(36, 18))
    pairs = batches((same, same), shared_aug=shared)
    assert len(pairs) == 6 and all(torch.equal(*pair) for pair in pairs) is shared
    assert not all(torch.equal(pair[0], pairs[0][0]) for pair in pairs)


def test_cached_images_equal_read_ones(tmp_path):
    red(blob(36, 18)).save(tmp_path / "a.png")
    masks, draw = (lambda sample: blob(36, 18)), Draw(5, 1, 0)
    samples = [Sample(tmp_path / "a.png", 1, 0)]
    read, cached = (
        MaskedImages(Domain(samples, masks), transform(), seed=0, stream="gan", cache=cache)
        for cache in (False, True)
    )
    assert torch.equal(read[draw][0], cached[draw][0])


# ---------------------------------------------------------------- the released loader


def photo(formulas, name: str, height: int, width: int) -> Image.Image:
    return Image.fromarray(((formulas.scatter(name, height, width, 3) * 0.8 + 1) * 110).astype(np.uint8))


@pytest.mark.parametrize("case", range(3))
def test_training_images_under_the_released_draws(case, formulas, golden):
    """`load_train_data`: stretched by scipy, 286x286, one crop and flip for both images, unchanged masks;
    every 499th value.
    """
    expected = golden("ptgan_data")
    top, left, flip = expected["draws"][case]
    config, images, masks = GANConfig(io="scipy_bytescale"), [], []
    mask = np.zeros((256, 256), np.float32)
    mask[40:200, 70:150] = 1
    mask[60:90, 70:90] = 0
    for name, size, own in (("source", (128, 64), mask), ("target", (120, 50), mask[::-1])):
        offsets = iter((int(top), int(left)))
        rng = SimpleNamespace(randint=lambda low, high, offsets=offsets: next(offsets), random=lambda: flip)
        out = gan_transform(config, "released")(photo(formulas, name, *size), own, rng)
        images.append(out[:3])
        masks.append(out[3:])
    # a grey level is 0.008
    np.testing.assert_allclose(torch.cat(images).flatten()[::499], expected["images"][case], atol=0.017)
    np.testing.assert_array_equal(torch.cat(masks).flatten()[::499], expected["masks"][case])


def test_images_to_transfer_and_stored_ones_as_released(formulas, golden):
    expected, gan = golden("ptgan_data"), GANConfig(io="scipy_bytescale")
    image = eval_transform(gan)(photo(formulas, "source", 128, 64), None)
    np.testing.assert_allclose(image.flatten()[::499], expected["test_image"], atol=0.017)
    fake = torch.from_numpy((formulas.scatter("fake", 1, 64, 48, 3) * 0.7 - 0.1)[0].transpose(2, 0, 1).copy())
    np.testing.assert_array_equal(to_uint8(fake, "scipy_bytescale").ravel()[::97], expected["saved"])


def test_bytescale():
    values = np.array([[-0.8, 0.0, 0.6]])
    assert bytescale(values).tolist() == [[0, 146, 255]]  # floor(0.8 * 255 / 1.4 + 0.4999) = floor(146.21)
    grey = np.array([[3, 200]], np.uint8)
    assert bytescale(grey) is grey and bytescale(np.full((2, 2), 7.0)).max() == 0


def test_plain_images_are_not_stretched():
    image = torch.tensor([-1.0, -0.5, 0.2, 2.0]).view(1, 1, 4).expand(3, 1, 4)
    assert to_uint8(image)[0, :, 0].tolist() == [0, 64, 153, 255]


# ---------------------------------------------------------------- stored images


@pytest.mark.parametrize("size, expected", [("file", (50, 120)), ("generator", (16, 32))])
def test_stored_images_have_size_and_name_of_the_file(tmp_path, formulas, size, expected):
    path = tmp_path / "0007_c3s2_000012_01.jpg"
    photo(formulas, "source", 120, 50).save(path)
    sample = Sample(path, 7, 2)
    save_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), sample, tmp_path / "out", TranslationConfig(size=size))
    (stored,) = translated_samples([sample], tmp_path / "out")
    assert (stored.pid, stored.camid, stored.origin, stored.path.name) == (7, 2, "translated", path.name)
    with Image.open(stored.path) as image:
        assert image.size == expected and image.format == "JPEG"


def test_the_released_names_are_understood_and_missing_images_named(tmp_path, formulas):
    samples = [Sample(tmp_path / f"000{i}_c1s1_000001_01.jpg", i, 0) for i in range(2)]
    folder = tmp_path / "test"
    folder.mkdir()
    photo(formulas, "a", 8, 8).save(folder / f"AtoB_{samples[0].path.name}")
    with pytest.raises(InputError, match="1 are missing, the first is 0001_c1"):
        translated_samples(samples, folder)
    assert translated_samples(samples[:1], folder)[0].path.name == "AtoB_0000_c1s1_000001_01.jpg"


def test_reid_images(formulas):
    plain = ReidTransform(64, 32)(photo(formulas, "a", 128, 64), random.Random(1))
    jittered = ReidTransform(64, 32, 0.3)(photo(formulas, "a", 128, 64), random.Random(1))
    assert plain.shape == (3, 64, 32) and not torch.equal(plain, jittered)


def test_masks_of_constant_kinds_fit_their_image(tmp_path, formulas):
    photo(formulas, "a", 12, 6).save(tmp_path / "a.png")
    sample = Sample(tmp_path / "a.png", 1, 0)
    for kind, total in (("ones", 72), ("zeros", 0)):
        mask = mask_source(kind)(sample)
        assert mask.shape == (12, 6) and mask.dtype == np.float32 and mask.sum() == total
