"""Losses by hand, one full iteration against the released graph, the updates of each step, SiaNet's
negatives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import tensorflow as tf

from spgan.config import GANConfig
from spgan.gan import train as gan_train
from spgan.gan.losses import Quadruple, contrastive, discriminator_loss, negative_pair, positive_pair
from spgan.gan.model import named_variables
from spgan.gan.pool import ImagePool
from spgan.gan.train import Trainer

TINY = GANConfig(
    height=16,
    width=16,
    load_height=18,
    load_width=18,
    g_channels=2,
    blocks=1,
    d_channels=2,
    sia_channels=2,
    batch=2,
    pool_size=3,
)
LOSSES = (
    "g_adv_target",
    "g_adv_source",
    "cycle_source",
    "cycle_target",
    "identity_source",
    "identity_target",
    "positive_s",
    "positive_t",
    "negative",
    "contrastive",
    "d_source",
    "d_target",
    "g_loss",
)  # in the order of the golden array
# weights inside / outside
RELEASED_SCALE = {
    "cycle_source": 10,
    "cycle_target": 10,
    "identity_source": 5,
    "identity_target": 5,
    "negative": 0.5,
}


def images(formulas, batch: int = 2, side: int = 16, step: int = 0) -> list[np.ndarray]:
    return [
        formulas.scatter(f"{domain} {step}", batch, side, side, 3).astype(np.float32)
        for domain in ("source", "target")
    ]


def test_distances_at_a_right_angle():
    a, b = tf.constant([[1.0, 0.0]]), tf.constant([[0.0, 1.0]])
    assert float(positive_pair(a, b)[0]) == pytest.approx(2)
    assert float(negative_pair(a, b, 2.0)[0]) == pytest.approx((2 - 2**0.5) ** 2, abs=1e-5)
    assert float(positive_pair(a, b, "onecos")[0]) == pytest.approx(1) and float(
        negative_pair(a, b, 2.0, "onecos")[0]
    ) == pytest.approx(1)
    assert float(negative_pair(a, b, 0.0)[0]) == 0  # m = 0: nothing pushes domains apart
    assert float(negative_pair(a, -a, 2.0, "onecos")[0]) == 0  # opposite is far enough


def test_contrastive_by_hand():
    right = tf.constant([[1.0, 0.0]]), tf.constant([[0.0, 1.0]])
    embeddings = Quadruple(source=right[0], fake_target=right[1], target=-right[0], fake_source=right[1])
    # x_S and x_T are opposite; each translation is at a right angle to both
    across, mixed = (2 - 2) ** 2, (2 - 2**0.5) ** 2
    by = {
        (neg, g): float(contrastive(embeddings, GANConfig(neg=neg), for_generator=g)["contrastive"])
        for neg in ("real_real", "fake_real", "espgan")
        for g in (True, False)
    }
    assert (
        by["real_real", True] == by["real_real", False] == pytest.approx((2 + 2 + 2 * across) / 3, abs=1e-4)
    )
    assert by["fake_real", True] == by["fake_real", False] == pytest.approx((2 + 2 + 2 * mixed) / 3, abs=1e-4)
    assert by["espgan", True] == pytest.approx((2 + 2 + mixed) / 4, abs=1e-4) and by[
        "espgan", False
    ] == pytest.approx(4 / 3, abs=1e-4)


@pytest.mark.parametrize("field", ["neg", "dist"])
def test_every_choice_of_a_loss_is_handled(field):
    embeddings = Quadruple(*[tf.constant([[1.0, 0.0]])] * 4)
    for choice in get_args(get_type_hints(GANConfig)[field]):
        config = replace(GANConfig(), **{field: choice})
        assert np.isfinite(contrastive(embeddings, config, for_generator=True)["contrastive"])
    with pytest.raises(ValueError, match="'new'"):
        contrastive(embeddings, replace(GANConfig(), **{field: "new"}), for_generator=True)


def test_discriminator_targets_are_one_for_real_and_zero_for_fake():
    assert float(discriminator_loss(tf.constant([1.0, 0.0]), tf.constant([0.0, 3.0]))) == pytest.approx(
        (0.5 + 4.5) / 2
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_an_iteration_equals_the_released_one(formulas, golden, monkeypatch, batch):
    """Losses of three iterations; translations, gradients and all variables of the first."""
    arrays = golden(f"spgan_steps_{batch}")
    config = GANConfig(g_channels=4, d_channels=4, sia_channels=8, batch=batch, pool="none")
    trainer = Trainer(config, 0)
    for role, network in trainer.networks.items():
        for name, variable in named_variables(network).items():
            variable.assign(formulas.weight(f"{role}/{name}", tuple(variable.shape)))
    masks = np.stack([2.0 * (formulas.scatter(f"mask {tower}", batch, 16) > 0) for tower in "abcd"]).astype(
        np.float32
    )
    monkeypatch.setattr(gan_train, "dropout_factors", lambda *_: masks)
    step_of_g, steps = trainer.generator_step, []
    monkeypatch.setattr(
        trainer, "generator_step", lambda *batch: steps.append(step_of_g(*batch)) or steps[-1]
    )

    for step, expected in enumerate(arrays["losses"]):
        terms = trainer(*images(formulas, batch, 256, step), 0, step)
        ours = [terms[name] * RELEASED_SCALE.get(name, 1) for name in LOSSES]
        np.testing.assert_allclose(ours, expected, rtol=(1e-4, 3e-3, 1e-2)[step], atol=1e-5)
        if step == 0:
            for name, fakes in zip(("fake_target", "fake_source"), steps[0]):
                np.testing.assert_allclose(fakes.numpy().ravel()[::997], arrays[name], rtol=0, atol=2e-5)
            first_moments(trainer, "g", ("g_s2t", "g_t2s"), arrays["g_gradients"], formulas)
            first_moments(trainer, "sianet", ("sianet",), arrays["sia_gradients"], formulas)
            after = {name: value for name, value in trainer.weights().items() if not inert(name)}
            gap = np.abs(formulas.fingerprint(after) - arrays["after_one"])
            # the sign of a gradient that is noise: two steps of Adam
            assert gap.max() < 4.1e-4 and (gap > 5e-5).mean() < 0.05


def first_moments(
    trainer: Trainer, adam: str, roles: tuple[str, ...], expected: np.ndarray, formulas
) -> None:
    """After one step Adam's first moment is half the gradient (beta1 = 0.5)."""
    names = [f"{role}/{name}" for role in roles for name in named_variables(getattr(trainer.networks, role))]
    moments = [v.numpy() for v in trainer.optimizers[adam].variables if v.name.endswith("momentum")]
    assert len(names) == len(moments)
    ours = formulas.fingerprint({name: 2 * moment for name, moment in zip(names, moments) if not inert(name)})
    assert np.linalg.norm(ours - expected) < 5e-3 * np.linalg.norm(expected)
    # float32, back through some thirty layers
    assert (np.abs(ours - expected).max(1) < 3e-2 * np.abs(expected).max(1) + 1e-6).all()


def inert(name: str) -> bool:
    """A bias before an instance norm: its gradient is rounding noise, which Adam amplifies."""
    role, layer, kind = name.split("/")
    return kind == "bias" and (
        role.startswith("g_")
        and layer != "pred_conv"
        or role.startswith("d_")
        and layer in ("h1_conv", "h2_conv", "h3_conv")
    )


def test_each_half_of_a_step_updates_its_own_networks(formulas):
    trainer = Trainer(TINY, 0)
    source, target = images(formulas)
    factors = np.ones((2, 4, 4), np.float32)
    start = trainer.weights()
    fake_target, fake_source, _ = trainer.generator_step(*trainer.split((source, target, factors)))
    middle = trainer.weights()
    assert changed(start, middle) == {"g_s2t", "g_t2s"}
    quadruple = Quadruple(source, fake_target, target, fake_source)
    trainer.others_step(*trainer.split((quadruple, fake_target, fake_source, factors)))
    assert changed(middle, trainer.weights()) == {"d_source", "d_target", "sianet"}


def changed(before: dict, after: dict) -> set[str]:
    return {name.split("/")[0] for name in before if (before[name] != after[name]).any()}


def test_real_negatives_give_the_generators_no_gradient(formulas):
    """The released pairs (x_S, x_T) hold no translation: from the generators' side the margin acts through
    SiaNet alone.
    """
    trainer = Trainer(TINY, 0)
    source, target = map(tf.constant, images(formulas))
    factors = tf.ones((2, 4, 4))
    sizes = {}
    for neg in ("real_real", "fake_real", "espgan"):
        trainer.config = replace(TINY, neg=neg)
        with tf.GradientTape() as tape:
            fake_target, fake_source = trainer.networks.g_s2t(source), trainer.networks.g_t2s(target)
            quadruple = Quadruple(source, fake_target, target, fake_source)
            negative = trainer.contrastive_terms(quadruple, factors, for_generator=True)["negative"]
        gradients = tape.gradient(negative, trainer.variables["g"])
        sizes[neg] = sum(float(tf.reduce_sum(tf.abs(g))) for g in gradients if g is not None)
    assert sizes["real_real"] == 0 and sizes["fake_real"] > 0 and sizes["espgan"] > 0


def test_pools(golden):
    arrays = golden("spgan_data")
    draw = np.random.default_rng(0)

    def returned(kind: str, count: int) -> np.ndarray:
        pool = ImagePool(kind, 50)
        return np.concatenate([pool(np.array([item]), draw) for item in range(count)])

    assert (returned("lag1", 200) == arrays["pool_first"]).all()
    # the second pool differs only in the item that it swaps first
    assert (arrays["pool_second"] == arrays["pool_first"]).sum() == 199
    assert (returned("none", 200) == np.arange(200)).all()
    pool, pairs_of = ImagePool("lag1", 4), np.arange(20).reshape(10, 2)
    later = [pool(items, draw).tolist() for items in pairs_of]
    # once full, each image is swapped with the previous one at its position in the batch
    assert later[:2] == pairs_of[:2].tolist()
    assert later[2:] == [[0, 1], *pairs_of[2:-1].tolist()]
    history, released = returned("history", 2000), arrays["pool_history"]
    for items in (history, released):
        assert (items[:50] == np.arange(50)).all() and abs(
            (items[50:] == np.arange(50, len(items))).mean() - 0.5
        ) < 0.06
        assert len(set(items.tolist())) > 0.8 * len(items)


def test_two_devices_give_the_losses_of_one(formulas):
    """MirroredStrategy over two logical CPU devices, each with half of the batch; dropout is off."""
    config = replace(TINY, sia_dropout="off")
    strategy = tf.distribute.MirroredStrategy(
        [device.name for device in tf.config.list_logical_devices("CPU")]
    )
    assert strategy.num_replicas_in_sync == 2
    one, two = Trainer(config, 0), Trainer(config, 0, strategy)
    for step in range(3):
        batch = images(formulas, step=step)
        alone, shared = one(*batch, 0, step), two(*batch, 0, step)
        assert set(alone) == set(shared) and all(
            shared[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-4) for name in alone
        ), step
    mine, theirs = one.weights(), two.weights()
    assert all(np.abs(mine[name] - theirs[name]).max() < 1e-3 for name in mine if not inert(name))
