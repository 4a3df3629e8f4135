"""Our GAN stage against the released training loop, run in float64: losses, history pool, schedule and
weights of four iterations.
"""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from common.checkpoints import load_checkpoint
from common.datasets import Sample
from common.job import Workspace
from common.training import Loop
from ptgan import train_gan
from ptgan.config import GANConfig
from ptgan.data import ImagePool, gan_transform

SMALL = GANConfig(
    height=32,
    width=32,
    load_height=36,
    load_width=36,
    channels=8,
    d_channels=8,
    batch=2,
    pool_size=2,
    epochs=4,
    decay_epoch=2,
)


def draws(formulas, name: str, count: int) -> SimpleNamespace:
    """A generator whose `random()` returns the formula's numbers, which the released code drew, too."""
    values = iter(((formulas.scatter(name, count) + 1) / 2).tolist())
    return SimpleNamespace(random=lambda: next(values))


def test_the_pool_swaps_as_the_released_one(formulas, golden):
    pool, rng = ImagePool(3), draws(formulas, "pool alone", 200)
    seen = [
        [int(half) for half in pool.query([torch.tensor(i), torch.tensor(100 + i)], rng)] for i in range(20)
    ]
    assert seen == golden("ptgan_steps")["pool"].tolist()
    assert any(source + 100 != target for source, target in seen)  # halves of different pairs have met


def test_a_restored_pool_continues_exactly(formulas):
    pool, restored = ImagePool(2), ImagePool(2)
    for i in range(5):
        pool.query([torch.full((1,), float(i)), torch.full((1,), 10.0 + i)], random.Random(i))
    restored.load_state_dict(pool.state_dict())
    for i in range(5, 15):
        new = [torch.full((1,), float(i)), torch.full((1,), 10.0 + i)]
        assert torch.equal(
            torch.cat(pool.query(new, random.Random(i))), torch.cat(restored.query(new, random.Random(i)))
        )


def test_no_pool():
    fakes = [torch.zeros(1), torch.ones(1)]
    pool = ImagePool(0)
    assert (
        all(
            torch.equal(torch.cat(pool.query(fakes, random.Random(i))), torch.tensor([0.0, 1.0]))
            for i in range(4)
        )
        and not pool.pairs
    )


@pytest.fixture(params=["pytorch", "tensorflow"])
def four_iterations(request, formulas, monkeypatch, tmp_path) -> SimpleNamespace:
    """Runs `train_gan` in float64 on the golden arrays' weights, images, masks and draws; returns terms and
    rates of each step, and the weights afterwards.
    """
    config = replace(SMALL, adam=request.param)
    terms: list[dict[str, float]] = []
    rates: list[tuple[float, float]] = []

    def networks(config: GANConfig):
        return formulas.fill(train_gan_networks(config)).double()

    def batches(*args):
        for step in range(4):
            yield tuple(
                torch.cat(
                    [
                        formulas.scattered(f"{domain} {step}", 2, 3, 32, 32),
                        (formulas.scattered(f"{domain} mask {step}", 2, 1, 32, 32) > 0).float(),
                    ],
                    dim=1,
                ).double()
                for domain in ("source", "target")
            )

    def log(self, step: int, **values: Tensor) -> None:
        terms.append({name: value.item() for name, value in values.items()})

    def step(config, training, of_source, of_target, rng):
        optimizers = (training.g_optimizer, training.d_optimizer)
        rates.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in optimizers))
        return released_step(config, training, of_source, of_target, of_pool)

    train_gan_networks, released_step, of_pool = (
        train_gan.TransferNetworks,
        train_gan.train_step,
        draws(formulas, "pool", 100),
    )
    monkeypatch.setattr(train_gan, "TransferNetworks", networks)
    monkeypatch.setattr(train_gan, "pair_batches", batches)
    monkeypatch.setattr(train_gan, "train_step", step)
    monkeypatch.setattr(Loop, "log", log)
    two = train_gan.Domain([Sample(tmp_path / f"{i}.jpg", i, 0) for i in range(2)], None)
    work = Workspace(tmp_path, device=torch.device("cpu"))
    train_gan.train_gan(config, gan_transform(config, "joint"), two, two, work)
    return SimpleNamespace(
        adam=config.adam,
        terms={name: np.array([t[name] for t in terms]) for name in terms[0]},
        rates=np.array(rates),
        weights=formulas.fingerprint(load_checkpoint(tmp_path / "networks.pt")),
    )


def test_four_released_iterations(four_iterations, golden):
    """`cyclegan.train` with L1_lambda = L2_lambda = 10, one iteration an epoch, epoch 4, epoch_step 2, a pool
    of two pairs.

    TensorFlow's Adam adds its epsilon before the bias correction, PyTorch's after it: from the second step
    on, weights of tiny gradients differ by a little of the learning rate (2e-4), unless `adam` is its own.
    """
    expected, terms = golden("ptgan_steps"), four_iterations.terms
    ours = {
        "g_loss_a2b": terms["g_adv_s2t"] + 10 * terms["g_cyc"],
        "g_loss_b2a": terms["g_adv_t2s"] + 10 * terms["g_cyc"],
        "g_loss": terms["g_adv_s2t"] + terms["g_adv_t2s"] + 10 * terms["g_cyc"] + 10 * terms["g_id"],
        "da_loss": terms["d_source"],
        "db_loss": terms["d_target"],
    }
    np.testing.assert_allclose(four_iterations.rates, np.stack([expected["lr"]] * 2, axis=1), rtol=1e-12)
    for name, values in ours.items():
        np.testing.assert_allclose(values[0], expected[name][0], rtol=1e-9, err_msg=name)
        tolerance = {"pytorch": 2e-4, "tensorflow": 1e-6}[four_iterations.adam]
        np.testing.assert_allclose(values, expected[name], rtol=tolerance, err_msg=name)
    gap = np.abs(four_iterations.weights - expected["weights_after"])
    if four_iterations.adam == "tensorflow":
        assert gap.max() < 2e-6
    else:
        assert gap.max() < 2e-4 and (gap > 1e-5).mean() < 0.1  # less than one step of Adam, and few
