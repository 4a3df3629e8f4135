"""The mixture of real and generated images, the schedule, the crops; the network, its optimiser and its test
views.
"""

import random
from collections import Counter
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from common.backbones import thin_resnet
from common.cli import override
from common.datasets import ReIDDataset, Sample
from common.datasets.loading import EvalTransform
from common.errors import InputError
from common.published import published
from common.records import check_experiments
from common.training import scale_learning_rate
from dcgan_lsro import config as settings
from dcgan_lsro.config import PRESETS, LSROConfig, MethodConfig, NetConfig, RecipeConfig
from dcgan_lsro.data import (
    Schedule,
    TrainTransform,
    check_strangers,
    first_images,
    held_out,
    matched_count,
    people_without_labels,
    phases,
    train_transform,
    training_set,
    unlabelled_count,
    weight_decay,
)
from dcgan_lsro.dcgan.model import DEPTHS
from dcgan_lsro.evaluate import embed, embedder, rank, refuse_generated
from dcgan_lsro.experiments import LSRO
from dcgan_lsro.losses import UNLABELLED
from dcgan_lsro.model import KINDS, RATE_FACTORS, ReIDNet, build_network, load_weights, parameter_groups
from dcgan_lsro.train import build_optimizer, rate_factor

THIN = NetConfig(backbone="thin", weights="none", height=64, width=32, resize_height=73, resize_width=37)
CPU = torch.device("cpu")


def dataset(ids: int = 4, images: int = 5) -> ReIDDataset:
    train = [
        Sample(Path(f"{pid:04d}_{n}.jpg"), pid, n % 2) for pid in range(3, 3 + ids) for n in range(images)
    ]
    return ReIDDataset("toy", Path("."), train, [], [], 2)


def generated(count: int) -> list[Sample]:
    return [Sample(Path(f"gan_{i}.png"), -1, -1, origin="generated") for i in range(count)]


def config(loss: str = "lsro", **method) -> LSROConfig:
    return LSROConfig(
        net=THIN,
        recipe=RecipeConfig(epochs=5, drop_epoch=4, batch=8),
        method=MethodConfig(loss=loss, **method),
    )


def schedule(config: LSROConfig, real: int, unlabelled: int, seed: int, world: int = 1) -> Schedule:
    planned = phases(config.recipe, config.method, real, unlabelled)
    return Schedule(planned, config.recipe.batch, seed, world)


# ---------------------------------------------------------------- the mixture


def test_generated_images_change_neither_people_nor_labels():
    alone, mixed = (training_set(dataset(), generated(n), 0.0, 0) for n in (0, 30))
    assert alone.num_ids == mixed.num_ids == 4 and mixed.num_real == alone.num_real == 20
    assert np.array_equal(mixed.labels[:20], alone.labels) and set(mixed.labels[20:]) == {-1}
    assert alone.labels.min() == 0  # label 0 is a person
    labels = mixed.labels[[0, 25, 19]]
    assert labels.tolist() == [0, -1, 3] and (labels == UNLABELLED).tolist() == [False, True, False]


@pytest.mark.parametrize("amount", [0.93, 1.86, 2.78])
def test_an_epoch_holds_every_image_once_and_the_generated_in_their_share(amount):
    method = MethodConfig(amount=amount)
    count = unlabelled_count(method, 20)
    steps = schedule(config(amount=amount), 20, count, seed=1)
    per_epoch = -(-(20 + count) // 8)
    assert steps.total == 5 * per_epoch
    for epoch in range(3):
        batches = [steps(epoch * per_epoch + i) for i in range(per_epoch)]
        seen = np.concatenate(batches)
        assert sorted(seen) == list(range(20 + count))
        assert np.mean(seen >= 20) == pytest.approx(count / (20 + count))
        assert [len(b) for b in batches] == [8] * (per_epoch - 1) + [(20 + count) - 8 * (per_epoch - 1)]
    assert steps(0).tolist() != steps(per_epoch).tolist()


def test_the_amounts_of_table_2_on_market():
    table = {e.key: e for e in LSRO.experiments}
    for count in (12_000, 18_000, 24_000, 30_000, 36_000):
        amount = table[f"dcgan_lsro/table2/lsro={count}"].overrides["method.amount"]
        assert unlabelled_count(MethodConfig(amount=amount), 12_936) == count
    steps = schedule(PRESETS["paper"], 12_936, 24_000, seed=0)
    assert steps.total == 28_900 and schedule(PRESETS["paper"], 12_936, 0, seed=0).total == 10_150


def test_pseudo_labelled_images_are_not_fed_before_their_epoch():
    steps = schedule(config("pseudo", pseudo_start=2), 20, 30, seed=0)
    assert steps.total == 2 * 3 + 3 * 7
    seen = {step: set(steps(step)) for step in range(steps.total)}
    assert all(max(seen[step]) < 20 for step in range(6)) and sorted(
        set().union(*(seen[step] for step in range(6, 13)))
    ) == list(range(50))
    assert [steps.epoch(step) for step in (0, 2, 3, 5, 6, 12, 13)] == [0, 0, 1, 1, 2, 2, 3]
    released = schedule(config("pseudo", pseudo_start=2, pseudo="released"), 20, 30, seed=0)
    assert released.total == 5 * 7


def test_the_step_matched_baseline_has_lsros_steps_and_only_real_images():
    lsro, matched = (
        schedule(config(amount=1.5), 20, 30, seed=0),
        schedule(config("none", step_matched=True, amount=1.5), 20, 30, seed=0),
    )
    assert matched.total == lsro.total == 35 and matched.epoch(34) == lsro.epoch(34) == 4
    assert [len(matched(step)) for step in range(7)] == [len(lsro(step)) for step in range(7)]
    times = Counter(np.concatenate([matched(step) for step in range(35)]).tolist())
    # 250 places, shuffled pass after shuffled pass
    assert set(times) == set(range(20)) and max(times.values()) - min(times.values()) <= 1


def test_a_holdout_leaves_the_step_matched_baseline_lsros_steps():
    whole = dataset(images=30)
    lsro, matched = MethodConfig(amount=1.5), MethodConfig("none", amount=1.5, step_matched=True)
    drawn = unlabelled_count(lsro, len(whole.train))
    assert matched_count(matched, len(whole.train)) == matched_count(lsro, len(whole.train)) == drawn == 180
    assert (
        unlabelled_count(matched, len(whole.train))
        == matched_count(MethodConfig("none", amount=0.0), len(whole.train))
        == 0
    )
    real = training_set(whole, [], 0.1, 0).num_real
    assert real < 120
    steps = [
        schedule(config(**vars(method)), real, matched_count(method, len(whole.train)), seed=0).total
        for method in (lsro, matched)
    ]
    assert steps[0] == steps[1] == 5 * -(-(real + 180) // 8)


def test_two_processes_share_the_last_batch_equally():
    steps = schedule(config(), 20, 31, seed=0, world=2)
    assert {len(steps(step)) % 2 for step in range(steps.total)} == {0}


def test_unlabelled_images_come_from_a_folder_in_sorted_order(tmp_path):
    for name in ("b.png", "a.jpg", "notes.txt", "c.png"):
        (tmp_path / name).write_bytes(b"x")
    assert [s.path.name for s in first_images(tmp_path, 2)] == ["a.jpg", "b.png"]
    assert {(s.pid, s.origin) for s in first_images(tmp_path, 3)} == {(-1, "generated")}
    with pytest.raises(InputError, match="expected at least 4 images, found 3"):
        first_images(tmp_path, 4)
    with pytest.raises(InputError, match="found none"):
        first_images(tmp_path / "none", 1)


def test_real_people_without_labels_lose_them():
    people = people_without_labels(dataset(), 7, seed=0)
    assert (
        len(people) == 7
        and {(s.pid, s.camid) for s in people} == {(-1, -1)}
        and len({s.path for s in people}) == 7
    )
    assert people != people_without_labels(dataset(), 7, seed=1)
    with pytest.raises(InputError, match="found 20"):
        people_without_labels(dataset(), 21, seed=0)


def test_people_without_labels_must_not_be_the_runs_own():
    own = dataset()
    with pytest.raises(
        InputError, match="--pool.people toy: expected people whom toy does not have, found 20 images of both"
    ):
        check_strangers(own, own)
    with pytest.raises(InputError, match="found 20 images of both"):  # nor those of its test
        check_strangers(own, ReIDDataset("toy", Path("."), [], own.train[:1], own.train, 2))
    check_strangers(own, ReIDDataset("other", Path("."), generated(3), generated(1), generated(1), 2))


def test_the_released_holdout_draws_with_replacement_and_spares_small_classes_and_the_last():
    samples = [Sample(Path(f"{i}.jpg"), 1 + i // 100, 0) for i in range(1000)] + [
        Sample(Path(f"x{i}.jpg"), 50, 0) for i in range(9)
    ]
    samples += [Sample(Path(f"y{i}.jpg"), 60, 0) for i in range(100)]
    out = held_out(samples, 0.1, seed=0)
    assert not out[1000:].any() and 80 < out.sum() < 100
    assert training_set(dataset(images=30), generated(5), 0.1, 0).num_real < 120


# ---------------------------------------------------------------- crops


def gradient_image(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(
        np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.zeros_like(x)], -1).astype(np.uint8)
    )


def corners(images: list[torch.Tensor]) -> np.ndarray:
    """Range of red (x) and green (y) of each image as fractions of the picture's side."""
    red, green = (
        torch.stack([i[channel] for i in images]).flatten(1) * std + mean
        for channel, std, mean in ((0, 0.229, 0.485), (1, 0.224, 0.456))
    )
    return np.stack([red.amin(1), red.amax(1), green.amin(1), green.amax(1)], axis=1)


@pytest.mark.parametrize("crop, low, high", [("paper", 224 / 256, 224 / 256), ("scale", 0.85, 1.0)])
def test_windows_of_both_crops(crop, low, high):
    net = NetConfig()
    images = [TrainTransform(net, crop)(gradient_image(256, 256), random.Random(seed)) for seed in range(60)]
    assert {tuple(i.shape) for i in images} == {(3, 224, 224)}
    box = corners(images)
    for start, stop in ((0, 1), (2, 3)):
        extent = box[:, stop] - box[:, start]
        assert low - 0.02 < extent.min() and extent.max() < high + 0.02
        assert crop == "paper" or extent.max() - extent.min() > 0.1
        # windows reach the border and leave it
        assert box[:, start].max() > 0.08 and box[:, start].min() < 0.01
    mirrored = [i[0, 0, 0] > i[0, 0, -1] for i in images]
    assert 15 < sum(bool(m) for m in mirrored) < 45


def test_the_paper_crop_squeezes_any_image_first():
    image = TrainTransform(THIN, "paper", flip=0)(gradient_image(64, 128), random.Random(0))
    assert image.shape == (3, 64, 32)


@pytest.mark.parametrize("share, side", [("side", 0.85), ("area", 0.85**0.5)])
def test_a_share_is_one_of_the_side_or_of_the_area(share, side):
    class Smallest(random.Random):
        def uniform(self, low: float, high: float) -> float:
            return low

    image = TrainTransform(NetConfig(), "scale", flip=0.0, share=share)(gradient_image(256, 256), Smallest())
    assert corners([image])[0] == pytest.approx([0, side, 0, side], abs=0.01)


def test_only_the_pseudo_label_rows_have_an_interpolation_of_their_own():
    recipe = RecipeConfig(pseudo_interpolation="bilinear")
    methods = {loss: MethodConfig(loss) for loss in get_args(get_type_hints(MethodConfig)["loss"])}
    kinds = {loss: train_transform(THIN, recipe, method).interpolation for loss, method in methods.items()}
    assert kinds == dict.fromkeys(("none", "lsro", "all_in_one"), "bicubic") | {"pseudo": "bilinear"}


# ---------------------------------------------------------------- the network and its optimiser


def test_the_classifier_starts_small_and_features_have_norm_one():
    torch.manual_seed(0)
    model = ReIDNet(thin_resnet(), 150, THIN)
    assert model.classifier.weight.std().item() == pytest.approx(0.1 / 128**0.5, rel=0.05)
    assert (
        model.classifier.weight.abs().max() <= 0.1 * (3 / 128) ** 0.5
        and model.classifier.bias.abs().max() == 0
    )
    x = torch.rand(2, 3, 64, 32)
    assert model(x).shape == (2, 150) and torch.allclose(model.pool5(x).norm(dim=1), torch.ones(2))


def test_learning_rates_of_the_three_groupings():
    model = build_network(THIN, 10)
    count = len(list(model.parameters()))
    for kind, expected in (
        ("simple", {}),
        ("classifier", {"classifier_weight": 0.001}),
        ("released", {"conv1": 1e-5, "bn_weight": 1e-4, "classifier_weight": 0.001, "classifier_bias": 0.02}),
    ):
        groups = parameter_groups(model, RecipeConfig(lr_groups=kind), 1e-4)
        assert sum(len(group["params"]) for group in groups) == count
        assert {g["name"]: g["lr"] for g in groups} == pytest.approx(
            {name: expected.get(name, 0.002) for name in KINDS}
        )
        assert {g["name"] for g in groups if g["weight_decay"] == 0} == {"bn_weight", "bn_bias"}
    assert [g["params"][0].shape for g in groups if g["name"] == "conv1"] == [model.base.conv1.weight.shape]


def test_only_the_released_pseudo_net_has_its_own_decay():
    released = PRESETS["released"].recipe
    assert weight_decay(released, MethodConfig(loss="pseudo")) == (5e-4, True)
    assert (
        weight_decay(released, MethodConfig())
        == weight_decay(RecipeConfig(), MethodConfig(loss="pseudo"))
        == (1e-4, False)
    )


def test_learning_rate_drops_once_at_epoch_40():
    configuration = LSROConfig(net=THIN)
    optimizer = build_optimizer(configuration.recipe, configuration.method, build_network(THIN, 10))
    rates = {}
    for epoch in (0, 39, 40, 49, 80, 120):
        scale_learning_rate(optimizer, rate_factor(configuration.recipe, epoch))
        rates[epoch] = optimizer.param_groups[1]["lr"]
    assert rates == pytest.approx({0: 0.002, 39: 0.002, 40: 0.0002, 49: 0.0002, 80: 0.0002, 120: 0.0002})


def test_the_optimiser_takes_matconvnets_steps(formulas):
    """`cnn_train_dag.m`: d = g + wd w; v = mu v - d; w += lr (mu v - d), the rate dropping on the way."""
    start, gradients = formulas.scatter("w", 6), [formulas.scatter(f"g {t}", 6) for t in range(50)]
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.SGD(
        [{"params": [parameter], "initial_lr": 0.002, "weight_decay": 1e-4}],
        lr=0.002,
        momentum=0.9,
        nesterov=True,
    )
    w, v = start.copy(), np.zeros(6)
    for t, gradient in enumerate(gradients):
        factor = rate_factor(RecipeConfig(), t)
        scale_learning_rate(optimizer, factor)
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        decayed = gradient + 1e-4 * w
        v = 0.9 * v - decayed
        w = w + 0.002 * factor * (0.9 * v - decayed)
        assert np.abs(parameter.detach().numpy() - w).max() <= 1e-15


def test_every_preset_builds_with_its_batch_norm():
    for name, preset in PRESETS.items():
        net = NetConfig(**{**vars(preset.net), "weights": "none", "backbone": "thin"})
        model = build_network(net, 10)
        assert model.base.bn1.momentum == (0.001 if preset is PRESETS["released"] else 0.1)
        assert model.drop.p == preset.net.dropout
        nesterov = build_optimizer(preset.recipe, preset.method, model).defaults["nesterov"]
        assert nesterov == (name not in ("shared", "photos_cpu"))


def test_a_head_of_another_size_is_named():
    state = build_network(THIN, 11).state_dict()  # all in one: 10 people and one class more
    with pytest.raises(InputError, match="a classifier of 11 classes, expected 10"):
        load_weights(build_network(THIN, 10), state, "model.pt")
    with pytest.raises(InputError, match="no classes"):
        load_weights(build_network(THIN, 10), {}, "model.pt")


# ---------------------------------------------------------------- test views


@pytest.mark.parametrize("height, places", [(224, 1), (256, 4)])
def test_dense_features_sum_unit_places(height, places, formulas):
    class Map(torch.nn.Module):
        """A stand-in for ResNet-50: a map with 32 pixels a cell."""

        num_features = 3

        def forward(self, x):
            return x[:, :, ::32, ::32]

    model = ReIDNet(Map(), 5, THIN)
    x = torch.from_numpy(formulas.scatter("x", 2, 3, height, height))
    feature = model.dense_pool5(x, (7, 7))
    cells = x[:, :, ::32, ::32]
    expected = sum(
        F.normalize(cells[:, :, i : i + 7, j : j + 7].mean((2, 3)))
        for i in range(cells.shape[2] - 6)
        for j in range(cells.shape[3] - 6)
    )
    assert torch.allclose(feature, expected) and (cells.shape[2] - 6) ** 2 == places


def test_dense256_adds_the_mirror_image_and_is_a_unit_vector(tmp_path):
    gradient_image(64, 128).save(tmp_path / "a.png")
    model = build_network(THIN, 10).eval()
    assert model.pooling_window() == (8, 4)
    view = embedder(model, CPU, view="dense256")
    (feature,) = torch.from_numpy(embed(model, [Sample(tmp_path / "a.png", 1, 0)], view))
    with torch.inference_mode():
        x = EvalTransform(73, 37)(Image.open(tmp_path / "a.png"))[None]
        both = model.dense_pool5(x, (8, 4)) + model.dense_pool5(x.flip(3), (8, 4))
    assert torch.allclose(
        feature, F.normalize(both)[0], atol=1e-6
    ) and feature.norm().item() == pytest.approx(1)


def test_the_rank_list_can_be_cut_at_2000():
    query = [Sample(Path("q"), 1, 0)]
    gallery = [Sample(Path(f"g{i}"), 2, 1) for i in range(2100)] + [Sample(Path("hit"), 1, 1)]
    target = ReIDDataset("toy", Path("."), [], query, gallery, 2)
    features = np.ones((1, 1), np.float32), np.linspace(1, 2, 2101, dtype=np.float32)[:, None]
    whole, cut = (rank(target, *features, settings.TestConfig(cut=c)) for c in (None, 2000))
    assert whole["mAP"] > 0 and cut["mAP"] == 0 and cut["R-20"] == 0


def test_no_generated_image_can_be_scored():
    real = [Sample(Path("r.jpg"), 1, 0)]
    for query, gallery in ((generated(1), real), (real, [*real, *generated(2)])):
        with pytest.raises(InputError, match="expected real images only"):
            refuse_generated(ReIDDataset("toy", Path("."), real, query, gallery, 2))
    # training may have them
    refuse_generated(ReIDDataset("toy", Path("."), [*real, *generated(3)], real, real, 2))


# ---------------------------------------------------------------- configuration


def test_a_choice_that_nothing_implements_is_refused_with_the_configuration():
    for name in ("method.loss", "recipe.lr_groups", "dcgan.network", "net.backbone"):
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} "):
            override(PRESETS["demo"], {name: "unknown"})
    assert set(RATE_FACTORS) == set(get_args(get_type_hints(RecipeConfig)["lr_groups"]))
    assert set(DEPTHS) == set(get_args(get_type_hints(settings.GANConfig)["network"]))


# ---------------------------------------------------------------- experiments


def test_every_experiment_fits_every_preset_and_aliases_are_the_same_run():
    table = check_experiments("dcgan_lsro", list(LSRO.experiments))
    for preset in PRESETS.values():
        for experiment in table.values():
            override(preset, experiment.overrides)
    assert (
        table["dcgan_lsro/amount/1.86"].runs_as
        == table["dcgan_lsro/table1/lsro"].runs_as
        == "dcgan_lsro/table2/lsro=24000"
    )
    assert table["dcgan_lsro/table2/pseudo=0"].runs_as == "dcgan_lsro/table2/lsro=0"


def test_the_row_of_the_forks_dcgan_says_how_long_it_trains():
    (fork,) = (e for e in LSRO.experiments if e.overrides.get("dcgan.network") == "fork")
    assert f"{fork.overrides['dcgan.epochs']} epochs" in fork.title


def test_published_rows_of_ours_are_experiments():
    ours = {
        key
        for (key, *_), row in published("dcgan_lsro").items()
        if row.kind == "ours" and row.key.split("/")[1].startswith("table")
    }
    known = {e.key for e in LSRO.experiments}
    assert {key for key in ours if not key.split("/")[1] == "table6"} <= known
