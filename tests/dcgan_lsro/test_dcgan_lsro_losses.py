"""LSRO and its rivals against an independent float64 port of the released `vl_nnloss.m` (branch labelsmooth)
and against closed forms.
"""

import math
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dcgan_lsro.config import MethodConfig
from dcgan_lsro.losses import all_in_one_losses, loss_parts, lsro_loss, lsro_losses, pseudo_losses
from dcgan_lsro.train import image_losses

K = 17
MIXED = np.array([True, False, False, True, False, False, True, False])
BATCHES = {"all real": np.zeros(8, bool), "all generated": np.ones(8, bool), "mixed": MIXED}


def port(
    x: np.ndarray, labels: np.ndarray, is_gan: np.ndarray, rate: float, gan: float
) -> tuple[float, np.ndarray]:
    """Loss and gradient of the batch mean, written from the equations: p = softmax(x), y the class, u = 1 /
    K.
    """
    n, k = x.shape
    top = x.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(x - top).sum(axis=1))
    part1 = top[:, 0] + log_sum - x[np.arange(n), labels]
    part2 = log_sum - (x - top).sum(axis=1) / k
    loss = np.where(is_gan, gan * part2, (1 - rate) * part1 + rate * part2)
    p = np.exp(x - top - log_sum[:, None])
    one_hot = np.eye(k)[labels]
    real = (1 - rate) * (p - one_hot) + rate * (p - 1 / k)
    gradient = np.where(is_gan[:, None], gan * (p - 1 / k), real)
    return loss.sum() / n, gradient / n


def example(formulas, scale: float = 1.0, classes: int = K) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.from_numpy(scale * 3 * formulas.scatter("logits", 8, classes)).requires_grad_(True)
    labels = torch.tensor([-1, 0, 5, -1, 0, 16, -1, 3])  # label 0 is a person, beside generated images
    return logits, labels


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("gan", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("batch", BATCHES)
def test_lsro_equals_the_port(formulas, batch, rate, gan, scale):
    is_gan = BATCHES[batch]
    logits, labels = example(formulas, scale)
    labels = torch.where(torch.from_numpy(is_gan), -1, labels.clamp(min=0))
    loss = lsro_loss(logits, labels, torch.from_numpy(is_gan), rate, gan)
    loss.backward()
    expected, gradient = port(logits.detach().numpy(), labels.clamp(min=0).numpy(), is_gan, rate, gan)
    assert abs(loss.item() - expected) <= 1e-10
    assert np.abs(logits.grad.numpy() - gradient).max() <= 1e-12


def test_the_special_cases_are_torchs(formulas):
    logits, labels = example(formulas)
    is_gan = torch.from_numpy(MIXED)
    nobody = torch.zeros(8, dtype=torch.bool)
    real = labels.clamp(min=0)
    assert torch.allclose(lsro_loss(logits, real, nobody), F.cross_entropy(logits, real), atol=1e-12)
    assert torch.allclose(
        lsro_loss(logits, real, nobody, eps=0.1),
        F.cross_entropy(logits, real, label_smoothing=0.1),
        atol=1e-12,
    )
    uniform = torch.full((8, K), 1 / K, dtype=torch.float64)
    assert torch.allclose(lsro_loss(logits, labels, ~nobody), F.cross_entropy(logits, uniform), atol=1e-12)
    parts = F.cross_entropy(logits[~is_gan], labels[~is_gan], reduction="sum") + F.cross_entropy(
        logits[is_gan], uniform[is_gan], reduction="sum"
    )
    # one mean over real and generated
    assert torch.allclose(lsro_loss(logits, labels, is_gan), parts / 8, atol=1e-12)


def test_uniform_logits_give_log_k_and_no_gradient():
    logits = torch.full((3, 751), 2.0, dtype=torch.float64, requires_grad=True)
    loss = lsro_loss(logits, torch.full((3,), -1), torch.ones(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(751), abs=1e-12) and logits.grad.abs().max() < 1e-15


def test_the_gradient_of_a_generated_image_sums_to_zero(formulas):
    logits, labels = example(formulas)
    lsro_loss(logits, labels, torch.from_numpy(MIXED)).backward()
    assert logits.grad.sum(dim=1).abs().max() < 1e-15


def test_large_logits_stay_finite():
    logits = torch.zeros(1, 751, dtype=torch.float64)
    logits[0, 0] = 200
    assert lsro_loss(logits, torch.tensor([-1]), torch.tensor([True])).item() == pytest.approx(
        200 * 750 / 751, abs=1e-9
    )


def test_halves_of_a_batch_add_up(formulas):
    logits, labels = example(formulas)
    is_gan = torch.from_numpy(MIXED)
    lsro_loss(logits, labels, is_gan).backward()
    whole = logits.grad.clone()
    logits.grad = None
    for half in (slice(0, 3), slice(3, 8)):  # of unequal size: sums, divided by the whole batch
        (lsro_losses(logits[half], labels[half], is_gan[half]).sum() / 8).backward()
    assert torch.allclose(logits.grad, whole, atol=1e-15)


def test_all_in_one_is_cross_entropy_with_one_class_more(formulas):
    logits, labels = example(formulas, classes=K + 1)
    is_gan = torch.from_numpy(MIXED)
    classes = torch.tensor([K, 0, 5, K, 0, 16, K, 3])
    assert torch.equal(
        all_in_one_losses(logits, labels, is_gan), F.cross_entropy(logits, classes, reduction="none")
    )


def test_pseudo_labels_are_the_argmax_of_the_same_logits(formulas):
    logits, labels = example(formulas)
    is_gan = torch.from_numpy(MIXED)
    losses = pseudo_losses(logits, labels, is_gan, 0.1)
    best = -F.log_softmax(logits, 1).amax(1)
    assert torch.allclose(losses[is_gan], 0.1 * best[is_gan], atol=1e-12)
    assert torch.equal(losses[~is_gan], F.cross_entropy(logits[~is_gan], labels[~is_gan], reduction="none"))
    other = torch.roll(logits, 1, dims=1)  # other logits, other labels: nothing is remembered
    assert torch.allclose(pseudo_losses(other, labels, is_gan, 0.1)[is_gan], losses[is_gan], atol=1e-12)


def test_the_released_pseudo_labels_only_fill_batches(formulas):
    logits, labels = example(formulas)
    is_gan = torch.from_numpy(MIXED)
    losses = image_losses(MethodConfig(loss="pseudo", pseudo="released"), logits, labels, is_gan)
    assert losses[is_gan].abs().max() == 0
    assert losses.mean().item() == pytest.approx(
        F.cross_entropy(logits[~is_gan], labels[~is_gan], reduction="sum").item() / 8
    )


@pytest.mark.parametrize("loss", get_args(get_type_hints(MethodConfig)["loss"]))
def test_without_generated_images_every_row_is_the_baseline(formulas, loss):
    logits, labels = example(formulas)
    nobody, labels = torch.zeros(8, dtype=torch.bool), labels.clamp(min=0)
    losses = image_losses(MethodConfig(loss=loss), logits, labels, nobody)
    assert torch.allclose(losses, F.cross_entropy(logits, labels, reduction="none"), atol=1e-12)


def test_parts_are_logged_separately(formulas):
    logits, labels = example(formulas)
    is_gan = torch.from_numpy(MIXED)
    parts = loss_parts(logits, labels, is_gan)
    assert set(parts) == {"real_ce", "accuracy", "gan_kl", "gan_confidence"}
    total = (5 * parts["real_ce"] + 3 * (parts["gan_kl"] + math.log(K))) / 8
    assert total.item() == pytest.approx(lsro_loss(logits, labels, is_gan).item(), abs=1e-12)
    p = F.softmax(logits[is_gan], 1)
    assert parts["gan_kl"].item() == pytest.approx(
        (torch.full_like(p, 1 / K) * (math.log(1 / K) - p.log())).sum(1).mean().item()
    )
    assert parts["gan_confidence"].item() == pytest.approx(p.amax(1).mean().item())
    assert set(loss_parts(logits, labels.clamp(min=0), torch.zeros(8, dtype=torch.bool))) == {
        "real_ce",
        "accuracy",
    }
    assert set(loss_parts(logits, labels, torch.ones(8, dtype=torch.bool))) == {"gan_kl", "gan_confidence"}


def test_the_gan_term_makes_the_network_unsure_of_generated_images_and_leaves_the_real_ones():
    torch.manual_seed(0)
    centres = 4 * torch.randn(5, 10)
    real, labels = centres.repeat(8, 1) + torch.randn(40, 10), torch.arange(5).repeat(8)
    generated = 3 * torch.randn(60, 10)
    confidence = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(1)
        net = torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        everyone, is_gan = torch.cat([real, generated]), torch.arange(100) >= 40
        every_label = torch.cat([labels, torch.full((60,), -1)])
        for _ in range(300):
            optimizer.zero_grad()
            lsro_loss(net(everyone), every_label, is_gan, gan_weight=weight).backward()
            optimizer.step()
        parts = loss_parts(net(everyone), every_label, is_gan)
        confidence[weight] = parts["gan_confidence"].item()
        assert parts["accuracy"].item() > 0.95
    assert confidence[1.0] < 0.5 < 0.8 < confidence[0.0]
