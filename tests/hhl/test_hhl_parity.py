"""Our training loop against the released commands: `HHL.py` and `baseline.py` as they run, with their
defaults.

The golden arrays are what the authors' code computed; here hhl's own loop, optimiser and presets run on the
same inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from common.backbones import Backbone, build_backbone
from common.cli import override
from common.datasets.base import ReIDDataset, Sample
from common.job import Workspace
from common.training import Loop
from hhl.config import PRESETS, HHLConfig, NetConfig
from hhl.data import Part, Schedule, plan_steps
from hhl.experiments import EXPERIMENTS
from hhl.losses import batch_hard_triplet
from hhl.model import HHLNet
from hhl.train import build_optimizer, run_steps
from hhl.views import TargetViews

RELEASED = PRESETS["released"]
EMBEDDING = {"feat.weight", "feat.bias", "feat_bn.weight", "feat_bn.bias", "triplet.weight", "triplet.bias"}


class StepImages(Dataset):
    """The image of a place of a batch, by a function of (step, slot); what `SampleImages` is to the loop,
    without files.
    """

    def __init__(self, image):
        self.image = image

    def __getitem__(self, draw):
        return self.image(draw.step, draw.slot), draw.slot


class Terms(Loop):
    """The training loop's bookkeeping; keeps every number that the loop logs, unrounded."""

    def log(self, step, **terms):
        self.terms = [
            *getattr(self, "terms", []),
            {name: torch.as_tensor(value).item() for name, value in terms.items()},
        ]


@pytest.fixture
def run_loop(tmp_path):
    """Runs `hhl.train.run_steps` on a schedule and gives the logged terms of each step."""

    def run(config: HHLConfig, model: nn.Module, optimizer, schedule: Schedule) -> list[dict[str, float]]:
        loop = Terms(
            Workspace(tmp_path, device=torch.device("cpu")),
            schedule.total,
            {"model": model},
            label="parity",
            save_every=schedule.total,
        )
        run_steps(config, model.train(), optimizer, loop, schedule)
        return loop.terms

    return run


# ---------------------------------------------------------------- names and settings


@pytest.mark.parametrize("triplet", [True, False])
def test_names_and_shapes_at_full_size(triplet, golden):
    """ResNet-50 with 702 identities; base.fc, ImageNet's classifier, is the one thing that we leave out."""
    with torch.device("meta"):
        state = HHLNet(build_backbone("resnet50"), 702, NetConfig(), triplet=triplet).state_dict()
    expected, lacks = (
        golden("hhl_parity")["reid_shapes"].tolist(),
        golden("hhl_parity")["baseline_lacks"].tolist(),
    )
    released = {entry for entry in expected if triplet or entry.split()[0] not in lacks}
    assert {f"{name} {tuple(value.shape)}" for name, value in state.items()} == released


def test_the_released_preset_is_what_the_released_commands_do_by_default(golden):
    net, recipe, method, gan = RELEASED.net, RELEASED.recipe, RELEASED.method, RELEASED.stargan
    arrays = golden("hhl_parity")
    expected = dict(zip(arrays["settings"].tolist(), arrays["setting_values"].tolist()))
    both = {
        "epochs": recipe.epochs,
        "dropout": net.dropout,
        "features": net.embed_dim,
        "momentum": recipe.momentum,
        "nesterov": recipe.nesterov,
        "weight_decay": recipe.weight_decay,
        "batch": recipe.batch,
        "height": net.height,
        "width": net.width,
        "erasing": recipe.erasing,
    }
    ours = {f"{command}.{name}": value for command in ("hhl", "baseline") for name, value in both.items()}
    ours |= {
        "hhl.triplet_features": net.triplet_dim,
        "baseline.triplet_features": 0,
        "hhl.triplet_batch": recipe.ids * recipe.images_per_id,
        "hhl.instances": recipe.images_per_id,
        "hhl.target_batch": recipe.target_batch,
        "hhl.beta": method.beta,
        "hhl.margin": method.margin,
    }
    ours |= {
        "stargan.image_size": gan.height,
        "stargan.g_conv_dim": gan.channels,
        "stargan.d_conv_dim": gan.d_channels,
        "stargan.g_repeat_num": gan.blocks,
        "stargan.d_repeat_num": gan.d_layers,
        "stargan.lambda_cls": gan.lambda_cls,
        "stargan.lambda_rec": gan.lambda_rec,
        "stargan.lambda_gp": gan.lambda_gp,
        "stargan.batch_size": gan.batch,
        "stargan.num_iters": gan.iterations,
        "stargan.num_iters_decay": gan.iterations / 2,
        "stargan.g_lr": gan.lr,
        "stargan.d_lr": gan.lr,
        "stargan.n_critic": gan.n_critic,
        "stargan.beta1": gan.beta1,
        "stargan.beta2": 0.999,
    }
    of_the_data = {"hhl.classes", "baseline.classes", "hhl.source_pass", "stargan.c_dim"}
    assert ours == {name: value for name, value in expected.items() if name not in of_the_data}
    assert (
        gan.width == gan.height / 2
        and gan.lambda_idt == 0
        and not gan.residual
        and gan.lr_decay == "quirk"
        and recipe.batch_scale == 1
    )


# ---------------------------------------------------------------- learning rates, read off the running loop


@pytest.mark.parametrize("command", ["hhl", "baseline"])
def test_learning_rate_of_every_parameter_over_the_epochs(command, run_loop, golden, monkeypatch):
    """60 epochs of one step each; 0 stands for a parameter that is in no group. The update itself is left
    out.
    """
    triplet = command == "hhl"
    model = HHLNet(build_backbone("resnet18"), 702, NetConfig(), triplet=triplet)
    model.forward = lambda images, output="logits": getattr(
        model, "triplet" if output == "triplet" else "classifier"
    )(images.flatten(1))
    optimizer = build_optimizer(RELEASED.recipe, model, triplet=triplet)
    names, rates = {id(p): name for name, p in model.named_parameters()}, []

    def note() -> None:
        rates.append(
            dict.fromkeys(names.values(), 0.0)
            | {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        )

    monkeypatch.setattr(optimizer, "step", note)
    part = Part((), lambda step: np.arange(4), lambda step, chosen: chosen // 2)
    parts = {"classify": part, "source": part} if triplet else {"classify": part}
    images = dict.fromkeys(parts, StepImages(lambda step, slot: torch.full((1024, 1, 1), float(slot))))
    run_loop(RELEASED, model, optimizer, Schedule(parts, 1, RELEASED.recipe.epochs, images=images))

    arrays = golden("hhl_parity")
    assert len(rates) == 60 and sorted(names.values()) == arrays[f"{command}_parameters"].tolist()
    ours = [[rates[epoch][name] for name in sorted(names.values())] for epoch in (0, 39, 40, 59)]
    np.testing.assert_allclose(ours, arrays[f"{command}_lr"], rtol=1e-12)
    assert {name for name in names.values() if rates[0][name] == 0} == (EMBEDDING if triplet else set())


# ---------------------------------------------------------------- training steps


@pytest.fixture
def released_step(formulas) -> Schedule:
    """The batches behind hhl_model.npz: 12 labelled images, 12 source images, 3 target images in 4 views; in
    float64.
    """

    def images(name: str) -> StepImages:
        return StepImages(
            lambda step, slot: formulas.scattered(f"{name} {step}", 12, 3, 64, 32)[slot].double()
        )

    labels = {
        "classify": lambda step, i: (3 * i + step) % 10,
        "source": lambda step, i: (i // 4 + step) % 10,
        "target": lambda step, i: np.array([1000 + 7 * step, 5000 + step, 10999 - step])[i % 3],
    }
    return Schedule(
        {name: Part((), lambda step: np.arange(12), label) for name, label in labels.items()},
        3,
        3,
        TargetViews([Sample(Path(), i % 3, i // 3) for i in range(12)], 4),
        images={"classify": images("source"), "source": images("triplet"), "target": images("target")},
    )


def test_one_and_three_released_training_steps(released_step, run_loop, formulas, golden):
    """`HHLTrainer.train` with the optimiser of `HHL.py` against our loop: losses, weights, batch-norm
    buffers; float64 hides nothing.

    Dropout is a fixed mask: the released triplet passes draw one too, though nothing reads it, so the
    sequences of masks differ.
    """
    expected, after_one = golden("hhl_model"), golden("hhl_parity")["after_one"]
    model = HHLNet(build_backbone("resnet18"), 10, NetConfig(embed_dim=64, triplet_dim=16))
    formulas.fill(model)
    model.drop = formulas.HalfDrop()
    model.double()
    np.testing.assert_array_equal(formulas.fingerprint(model.state_dict()), expected["before"])
    frozen = {name: value.clone() for name, value in model.state_dict().items() if name in EMBEDDING}
    optimizer, after, passes = build_optimizer(RELEASED.recipe, model, triplet=True), [], []

    def look(*_) -> None:
        after.append(formulas.fingerprint(model.state_dict()))
        passes.append(
            {int(value) for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
        )

    optimizer.register_step_post_hook(look)
    terms = run_loop(RELEASED, model, optimizer, released_step)

    ours = [
        [line["cross_entropy"] + RELEASED.method.beta * line["triplet"], line["triplet_precision"]]
        for line in terms
    ]
    np.testing.assert_allclose(ours, expected["step_losses"], rtol=1e-6)
    for ours, released in ((after[0], after_one), (after[2], expected["after"])):
        np.testing.assert_allclose(ours, released, rtol=1e-6, atol=1e-7)
        moved = np.abs(released - expected["before"]).max(axis=1) > 1e-5
        # the tolerance above would notice any update left out
        assert moved.sum() == len(released) - len(frozen)
    assert passes == [{3}, {6}, {9}]
    assert (
        all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())
        and len(frozen) == 6
    )


def test_two_released_baseline_steps(released_step, run_loop, formulas, golden):
    """`Trainer.train` with the optimiser of `baseline.py`: cross-entropy alone, FC-1024 at 0.1, one pass a
    step.
    """
    expected = golden("hhl_parity")
    model = HHLNet(build_backbone("resnet18"), 10, NetConfig(embed_dim=64), triplet=False)
    formulas.fill(model)
    model.drop = formulas.HalfDrop()
    optimizer = build_optimizer(RELEASED.recipe, model.double(), triplet=False)
    classify = Schedule({"classify": released_step.parts["classify"]}, 2, 2, images=released_step.images)
    terms = run_loop(RELEASED, model, optimizer, classify)
    np.testing.assert_allclose(
        [[line["cross_entropy"], line["accuracy"]] for line in terms], expected["baseline_losses"], rtol=1e-6
    )
    np.testing.assert_allclose(
        formulas.fingerprint(model.state_dict()), expected["baseline_after"], rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("num_ids, cameras, published_start", [(702, 6, 6.74), (751, 8, 6.81)])
def test_loss_before_the_first_update(num_ids, cameras, published_start):
    """ln(#ID) + 0.5 * 0.37: batch norm fixes the scale of FC-128 at its random start, and with it the triplet
    loss at about 0.37.

    Pooled features are independent Gaussians here, as in the simulation behind section 4.1 of the fact sheet.
    """
    torch.manual_seed(0)
    model = HHLNet(Backbone(OrderedDict(map=nn.Identity()), 2048), num_ids, NetConfig())
    source, target = (torch.randn(n, 2048, 1, 1) for n in (64, 16 * (1 + cameras)))
    labels = torch.cat([torch.arange(8).repeat_interleave(8), 1000 + torch.arange(16).repeat(1 + cameras)])
    cross_entropy = F.cross_entropy(model(torch.randn(128, 2048, 1, 1)), torch.arange(128))
    triplet, _ = batch_hard_triplet(torch.cat([model(source, "triplet"), model(target, "triplet")]), labels)
    assert cross_entropy.item() == pytest.approx(math.log(num_ids), abs=0.01)
    assert (cross_entropy + 0.5 * triplet).item() == pytest.approx(published_start, abs=0.02)


# ---------------------------------------------------------------- the rows: sizes and order of the passes,
# pseudo-labels

CAMERAS = {6: "Market-1501", 8: "DukeMTMC-reID"}


@pytest.fixture
def schedule_of():
    """One step of a row of Table 2 under the `released` preset, for a target of some cameras; the images are
    their own slots.
    """

    def build(row: str, cameras: int) -> tuple[HHLConfig, Schedule]:
        (overrides,) = (e.overrides for e in EXPERIMENTS if e.key == f"hhl/table2/{row}")
        config = override(RELEASED, {**overrides, "recipe.epochs": 1})
        source = ReIDDataset(
            "source", Path(), [Sample(Path(f"s{i}.jpg"), i // 16, 0) for i in range(160)], (), (), 8
        )
        num_views = {"none": 0, "real": 1, "camera": 1 + cameras}[config.method.target_views]
        samples = [Sample(Path(f"t{i % 20}.jpg"), i % 20, i // 20) for i in range(20 * num_views)]
        views = TargetViews(samples, num_views)
        return config, plan_steps(config.recipe, config.method, source, views, seed=0)

    return build


@pytest.mark.parametrize("cameras", CAMERAS)
@pytest.mark.parametrize(
    "row, passes",
    [
        ("baseline_target", [("logits", 128)]),
        ("baseline_source", [("logits", 128)]),
        ("L_T", [("logits", 128), ("triplet", 64)]),
        ("L_D", [("logits", 128), ("triplet", 64), ("triplet", 16)]),
        ("L_C", [("logits", 128), ("triplet", "views")]),
        ("L_CD", [("logits", 128), ("triplet", 64), ("triplet", "views")]),
    ],
)
def test_passes_of_each_row(row, passes, cameras, schedule_of, run_loop):
    """The table of section 3: 64, 80, 112 or 144, 176 or 208 images in the triplet loss; separate passes."""
    config, schedule = schedule_of(row, cameras)
    images = StepImages(lambda step, slot: torch.linspace(slot, 2 * slot, 12).reshape(3, 2, 2))
    schedule = dataclasses.replace(schedule, images=dict.fromkeys(schedule.parts, images))
    seen = []

    class Net(nn.Module):
        """Notes what it is asked for."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(12, 10)

        def forward(self, x, output="logits"):
            assert self.training
            seen.append((output, len(x)))
            return self.head(x.flatten(1))

    model = Net()
    run_loop(
        config, model, torch.optim.SGD([{"params": model.parameters(), "initial_lr": 0.1}], lr=0.1), schedule
    )
    expected = [(output, 16 * (1 + cameras) if size == "views" else size) for output, size in passes]
    assert seen == expected
    total = {"L_T": 64, "L_D": 80, "L_C": 16 * (1 + cameras), "L_CD": 64 + 16 * (1 + cameras)}.get(row, 0)
    assert (
        sum(size for output, size in seen if output == "triplet") == total in (0, 64, 80, 112, 144, 176, 208)
    )


@pytest.mark.parametrize("cameras", CAMERAS)
def test_pseudo_labels_of_a_step(cameras, schedule_of):
    """One label a target image, shared by its views, drawn anew at every step, apart from the source's."""
    _, schedule = schedule_of("L_CD", cameras)
    target, labels = schedule.parts["target"], []
    for step in range(3):
        indices = target.plan(step)
        views = indices.reshape(1 + cameras, 16)
        drawn = target.labels(step, indices).reshape(1 + cameras, 16)
        # all reals, all of style 1, ...
        assert (views % 20 == views[0] % 20).all() and (views // 20 == np.arange(1 + cameras)[:, None]).all()
        assert (drawn == drawn[0]).all() and drawn.min() >= 1000
        labels.append(dict(zip((views[0] % 20).tolist(), drawn[0].tolist())))
    # drawn anew
    assert all(
        len(set(a.values()) & set(b.values())) <= 1
        for a, b in ((labels[0], labels[1]), (labels[1], labels[2]))
    )
    assert len(set(labels[0]) & set(labels[1])) >= 12  # for the same images: 16 of 20 are in each batch
    source = schedule.parts["source"]
    assert source.labels[source.plan(0)].max() < 10
