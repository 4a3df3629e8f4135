"""The DCGAN against arrays computed with the authors' two TensorFlow codes, and what a step and a pool must
be.
"""

import dataclasses
import random

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError
from common.job import Workspace
from dcgan_lsro.config import GANConfig, PoolConfig
from dcgan_lsro.dcgan.losses import discriminator_losses, generator_loss
from dcgan_lsro.dcgan.model import Discriminator, Generator, SameConv2d, SameDeconv2d
from dcgan_lsro.dcgan.sample import FOLDER, diversity, file_name, sample, to_uint8
from dcgan_lsro.dcgan.train import DCGAN, GanTransform, batches, build_dcgan, draw_z, train_step

CPU = torch.device("cpu")
SMALL = GANConfig(height=64, width=32, g_channels=2, d_channels=2)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).float()


# ---------------------------------------------------------------- the networks


@pytest.mark.parametrize(
    "network, generator, discriminator", [("paper", 19_072_749, 17_435_009), ("fork", 7_617_539, 4_341_121)]
)
def test_parameter_counts(network, generator, discriminator):
    with torch.device("meta"):
        config = GANConfig(network=network)
        assert parameters(Generator(config)) == generator
        assert parameters(Discriminator(config)) == discriminator


@pytest.mark.parametrize("network", ["paper", "fork"])
def test_outputs_equal_the_released_networks(formulas, golden, network):
    expected = golden("dcgan_lsro_dcgan")
    config = GANConfig(network=network)
    generator, discriminator = Generator(config), Discriminator(config)
    formulas.fill(generator)
    formulas.fill(discriminator)
    z, real = tensor(formulas.scatter("z 0", 4, 100)), tensor(formulas.scatter("real 0", 4, 3, 128, 128))
    with torch.no_grad():
        if network == "fork":  # its sampler uses running statistics, which the forward pass below moves
            np.testing.assert_allclose(
                generator.eval()(z).flatten()[::997], expected["fork_sampler"], rtol=0, atol=1e-4
            )
        images = generator.train()(z)
        found = {
            "images": images.flatten()[::997],
            "real": discriminator(real),
            "fake": discriminator(images),
        }
    assert images.shape == (4, 3, 128, 128) and images.abs().max() <= 1
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[f"{network}_{name}"], rtol=0, atol=1e-4)
    if network == "paper":
        # the sampler that forgot train=False
        assert np.array_equal(expected["paper_sampler"], expected["paper_images"])


def test_three_iterations_equal_the_released_ones(formulas, golden):
    expected = golden("dcgan_lsro_dcgan")
    config = GANConfig(height=32, width=32, g_channels=4, d_channels=4)
    generator, discriminator = (net(config).double() for net in (Generator, Discriminator))
    optimizers = []
    for net in (generator, discriminator):
        formulas.fill(net)
        optimizers.append(torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999), eps=1e-30))
    for t in range(3):
        real, z = (
            torch.from_numpy(formulas.scatter(*shape))
            for shape in ((f"real {t}", 4, 3, 32, 32), (f"z {t}", 4, 100))
        )
        terms = train_step(DCGAN(generator, discriminator, *optimizers), real, z)
        losses = [value.item() for value in terms.values()]
        np.testing.assert_allclose(losses, expected["train_losses"][t], rtol=1e-6, atol=1e-6)
    for name, net in (("generator", generator), ("discriminator", discriminator)):
        cancelled = {
            f"{layer}.bias"
            for layer, module in net.named_modules()
            if isinstance(module, (SameConv2d, SameDeconv2d))
        }
        cancelled = cancelled - {"convolutions.0.bias"} | ({"project.bias"} if name == "generator" else set())
        after = {key: p for key, p in net.named_parameters() if key not in cancelled}
        np.testing.assert_allclose(formulas.fingerprint(after), expected[f"{name}_after"], rtol=0, atol=1e-6)


def test_same_padding_is_not_torchs_padding_of_two():
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 3, 3] = 1
    conv, deconv = SameConv2d(1, 1), SameDeconv2d(1, 1)
    for layer in (conv, deconv):
        torch.nn.init.zeros_(layer.bias)
        layer.weight.data.copy_(torch.arange(25.0).view(1, 1, 5, 5))
    # out[o] = sum_k w[k] x[2 o + k - 1] and, transposed, out[2 i + k - 1] += w[k] x[i]
    assert conv(x)[0, 0, 1].tolist() == [5 * 2 + 4, 5 * 2 + 2, 5 * 2 + 0, 0.0]
    assert deconv(x)[0, 0, 5, 5:10].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0] and deconv(x).shape == (
        1,
        1,
        16,
        16,
    )


def test_the_orders_of_relu_and_batch_norm_differ():
    outputs = []
    for order in ("bn_relu", "relu_bn"):
        torch.manual_seed(0)
        outputs.append(Generator(dataclasses.replace(SMALL, order=order))(draw_z(4, 100, 0, "test", 0)))
    assert outputs[0].shape == (4, 3, 64, 32) and not torch.allclose(*outputs)


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_a_size_that_does_not_divide_is_refused(network):
    with pytest.raises(InputError, match="multiples of 32"):
        network(GANConfig(height=72, width=36))


# ---------------------------------------------------------------- a step


def small_dcgan() -> DCGAN:
    torch.manual_seed(0)
    return build_dcgan(dataclasses.replace(SMALL, lr=1e-3), CPU)


@pytest.mark.parametrize("g_steps", [1, 2])
def test_a_step_is_one_of_d_and_g_steps_of_g_with_the_same_noise(g_steps, formulas):
    gan = small_dcgan()
    seen = []
    gan.generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    z = draw_z(4, 100, 0, "test", 0)
    train_step(gan, tensor(formulas.scatter("x", 4, 3, 64, 32)), z, g_steps)
    assert len(seen) == 1 + g_steps and all(x is z for x in seen)
    counts = [
        {int(state["step"]) for state in optimizer.state.values()}
        for optimizer in (gan.g_optimizer, gan.d_optimizer)
    ]
    assert counts == [{g_steps}, {1}]
    assert all(p.requires_grad for p in gan.discriminator.parameters())


def test_each_optimizer_moves_its_own_network_alone(formulas, monkeypatch):
    gan = small_dcgan()
    nets = gan.generator, gan.discriminator
    moves = []

    def watched(number, step):
        def moving():
            before = [[p.clone() for p in net.parameters()] for net in nets]
            step()
            moves.append(
                (
                    number,
                    [
                        any(not torch.equal(a, b) for a, b in zip(old, net.parameters()))
                        for old, net in zip(before, nets)
                    ],
                )
            )

        return moving

    for number, optimizer in enumerate((gan.g_optimizer, gan.d_optimizer)):
        monkeypatch.setattr(optimizer, "step", watched(number, optimizer.step))
    train_step(gan, tensor(formulas.scatter("x", 4, 3, 64, 32)), draw_z(4, 100, 0, "test", 0))
    assert moves == [(1, [False, True]), (0, [True, False]), (0, [True, False])]  # D, then G twice


def test_losses_are_sigmoid_cross_entropies():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    ones, zeros = torch.ones(2), torch.zeros(2)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    assert torch.stack(discriminator_losses(real, fake)).tolist() == pytest.approx(
        [bce(real, ones).item(), bce(fake, zeros).item()]
    )
    assert generator_loss(fake).item() == pytest.approx(bce(fake, ones).item())


def test_without_shuffle_the_same_batches_come_in_every_epoch():
    indices, steps_per_epoch = batches(GANConfig(batch=4, shuffle=False), 10, seed=0)
    assert steps_per_epoch == 2
    # 8 and 9 are never seen
    assert [indices(step).tolist() for step in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    indices, _ = batches(GANConfig(batch=4), 10, seed=0)
    assert indices(0).tolist() != indices(2).tolist()


def test_the_gan_sees_the_whole_image_mirrored_half_the_time():
    image = Image.fromarray(np.arange(64 * 32 * 3, dtype=np.uint32).reshape(64, 32, 3).astype(np.uint8))
    plain = GanTransform(64, 32, flip=False)(image, random.Random(0))
    assert plain[:, 0, 0].tolist() == pytest.approx([-1.0, 1 / 127.5 - 1, 2 / 127.5 - 1])  # x / 127.5 - 1
    flips = [not torch.equal(GanTransform(64, 32)(image, random.Random(seed)), plain) for seed in range(40)]
    assert 10 < sum(flips) < 30
    assert GanTransform(128, 128)(image, random.Random(0)).shape == (3, 128, 128)


# ---------------------------------------------------------------- the pool


def test_noise_is_uniform_and_a_function_of_the_step():
    z = draw_z(1000, 100, 0, "pool", 3)
    assert -1 <= z.min() < -0.999 and 0.999 < z.max() <= 1 and abs(z.mean()) < 0.01
    assert torch.equal(z[:5], draw_z(1000, 100, 0, "pool", 3)[:5]) and not torch.equal(
        z[0], draw_z(1000, 100, 0, "pool", 4)[0]
    )


def test_a_generated_image_depends_on_its_batch_mates_only_with_batch_statistics():
    torch.manual_seed(0)
    generator = Generator(SMALL)
    a, b = draw_z(8, 100, 0, "a", 0), draw_z(8, 100, 0, "b", 0)
    b[0] = a[0]
    with torch.no_grad():
        assert not torch.equal(generator(a)[0], generator(b)[0])
        assert torch.allclose(generator.eval()(a)[0], generator(b)[0], atol=1e-6)


def test_stretch_and_fixed_range():
    image = torch.tensor([-0.8, 0.0, 0.6]).view(1, 3, 1, 1)
    assert to_uint8(image, "stretch").ravel().tolist() == [0, 146, 255]
    assert to_uint8(image, "fixed").ravel().tolist() == [25, 128, 204]


def draw(tmp_path, name: str, count: int, **changes):
    torch.manual_seed(0)
    generator = Generator(SMALL)
    work = Workspace(tmp_path / name, seed=7, device=CPU)
    work.folder.mkdir(exist_ok=True)
    pool = PoolConfig(**{"batch": 4, "height": 16, "width": 8, **changes})
    sample(generator, pool, count, work, checkpoint_hash="abc")
    return work.folder / FOLDER


def test_pools_are_nested_resumable_and_have_a_manifest(tmp_path):
    whole = draw(tmp_path, "whole", 10)
    names = sorted(path.name for path in whole.iterdir())
    assert names == [file_name(i, PoolConfig()) for i in range(10)]
    assert '"checkpoint": "abc"' in (whole.parent / "manifest.json").read_text(encoding="utf-8")
    with Image.open(whole / names[0]) as image:
        assert image.size == (8, 16)
    smaller = draw(tmp_path, "smaller", 5)  # the first five of the same pool, although a batch is cut
    assert all((smaller / name).read_bytes() == (whole / name).read_bytes() for name in names[:5])
    bytes_before = (whole / names[6]).read_bytes()
    (whole / names[6]).unlink()  # as after a kill: its batch is drawn again
    (whole / names[0]).write_bytes(b"kept")
    draw(tmp_path, "whole", 10)
    assert (whole / names[6]).read_bytes() == bytes_before and (whole / names[0]).read_bytes() == b"kept"


def test_the_spread_of_a_pool_passes_over_hidden_files(tmp_path):
    folder = draw(tmp_path, "pool", 3)
    images = sorted(folder.iterdir())
    before = diversity(folder, images)
    (folder / ".gan_000000.png.x1y2z3").write_bytes(b"a write that was killed")
    assert diversity(folder, images) == before


def test_jpeg_and_running_statistics(tmp_path):
    jpeg = draw(tmp_path, "jpeg", 2, format="jpeg")
    assert sorted(path.name for path in jpeg.iterdir()) == ["gan_000000.jpg", "gan_000001.jpg"]
    batch, running = draw(tmp_path, "batch", 1), draw(tmp_path, "running", 1, gen_bn="running")
    assert (batch / "gan_000000.png").read_bytes() != (running / "gan_000000.png").read_bytes()
