"""The losses on fixed tensors, against the released code's formulas and the paper's as quoted."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ptgan.config import GANConfig
from ptgan.losses import (
    ADVERSARIAL,
    Translated,
    adversarial_loss,
    discriminator_loss,
    generator_losses,
    generator_total,
    identity_loss,
)
from ptgan.model import TransferNetworks
from ptgan.train_gan import learning_rate

SHAPE = (2, 3, 16, 8)
SIZE = 3 * 16 * 8


@pytest.fixture
def pair(formulas):
    return formulas.scattered("image", *SHAPE), formulas.scattered("translated", *SHAPE)


@pytest.fixture
def mask(formulas):
    return (formulas.scattered("mask", 2, 1, 16, 8) > 0).float()


def test_masked_squares_over_all_pixels(pair, mask):
    x, y = pair
    assert identity_loss(x, y, mask).item() == pytest.approx(
        ((x - y) ** 2 * mask.expand(SHAPE)).mean().item(), abs=1e-6
    )
    assert identity_loss(x, y, torch.ones(2, 1, 16, 8)).item() == pytest.approx(
        F.mse_loss(x, y).item(), abs=1e-6
    )


def test_masked_squares_over_the_masks_pixels(pair, mask):
    x, y = pair
    expected = sum((((x[i] - y[i]) ** 2)[mask[i].expand(SHAPE[1:]) > 0]).mean() for i in range(2)) / 2
    assert identity_loss(x, y, mask, "mse", "mask").item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_norm_of_a_constant_change():
    """c sqrt(3k) for a change of c on k masked pixels, a mean over the batch; the rms form divides by the
    root of N, or of 3k.
    """
    c, k = 0.25, 20
    mask = torch.zeros(2, 1, 16, 8)
    mask.view(2, -1)[0, :k] = 1
    x, y = torch.zeros(SHAPE), torch.full(SHAPE, c)
    norm = c * math.sqrt(3 * k)
    assert identity_loss(x, y, mask, "l2").item() == pytest.approx(norm / 2, rel=1e-6)
    assert identity_loss(x, y, mask, "l2_rms").item() == pytest.approx(norm / math.sqrt(SIZE) / 2, rel=1e-6)
    assert identity_loss(x, y, mask, "l2_rms", "mask").item() == pytest.approx(c / 2, rel=1e-6)


def test_a_soft_mask_weighs_squares_but_scales_the_change_in_a_norm():
    """A change of 0.5 under a mask of 0.25 everywhere."""
    x, y, mask = torch.zeros(SHAPE), torch.full(SHAPE, 0.5), torch.full((2, 1, 16, 8), 0.25)
    assert identity_loss(x, y, mask).item() == 0.25 * 0.5**2
    assert identity_loss(x, y, mask, "mse", "mask").item() == 0.5**2
    assert identity_loss(x, y, mask, "l2").item() == pytest.approx(0.125 * math.sqrt(SIZE), rel=1e-6)
    assert identity_loss(x, y, mask, "l2_rms").item() == pytest.approx(0.125, rel=1e-6)


@pytest.mark.parametrize("kind", ["mse", "l2", "l2_rms"])
@pytest.mark.parametrize("reduce", ["all", "mask"])
def test_an_empty_mask_gives_zero_and_finite_gradients(pair, kind, reduce):
    x, y = pair
    y.requires_grad_(True)
    loss = identity_loss(x, y, torch.zeros(2, 1, 16, 8), kind, reduce)
    loss.backward()
    assert loss.item() == 0 and torch.equal(y.grad, torch.zeros_like(y))


@pytest.mark.parametrize("kind", ["mse", "l2", "l2_rms"])
def test_an_untouched_image_has_finite_gradients(pair, mask, kind):
    y = pair[0].clone().requires_grad_(True)
    identity_loss(pair[0], y, mask, kind).backward()
    assert torch.equal(y.grad, torch.zeros_like(y))


def test_why_the_form_of_the_norm_decides():
    """Gradient norms for an image of 256x256 with a change of 0.1 (rms) over 41 % of it, all weights 10: that
    of the literal norm is 440 times that of the cycle loss.
    """
    shape = (1, 3, 256, 256)
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., :105] = 1  # 0.41
    image = torch.zeros(shape)

    def gradient(loss) -> float:
        y = torch.full(shape, 0.1, requires_grad=True)
        (10 * loss(y)).backward()
        return y.grad.norm().item()

    cycle = gradient(lambda y: (image - y).abs().mean())
    assert cycle == pytest.approx(10 / math.sqrt(196_608), rel=1e-3)
    assert gradient(lambda y: identity_loss(image, y, mask)) == pytest.approx(2.9e-3, rel=0.02)
    assert gradient(lambda y: identity_loss(image, y, mask, "l2")) == pytest.approx(10, rel=1e-3)
    assert gradient(lambda y: identity_loss(image, y, mask, "l2_rms")) == pytest.approx(cycle, rel=1e-3)
    assert gradient(lambda y: identity_loss(image, y, mask, "l2")) / cycle == pytest.approx(443, abs=1)


def test_adversarial_losses(formulas):
    score = formulas.scattered("score", 2, 1, 4, 4)
    assert adversarial_loss(score, True).item() == pytest.approx(((score - 1) ** 2).mean().item())
    assert adversarial_loss(score, False).item() == pytest.approx((score**2).mean().item())
    assert adversarial_loss(score, True, "sigmoid").item() == pytest.approx(
        -F.logsigmoid(score).mean().item(), rel=1e-5
    )


def choices(name: str) -> tuple[str, ...]:
    """The values that the configuration allows for a field."""
    return get_args(get_type_hints(GANConfig)[name])


def test_every_loss_that_can_be_configured_exists(pair, mask):
    assert set(ADVERSARIAL) == set(choices("adversarial"))
    values = {
        identity_loss(*pair, mask, kind, reduce).item()
        for kind in choices("id_loss")
        for reduce in choices("id_reduce")
    }
    assert len(values) == 5  # the l2 norm has no divisor
    with pytest.raises(ValueError, match="unknown identity loss 'l1'"):
        identity_loss(*pair, mask, "l1")


class Scale(nn.Module):
    """A network of one number."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return self.factor * x


@pytest.fixture
def toy():
    """Networks that multiply: G by 0.5, F by 3, D of the source by 2, D of the target by -1."""
    networks = TransferNetworks(GANConfig(channels=1, blocks=1, d_channels=1, d_layers=1))
    for name, factor in (("g_s2t", 0.5), ("g_t2s", 3.0), ("d_source", 2.0), ("d_target", -1.0)):
        setattr(networks, name, Scale(factor))
    return networks


def test_the_generators_loss_is_the_released_formula(toy, pair, mask):
    a, b = pair
    other = 1 - mask
    config = GANConfig(lambda_idt=5.0)
    source, target = Translated(a, 0.5 * a, mask), Translated(b, 3 * b, other)
    terms = generator_losses(toy, config, source, target)
    expected = {
        "adv_s2t": ((-0.5 * a - 1) ** 2).mean(),
        "adv_t2s": ((6 * b - 1) ** 2).mean(),
        "cyc": (a - 1.5 * a).abs().mean() + (b - 1.5 * b).abs().mean(),
        # each with the mask of its own input
        "id": (mask * (a - 0.5 * a) ** 2).mean() + (other * (b - 3 * b) ** 2).mean(),
        "idt": (b - 0.5 * b).abs().mean() + (a - 3 * a).abs().mean(),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
    total = (
        expected["adv_s2t"]
        + expected["adv_t2s"]
        + 10 * expected["cyc"]
        + 10 * expected["id"]
        + 5 * expected["idt"]
    )
    assert generator_total(terms, config).item() == pytest.approx(total.item(), rel=1e-5)
    assert "idt" not in generator_losses(toy, GANConfig(), source, target)


def test_the_discriminators_loss_is_half_each_and_leaves_the_generators_alone(toy, pair):
    a, b = pair
    fake_target, fake_source = toy.g_s2t(a), toy.g_t2s(b)
    terms = {
        "d_source": discriminator_loss(toy.d_source, a, fake_source),
        "d_target": discriminator_loss(toy.d_target, b, fake_target),
    }
    assert terms["d_source"].item() == pytest.approx(
        (((2 * a - 1) ** 2).mean() + ((6 * b) ** 2).mean()).item() / 2, rel=1e-5
    )
    assert terms["d_target"].item() == pytest.approx(
        (((-b - 1) ** 2).mean() + ((0.5 * a) ** 2).mean()).item() / 2, rel=1e-5
    )
    sum(terms.values()).backward()
    assert toy.g_s2t.factor.grad is None and toy.g_t2s.factor.grad is None and toy.d_source.factor.grad != 0


def test_schedule():
    released = GANConfig()
    rates = {0: 2e-4, 99: 2e-4, 100: 2e-4, 150: 1e-4, 199: 2e-6}
    assert {epoch: learning_rate(released, 2e-4, epoch) for epoch in rates} == pytest.approx(rates)
    assert learning_rate(GANConfig(decay="none"), 1e-4, 199) == 1e-4
