"""Both training loops against loops written again in float64, with every pair of settings different.

A swapped label, image or mask, a missing or wrongly weighted term, a rate that does not drop, a moment or a
decay that is ignored moves the weights away from those of the second loop by more than its rounding.
"""

from __future__ import annotations

import dataclasses
import json
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.checkpoints import load_checkpoint
from common.datasets import ReIDDataset, Sample
from common.job import Workspace
from dcgan_lsro import data
from dcgan_lsro import train as training
from dcgan_lsro.config import GANConfig, LSROConfig, MethodConfig, NetConfig, RecipeConfig
from dcgan_lsro.data import held_out, matched_count
from dcgan_lsro.dcgan import train as dcgan_training
from dcgan_lsro.dcgan.model import Discriminator, Generator
from dcgan_lsro.model import build_network

CPU, SEED = torch.device("cpu"), 3
NET = NetConfig(
    backbone="thin",
    weights="none",
    height=24,
    width=16,
    resize_height=27,
    resize_width=20,
    dropout=0.3,
    bn_momentum=0.2,
)
RECIPE = RecipeConfig(
    epochs=2,
    drop_epoch=1,
    batch=7,
    base_lr=0.02,
    lr_groups="released",
    momentum=0.8,
    weight_decay=0.03,
    pseudo_weight_decay=0.05,
    pseudo_conv1_rate=0.3,
)
METHODS = {
    "lsro": MethodConfig("lsro", amount=0.3, eps=0.1, gan_weight=0.6),
    "all_in_one": MethodConfig("all_in_one", amount=0.3, eps=0.1),
    "pseudo": MethodConfig("pseudo", amount=0.3, eps=0.1, pseudo_weight=0.4, pseudo_start=1),
    "released": MethodConfig("pseudo", amount=0.3, eps=0.1, pseudo="released", pseudo_start=1),
    "step_matched": MethodConfig("none", amount=0.3, step_matched=True),
}


def pixels(formulas, name: str, height: int = 32, width: int = 18) -> Image.Image:
    values = formulas.scatter(name, height, width, 3)
    return Image.fromarray((127.5 * (values + 1)).astype(np.uint8))


@pytest.fixture
def people(formulas, tmp_path) -> tuple[ReIDDataset, list[Sample]]:
    """Three people with 10, 11 and 4 images, and 8 unlabelled ones."""
    samples = []
    for pid, count in ((4, 10), (7, 11), (9, 4)):
        for number in range(count):
            samples.append(Sample(tmp_path / f"{pid}_{number:02}.png", pid, number % 2))
    unlabelled = [Sample(tmp_path / f"gan_{n}.png", -1, -1, origin="generated") for n in range(8)]
    for sample in (*samples, *unlabelled):
        pixels(formulas, sample.path.name).save(sample.path)
    return ReIDDataset("toy", tmp_path, samples, [], [], 2), unlabelled


@pytest.fixture
def float64(monkeypatch):
    """New networks, images and noise are float64."""
    for module in (data, dcgan_training):
        normalise = module.normalise
        monkeypatch.setattr(module, "normalise", lambda *args, f=normalise: f(*args).double())
    draw_z = dcgan_training.draw_z
    monkeypatch.setattr(dcgan_training, "draw_z", lambda *args: draw_z(*args).double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def stream(name: str, *place: int) -> np.random.Generator:
    return np.random.default_rng((SEED, zlib.crc32(name.encode()), *place))


# ---------------------------------------------------------------- the re-ID network


def crop(path: Path, rng: random.Random) -> torch.Tensor:
    """Resized to 27x20, a window of 24x16 anywhere, mirrored half the time, normalised."""
    image = np.asarray(Image.open(path).resize((20, 27), Image.Resampling.BICUBIC))
    left, top, mirrored = rng.randint(0, 4), rng.randint(0, 3), rng.random() < 0.5
    window = image[top : top + 24, left : left + 16]
    window = window[:, ::-1] if mirrored else window
    return normalised(window, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalised(image: np.ndarray, mean: tuple, std: tuple) -> torch.Tensor:
    """Rounded to float32 as the loader's images are: (pixel / 255 - mean) / std."""
    scale, shift = 1 / (255 * np.array(std)), np.array(mean) / np.array(std)
    values = image * scale.astype(np.float32) - shift.astype(np.float32)
    return torch.from_numpy(values.astype(np.float32).transpose(2, 0, 1).copy()).double()


def batches(method: str, real: int, others: int):
    """Yields epoch, stream position and the indices of each step: a shuffled pass continues into the next
    epoch of the step-matched row, and pseudo-labelled images come in one epoch later.
    """
    step = 0
    for epoch in range(2):
        phase, images, first = 0, real + others, epoch
        length = real + others
        if method == "pseudo":
            phase, first = epoch, 0
            images = length = real if epoch == 0 else real + others
        if method == "step_matched":
            images = real
        order = np.concatenate([stream(f"re-ID {phase}", n).permutation(images) for n in range(4)])
        start = first * length
        for begin in range(start, start + length, 7):
            yield step, epoch, order[begin : min(begin + 7, start + length)]
            step += 1


def loss_of(method: str, logits: torch.Tensor, label: int) -> torch.Tensor:
    """The loss of one image; label -1: generated."""
    p = logits.softmax(0)
    k = len(p)
    smooth = 0.0 if method == "step_matched" else 0.1
    target, weight = torch.full((k,), smooth / k), 1.0
    if label >= 0:
        target[label] += 1 - smooth
    elif method == "lsro":
        target, weight = torch.full((k,), 1 / k), 0.6
    else:
        target[k - 1 if method == "all_in_one" else int(p.argmax())] += 1 - smooth
        weight = {"all_in_one": 1.0, "pseudo": 0.4, "released": 0.0}[method]
    return -weight * (target * p.log()).sum()


def kind_of(name: str, parameter: torch.Tensor) -> str:
    if name.startswith("classifier"):
        return name.replace(".", " ")
    if parameter.ndim == 1:
        return "norm " + name.rsplit(".", 1)[1]
    return "conv1" if name == "base.conv1.weight" else "conv"


def rate_and_decay(method: str, kind: str) -> tuple[float, float]:
    factors = {"conv1": 0.005, "norm weight": 0.05, "classifier weight": 0.5, "classifier bias": 10.0}
    factor, decay = factors.get(kind, 1.0), 0.0 if kind.startswith("norm") else 0.03
    if method in ("pseudo", "released"):
        factor, decay = 0.3 if kind == "conv1" else factor, 0.05
    return 0.02 * factor, decay


def trained_again(method: str, samples: list[Sample], labels: list[int], real: int, others: int) -> dict:
    """The weights of two epochs: Nesterov momentum 0.8 as MatConvNet writes it, the rate falls once."""
    torch.manual_seed(SEED)
    model = build_network(NET, 4 if method == "all_in_one" else 3).train()
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step, epoch, indices in batches(method, real, others):
        images = [
            crop(samples[i].path, random.Random(f"{SEED}/re-ID/{step}/{slot}"))
            for slot, i in enumerate(indices)
        ]
        logits = model(torch.stack(images))
        loss = sum(loss_of(method, row, labels[i]) for row, i in zip(logits, indices)) / len(indices)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(model.named_parameters(), gradients):
                rate, decay = rate_and_decay(method, kind_of(name, parameter))
                gradient = gradient + decay * parameter
                velocity[name] = 0.8 * velocity[name] - gradient
                parameter += rate * 0.1**epoch * (0.8 * velocity[name] - gradient)
    return model.state_dict()


def reid_weights(method: str, people, folder: Path, **changes) -> dict:
    dataset, unlabelled = people
    config = LSROConfig(
        net=NET, recipe=dataclasses.replace(RECIPE, **changes), method=METHODS[method], dcgan=GANConfig()
    )
    work = Workspace(folder, seed=SEED, device=CPU)
    folder.mkdir()
    training.train_reid(config, dataset, unlabelled if method != "step_matched" else [], work)
    return load_checkpoint(folder / "model.pt")["state_dict"]


def assert_equal(found: dict, expected: dict, tolerance: float = 1e-9) -> None:
    assert set(found) == set(expected)
    for name in found:
        assert (found[name] - expected[name]).abs().max() <= tolerance, name


@pytest.mark.parametrize("holdout", [0.0, 0.3])
@pytest.mark.parametrize("method", METHODS)
def test_the_re_id_network_takes_the_steps_of_a_loop_written_again(
    method, holdout, people, float64, tmp_path
):
    dataset, unlabelled = people
    others = matched_count(METHODS[method], 25)
    assert others == 8  # of all images, whatever the holdout takes
    out = held_out(dataset.train, holdout, SEED) if holdout else np.zeros(25, bool)
    assert bool(out[:10].any()) == bool(holdout)  # a person of just ten images is drawn from
    real = [s for s, is_out in zip(dataset.train, out) if not is_out]
    samples = real if method == "step_matched" else [*real, *unlabelled]
    labels = [{4: 0, 7: 1, 9: 2, -1: -1}[s.pid] for s in samples]
    found = reid_weights(method, people, tmp_path / "run", holdout=holdout)
    assert_equal(found, trained_again(method, samples, labels, len(real), others))


# ---------------------------------------------------------------- the DCGAN

GAN = GANConfig(
    network="fork",
    height=16,
    width=16,
    z_dim=6,
    g_channels=3,
    d_channels=2,
    epochs=2,
    batch=5,
    lr=3e-3,
    beta1=0.4,
    beta2=0.7,
    g_steps=3,
)
GAN_CASES = {
    "plain": {},
    "running statistics, TensorFlow's Adam": {"extra_passes": 2, "adam": "tensorflow"},
    "in file order, not mirrored": {"shuffle": False, "flip": False},
    "ours": {"upsampling": "resize", "augment_d": True, "average": 0.6},
}


def gan_batch(config: GANConfig, samples: list[Sample], step: int) -> torch.Tensor:
    per_epoch = len(samples) // 5
    epoch, position = divmod(step, per_epoch)
    order = stream("dcgan", epoch).permutation(len(samples)) if config.shuffle else np.arange(len(samples))
    images = []
    for slot, index in enumerate(order[5 * position : 5 * position + 5]):
        image = Image.open(samples[index].path)
        if config.flip and random.Random(f"{SEED}/dcgan/{step}/{slot}").random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
        images.append(normalised(image, (0.5,) * 3, (0.5,) * 3))
    return torch.stack(images)


def seen_by_d(config: GANConfig, images: torch.Tensor) -> torch.Tensor:
    """16x16 images: shifted by up to 2 pixels with reflection, with a hole of 8x8 pixels centred anywhere."""
    if not config.augment_d:
        return images
    count = len(images)
    down, across = (torch.randint(0, 5, (count, 1)).flatten().tolist() for _ in range(2))
    top, left = (torch.randint(0, 16, (count, 1)).flatten().tolist() for _ in range(2))
    seen = []
    for n, image in enumerate(torch.nn.functional.pad(images, (2, 2, 2, 2), "reflect")):
        window = image[:, down[n] : down[n] + 16, across[n] : across[n] + 16].clone()
        window[:, max(0, top[n] - 4) : top[n] + 4, max(0, left[n] - 4) : left[n] + 4] = 0
        seen.append(window)
    return torch.stack(seen)


class AdamAgain:
    """Adam written out, epsilon in torch's or TensorFlow's place."""

    def __init__(self, network: torch.nn.Module, kind: str):
        self.parameters, self.kind, self.steps = list(network.parameters()), kind, 0
        self.m, self.v = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))

    @torch.no_grad()
    def step(self, loss: torch.Tensor) -> None:
        self.steps += 1
        first, second = 1 - 0.4**self.steps, 1 - 0.7**self.steps
        gradients = torch.autograd.grad(loss, self.parameters)
        for n, (parameter, gradient) in enumerate(zip(self.parameters, gradients)):
            self.m[n] = 0.4 * self.m[n] + 0.6 * gradient
            self.v[n] = 0.7 * self.v[n] + 0.3 * gradient**2
            if self.kind == "pytorch":
                parameter -= 3e-3 * self.m[n] / first / ((self.v[n] / second).sqrt() + 1e-8)
            else:
                parameter -= 3e-3 * second**0.5 / first * self.m[n] / (self.v[n].sqrt() + 1e-8)


def gan_again(config: GANConfig, samples: list[Sample]) -> tuple[dict, dict]:
    torch.manual_seed(SEED)
    generator, discriminator = Generator(config), Discriminator(config)
    g_adam, d_adam = AdamAgain(generator, config.adam), AdamAgain(discriminator, config.adam)
    mean: dict = {}
    for step in range(2 * (len(samples) // 5)):
        real = gan_batch(config, samples, step)
        z = torch.from_numpy(stream("dcgan", step).uniform(-1, 1, (5, 6)).astype(np.float32)).double()

        fake = generator(z).detach()
        on_real, on_fake = (discriminator(seen_by_d(config, images)) for images in (real, fake))
        d_adam.step(-on_real.sigmoid().log().mean() - (1 - on_fake.sigmoid()).log().mean())
        for _ in range(3):
            g_adam.step(-discriminator(seen_by_d(config, generator(z))).sigmoid().log().mean())
        now = {name: value.detach().clone() for name, value in generator.state_dict().items()}
        trained = {name for name, _ in generator.named_parameters()}
        decay = config.average if step else 0.0
        mean = {n: decay * mean[n] + (1 - decay) * v if n in trained and step else v for n, v in now.items()}
        for _ in range(config.extra_passes):
            generator(z)
    return mean if config.average else generator.state_dict(), discriminator.state_dict()


@pytest.mark.parametrize("case", GAN_CASES)
def test_the_dcgan_takes_the_steps_of_a_loop_written_again(case, people, float64, tmp_path):
    config, samples = dataclasses.replace(GAN, **GAN_CASES[case]), people[0].train[:18]
    work = Workspace(tmp_path / "run", seed=SEED, device=CPU)
    work.folder.mkdir()
    dcgan_training.train_dcgan(config, samples, work)
    found = [load_checkpoint(work.folder / f"{name}.pt") for name in ("generator", "discriminator")]
    for weights, expected in zip(found, gan_again(config, samples)):
        assert_equal(weights, expected, 1e-8)
    steps = [json.loads(line)["step"] for line in work.curves.read_text(encoding="utf-8").splitlines()]
    assert steps[-1] == 6  # the incomplete batches are left out
