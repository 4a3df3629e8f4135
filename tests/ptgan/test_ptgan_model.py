"""The networks: sizes, TensorFlow's padding, and the released layers' outputs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ptgan.config import PRESETS, GANConfig
from ptgan.model import Deconvolution, Discriminator, Generator, InstanceNorm2d, TransferNetworks, convolution
from ptgan.reid import build_network, googlenet


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_released_sizes():
    with torch.device("meta"):
        generator, discriminator, image = Generator(), Discriminator(), torch.empty(1, 3, 256, 256)
        assert count(generator) == 11_383_424 and count(discriminator) == 2_765_568
        assert generator(image).shape == (1, 3, 256, 256) and discriminator(image).shape == (1, 1, 32, 32)
        symmetric = Discriminator(pad_mode="symmetric")
        assert count(symmetric) == 2_765_568 and symmetric(image).shape == (1, 1, 30, 30)
        assert Generator(pad_mode="symmetric")(image).shape == (1, 3, 256, 256)


@torch.no_grad()
def test_networks_give_the_released_outputs(formulas, golden):
    """TensorFlow's own layers, 8 channels, 32x32, float64."""
    expected = golden("ptgan_steps")
    networks = formulas.fill(TransferNetworks(GANConfig(channels=8, d_channels=8))).double()
    source, target = (
        formulas.scattered(f"{domain} 0", 2, 3, 32, 32).double() for domain in ("source", "target")
    )
    np.testing.assert_allclose(networks.g_s2t(source), expected["fake_target"], atol=1e-7)
    np.testing.assert_allclose(networks.g_t2s(target), expected["fake_source"], atol=1e-7)
    np.testing.assert_allclose(networks.d_target(target), expected["scores"], atol=1e-6)


@torch.no_grad()
def test_symmetric_padding_is_another_network(formulas):
    """With PyTorch's usual padding, the same weights make other pictures."""
    same, symmetric = (Generator(channels=8, blocks=2, pad_mode=mode) for mode in ("tf_same", "symmetric"))
    for parameter, other in zip(formulas.fill(same).parameters(), symmetric.parameters()):
        other.copy_(parameter)
    source = formulas.scattered("source 0", 2, 3, 32, 32)
    assert (same(source) - symmetric(source)).abs().max() > 0.1


def test_all_four_networks_pad_as_configured():
    """TensorFlow's padding is uneven: only its networks pad in a layer of their own, or drop a row."""
    for mode, uneven in (("tf_same", True), ("symmetric", False)):
        networks = TransferNetworks(GANConfig(channels=2, blocks=1, d_channels=2, pad_mode=mode))
        for network in networks.children():
            assert any(isinstance(module, nn.ZeroPad2d) for module in network.modules()) is uneven
        assert all(m.crop is uneven for m in networks.modules() if isinstance(m, Deconvolution))


@pytest.mark.parametrize("kernel, stride, before, after", [(3, 2, 0, 1), (4, 2, 1, 1), (4, 1, 1, 2)])
@torch.no_grad()
def test_same_padding(formulas, kernel, stride, before, after):
    x = formulas.scattered("x", 1, 2, 8, 8)
    layer = convolution(2, 3, kernel, stride, "tf_same")
    formulas.fill(layer)
    weight = next(layer.parameters())
    assert torch.allclose(
        layer(x), F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=stride), atol=1e-6
    )
    assert layer(x).shape[2:] == (8 // stride, 8 // stride)


@torch.no_grad()
def test_same_deconvolution_is_the_adjoint_of_the_same_convolution(formulas):
    """<conv(x), y> = <x, deconv(y)> with one weight, which is TensorFlow's definition."""
    conv, deconv = convolution(2, 3, 3, 2, "tf_same"), Deconvolution(3, 2, "tf_same")
    formulas.fill(conv)
    deconv.conv.weight.copy_(next(conv.parameters()))
    conv, deconv = conv.double(), deconv.double()
    x, y = formulas.scattered("x", 1, 2, 8, 8).double(), formulas.scattered("y", 1, 3, 4, 4).double()
    assert torch.allclose((conv(x) * y).sum(), (x * deconv(y)).sum(), rtol=1e-9)
    assert Deconvolution(3, 2, "symmetric").double()(y).shape == deconv(y).shape == (1, 2, 8, 8)


def test_instance_norm(formulas):
    norm, x = InstanceNorm2d(3), 5 * formulas.scattered("x", 2, 3, 8, 4) + 2
    mean, variance = x.mean(dim=(2, 3), keepdim=True), x.var(dim=(2, 3), unbiased=False, keepdim=True)
    expected = norm.scale.view(3, 1, 1) * (x - mean) / (variance + 1e-5).sqrt() + norm.offset.view(3, 1, 1)
    assert torch.allclose(norm(x), expected, atol=1e-5)


def test_released_start():
    torch.manual_seed(0)
    generator = Generator(channels=16, blocks=2)
    weights = torch.cat(
        [m.weight.flatten() for m in generator.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    )
    # N(0, 0.02^2), truncated at two standard deviations, has a standard deviation of 0.0176
    assert weights.abs().max() <= 0.04 and 0.016 < weights.std() < 0.019
    scales = torch.cat([m.scale for m in generator.modules() if isinstance(m, InstanceNorm2d)])
    assert abs(scales.mean() - 1) < 0.01 and 0.015 < scales.std() < 0.025


@torch.no_grad()
def test_the_demos_generator_starts_at_its_input(formulas):
    torch.manual_seed(0)
    x = formulas.scattered("x", 2, 3, 64, 32)
    change = (TransferNetworks(PRESETS["demo"].gan).g_s2t(x) - x).abs()
    assert 0 < change.mean() < 0.1
    plain = TransferNetworks(GANConfig(channels=8, blocks=1)).g_s2t(x)
    assert (plain - x).abs().mean() > 0.3


def test_googlenet_is_a_backbone_of_1024_features(formulas):
    with torch.device("meta"):
        backbone = googlenet()
    assert backbone.num_features == 1024 and "fc.weight" not in backbone.state_dict()
    small = build_network(PRESETS["demo"].net, 7).eval()
    x = formulas.scattered("x", 2, 3, 64, 32)
    assert small(x).shape == (2, 7) and torch.allclose(small.pool5(x).norm(dim=1), torch.ones(2))
