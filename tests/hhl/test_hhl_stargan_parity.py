"""Our StarGAN stage against the released `stargan4reid`: its training loop, its learning rates, and the
images that it writes.
"""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin
from torch import Tensor, nn

from common.checkpoints import load_checkpoint
from common.datasets.base import Sample
from common.datasets.images import read_image
from common.datasets.loading import Batch, EvalTransform
from common.job import Workspace
from common.training import Loop
from hhl.config import GANConfig, TranslationConfig
from hhl.stargan import train
from hhl.stargan.model import Discriminator, Generator, camera_one_hot
from hhl.stargan.translate import FOLDER, to_uint8, translate

CAMERAS = [0, 3, 4, 1, 2, 2, 1, 0, 4, 0, 3, 3, 1, 2, 0, 4]  # of 16 images, four batches
SMALL = {
    "channels": 8,
    "blocks": 2,
    "d_channels": 8,
    "d_layers": 4,
    "height": 64,
    "width": 32,
    "batch": 4,
    "lr": 1e-3,
}


@pytest.mark.parametrize("cameras", [6, 8])
def test_names_and_shapes_at_full_size(cameras, golden):
    """The published settings: the authors' `<iteration>-G.ckpt` and `-D.ckpt` of both targets load."""
    with torch.device("meta"):
        models = {f"generator_{cameras}": Generator(cameras)}
        models |= {
            f"discriminator_{cameras}_{height}": Discriminator(cameras, height, height // 2)
            for height in (256, 128)
        }
    for name, model in models.items():
        assert [f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items()] == golden(
            "hhl_parity"
        )[name].tolist()


# ---------------------------------------------------------------- the training loop


@pytest.mark.parametrize("case", range(4))
def test_training_images_under_the_released_draws(case, formulas, golden):
    """`get_loader(mode="train")`: flip, 288x144, crop of 256x128, -1..1; the draw of the flip and the crop's
    corner are given.
    """
    flip, top, left = golden("hhl_parity")["gan_draws"][case]
    # 288 - 256 rows, 144 - 128 columns
    draws = SimpleNamespace(
        random=lambda: flip, randint=lambda low, high: {32: int(top), 16: int(left)}[high]
    )
    photo = Image.fromarray(
        ((formulas.scatter("0007_c3s2_000012_01.jpg", 120, 50, 3) + 1) * 127.5).astype(np.uint8)
    )
    image = train.GanTransform(256, 128)(photo, draws)
    # a grey level is 0.008
    np.testing.assert_allclose(image.flatten()[::499], golden("hhl_parity")["gan_images"][case], atol=0.01)


@pytest.fixture
def run_stargan(formulas, monkeypatch, tmp_path):
    """Runs `train_stargan` in float64 on the golden arrays' inputs; gives the loss terms, the weights and the
    learning rates afterwards.

    In place of random numbers: weights and images by formula, the styles the own cameras rolled by one.
    """
    terms: dict[str, list[float]] = {}
    built: list[nn.Module] = []
    alphas = iter(range(100))

    def filled(build):
        def build_and_fill(*args, **options) -> nn.Module:
            model = build(*args, **options)
            formulas.fill(model)
            built.append(model.double())
            return model

        return build_and_fill

    def log(self, step: int, **values: Tensor) -> None:
        for name, value in values.items():
            terms.setdefault(name, []).append(value.item())

    def load(self, images, plan, labels):
        for i in range(self.start, self.total):
            indices = np.arange(4 * i, 4 * i + 4)
            real = formulas.scattered(f"real {i}", 4, 3, 64, 32).double()
            yield Batch(real, indices, torch.as_tensor(np.asarray(labels)[indices]))

    monkeypatch.setattr(train, "build_generator", filled(train.build_generator))
    monkeypatch.setattr(train, "Discriminator", filled(train.Discriminator))
    monkeypatch.setattr(train, "SampleImages", lambda *args, **options: None)
    monkeypatch.setattr(Loop, "load", load)
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n).roll(1))
    monkeypatch.setattr(
        torch, "rand", lambda *shape: (formulas.scattered(f"alpha {next(alphas)}", *shape).double() + 1) / 2
    )
    monkeypatch.setattr(Loop, "log", log)

    def run(**options) -> SimpleNamespace:
        config = GANConfig(**SMALL, **options)
        target = SimpleNamespace(
            train=[Sample(tmp_path / f"{i}.jpg", i, camid) for i, camid in enumerate(CAMERAS)], num_cameras=5
        )
        train.train_stargan(Workspace(tmp_path, device=torch.device("cpu")), config, target)
        weights = [load_checkpoint(tmp_path / f"{name}.pt") for name in ("generator", "discriminator")]
        trained = [
            {name: state[name] for name, _ in model.named_parameters()}
            for model, state in zip(built, weights)
        ]
        return SimpleNamespace(
            terms=terms,
            generator=formulas.fingerprint(trained[0]),
            discriminator=formulas.fingerprint(trained[1]),
        )

    return run


def test_one_step_of_d_and_one_of_g(run_stargan, golden):
    """All seven terms, and every weight after the first Adam step of each network."""
    expected = golden("hhl_parity")
    ours = run_stargan(iterations=1, n_critic=1)
    names = ("D_real", "D_fake", "D_cls", "D_gp", "G_fake", "G_cls", "G_rec")
    assert set(ours.terms) == {name.lower() for name in names}
    for name in names:
        np.testing.assert_allclose(ours.terms[name.lower()], expected[f"one_{name}"], rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(ours.generator, expected["one_generator"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ours.discriminator, expected["one_discriminator"], rtol=1e-6, atol=1e-7)


def test_four_released_iterations(run_stargan, golden):
    """`Solver.train` with n_critic = 2: every term of four steps of D and two of G, and all weights after
    them.
    """
    expected = golden("hhl_stargan")
    ours = run_stargan(iterations=4, n_critic=2)
    for name in ("D_real", "D_fake", "D_cls", "D_gp", "G_fake", "G_cls", "G_rec"):
        np.testing.assert_allclose(ours.terms[name.lower()], expected[name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(ours.generator, expected["generator_after"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ours.discriminator, expected["discriminator_after"], rtol=1e-6, atol=1e-7)


def test_learning_rate_over_220000_iterations(golden):
    """The released loop, run to its end, lowers the rate 110 times by lr / 110,000: 9.99e-5 remain."""
    expected = golden("hhl_parity")
    begins, rates = expected["lr_from_iteration"].tolist(), expected["lr_values"]
    config = GANConfig()
    np.testing.assert_allclose([train.learning_rate(config, i) for i in begins], rates, rtol=1e-9)
    np.testing.assert_allclose(
        [train.learning_rate(config, i - 1) for i in begins], [1e-4, *rates[:-1]], rtol=1e-9
    )
    assert begins[-1] == config.iterations and rates[-1] == pytest.approx(9.99e-5, rel=1e-9)


# ---------------------------------------------------------------- translation


@pytest.fixture
def photos(formulas, tmp_path) -> SimpleNamespace:
    """Three images of noise of three sizes, without loss, under names of Market-1501."""
    train_set = []
    for name, (width, height) in {
        "0002_c1s1_000451_03": (64, 128),
        "0007_c3s2_000012_01": (50, 120),
        "0010_c5s3_000300_02": (140, 300),
    }.items():
        path = tmp_path / f"{name}.jpg"
        Image.fromarray(((formulas.scatter(path.name, height, width, 3) + 1) * 127.5).astype(np.uint8)).save(
            path, "PNG"
        )
        train_set.append(Sample(path, int(name[:4]), int(name[6]) - 1))
    return SimpleNamespace(train=train_set, num_cameras=5, manifest={})


@pytest.fixture
def generator(formulas) -> Generator:
    model = Generator(5, width=8, blocks=2)
    formulas.fill(model)
    return model


@torch.no_grad()
def test_translation_writes_the_released_files(generator, photos, tmp_path, golden):
    """`Solver.test`: every style of every image, its own included, `_fake_1` to `_fake_5`, 128x256,
    truncated, JPEG of Pillow's default quality.

    The generator is in training mode there and stays in it; here it is in evaluation mode, which must not
    matter.
    """
    expected = golden("hhl_parity")
    work = Workspace(tmp_path, device=torch.device("cpu"))
    translate(work, generator.eval(), photos, GANConfig(), TranslationConfig())
    files = sorted((tmp_path / FOLDER).glob("*.jpg"))
    assert [path.name for path in files] == expected["translated_names"].tolist()

    real = torch.stack(
        [
            EvalTransform(256, 128, "bilinear", train.HALF, train.HALF)(read_image(sample.path))
            for sample in photos.train
        ]
    )
    styles = [
        to_uint8(generator(real, camera_one_hot(torch.full((3,), k), 5)), truncate=True) for k in range(5)
    ]
    pixels = [styles[k][i] for i in range(3) for k in range(5)]  # in order of file name
    difference = np.abs(
        np.array([image.ravel()[::499] for image in pixels]).astype(int) - expected["translated_pixels"]
    )
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3  # rounding error across a truncation

    for path, image in zip(files, pixels):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG")
        assert path.read_bytes() == buffer.getvalue()
        with Image.open(path) as written:
            assert [written.quantization[k] for k in sorted(written.quantization)] == expected[
                "jpeg_tables"
            ].tolist()
            assert JpegImagePlugin.get_sampling(written) == expected[
                "jpeg_sampling"
            ] and written.size == tuple(expected["jpeg_size"])


def test_rounding_would_differ_from_the_released_pixels(generator, photos, golden):
    """The golden pixels tell truncation from today's rounding: about half of them would be one level
    brighter.
    """
    real = torch.stack(
        [
            EvalTransform(256, 128, "bilinear", train.HALF, train.HALF)(read_image(sample.path))
            for sample in photos.train
        ]
    )
    with torch.no_grad():
        rounded = to_uint8(
            generator(real, camera_one_hot(torch.zeros(3, dtype=torch.int64), 5)), truncate=False
        )
    brighter = (
        np.array([image.ravel()[::499] for image in rounded]).astype(int)
        - golden("hhl_parity")["translated_pixels"][::5]
    )
    assert 0.4 < (brighter == 1).mean() < 0.6 and set(np.unique(brighter)) <= {0, 1}
