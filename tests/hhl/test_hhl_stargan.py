"""The camera StarGAN: networks, loss terms, checkpoints. Its training loop is compared in
test_hhl_stargan_parity.py.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.datasets.loading import Batch
from common.errors import InputError
from common.job import Workspace
from hhl.config import GANConfig
from hhl.stargan import augment, train
from hhl.stargan.losses import discriminator_losses, generator_losses, gradient_penalty, total
from hhl.stargan.model import (
    Discriminator,
    Generator,
    camera_one_hot,
    load_released_discriminator,
    load_released_generator,
)

CAMERAS = [torch.tensor(c) for c in ([0, 3, 4, 1], [2, 2, 1, 0], [4, 0, 3, 3], [1, 2, 0, 4])]


@pytest.fixture
def generator(formulas) -> Generator:
    model = Generator(5, width=8, blocks=2)
    formulas.fill(model)
    return model


@pytest.fixture
def discriminator(formulas) -> Discriminator:
    model = Discriminator(5, 64, 32, base=8, layers=4)
    formulas.fill(model)
    return model


@pytest.fixture
def images(formulas):
    return formulas.scattered("real 0", 4, 3, 64, 32)


@pytest.mark.parametrize("cameras, size", [(6, 8_433_664), (8, 8_439_936)])
def test_generator_size(cameras, size):
    with torch.device("meta"):
        assert sum(p.numel() for p in Generator(cameras).parameters()) == size


@pytest.mark.parametrize(
    "cameras, height, size",
    [(6, 256, 44_819_392), (8, 256, 44_852_160), (6, 128, 44_745_664), (8, 128, 44_753_856)],
)
def test_discriminator_size(cameras, height, size):
    with torch.device("meta"):
        model = Discriminator(cameras, height, height // 2)
        patches, camera = model(torch.empty(2, 3, height, height // 2))
    assert sum(p.numel() for p in model.parameters()) == size
    assert model.conv2.kernel_size == (height // 64, height // 128)
    assert patches.shape == (2, 1, height // 64, height // 128) and camera.shape == (2, cameras)


def test_names_and_shapes_are_the_released_ones(generator, discriminator, golden):
    for model, name in ((generator, "generator_shapes"), (discriminator, "discriminator_shapes")):
        assert [f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items()] == golden(
            "hhl_stargan"
        )[name].tolist()


@torch.no_grad()
def test_forward_equals_the_released_one(generator, discriminator, images, formulas, golden):
    expected = golden("hhl_stargan")
    styles = camera_one_hot(CAMERAS[0], 5)
    before = formulas.fingerprint(dict(generator.named_buffers()))
    translated = generator(images, styles)
    patches, cameras = discriminator(images)
    np.testing.assert_allclose(translated.flatten()[::37], expected["translated"], atol=1e-5)
    np.testing.assert_allclose(patches, expected["patches"], atol=1e-5)
    np.testing.assert_allclose(cameras, expected["cameras"], atol=1e-5)
    # the released ones move, and nothing reads them
    assert (formulas.fingerprint(dict(generator.named_buffers())) == before).all()


@torch.no_grad()
def test_translation_is_the_same_in_either_mode_and_for_any_batch(generator, images, formulas):
    styles = camera_one_hot(CAMERAS[0], 5)
    trained = generator(images, styles)
    generator.eval()
    before = formulas.fingerprint(dict(generator.named_buffers()))
    assert torch.equal(generator(images, styles), trained)
    torch.testing.assert_close(generator(images[1:2], styles[1:2]), trained[1:2], atol=1e-5, rtol=0)
    assert (formulas.fingerprint(dict(generator.named_buffers())) == before).all()
    assert (generator(images, styles.roll(1, 0)) - trained).abs().mean() > 0.01  # the style matters


def test_the_discriminator_step_leaves_the_generator_alone(generator, discriminator, images):
    fake = generator(images, camera_one_hot(CAMERAS[1], 5))
    total(
        discriminator_losses(discriminator, images, fake, CAMERAS[0], torch.full((4, 1, 1, 1), 0.5))
    ).backward()
    assert all(p.grad is None for p in generator.parameters())
    assert all(p.grad is not None for p in discriminator.parameters())


def test_gradient_penalty_of_a_linear_critic():
    """D(x) = w sum(x) has a gradient of norm w sqrt(3HW) at every image."""

    class Linear(torch.nn.Module):
        def forward(self, x):
            # two patches: the sum counts both
            return 0.1 * x.sum(dim=(1, 2, 3), keepdim=True).expand(-1, 1, 2, 1), None

    penalty = gradient_penalty(Linear(), torch.zeros(5, 3, 4, 2))
    assert penalty.item() == pytest.approx((0.2 * 24**0.5 - 1) ** 2, rel=1e-5)


def test_weights_of_the_total():
    one = torch.tensor(1.0)
    assert (
        total({"real": one, "fake": one, "cls": one, "gp": one}) == 13
        and total({"fake": one, "cls": one, "rec": one}) == 12
    )
    assert total({"cls": one, "rec": one}, lambda_cls=2, lambda_rec=3) == 5


@torch.no_grad()
def test_the_residual_form_starts_near_the_image(images, formulas):
    model = Generator(6, width=8, blocks=1, residual=True)
    difference = (model(images, camera_one_hot(CAMERAS[0], 6)) - images).abs()
    assert 0 < difference.mean() < 0.05
    formulas.fill(model)
    styled = model(images, camera_one_hot(CAMERAS[0], 6))
    assert styled.abs().max() <= 1 and (styled - images).abs().mean() > 0.1
    assert list(model.state_dict()) == list(Generator(6, width=8, blocks=1).state_dict())


def test_gains_of_the_norms():
    gains = torch.cat(
        [
            m.weight
            for m in Generator(3, width=32, uniform_gamma=True).modules()
            if isinstance(m, torch.nn.InstanceNorm2d)
        ]
    )
    assert 0 <= gains.min() < 0.02 and 0.98 < gains.max() <= 1
    assert all(
        (m.weight == 1).all()
        for m in Generator(3, width=8).modules()
        if isinstance(m, torch.nn.InstanceNorm2d)
    )


@pytest.mark.parametrize("height, width, layers", [(64, 32, 6), (72, 32, 4), (0, 32, 4)])
def test_sizes_that_a_discriminator_cannot_take(height, width, layers):
    with pytest.raises(InputError, match=f"multiples of {2**layers}, found {height}x{width}"):
        Discriminator(6, height, width, base=4, layers=layers)


def test_released_checkpoints_load(generator, discriminator, tmp_path):
    for model, fresh, load in (
        (generator, Generator(5, width=8, blocks=2), load_released_generator),
        (discriminator, Discriminator(5, 64, 32, base=8, layers=4), load_released_discriminator),
    ):
        torch.save(model.state_dict(), tmp_path / "220000.ckpt")
        load(fresh, tmp_path / "220000.ckpt")
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in fresh.state_dict().items())
    with pytest.raises(InputError, match="does not fit this network"):
        load_released_discriminator(Discriminator(6, 64, 32, base=8, layers=4), tmp_path / "220000.ckpt")
    with pytest.raises(InputError, match="no such file"):
        load_released_generator(generator, tmp_path / "none-G.ckpt")


def test_the_demos_identity_term_is_the_change_in_the_images_own_style(generator, discriminator, images):
    own, style = CAMERAS[0], CAMERAS[0].roll(1)
    terms = generator_losses(generator, discriminator, images, own, style, identity=True)
    expected = (images - generator(images, camera_one_hot(own, 5))).abs().mean()
    assert torch.allclose(terms["idt"], expected) and expected > 0
    without = generator_losses(generator, discriminator, images, own, style)
    assert "idt" not in without
    assert torch.allclose(total(terms, lambda_idt=2.0), total(without) + 2 * expected)


# ---------------------------------------------------------------- the training loop


@pytest.fixture
def four_steps(images, monkeypatch, tmp_path):
    """Trains for four steps of D and two of G, and returns what was augmented, the weights of each total, and
    the rate of each step of Adam, by the size of its network.
    """
    seen, weights, rates = [], [], []

    class Adam(torch.optim.Adam):
        def step(self, *arguments):
            (group,) = self.param_groups
            rates.append((sum(p.numel() for p in group["params"]), group["lr"]))
            return super().step(*arguments)

    monkeypatch.setattr(train, "Adam", Adam)
    monkeypatch.setattr(train, "total", lambda terms, **of: weights.append(of) or total(terms, **of))
    monkeypatch.setattr(augment, "augment", lambda batch: seen.append(batch.detach()) or batch)
    batch = Batch(images, np.arange(4), torch.tensor([0, 1, 1, 0]))
    monkeypatch.setattr(train, "load_batches", lambda loop, gan, target: [batch] * 4)
    monkeypatch.setattr(train.Loop, "over", lambda loop, batches: enumerate(batches))
    target = SimpleNamespace(num_cameras=2)

    def run(gan: GANConfig) -> SimpleNamespace:
        train.train_stargan(Workspace(tmp_path, device=torch.device("cpu")), gan, target)
        return SimpleNamespace(seen=seen, weights=weights, rates=rates)

    return run


SMALL = GANConfig(
    height=64,
    width=32,
    channels=2,
    blocks=1,
    downsamplings=1,
    d_channels=2,
    d_layers=3,
    iterations=4,
    batch=4,
    lr=0.8,
    n_critic=2,
    lambda_cls=2.0,
    lambda_rec=3.0,
    lambda_gp=4.0,
    lambda_idt=5.0,
    lr_decay="true_linear",
)


def test_every_step_has_its_rate_and_its_weights(four_steps):
    """Both rates fall from the middle on; both totals have the weights of the configuration."""
    done = four_steps(SMALL)
    expected = {"lambda_cls": 2.0, "lambda_rec": 3.0, "lambda_gp": 4.0, "lambda_idt": 5.0}
    assert done.weights == [expected] * 6
    d, g = done.rates[0][0], done.rates[2][0]
    assert d != g and done.rates == [(d, 0.8), (d, 0.8), (g, 0.8), (d, 0.8), (d, 0.4), (g, 0.4)]


def test_d_sees_augmented_images_in_every_step_or_never(four_steps, images):
    """Real, fake and interpolated images in each of four steps of D, fakes in two steps of G."""
    assert four_steps(SMALL).seen == []
    seen = four_steps(replace(SMALL, augment_d=True)).seen
    assert len(seen) == 4 * 3 + 2
    for first in (0, 3, 7, 10):  # two steps of D, one of G, twice
        real, fake, between = seen[first : first + 3]
        share = (between - fake) / (real - fake)
        assert torch.equal(real, images) and not torch.equal(fake, images)
        assert torch.allclose(share, share[:, :1, :1, :1].expand_as(share), atol=1e-2)
