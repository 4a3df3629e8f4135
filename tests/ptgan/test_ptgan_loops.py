"""Both training functions against loops that are written again here, in float64, over a few steps.

All settings differ from each other (rates, weights, batch size, pool, momentum, schedule), so that exchanged
images, masks, labels, domains or settings, a missing term and an ignored schedule change the weights. Nothing
of `ptgan.losses`, `ptgan.data`, `common.datasets.plans` or of PyTorch's optimisers is used: only the networks
themselves and autograd are.
"""

from __future__ import annotations

import copy
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from common.checkpoints import load_checkpoint
from common.datasets import Sample
from common.job import Workspace
from ptgan import reid, train_gan
from ptgan.config import GANConfig, NetConfig, RecipeConfig
from ptgan.data import Domain, gan_transform
from ptgan.model import TransferNetworks
from ptgan.reid import IDENet

SEED = 3
GAN = GANConfig(
    height=16,
    width=8,
    load_height=20,
    load_width=11,
    channels=2,
    blocks=1,
    downsamplings=1,
    residual=True,
    d_channels=3,
    d_layers=1,
    lambda_cyc=7.0,
    lambda_id=4.0,
    lambda_idt=0.6,
    lambda_adv=1.3,
    lr=3e-3,
    lr_d=5e-3,
    beta1=0.4,
    epochs=3,
    decay_epoch=1,
    batch=2,
    pool_size=2,
)
# every choice the other way
OTHER = replace(
    GAN,
    adversarial="sigmoid",
    id_loss="l2_rms",
    id_reduce="mask",
    lambda_idt=0.0,
    decay="none",
    pool_size=0,
    shared_aug=False,
    adam="tensorflow",
)


def pixels(number: int, height: int, width: int) -> np.ndarray:
    """uint8 `(height, width, 3)`, smooth, a different one for each number."""
    y, x, c = np.mgrid[:height, :width, :3]
    return (127 * (1 + np.sin(0.3 * number * y + 0.5 * x + c * number + number))).astype(np.uint8)


def mask_of(number: int, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((y * (1 + number % 3) + x * (1 + number % 2) + number) % 7 < 3).astype(np.float32)


@pytest.fixture
def domains(tmp_path) -> tuple[Domain, Domain]:
    """Five source and four target images, 20x11 and 24x10, with masks."""

    def draw(name: str, count: int, first: int, size: tuple[int, int]) -> Domain:
        samples = [Sample(tmp_path / f"{name}{i}.png", first + i, 0) for i in range(count)]
        for sample in samples:
            Image.fromarray(pixels(sample.pid, *size)).save(sample.path)
        return Domain(samples, lambda sample: mask_of(sample.pid, *size))

    return draw("source", 5, 1, (20, 11)), draw("target", 4, 11, (24, 10))


def order(seed: int, stream: str, epoch: int, count: int) -> np.ndarray:
    """The shuffled images of an epoch."""
    return np.random.default_rng((seed, zlib.crc32(stream.encode()), epoch)).permutation(count)


class Adam:
    """Kingma and Ba, 2015, with PyTorch's place of epsilon or (its "epsilon hat") TensorFlow's."""

    def __init__(self, networks: Sequence[nn.Module], beta1: float, form: str):
        self.form = form
        self.parameters = [p for network in networks for p in network.parameters()]
        self.first, self.second = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self.beta1, self.beta2, self.steps = beta1, 0.999, 0

    @torch.no_grad()
    def step(self, loss: Tensor, rate: float) -> None:
        self.steps += 1
        gradients = torch.autograd.grad(loss, self.parameters)
        for p, m, v, g in zip(self.parameters, self.first, self.second, gradients):
            m.mul_(self.beta1).add_((1 - self.beta1) * g)
            v.mul_(self.beta2).add_((1 - self.beta2) * g * g)
            mean, correction = m / (1 - self.beta1**self.steps), (1 - self.beta2**self.steps) ** 0.5
            if self.form == "pytorch":
                p.sub_(rate * mean / (v.sqrt() / correction + 1e-8))
            else:
                p.sub_(rate * correction * mean / (v.sqrt() + 1e-8))


def loaded(domain: Domain, stream: str, step: int, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
    """Images `(B, 3, 16, 8)` and masks `(B, 1, 16, 8)` of a step: resized to 20x11, cropped from offset 1 on,
    flipped, the mask with its image; with a stream of its own (`OTHER`) the mask is only resized.
    """
    images, of_images = [], []
    for slot, index in enumerate(chosen):
        sample, rng = domain.samples[index], random.Random(f"{SEED}/{stream}/{step}/{slot}")
        top, left, flip = rng.randint(1, 4), rng.randint(1, 3), rng.random() > 0.5
        full = np.asarray(Image.open(sample.path).resize((11, 20), Image.Resampling.BILINEAR), np.float64)
        turn = -1 if flip else 1
        images.append((full / 255 - 0.5)[top : top + 16, left : left + 8][:, ::turn] / 0.5)
        mask = Image.fromarray(domain.masks(sample))
        if stream == "gan":
            follows = np.asarray(mask.resize((11, 20), Image.Resampling.NEAREST), np.float64)
            of_images.append(follows[top : top + 16, left : left + 8][:, ::turn])
        else:
            of_images.append(np.asarray(mask.resize((8, 16), Image.Resampling.NEAREST), np.float64))
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return stacked, torch.from_numpy(np.stack(of_images))[:, None]


def again(
    config: GANConfig, networks: TransferNetworks, domains: tuple[Domain, Domain]
) -> list[dict[str, float]]:
    """Trains `networks` as `train_gan` should (`GAN` or `OTHER`), and returns the terms of each step."""
    plain = config is GAN
    g, f, d_source, d_target = networks.g_s2t, networks.g_t2s, networks.d_source, networks.d_target
    g_adam, d_adam = (Adam(pair, 0.4, config.adam) for pair in ([g, f], [d_source, d_target]))
    score, person = (squares, masked_squares) if plain else (cross_entropy, masked_roots)
    streams = ("gan", "gan") if plain else ("gan source", "gan target")
    kept: list[list[Tensor]] = []
    terms = []
    for step in range(6):
        epoch, position = divmod(step, 2)  # the smaller domain fills two batches
        chosen = [
            order(SEED, f"gan {name}", epoch, count)[2 * position : 2 * position + 2]
            for name, count in (("source", 5), ("target", 4))
        ]
        (a, mask_a), (b, mask_b) = (
            loaded(domain, stream, step, c) for domain, stream, c in zip(domains, streams, chosen)
        )
        factor = (1.0, 1.0, 0.5)[epoch] if plain else 1.0

        fake_b, fake_a = g(a), f(b)
        new = [fake_a.detach(), fake_b.detach()]
        adv_a, adv_b = score(d_source(fake_a), 1), score(d_target(fake_b), 1)
        cyc = (f(fake_b) - a).abs().mean() + (g(fake_a) - b).abs().mean()
        kept_person = person(a - fake_b, mask_a) + person(b - fake_a, mask_b)
        values = {"g_adv_s2t": adv_b, "g_adv_t2s": adv_a, "g_cyc": cyc, "g_id": kept_person}
        total = 1.3 * (adv_a + adv_b) + 7 * cyc + 4 * kept_person
        if plain:
            values["g_idt"] = (g(b) - b).abs().mean() + (f(a) - a).abs().mean()
            total = total + 0.6 * values["g_idt"]
        g_adam.step(total, 3e-3 * factor)

        shown_a, shown_b = history(kept, new, random.Random(f"{SEED}/pool/{step}")) if plain else new
        for name, d, real, fake in (("source", d_source, a, shown_a), ("target", d_target, b, shown_b)):
            values[f"d_{name}"] = (score(d(real), 1) + score(d(fake), 0)) / 2
        d_adam.step(values["d_source"] + values["d_target"], 5e-3 * factor)
        terms.append({name: value.item() for name, value in values.items()})
    return terms


def squares(scores: Tensor, wanted: int) -> Tensor:
    return ((scores - wanted) ** 2).mean()


def cross_entropy(scores: Tensor, wanted: int) -> Tensor:
    return torch.log1p(torch.exp(-scores if wanted else scores)).mean()


def masked_squares(change: Tensor, mask: Tensor) -> Tensor:
    return (mask * change**2).mean()


def masked_roots(change: Tensor, mask: Tensor) -> Tensor:
    """The root mean square over each mask's pixels, a mean over the images."""
    return ((mask * change**2).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))).sqrt().mean()


def history(kept: list[list[Tensor]], new: list[Tensor], rng: random.Random) -> list[Tensor]:
    """The pool of two pairs: each half is swapped with that of a pair of its own draw."""
    if len(kept) < 2:
        kept.append(list(new))
        return new
    if rng.random() <= 0.5:
        return new
    shown = []
    for half in (0, 1):
        place = int(rng.random() * 2)
        shown.append(kept[place][half])
        kept[place][half] = new[half]
    return shown


@pytest.mark.parametrize("config", [GAN, OTHER], ids=["plain", "other"])
def test_the_gan_equals_a_loop_written_again(config, domains, monkeypatch, tmp_path):
    started: list[TransferNetworks] = []

    def networks(config: GANConfig) -> TransferNetworks:
        made = TransferNetworks(config).double()
        started.append(copy.deepcopy(made))
        return made

    def batches(*arguments):
        for of_source, of_target in load(*arguments):
            yield of_source.double(), of_target.double()

    def log(self, step: int, **values: Tensor) -> None:
        ours.append({name: value.item() for name, value in values.items()})

    load, ours = train_gan.pair_batches, []
    monkeypatch.setattr(train_gan, "TransferNetworks", networks)
    monkeypatch.setattr(train_gan, "pair_batches", batches)
    monkeypatch.setattr(train_gan.Loop, "log", log)
    work = Workspace(tmp_path, seed=SEED, device=torch.device("cpu"))
    mask_aug = "joint" if config is GAN else "released"
    train_gan.train_gan(config, gan_transform(config, mask_aug), *domains, work)

    expected = started[0]
    terms = again(config, expected, domains)
    assert ours[0].keys() == terms[0].keys()
    for name in terms[0]:
        assert [t[name] for t in ours] == pytest.approx([t[name] for t in terms], rel=1e-5), name
    compare(load_checkpoint(tmp_path / "networks.pt"), expected.state_dict())
    compare(load_checkpoint(tmp_path / "generator.pt"), expected.g_s2t.state_dict())


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """float32 images round at 1e-7; Adam turns that into a little of the rate for tiny gradients."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


# ---------------------------------------------------------------- the re-ID network

RECIPE = RecipeConfig(
    epochs=3,
    drop_epoch=2,
    batch=3,
    base_lr=0.02,
    classifier_lr=0.07,
    momentum=0.8,
    nesterov=True,
    weight_decay=0.03,
)
NET = NetConfig(backbone="thin", weights="none", height=16, width=8, dropout=0.0)


class Base(nn.Module):
    """A backbone of one convolution, without batch norm."""

    num_features = 5

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(self.conv(x.to(self.conv.weight)))


def small_network(started: list[nn.Module]) -> Callable[..., nn.Module]:
    def build(net: NetConfig, num_ids: int) -> nn.Module:
        model = IDENet(Base(), num_ids, net.dropout, (net.height, net.width)).double()
        nn.init.normal_(model.classifier.weight, std=0.5)
        started.append(copy.deepcopy(model))
        return model

    return build


def reid_images(samples: Sequence[Sample], step: int, chosen: np.ndarray) -> Tensor:
    """Images of a step: resized to 18x9, cropped, flipped, ImageNet-normalised."""
    images = []
    for slot, index in enumerate(chosen):
        rng = random.Random(f"{SEED}/re-ID/{step}/{slot}")
        top, left, flip = rng.randint(0, 2), rng.randint(0, 1), rng.random() < 0.5
        full = np.asarray(
            Image.open(samples[index].path).resize((9, 18), Image.Resampling.BICUBIC), np.float64
        )
        crop = full[top : top + 16, left : left + 8][:, :: -1 if flip else 1] / 255
        images.append((crop - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def train_again(model: nn.Module, samples: Sequence[Sample], classes: dict[int, int]) -> None:
    """SGD with Nesterov momentum and weight decay, one rate for the backbone and one for the classifier."""
    weights = dict(model.named_parameters())
    velocity = {name: torch.zeros_like(p) for name, p in weights.items()}
    for step in range(6):
        epoch, position = divmod(step, 2)  # seven images: two batches of three
        chosen = order(SEED, "re-ID", epoch, 7)[3 * position : 3 * position + 3]
        maps = F.softplus(model.base.conv(reid_images(samples, step, chosen)))
        logits = F.linear(maps.mean(dim=(2, 3)), weights["classifier.weight"], weights["classifier.bias"])
        wanted = torch.tensor([classes[samples[i].pid] for i in chosen])
        loss = -(logits.log_softmax(dim=1)[torch.arange(3), wanted]).mean()
        for (name, p), gradient in zip(weights.items(), torch.autograd.grad(loss, list(weights.values()))):
            rate = (0.02 if name.startswith("base") else 0.07) * (0.1 if epoch >= 2 else 1.0)
            with torch.no_grad():
                gradient = gradient + 0.03 * p
                velocity[name] = 0.8 * velocity[name] + gradient
                p.sub_(rate * (gradient + 0.8 * velocity[name]))


@pytest.mark.parametrize("cached", [True, False])
def test_the_reid_network_equals_a_loop_written_again(cached, monkeypatch, tmp_path):
    samples, started = [], []
    for number, pid in enumerate((30, 10, 20, 10, 30, 20, 40)):
        path = Path(tmp_path / f"{number}.png")
        Image.fromarray(pixels(number + 1, 32, 16)).save(path)
        samples.append(Sample(path, pid, 0))
    classes = {10: 2, 20: 0, 30: 3, 40: 1}
    monkeypatch.setattr(reid, "build_network", small_network(started))
    monkeypatch.setattr(reid, "CACHED_IMAGES", 20_000 if cached else 0)
    work = Workspace(tmp_path, seed=SEED, device=torch.device("cpu"))
    reid.train_reid(NET, RECIPE, samples, classes, work)
    saved = load_checkpoint(tmp_path / "model.pt")
    assert saved["num_ids"] == 4
    train_again(started[0], samples, classes)
    compare(saved["state_dict"], started[0].state_dict())
