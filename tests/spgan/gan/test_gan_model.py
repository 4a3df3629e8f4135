"""Networks: released counts, shapes and values; SiaNet's embedding; foreign checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from common.errors import InputError
from spgan.config import GANConfig
from spgan.gan.model import (
    build_networks,
    discriminator,
    dropout_factors,
    embed,
    generator,
    load_variables,
    metric_net,
    named_variables,
)


def fill(network, formulas) -> None:
    for name, variable in named_variables(network).items():
        variable.assign(formulas.weight(f"{network.name}/{name}", tuple(variable.shape)))


@pytest.mark.parametrize(
    "build, name, variables, parameters",
    [
        (generator, "generator", 94, 11_388_675),
        (discriminator, "discriminator", 16, 2_766_529),
        (metric_net, "sianet", 12, 2_830_464),
    ],
)
def test_full_networks_have_the_released_variables(golden, build, name, variables, parameters):
    network = build(name, GANConfig())
    assert (len(network.trainable_variables), network.count_params()) == (variables, parameters)
    assert golden("spgan_model")[f"count_{name}"].tolist() == [variables, parameters]
    assert (
        network.output_shape[1:]
        == {"generator": (256, 256, 3), "discriminator": (32, 32, 1), "sianet": (64,)}[name]
    )
    if name == "sianet":  # after the last pooling
        assert [layer.output.shape[1:] for layer in network.layers if layer.name.startswith("max_pool")][
            -1
        ] == (1, 1, 512)


def test_kernels_start_as_slims(formulas):
    network = generator("g", GANConfig(height=32, width=32, g_channels=8, blocks=1))
    for name, variable in named_variables(network).items():
        values = variable.numpy()
        if name.endswith("kernel"):
            height, width, a, b = values.shape
            limit = (6 / ((a + b) * height * width)) ** 0.5
            assert 0.9 * limit < np.abs(values).max() <= limit
        elif name.endswith("scale"):
            assert abs(values.mean() - 1) < 0.03 and values.std() < 0.05
        else:
            assert not values.any()


def test_kernels_without_norms_start_wide_enough_to_keep_the_variance():
    """He's uniform limit, sqrt(6 / fan-in), but for the output. Keras takes a deconvolution's outputs for its
    inputs.
    """
    config = GANConfig(height=32, width=32, g_channels=8, blocks=1, g_norm="none")
    for name, variable in named_variables(generator("g", config)).items():
        if name.endswith("kernel") and not name.startswith("pred_conv"):
            limit = (6 / np.prod(variable.shape[:3])) ** 0.5
            assert 0.9 * limit < np.abs(variable.numpy()).max() <= limit, name


@pytest.mark.parametrize(
    "role, output, build, channels, image, tolerance",
    [
        ("g_s2t", "generator", generator, 64, ("image g", 1, 64, 32, 3), 1e-4),
        ("g_t2s", "generator_8", generator, 8, ("image g2", 2, 36, 52, 3), 1e-4),
        ("d_source", "discriminator", discriminator, 64, ("image d", 1, 64, 32, 3), 1e-5),
        ("d_target", "discriminator_8", discriminator, 8, ("image d2", 2, 35, 50, 3), 1e-5),
    ],
)
def test_outputs_equal_the_released_networks(
    formulas, golden, role, output, build, channels, image, tolerance
):
    arrays = golden("spgan_model")
    height, width = image[2:4]
    network = build(role, GANConfig(height=height, width=width, g_channels=channels, d_channels=channels))
    fill(network, formulas)
    ours = network(formulas.scatter(*image).astype(np.float32)).numpy()
    assert ours.shape == tuple(arrays[f"{output}_shape"])
    expected = arrays[output]
    ours = ours if expected.ndim > 1 else ours.ravel()[::7]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


def test_sianet_equals_the_released_one(formulas, golden):
    arrays, network = golden("spgan_model"), metric_net("sianet", GANConfig())
    fill(network, formulas)
    image, none = (
        formulas.scatter("image m", 1, 256, 256, 3).astype(np.float32),
        np.ones((1, 128), np.float32),
    )
    raw, unit = network([image, none]).numpy(), embed(network, tf.constant(image), none).numpy()
    np.testing.assert_allclose(raw, arrays["sianet"], rtol=0, atol=1e-5 * np.abs(raw).max())
    np.testing.assert_allclose(unit, arrays["embedding"], rtol=0, atol=1e-5)
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)


def test_heads_and_smaller_images_with_gradients(formulas):
    small = tf.constant(formulas.scatter("small", 2, 64, 32, 3), tf.float32)
    for head, width in (("released", 4), ("fc64", 4), ("fc128", 8)):
        network = metric_net("sianet", GANConfig(sia_channels=4, sia_head=head))
        with tf.GradientTape() as tape:
            tape.watch(small)
            codes = embed(network, small, np.ones((2, 8), np.float32))
            loss = tf.reduce_sum(codes * tf.constant(formulas.scatter("direction", 2, width), tf.float32))
        assert codes.shape == (2, width) and np.abs(tape.gradient(loss, small)).max() > 0


def test_the_demos_generator_starts_at_the_image(formulas):
    image = formulas.scatter("image", 1, 64, 32, 3).astype(np.float32)
    config = GANConfig(height=64, width=32, g_channels=4, blocks=1, residual=True)
    network = generator("g", config)
    assert np.abs(network(image).numpy() - image).max() < 0.1


def test_dropout_masks():
    draw = np.random.default_rng(0)
    independent, shared, off = (
        dropout_factors(kind, 4, 2, 64, draw) for kind in ("independent", "shared", "off")
    )
    assert set(np.unique(independent)) == {0, 2} and abs(independent.mean() - 1) < 0.2
    assert (
        len({tower.tobytes() for tower in independent}) == 4
        and len({tower.tobytes() for tower in shared}) == 1
    )
    assert shared[0, 0].tobytes() != shared[0, 1].tobytes() and (off == 1).all()


def test_cyclegan_has_no_sianet_and_a_seed_gives_its_weights():
    config = GANConfig(height=16, width=16, g_channels=2, blocks=1, d_channels=2, sia_channels=2, lambda3=0.0)
    first, again, other = (build_networks(config, seed).g_s2t.get_weights()[0] for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any() and build_networks(config, 0).sianet is None


def test_a_checkpoint_of_another_width_is_refused():
    narrow, wide = (
        generator("g", GANConfig(height=16, width=16, g_channels=channels, blocks=1)) for channels in (2, 4)
    )
    arrays = {f"g/{name}": variable.numpy() for name, variable in named_variables(narrow).items()}
    with pytest.raises(
        InputError, match=r"file\.npz: g's c1_conv/kernel should be \(7, 7, 3, 4\), found \(7, 7, 3, 2\)"
    ):
        load_variables(wide, arrays, "file.npz")
