"""Both training loops of ARN written again, in float64, over a few steps: with every pair of settings
different from each other, so that none can stand in for another.
"""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import arn.data
from arn.config import (
    ARNConfig,
    ClassificationConfig,
    ContrastiveConfig,
    DecoderConfig,
    DifferenceConfig,
    LatentConfig,
    LossWeights,
    NetConfig,
    PretrainConfig,
    RateConfig,
    RecipeConfig,
    ReconstructionConfig,
)
from arn.data import labelled_samples
from arn.model import build_network
from arn.pretrain import pretrain
from arn.train import train_jointly
from common.backbones import build_backbone
from common.checkpoints import load_checkpoint
from common.datasets import ReIDDataset, load_dataset
from common.datasets.plans import epoch_plan, identity_plan
from common.job import Workspace

SEED = 3
CPU = torch.device("cpu")
NET = NetConfig(backbone="thin", weights="none", height=16, width=8)
PRETRAIN = PretrainConfig(epochs=3, drop_epoch=2, batch=5, lr=0.013, dropout=0.0)

BLOG = ARNConfig(
    net=NET,
    latent=LatentConfig(width=5, kernel="auto", dropout=0.0),
    dec=DecoderConfig(),
    w=LossWeights(cls=0.9, ctr=0.05, rec=1.7, diff=3.1, mmd=0.6),
    cls=ClassificationConfig(dropout=0.0),
    ctr=ContrastiveConfig(margin=1.4),
    lr=RateConfig(ei=0.003, latent=0.011, cls=0.027),
    pretrain=PRETRAIN,
    recipe=RecipeConfig(
        ids=3, batch=6, epochs=3, drop_epoch=2, momentum=0.8, weight_decay=0.013, flip=0.2, warmup="none"
    ),
)
RELEASED = replace(
    BLOG,
    net=replace(NET, arch="released", normalise="half", bn_emulate_double=True),
    ctr=ContrastiveConfig(distance="sq_mean", square_hinge=False, reduction="mean", margin=1.2),
    rec=ReconstructionConfig(norm="l1", reduction="pixel"),
    diff=DifferenceConfig(form="dot", row_norm=False, reduction="sum"),
    w=LossWeights(cls=0.9, ctr=0.4, rec=0.17, diff=0.031, mmd=0.6),
    recipe=replace(BLOG.recipe, sampler="uniform", ei_bn_eval=False),
)


@pytest.fixture
def double(monkeypatch) -> None:
    """Weights, images and losses in float64."""
    monkeypatch.setattr(arn.data, "normalise", normalised)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def domains(data_root) -> tuple[ReIDDataset, ReIDDataset]:
    """Thirteen images of four people as source, nine as target: two steps of six an epoch."""
    duke, market = (load_dataset(name, data_root) for name in ("dukemtmc", "market1501"))
    people = sorted({sample.pid for sample in duke.train})[:4]
    each = [[s for s in duke.train if s.pid == pid][: 4 if pid == people[0] else 3] for pid in people]
    return replace(duke, train=sum(each, [])), replace(market, train=list(market.train)[::3][:9])


def workspace(folder: Path) -> Workspace:
    folder.mkdir(exist_ok=True)
    return Workspace(folder, seed=SEED, device=CPU)


def normalised(image: Image.Image, mean, std) -> torch.Tensor:
    return torch.from_numpy(((np.asarray(image, np.float64) / 255 - mean) / std).transpose(2, 0, 1))


# ---------------------------------------------------------------- the loops by hand


def picture(path: Path, rng: random.Random, flip: float, normalise: str) -> torch.Tensor:
    """Mirrors, resizes and normalises one image."""
    image = Image.open(path).convert("RGB")
    if rng.random() < flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if normalise == "imagenet" else (0.5, 0.5)
    return normalised(image.resize((8, 16), Image.Resampling.BILINEAR), mean, std)


def pictures(samples, plan, stream: str, step: int, config: ARNConfig) -> torch.Tensor:
    return torch.stack(
        [
            picture(
                samples[index].path,
                random.Random(f"{SEED}/{stream}/{step}/{slot}"),
                config.recipe.flip,
                config.net.normalise,
            )
            for slot, index in enumerate(plan(step))
        ]
    )


def descend(parameters, velocity: dict, rate: float, momentum: float, decay: float) -> None:
    """One step of SGD: v = momentum v + gradient + decay w; w = w - rate v."""
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                push = parameter.grad + decay * parameter
                velocity[parameter] = momentum * velocity[parameter] + push if parameter in velocity else push
                parameter -= rate * velocity[parameter]
                parameter.grad = None


def descend_adam(parameters, moments: dict, rate: float, momentum: float, decay: float) -> None:
    """One step of Adam with decoupled decay: w = w - rate decay w - rate m / (sqrt(v) + 1e-8), m and v the
    bias-corrected means of gradient and squared gradient.
    """
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                first, second, steps = moments.get(parameter, (0.0, 0.0, 0))
                first = momentum * first + (1 - momentum) * parameter.grad
                second = 0.999 * second + 0.001 * parameter.grad**2
                moments[parameter] = first, second, steps + 1
                mean, square = first / (1 - momentum ** (steps + 1)), second / (1 - 0.999 ** (steps + 1))
                parameter -= rate * decay * parameter + rate * mean / (square.sqrt() + 1e-8)
                parameter.grad = None


def log_likelihood(logits: torch.Tensor, labels) -> torch.Tensor:
    return sum(-torch.log_softmax(row, 0)[label] for row, label in zip(logits, labels)) / len(logits)


def contrastive(codes: torch.Tensor, labels, config: ContrastiveConfig) -> torch.Tensor:
    total = torch.zeros(())
    pairs = [(i, j) for i in range(len(codes)) for j in range(i)]
    for i, j in pairs:
        squared = (codes[i] - codes[j]).square().mean()
        apart = squared if config.distance == "sq_mean" else squared.sqrt()
        gap = torch.relu(config.margin - apart)
        push = gap**2 if config.square_hinge else gap
        total = total + (squared if labels[i] == labels[j] else push)
    return total / len(pairs) if config.reduction == "mean" else total


def reconstruction(rebuilt: torch.Tensor, original: torch.Tensor, norm: str) -> torch.Tensor:
    error = rebuilt - original
    return error.square().mean() if norm == "squared" else error.abs().mean() * error.shape[1]


def difference(common: torch.Tensor, private: torch.Tensor, form: str) -> torch.Tensor:
    if form == "dot":
        return sum((c * p).sum() for c, p in zip(common, private))
    cosines = [(c @ p / (c.norm() * p.norm())) ** 2 for c in common for p in private]
    return sum(cosines) / len(cosines)


def discrepancy(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    def kernel(a, b):
        return sum(torch.exp(-(a - b).square().sum() / (2 * sigma**2)) for sigma in (1, 2, 10))

    def mean(a, b):
        return sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))

    return (mean(first, first) + mean(second, second) - 2 * mean(first, second)).sqrt()


def joint_loss(model, config: ARNConfig, target, source, labels) -> torch.Tensor:
    """L of Eq. 5, each module's pass over the target before that over the source."""
    codes = {}
    maps = {"t": model.encoder_base(target), "s": model.encoder_base(source)}
    common = {domain: model.encoder_c(x) for domain, x in maps.items()}
    private = {"t": model.encoder_t(maps["t"]), "s": model.encoder_s(maps["s"])}
    rebuilt = {domain: model.decoder_base(common[domain] + private[domain]) for domain in maps}
    for domain in maps:
        codes[domain] = common[domain].mean((2, 3)), private[domain].mean((2, 3))
    images = {"t": target, "s": source}
    originals = images if config.net.arch == "released" else {d: x.detach() for d, x in maps.items()}
    weights = config.w
    rec = sum(reconstruction(rebuilt[d], originals[d], config.rec.norm) for d in maps)
    diff = sum(difference(*codes[d], config.diff.form) for d in maps)
    return (
        weights.cls * log_likelihood(model.classifier(codes["s"][0]), labels)
        + weights.ctr * contrastive(codes["s"][0], labels, config.ctr)
        + weights.rec * rec
        + weights.diff * diff
        + weights.mmd * discrepancy(codes["t"][0], codes["s"][0])
    )


def joint_by_hand(config: ARNConfig, source: ReIDDataset, target: ReIDDataset) -> dict[str, torch.Tensor]:
    """Six steps of six images of each domain."""
    recipe, rates = config.recipe, config.lr
    samples, labels = labelled_samples(source, "train")
    torch.manual_seed(SEED)
    model = build_network(config, 4).train()
    if recipe.sampler == "pk":
        plan_s = identity_plan(labels, ids=3, images_per_id=2, seed=SEED, stream="identities")
    else:
        plan_s = epoch_plan(13, 6, seed=SEED, stream="source")
    plan_t = epoch_plan(9, 6, seed=SEED, stream="target")
    latent = [model.encoder_t, model.encoder_c, model.encoder_s, model.decoder_base]
    modules = {"ei": [model.encoder_base], "latent": latent, "cls": [model.classifier]}
    velocity: dict = {}
    for step in range(6):
        epoch = step // 2
        resting = set()
        if epoch < recipe.warmup_epochs:
            resting = {"freeze_ei": {"ei"}, "literal_ei": {"latent", "cls"}}.get(recipe.warmup, set())
        if recipe.ei_bn_eval:
            model.encoder_base.eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        loss = joint_loss(
            model,
            config,
            pictures(target.train, plan_t, "target", step, config),
            pictures(samples, plan_s, "source", step, config),
            labels[plan_s(step)],
        )
        loss.backward()
        for name, owners in modules.items():
            parameters = [p for owner in owners for p in owner.parameters()]
            if name in resting and recipe.rest == "all":
                for parameter in parameters:
                    parameter.grad = None
                for owner in owners:
                    keep_statistics(model, owner, before)
            rate = 0.0 if name in resting else getattr(rates, name) * (0.1 if epoch >= 2 else 1)
            step_of = descend_adam if recipe.optimizer == "adam" else descend
            step_of(parameters, velocity, rate, recipe.momentum, recipe.weight_decay)
    return model.state_dict()


def keep_statistics(model, owner, before: dict[str, torch.Tensor]) -> None:
    (prefix,) = [name for name, module in model.named_children() if module is owner]
    for name, buffer in owner.named_buffers():
        if "running" in name:
            buffer.copy_(before[f"{prefix}.{name}"])


# ---------------------------------------------------------------- the tests


def different(
    first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], rtol=1e-8, atol=1e-10
) -> list[str]:
    assert set(first) == set(second)
    return [
        name
        for name, value in first.items()
        if "num_batches" not in name and not torch.allclose(value, second[name], rtol=rtol, atol=atol)
    ]


def trained(config: ARNConfig, domains, folder: Path) -> dict[str, torch.Tensor]:
    source, target = domains
    train_jointly(config, labelled_samples(source, "train"), target, None, workspace(folder))
    return load_checkpoint(folder / "model.pt")["state_dict"]


ADAM = replace(BLOG, recipe=replace(BLOG.recipe, optimizer="adam"))


@pytest.mark.parametrize("config", [BLOG, RELEASED, ADAM], ids=["blog", "released", "adam"])
@pytest.mark.parametrize(
    "warmup, rest",
    [
        ("none", "rate"),
        ("freeze_ei", "rate"),
        ("freeze_ei", "all"),
        ("literal_ei", "rate"),
        ("literal_ei", "all"),
    ],
)
def test_six_steps_of_all_modules(double, domains, tmp_path, config, warmup, rest):
    recipe = replace(config.recipe, warmup=warmup, warmup_epochs=1, rest=rest)
    config = replace(config, recipe=recipe)
    weights = trained(config, domains, tmp_path / "ours")
    # Adam divides gradients by their size: rounding of those that are zero counts up to 1e-5
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if recipe.optimizer == "adam" else {}
    assert not different(weights, joint_by_hand(config, *domains), **tolerance)
    assert weights[
        "encoder_c." + ("conv6" if config.net.arch == "blog" else "layer3.conv1") + ".weight"
    ].dtype == (torch.float64)


def test_six_steps_of_ei_alone(double, domains, tmp_path):
    """Cross-entropy of the pooled map; the classifier learns ten times as fast; the rate drops after two
    epochs.
    """
    source = labelled_samples(domains[0], "train")
    recipe = replace(BLOG.recipe, flip=0.2)
    pretrain(NET, PRETRAIN, recipe, source, workspace(tmp_path / "ours"))

    torch.manual_seed(SEED)
    base, classifier = build_backbone("thin").train(), torch.nn.Linear(128, 4)
    plan, velocity = epoch_plan(13, 5, seed=SEED, stream="pretrain"), {}
    for step in range(6):
        images = pictures(source.samples, plan, "pretrain", step, BLOG)
        log_likelihood(classifier(base(images).mean((2, 3))), source.labels[plan(step)]).backward()
        rate = 0.013 * (0.1 if step >= 4 else 1)
        descend(base.parameters(), velocity, rate, 0.8, 0.013)
        descend(classifier.parameters(), velocity, 10 * rate, 0.8, 0.013)
    saved = load_checkpoint(tmp_path / "ours" / "base.pt")["state_dict"]
    assert not different(saved, base.state_dict())
