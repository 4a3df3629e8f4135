"""Ours in the DCGAN: augmented images for D, resizes for deconvolutions, averaged weights, a judge; and what
the released code's own Adam and batch norm do.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from common.checkpoints import load_checkpoint
from common.datasets import Sample
from common.hashing import digest
from common.job import Workspace
from common.training import Loop
from dcgan_lsro import judges
from dcgan_lsro import train as training
from dcgan_lsro.config import PRESETS, GANConfig, NetConfig, PoolConfig, RecipeConfig
from dcgan_lsro.dcgan.augment import AugmentedDiscriminator, augment, holes
from dcgan_lsro.dcgan.model import Discriminator, Generator, ResizeConv2d, SameDeconv2d
from dcgan_lsro.dcgan.sample import FOLDER, sample, to_uint8
from dcgan_lsro.dcgan.train import TensorFlowAdam, build_dcgan, draw_z, train_dcgan, train_step
from dcgan_lsro.judges import covered, evenly, largest_mode, precision_and_recall
from dcgan_lsro.model import DeviationNorm2d, build_network

CPU = torch.device("cpu")
SMALL = GANConfig(height=64, width=32, g_channels=2, d_channels=2)


def test_the_new_switches_are_off_and_leave_hashes_as_they_were():
    off = GANConfig(
        upsampling="deconvolution",
        augment_d=False,
        average=0.0,
        judge_steps=0,
        adam="pytorch",
        precision="fp32",
    )
    assert digest(GANConfig()) == digest(off) != digest(GANConfig(augment_d=True))


# ---------------------------------------------------------------- the generator


def test_a_resize_counts_every_pixel_alike_and_a_deconvolution_does_not():
    outputs = {}
    for kind in (ResizeConv2d, SameDeconv2d):
        layer = kind(1, 1)
        for parameter in layer.parameters():
            torch.nn.init.constant_(parameter, float(parameter.ndim == 4))
        outputs[kind] = layer(torch.ones(1, 1, 8, 4)).detach()
        assert outputs[kind].shape == (1, 1, 16, 8)
    inside = (slice(None), slice(None), slice(4, 12), slice(2, 6))
    assert outputs[ResizeConv2d][inside].unique().tolist() == [9.0]
    assert outputs[SameDeconv2d][inside].unique().tolist() == [4.0, 6.0, 9.0]  # a checkerboard


@pytest.mark.parametrize("network", ["paper", "fork"])
def test_a_generator_of_resizes_has_no_deconvolution_of_stride_2(network):
    generator = Generator(GANConfig(network=network, height=64, width=32, g_channels=2, upsampling="resize"))
    assert generator(draw_z(3, 100, 0, "test", 0)).shape == (3, 3, 64, 32)
    assert not any(isinstance(module, SameDeconv2d) for module in generator.modules())
    convolutions = [m for m in generator.modules() if type(m) is torch.nn.Conv2d]
    assert len(convolutions) == {"paper": 5, "fork": 4}[network]
    assert all(0.01 < m.weight.std() < 0.03 and m.bias.abs().max() == 0 for m in convolutions)


# ---------------------------------------------------------------- the augmentation


def test_augmented_images_are_shifted_and_have_one_hole(formulas):
    torch.manual_seed(1)
    images = torch.from_numpy(formulas.scatter("images", 16, 3, 64, 32)) * 0.4 + 0.55  # only the hole is 0
    images.requires_grad_(True)
    seen = augment(images)
    assert seen.shape == images.shape
    shifts = set()
    for original, augmented in zip(images.detach(), seen.detach()):
        padded = F.pad(original[None], (4, 4, 8, 8), "reflect")[0]
        outside = ~(augmented == 0).all(0)
        places = [
            (down, across)
            for down in range(17)
            for across in range(9)
            if torch.equal(
                padded[:, down : down + 64, across : across + 32][:, outside], augmented[:, outside]
            )
        ]
        assert len(places) == 1
        shifts.update(places)
    assert len(shifts) > 10
    seen.sum().backward()
    assert (images.grad.flatten(1).sum(1) > 0).all()
    torch.manual_seed(1)
    assert torch.equal(augment(images), seen)


def test_a_hole_is_half_as_high_and_wide_as_the_image_and_centred_anywhere():
    torch.manual_seed(0)
    masks = 1 - holes(4000, 8, 4)[:, 0]
    rows, columns = masks.amax(2).sum(1), masks.amax(1).sum(1)
    assert (masks.sum((1, 2)) == rows * columns).all()  # a rectangle
    assert set(rows.tolist()) == {2, 3, 4} and set(columns.tolist()) == {1, 2}  # cut at the border
    assert 0.15 < masks.mean() < 0.25 and (masks.mean(0) > 0.05).all()


def test_d_sees_augmented_images_only():
    torch.manual_seed(0)
    plain, augmented = Discriminator(SMALL), AugmentedDiscriminator(SMALL)
    augmented.load_state_dict(plain.state_dict())
    images = torch.rand(4, 3, 64, 32)
    torch.manual_seed(2)
    found = augmented(images)
    torch.manual_seed(2)
    assert torch.equal(found, plain(augment(images)))
    assert isinstance(build_dcgan(GANConfig(augment_d=True), CPU).discriminator, AugmentedDiscriminator)


# ---------------------------------------------------------------- the average


def test_the_average_follows_g_and_generates_the_pool(formulas):
    torch.manual_seed(0)
    config = GANConfig(height=64, width=32, g_channels=2, d_channels=2, lr=1e-2, average=0.75)
    gan = build_dcgan(config, CPU)
    real = torch.from_numpy(formulas.scatter("x", 4, 3, 64, 32)).float()
    weights = []
    for step in range(3):
        train_step(gan, real, draw_z(4, 100, 0, "test", step))
        weights.append(gan.generator.project.weight.detach().clone())
    expected = weights[0]
    for later in weights[1:]:
        expected = 0.75 * expected + 0.25 * later
    assert torch.allclose(gan.average.module.project.weight, expected, atol=1e-7)
    assert set(gan.state) == {"generator", "discriminator", "g_optimizer", "d_optimizer", "average"}
    assert set(build_dcgan(SMALL, CPU).state) == set(gan.state) - {"average"}


def test_a_killed_training_of_ours_continues_bit_by_bit(formulas, tmp_path, monkeypatch):
    """The places of holes and shifts, and the average, are part of what is saved."""
    samples = []
    for n in range(10):
        pixels = (127 * (1 + formulas.scatter(f"image {n}", 16, 16, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        samples.append(Sample(tmp_path / f"{n}.png", n, 0))
    size = {"network": "fork", "height": 16, "width": 16, "z_dim": 4, "g_channels": 2, "d_channels": 2}
    config = GANConfig(**size, epochs=3, batch=5, upsampling="resize", augment_d=True, average=0.9)

    def train(name: str, *, resume: bool = False) -> dict:
        work = Workspace(tmp_path / name, resume=resume, seed=0, device=CPU)
        work.folder.mkdir(exist_ok=True)
        train_dcgan(config, samples, work)
        return load_checkpoint(work.folder / "generator.pt")

    def killed(self, step, **terms):
        if step == 3:
            raise SystemError("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(Loop, "log", killed)
        train("broken")
    whole, resumed = train("whole"), train("broken", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


# ---------------------------------------------------------------- as released


def test_tensorflows_adam_adds_epsilon_before_the_correction():
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = TensorFlowAdam([parameter], lr=0.1, betas=(0.5, 0.9))
    m, v, expected = np.zeros(3), np.zeros(3), np.zeros(3)
    for t in range(1, 5):
        gradient = np.array([1e-9, 1e-8, 1e-7]) * t  # of epsilon's size
        m, v = 0.5 * m + 0.5 * gradient, 0.9 * v + 0.1 * gradient**2
        expected -= 0.1 * (1 - 0.9**t) ** 0.5 / (1 - 0.5**t) * m / (np.sqrt(v) + 1e-8)
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        assert np.allclose(parameter.detach().numpy(), expected, rtol=1e-9)


def test_a_resumed_tensorflow_adam_continues():
    def steps(optimizer, parameter, count: int) -> None:
        for _ in range(count):
            parameter.grad = torch.full((1,), 1e-8)
            optimizer.step()

    whole, broken = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    steps(TensorFlowAdam([whole]), whole, 5)
    first, second = TensorFlowAdam([broken]), TensorFlowAdam([broken])
    steps(first, broken, 2)
    second.load_state_dict(first.state_dict())
    steps(second, broken, 3)
    assert torch.equal(whole, broken)


def test_the_running_deviation_is_averaged_as_in_matconvnet(formulas):
    net = NetConfig(backbone="thin", weights="none", bn_average="deviation", bn_momentum=0.25)
    norm = build_network(net, 3).base.bn1.double()
    assert isinstance(norm, DeviationNorm2d)
    mean, deviation = np.zeros(16), np.sqrt(np.ones(16) + 1e-5)
    for step in range(3):
        x = formulas.scatter(f"x {step}", 4, 16, 3, 2) * (step + 1) + step
        out = norm(torch.from_numpy(x))
        batch = x.mean((0, 2, 3)), np.sqrt(x.var((0, 2, 3)) + 1e-5)  # over n
        mean, deviation = 0.75 * mean + 0.25 * batch[0], 0.75 * deviation + 0.25 * batch[1]
        expected = (x - batch[0][:, None, None]) / batch[1][:, None, None]
        assert np.allclose(out.detach().numpy(), expected)
    x = formulas.scatter("x", 2, 16, 3, 2)
    expected = (x - mean[:, None, None]) / deviation[:, None, None]
    assert np.allclose(norm.eval()(torch.from_numpy(x)).detach().numpy(), expected)


def test_the_released_pseudo_label_network_trains_conv1_ten_times_as_fast():
    released = PRESETS["released"]
    model = build_network(NetConfig(backbone="thin", weights="none"), 3)
    rates = {}
    for loss in ("lsro", "pseudo"):
        method = training.MethodConfig(loss=loss)
        optimizer = training.build_optimizer(released.recipe, method, model)
        rates[loss] = {g["name"]: (g["lr"], g["initial_lr"]) for g in optimizer.param_groups}
    assert rates["lsro"]["conv1"] == pytest.approx((1e-5, 1e-5))
    assert rates["pseudo"].pop("conv1") == pytest.approx((1e-4, 1e-4))
    assert rates["pseudo"] == {name: rate for name, rate in rates["lsro"].items() if name != "conv1"}
    assert RecipeConfig().pseudo_conv1_rate is None


def test_each_image_of_a_batch_has_its_own_range():
    images = torch.tensor([[-0.8, 0.0, 0.6], [-0.1, 0.0, 0.1]]).view(2, 3, 1, 1)
    assert to_uint8(images, "stretch").reshape(2, 3).tolist() == [[0, 146, 255], [0, 128, 255]]


@pytest.mark.parametrize("gen_bn", ["batch", "running"])
def test_the_pool_has_the_statistics_that_gen_bn_names(gen_bn, tmp_path):
    torch.manual_seed(0)
    generator, pool = Generator(SMALL), PoolConfig(gen_bn=gen_bn, batch=4, height=64, width=32)
    sample(generator, pool, 4, Workspace(tmp_path, seed=0, device=CPU), checkpoint_hash="")
    with torch.no_grad():
        images = generator.train(gen_bn == "batch")(draw_z(4, 100, 0, "pool", 0))
    found = [np.asarray(Image.open(path)) for path in sorted((tmp_path / FOLDER).iterdir())]
    assert np.array_equal(np.stack(found), to_uint8(images, "fixed"))


# ---------------------------------------------------------------- the judge


def test_precision_is_the_share_of_generated_images_that_real_ones_cover_and_recall_the_reverse():
    real = np.array(
        [[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]]
    )  # balls of radius 2 and 1 to the neighbours
    generated = np.array([[1.5], [1.6], [1.7], [50.0]])
    precision, recall = precision_and_recall(real, generated, neighbours=1)
    assert precision == 3 / 4  # all but 50
    assert recall == 4 / 6  # the ball of radius 48.3 about 50 reaches down to 1.7
    assert precision_and_recall(real, real, neighbours=1) == (1.0, 1.0)
    assert precision_and_recall(real, real[:3], neighbours=1) == (1.0, 0.5)  # one of two modes
    assert covered(np.array([[2.9], [3.1]]), real[:3], neighbours=1) == 0.5
    assert covered(np.array([[2.9], [3.1]]), real[:3], neighbours=2) == 1.0  # 2.0 reaches to 0.0


def test_the_largest_mode_is_the_most_frequent_nearest_person():
    real, people = np.array([[0.0], [1.0], [5.0], [9.0]]), np.array([4, 4, 6, 8])
    generated = np.array([[0.2], [1.1], [0.9], [5.2], [8.0]])
    assert largest_mode(real, people, generated) == 3 / 5


def test_at_most_a_thousand_images_are_compared():
    rows = np.arange(2500.0)[:, None]
    assert (
        len(evenly(rows)) == 1000 and evenly(rows)[-1] == 2499 and np.array_equal(evenly(rows[:9]), rows[:9])
    )


def test_references_are_halves_of_the_people_and_halves_of_the_images(formulas, monkeypatch):
    train = [Sample(Path(f"{pid}_{n}.jpg"), pid, n % 2) for pid in (3, 5, 6, 9) for n in range(3)]
    images, drawn = formulas.scatter("images", 12, 3), formulas.scatter("drawn", 7, 3)
    monkeypatch.setattr(judges, "embed", lambda _, paths, device: images if paths is train else drawn)
    monkeypatch.setattr(judges, "share_found", lambda *_: 0.25)
    found = judges.judged(SimpleNamespace(features=None), train, [Path("drawn.png")] * 7, CPU)

    pids, of_3_and_6 = np.repeat([3, 5, 6, 9], 3), np.repeat([True, False, True, False], 3)
    expected = {"judge_rank1": 0.25}
    for name, real, people, others in (
        ("gan", images, pids, drawn),
        ("real", images[of_3_and_6], pids[of_3_and_6], images[~of_3_and_6]),
        ("copies", images[0::2], pids[0::2], images[1::2]),
    ):
        expected[f"{name}_precision"], expected[f"{name}_recall"] = precision_and_recall(real, others)
        expected[f"{name}_mode"] = largest_mode(real, people, others)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def judged(draw_data_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    tiny = (
        "--recipe.epochs 1 --recipe.drop-epoch 1 --dcgan.epochs 1 --dcgan.batch 16 --dcgan.g-channels 2 "
        "--dcgan.d-channels 2 --pool.batch 16 --pool.amount 0.1 --method.amount 0.1 --threads 1"
    ).split()
    data = ["--source", "market1501", "--target", "market1501", "--data-root", str(draw_data_root())]
    command = [*data, "--out", str(out), "--experiment", "dcgan_lsro/table2/lsro=24000", *tiny]
    ours = "--dcgan.upsampling resize --dcgan.augment-d --dcgan.average 0.9".split()
    for flags in (ours, [*ours, "--dcgan.judge-steps", "2"]):
        assert training.main([*command, *flags]) == 0
    return out


def test_a_row_with_a_judge_records_what_it_saw(judged):
    records = [json.loads(path.read_text(encoding="utf-8")) for path in judged.rglob("record.json")]
    record = max(records, key=lambda record: len(record["stages"]))
    assert {"person-judge", "judged"} <= set(record["stages"])
    kinds = ("precision", "recall", "mode")
    names = {f"{of}_{kind}" for of in ("gan", "real", "copies") for kind in kinds}
    measures = record["measures"]
    assert names | {"judge_rank1", "gan_spread", "real_spread"} <= set(measures)
    assert all(0 <= measures[name] <= 1 for name in (*names, "judge_rank1"))


def test_the_judge_is_no_part_of_the_gan(judged):
    assert len(list(judged.glob("stages/dcgan-*/stage.json"))) == 1  # of both runs, with and without it
    (judge,) = judged.glob("stages/person-judge-*/judge.pt")
    people = load_checkpoint(judge)["classifier.weight"].shape[0]
    assert people == 4  # of the gallery
