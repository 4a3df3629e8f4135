"""The switches beyond the released path: sampling, style sources, anchors, single pass, shared augmentation,
and what is measured on a network.
"""

import io
import json
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.backbones import build_backbone
from common.cli import override
from common.datasets.images import read_image
from common.datasets.loading import Draw, SampleImages, normalise
from common.datasets.synthetic import load_synthetic
from common.errors import InputError
from common.evaluation.features import save_features
from common.job import Job, Options, Workspace
from common.runs import StageStore
from hhl import analysis, styles, train
from hhl.augmentation import TrainTransform, crop_box, train_transforms
from hhl.config import PRESETS, HHLConfig, MethodConfig, NetConfig, RecipeConfig, TranslationConfig
from hhl.data import ClusterPlan, Part, Schedule, k_means, plan_steps, target_passes, with_images
from hhl.experiments import EXPERIMENTS, HHL
from hhl.losses import batch_hard_triplet
from hhl.model import HHLNet
from hhl.train import anchor_mask, forward_parts, forward_single, triplet_term
from hhl.views import TargetViews, fake_path, target_views

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return load_synthetic("synthetic-market", tmp_path_factory.mktemp("drawn"), train_ids=12, test_ids=4)


# ---------------------------------------------------------------- experiments and settings


def test_every_experiment_is_a_valid_configuration_of_every_preset():
    for preset in HHL.presets.values():
        for experiment in EXPERIMENTS:
            config = override(preset, experiment.overrides)
            assert (config != preset) == bool(
                experiment.overrides
            ) or experiment.key == "hhl/control/embedding=frozen", experiment.key


def test_the_figures_have_the_papers_points():
    keys = Counter(e.key.split("/")[1] for e in EXPERIMENTS)
    assert (keys["fig3"], keys["fig5"], keys["fig6"], keys["table2"], keys["table3"]) == (3, 21, 9, 6, 6)
    alias = {e.key: e.alias_of for e in EXPERIMENTS}
    assert (
        alias["hhl/fig5/beta=0"] == "hhl/table2/baseline_source"
        and alias["hhl/fig6/n_t=0"] == "hhl/table2/L_T"
    )
    assert (
        alias["hhl/fig5/beta=0.5"]
        == alias["hhl/fig6/n_t=16"]
        == alias["hhl/fig3/random"]
        == "hhl/table2/L_CD"
    )


def test_the_demo_halves_every_batch():
    recipe = PRESETS["demo"].recipe
    assert [recipe.scaled(n) for n in (recipe.batch, recipe.images_per_id, recipe.target_batch, 1)] == [
        64,
        4,
        8,
        1,
    ]


@pytest.mark.parametrize(
    "overrides, words",
    [
        (
            {"method.classification": False, "method.source_triplet": False, "method.target_views": "none"},
            "nothing is left to train with",
        ),
        ({"method.source_triplet": False, "recipe.target_batch": 1}, "no negative"),
        ({"method.target_anchors": "real", "method.triplets": "all"}, "only batch-hard"),
        ({"method.target_anchors": "none", "method.source_triplet": False}, "no anchor is left"),
        ({"recipe.epochs_of_batch": -2}, "epochs-of-batch"),
        ({"recipe.batch_scale": 0.0}, "batch-scale"),
    ],
)
def test_settings_that_cannot_be(overrides, words):
    groups = {
        group: {name.split(".")[1]: value for name, value in overrides.items() if name.startswith(group)}
        for group in ("recipe", "method")
    }
    with pytest.raises(InputError, match=words):
        HHLConfig(recipe=RecipeConfig(**groups["recipe"]), method=MethodConfig(**groups["method"]))


# ---------------------------------------------------------------- sampling


def test_every_cluster_of_k_means_has_a_member():
    rng = np.random.default_rng(0)
    centres = np.eye(8)[:4]
    points = np.concatenate([centre + 0.01 * rng.standard_normal((20, 8)) for centre in centres])
    assignment = k_means(points, 4, np.random.default_rng(3))
    assert all(len(set(assignment[i : i + 20])) == 1 for i in range(0, 80, 20)) or len(set(assignment)) == 4
    # all images alike: still six clusters
    assert set(k_means(np.ones((10, 3)), 6, np.random.default_rng(1))) == set(range(6))


def test_cluster_passes_take_one_image_of_each_cluster_and_can_be_restored():
    passes = ClusterPlan(60, 5, seed=7)
    features = np.random.default_rng(0).standard_normal((60, 4))
    passes.refresh(features, epoch=2)
    batch = passes.batch(3, 1)
    assert sorted(passes.assignment.numpy()[batch]) == list(range(5)) and passes.steps_per_epoch == 12
    other = ClusterPlan(60, 5, seed=7)
    assert other.batch(3, 1).tolist() != batch.tolist()
    other.load_state_dict(passes.state_dict())
    assert other.batch(3, 1).tolist() == batch.tolist()
    with pytest.raises(InputError, match="do not give 61 clusters"):
        ClusterPlan(60, 61, seed=0)


def test_supervised_sampling_never_repeats_a_person(market):
    passes = target_passes("supervised", market.train, 6, seed=0)
    pids = np.array([s.pid for s in market.train])
    assert all(len(set(pids[passes.batch(number, 0)])) == 6 for number in range(20))
    shuffled = target_passes("random", market.train, 6, seed=0)
    assert any(len(set(pids[shuffled.batch(number, 0)])) < 6 for number in range(20))


def tiny_config(**changes) -> HHLConfig:
    recipe = RecipeConfig(
        epochs=2, batch=16, ids=4, images_per_id=2, target_batch=4, **changes.pop("recipe", {})
    )
    return HHLConfig(
        net=NetConfig("thin", "none", 64, 32, embed_dim=16, triplet_dim=8), recipe=recipe, **changes
    )


def steps_of(config: HHLConfig, market) -> Schedule:
    return plan_steps(config.recipe, config.method, market, TargetViews(market.train, 1), 0)


def test_epochs_of_another_batch_keep_the_number_of_steps(market):
    steps = {
        batch: steps_of(tiny_config(recipe={"epochs_of_batch": batch}), market).steps_per_epoch
        for batch in (None, 32)
    }
    assert steps[None] == len(market.train) // 16 and steps[32] == len(market.train) // 32


def test_loaders_that_restart_by_themselves_read_their_whole_list(market):
    config = tiny_config(recipe={"restarts": "own"}, method=MethodConfig(target_views="real"))
    schedule = steps_of(config, market)
    steps = len(market.train) // 4
    seen = np.concatenate([schedule.parts["target"].plan(step) for step in range(steps)])
    # one pass, although it is longer than an epoch and than a pass of the source
    assert len(set(seen)) == len(seen)


def test_the_scale_applies_to_every_batch(market):
    """32 labelled images, 4 people with 6 each, 10 target images, all of them halved."""
    recipe = RecipeConfig(
        batch=32, ids=4, images_per_id=6, target_batch=10, batch_scale=0.5, shared_augmentation=True
    )
    config = HHLConfig(recipe=recipe, method=MethodConfig(target_views="real"))
    schedule = steps_of(config, market)
    sizes = {name: len(part.plan(0)) for name, part in schedule.parts.items()}
    assert sizes == {"classify": 16, "source": 4 * 3, "target": 5} and schedule.parts["target"].period == 5
    assert schedule.steps_per_epoch == len(market.train) // 16
    of_batch = replace(config, recipe=replace(recipe, epochs_of_batch=20))
    assert steps_of(of_batch, market).steps_per_epoch == len(market.train) // 10


def test_the_losses_see_the_identities_of_the_source_or_of_the_target(market, tmp_path):
    other = replace(market)
    for labels, data in (("source", market), ("target", other)):
        config = HHLConfig(method=MethodConfig(labels=labels))
        job = Job("hhl", EXPERIMENTS[0], config, market, other, CPU, Options(), StageStore(tmp_path))
        assert train.labelled(job) is data


def test_clusters_are_renewed_every_epoch_by_a_network_in_evaluation_mode(market, tmp_path, monkeypatch):
    """Five steps, two an epoch; the network goes back to training."""
    model, epochs, modes = torch.nn.Linear(2, 2), [], []
    features = SimpleNamespace(embed=lambda network, _: modes.append(network.training) or {"pool5": None})
    monkeypatch.setattr(train, "embedder", lambda *arguments: features)
    loop = SimpleNamespace(
        workspace=Workspace(tmp_path),
        start=0,
        total=5,
        load=lambda images, plan, labels, *, start, stop: range(start, min(stop, 5)),
    )
    clusters = SimpleNamespace(refresh=lambda pool5, epoch: epochs.append(epoch))
    part = {"target": Part(market.train, None, None)}
    schedule = Schedule(part, 2, 5, clusters=clusters, images=dict.fromkeys(part))
    seen = [(batch["target"], model.training) for batch in train.load_epochs(model, loop, schedule)]
    assert seen == [(step, True) for step in range(5)] and epochs == [0, 1, 2] and modes == [False] * 3


def test_repeated_people_are_noticed(market):
    schedule = steps_of(tiny_config(method=MethodConfig(target_views="real")), market)
    pids, seen = np.array([s.pid for s in market.train]), []
    for step in range(12):
        indices = schedule.parts["target"].plan(step)
        seen.append(schedule.views.repeats_a_person(indices))
        assert seen[-1] == (len(set(pids[indices])) < 4) and len(indices) == 4
    assert set(seen) == {True, False}
    two_views = TargetViews([*market.train] * 2, 2)  # both views of an image count once
    different = [int(np.flatnonzero(pids == pid)[0]) for pid in sorted(set(pids))[:4]]
    assert not two_views.repeats_a_person(two_views.of(np.array(different)))


# ---------------------------------------------------------------- augmentation


def test_a_period_shares_the_draws_of_the_views(market):
    paths = [market.train[0].path] * 6
    images = SampleImages(paths, TrainTransform(64, 32), seed=1, stream="x", period=3)
    views = [images[Draw(5, slot, slot)][0] for slot in range(6)]
    assert all(torch.equal(views[slot], views[slot + 3]) for slot in range(3)) and not torch.equal(
        views[0], views[1]
    )


@pytest.mark.parametrize("shared", [False, True])
def test_the_views_of_a_target_image_may_share_their_draws(market, tmp_path, shared):
    """Both views are the image itself here: 4 target images a step, slots 0-3 and 4-7."""
    config = tiny_config(recipe={"shared_augmentation": shared, "crop": "none", "erasing": 1.0})
    views = TargetViews([*market.train] * 2, 2)
    schedule = plan_steps(config.recipe, config.method, market, views, seed=0)
    transforms = train_transforms(config.net, config.recipe, None)
    images = with_images(schedule, transforms, Workspace(tmp_path)).images["target"]
    pairs = [[images[Draw(2, slot + view, slot)][0] for view in (0, 4)] for slot in range(4)]
    assert all(torch.equal(*pair) for pair in pairs) is shared
    assert not torch.equal(images[Draw(2, 0, 0)][0], images[Draw(2, 1, 0)][0])


def test_real_images_are_resized_first_where_they_share_a_crop(market):
    def first_size(**changes):
        real = {"method.target_views": "real", "stargan.height": 40, "stargan.width": 20}
        return target_views(override(PRESETS["demo"], {**real, **changes}), market, None).first_size

    assert first_size() is None
    assert first_size(**{"style.resize_real_first": True}) == (40, 20)
    assert first_size(**{"recipe.shared_augmentation": True}) == (40, 20)


def test_a_row_of_real_images_leaves_measured_styles_alone(market, tmp_path):
    config = override(PRESETS["demo"], {"method.target_views": "real", "style.measure": True})
    views = target_views(config, market, tmp_path)
    assert (views.samples, views.num_views) == (market.train, 1)


def test_without_a_crop_the_whole_image_is_resized(market):
    image = read_image(market.train[0].path)
    whole = normalise(image.resize((24, 48), Image.Resampling.BILINEAR))
    for seed in range(5):
        assert torch.equal(TrainTransform(48, 24, flip=0.0, crop="none")(image, random.Random(seed)), whole)
        assert not torch.equal(TrainTransform(48, 24, flip=0.0)(image, random.Random(seed)), whole)


def test_a_crop_may_keep_the_aspect():
    rng = random.Random(0)
    for _ in range(50):
        left, top, right, bottom = crop_box(60, 200, rng, keep_aspect=True)
        assert (bottom - top) / (right - left) == pytest.approx(200 / 60, rel=0.03)


def test_first_size_comes_before_everything(market):
    image = read_image(market.train[0].path)
    small = image.resize((32, 64), Image.Resampling.BILINEAR)
    crop = TrainTransform(64, 32)
    assert torch.equal(
        TrainTransform(64, 32, first_size=(64, 32))(image, random.Random(3)), crop(small, random.Random(3))
    )
    assert not torch.equal(crop(image, random.Random(3)), crop(small, random.Random(3)))


def test_jitter_is_for_labelled_images_alone(market):
    config = tiny_config(recipe={"colour_jitter": 0.5}, method=MethodConfig(target_views="real"))
    transforms = train_transforms(config.net, config.recipe, None)
    assert transforms.keys() == steps_of(config, market).parts.keys()
    assert {name: transform.colour_jitter for name, transform in transforms.items()} == {
        "classify": 0.5,
        "source": 0.5,
        "target": 0.0,
    }


# ---------------------------------------------------------------- network and losses


def small_net(**changes) -> HHLNet:
    torch.manual_seed(0)
    net = NetConfig(height=64, width=32, embed_dim=16, triplet_dim=8, **changes)
    return HHLNet(build_backbone("thin"), 6, net)


def test_one_pass_equals_many_when_nothing_depends_on_the_batch():
    model = small_net().eval()
    images = {name: torch.randn(n, 3, 32, 16) for name, n in (("classify", 5), ("source", 4), ("target", 6))}
    with torch.no_grad():
        for one, many in zip(forward_single(model, images), forward_parts(model, images)):
            assert torch.allclose(one, many, atol=1e-6)
    one, many = (step(small_net(dropout=0.0).train(), images)[1] for step in (forward_single, forward_parts))
    assert (one - many).abs().max() > 1e-3  # in training the batch norms see another batch


def test_a_triplet_head_behind_the_dropout_sees_it():
    x = torch.randn(4, 3, 32, 16)
    before, after = (small_net(dropout=0.9, triplet_after_dropout=flag) for flag in (False, True))
    for model in (before, after):
        model.train().feat_bn.eval()
        model.base.eval()
    with torch.no_grad():
        assert torch.equal(before(x, "triplet"), before(x, "triplet")) and not torch.equal(
            after(x, "triplet"), after(x, "triplet")
        )


def test_both_heads_read_the_same_dropout():
    """`both`, the output of a single pass: FC-128 behind the dropout sees the classifier's values."""
    model = small_net(dropout=0.9, triplet_after_dropout=True).train()
    with torch.no_grad():
        model.classifier.weight.copy_(model.triplet.weight[:6])
        logits, embeddings = model(torch.randn(4, 3, 32, 16), "both")
    torch.testing.assert_close(logits, embeddings[:, :6])


@pytest.mark.parametrize("kind, expected", [("all", 9), ("real", 3 + 3), ("none", 3)])
def test_anchor_masks(kind, expected):
    mask = anchor_mask(kind, 9, target_images=3, num_views=2)  # three of the source, three real, three fakes
    assert mask.nonzero().flatten().tolist() == list(range(expected))


def test_the_triplet_switches_reach_the_loss():
    torch.manual_seed(1)
    x, labels, anchors = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 3]), torch.ones(6, dtype=torch.bool)
    hard, _ = triplet_term(MethodConfig(), x, labels, anchors)
    total, _ = triplet_term(MethodConfig(reduction="sum"), x, labels, anchors)
    assert total == pytest.approx(6 * hard.item(), rel=1e-5)
    far = torch.tensor([[0.0], [0.1], [9.0], [9.2]])
    without, _ = batch_hard_triplet(far, torch.tensor([0, 0, 1, 1]), hinge=False)
    gaps = [0.1 - 9.0, 0.1 - 8.9, 0.2 - 8.9, 0.2 - 9.1]
    assert (
        without == pytest.approx(np.mean(gaps) + 0.3, rel=1e-4)
        and batch_hard_triplet(far, torch.tensor([0, 0, 1, 1]))[0] == 0
    )
    mean_of_all, share = triplet_term(MethodConfig(triplets="all"), x, labels, anchors)
    mean_of_active, _ = triplet_term(MethodConfig(triplets="all_nonzero"), x, labels, anchors)
    assert mean_of_all == pytest.approx(mean_of_active.item() * share.item(), rel=1e-5)
    wide, _ = triplet_term(MethodConfig(triplets="all", margin=20.0), x, labels, anchors)  # all are active
    wider, _ = triplet_term(MethodConfig(triplets="all", margin=25.0), x, labels, anchors)
    assert wider.item() == pytest.approx(wide.item() + 5, rel=1e-5)


# ---------------------------------------------------------------- camera styles without a GAN


def test_the_quality_is_that_of_the_controls_files(market, tmp_path):
    few = replace(market, train=market.train[:1])
    render = styles.colour_statistics(few.train)
    pixels = render(few.train[0], few.train[0].camid)  # at the size of the files: (width, height)
    for quality in (30, 75):
        (tmp_path / f"{quality}").mkdir()
        work = Workspace(tmp_path / f"{quality}")
        styles.render_styles(work, few, TranslationConfig(kind="stats", quality=quality), pixels.shape[1::-1])
        expected = io.BytesIO()
        Image.fromarray(pixels).save(expected, "JPEG", quality=quality)
        fake = fake_path(work.folder / styles.FOLDER, few.train[0].stem, few.train[0].camid + 1)
        assert fake.read_bytes() == expected.getvalue()


def test_a_stargan_trains_only_where_it_makes_the_styles_and_for_its_epochs(market, tmp_path, monkeypatch):
    trained = []

    def stop(work, gan, target):
        trained.append(gan)
        raise InputError("far enough")

    monkeypatch.setattr(styles, "train_stargan", stop)

    def job(**changes) -> Job:
        config = override(PRESETS["demo"], changes)
        few = replace(market, train=market.train[:8])
        return Job("hhl", EXPERIMENTS[0], config, few, few, CPU, Options(), StageStore(tmp_path))

    changes = {"stargan.batch": 4, "stargan.epochs": 3}
    with pytest.raises(InputError, match="far enough"):
        styles.camera_styles(job(**changes))
    gan = PRESETS["demo"].stargan
    assert trained == [replace(gan, batch=4, iterations=3 * 2)]
    control = job(**{"style.kind": "self", **changes})
    styles.camera_styles(control)
    assert set(control.stages) == {"camstyle"} and len(trained) == 1


def test_colour_statistics_move_a_camera_onto_another(market):
    render = styles.colour_statistics(market.train)
    cameras = {s.camid for s in market.train}
    own = min(cameras)
    pixels = {
        c: np.concatenate(
            [np.asarray(read_image(s.path), float).reshape(-1, 3) for s in market.train if s.camid == c]
        )
        for c in cameras
    }
    for camera in sorted(cameras - {own})[:2]:
        moved = np.concatenate(
            [render(s, camera).reshape(-1, 3) for s in market.train if s.camid == own]
        ).astype(float)
        # equal but for what is cut off at 0 and 255
        assert (
            np.abs(moved.mean(0) - pixels[camera].mean(0)).max()
            < np.abs(pixels[own].mean(0) - pixels[camera].mean(0)).max() / 3
        )
        assert np.abs(moved.std(0) - pixels[camera].std(0)).max() < 8
    sample = next(s for s in market.train if s.camid == own)
    assert (
        np.abs(render(sample, own).astype(int) - np.asarray(read_image(sample.path)).astype(int)).max() <= 1
    )


@pytest.mark.parametrize("kind", ["stats", "oracle", "self"])
def test_controls_write_a_camera_style_folder(market, tmp_path, kind):
    few = replace(market, train=market.train[:5])
    work = Workspace(tmp_path)
    styles.render_styles(work, few, TranslationConfig(kind=kind), (32, 64))
    folder = tmp_path / styles.FOLDER
    assert len(list(folder.glob("*_fake_?.jpg"))) == 5 * market.num_cameras
    assert read_image(fake_path(folder, few.train[0].path.stem, 1)).size == (32, 64)
    errors = json.loads((tmp_path / "oracle.json").read_text(encoding="utf-8"))
    if kind == "oracle":
        assert errors["fake_l1"] < 8 < errors["identity_l1"]  # JPEG alone
    if kind == "self":
        assert errors["fake_l1"] == pytest.approx(errors["identity_l1"], abs=2) and errors["own_style_l1"] < 8


def test_an_oracle_of_real_photographs_is_refused(market, tmp_path):
    config = replace(PRESETS["demo"], style=TranslationConfig(kind="oracle"))
    photographs = replace(market, name="market1501")
    job = Job("hhl", EXPERIMENTS[0], config, market, photographs, CPU, Options(), StageStore(tmp_path))
    with pytest.raises(InputError, match="the true styles are known for"):
        styles.camera_styles(job)


# ---------------------------------------------------------------- what is measured on a network


def test_overlap_of_clouds_that_are_one_and_of_clouds_that_are_apart():
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    one = analysis.overlap(unit(rng.standard_normal((300, 8))), unit(rng.standard_normal((300, 8))))
    assert one["domain_mixing"] == pytest.approx(1, abs=0.05) and one["domain_accuracy"] == pytest.approx(
        0.5, abs=0.08
    )
    shifted = rng.standard_normal((100, 8)) + 9 * np.eye(8)[0]
    apart = analysis.overlap(unit(rng.standard_normal((300, 8)) - 9 * np.eye(8)[0]), unit(shifted))
    assert apart == {"domain_mixing": 0, "domain_accuracy": 1}


def test_distance_metrics_by_hand():
    a, b = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    assert analysis.distance_metrics("x", a, b) == pytest.approx(
        {"x_l2": 2**0.5 / 2, "x_l2_squared": 1, "x_cosine": 0.5}
    )


def test_copies_that_are_the_image_itself_have_distance_zero(market, tmp_path):
    model = small_net().eval()
    samples = market.train[:4]
    for s in samples:
        for k in range(market.num_cameras):
            fake = fake_path(tmp_path, s.path.stem, k + 1)
            fake.write_bytes(s.path.read_bytes())
    work, fakes = (
        Workspace(tmp_path, device=CPU),
        analysis.other_styles(samples, tmp_path, market.num_cameras),
    )
    assert len(fakes) == 4 * (market.num_cameras - 1)
    measured = analysis.copy_distances(model, samples, fakes, work)
    assert (
        measured["camstyle_l2"] == pytest.approx(0, abs=1e-5)
        and measured["crop_l2"] > 1e-3 < measured["flip_l2"]
    )
    assert "camstyle_l2" not in analysis.copy_distances(model, samples, [], work)


def test_retrieval_by_camera_by_hand(tmp_path):
    """Two people, two cameras; features on a line. In the query's own camera its person is nearest, in the
    other one last.
    """
    save = lambda name, x, pids, cams: save_features(  # noqa: E731
        tmp_path / f"{name}.npz",
        np.array(x, np.float32)[:, None],
        pids,
        cams,
        [f"{i}.jpg" for i in range(len(x))],
        normalised=False,
        model="x",
    )
    save("query", [0.0], [1], [0])
    save("gallery", [0.1, 0.5, 0.6, 0.2], [1, 2, 1, 2], [0, 0, 1, 1])
    measured = analysis.retrieval_by_camera(tmp_path)
    assert measured == pytest.approx(
        {"same_camera_mAP": 1, "same_camera_R-1": 1, "cross_camera_mAP": 0.25, "cross_camera_R-1": 0}
    )
