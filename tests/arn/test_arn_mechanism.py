"""ARN's yardsticks: what D_C explains, where a probe reads the domain, what C_S knows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from arn.config import PRESETS, ARNConfig, RecipeConfig
from arn.data import labelled_samples
from arn.doubts import warn
from arn.evaluate import describe, embedder_of, with_total
from arn.judges import classifier_accuracy, explained_share, judge, principal_share, source_codes
from arn.model import build_network
from arn.train import resting_groups
from common.cli import override
from common.datasets import load_dataset
from common.evaluation.yardsticks import linear_probe
from common.hashing import canonical, digest

CPU = torch.device("cpu")
TINY = {"net.height": 16, "net.width": 8, "latent.width": 6}
STUDIED = ("study", "shared", "photos_cpu")  # presets with a decoder that rebuilds X


def test_the_new_switches_are_off_and_leave_hashes_as_they_were():
    off = ARNConfig().test
    assert off.judge_steps == 0 and RecipeConfig().rest == "rate" and RecipeConfig().optimizer == "sgd"
    for name, preset in PRESETS.items():
        assert (preset.test.judge_steps > 0) == (preset.recipe.rest == "all") == (name in STUDIED)
    assert digest(off) == digest({"feature": "e_c"}) != digest(replace(off, judge_steps=1))
    assert {"rest", "optimizer"}.isdisjoint(canonical(RecipeConfig()))
    assert {"rest", "optimizer"} <= set(canonical(RecipeConfig(rest="all", optimizer="adam")))


def rows_of(maps: np.ndarray, rebuilt: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "energy": np.square(maps).sum(axis=1, keepdims=True),
        "error": np.square(rebuilt - maps).sum(axis=1, keepdims=True),
        "total": maps.sum(axis=0, keepdims=True),
    }


def test_the_explained_share_is_1_for_x_and_0_for_the_mean_map():
    maps = np.array([[0.0, 1.0, 4.0], [1.0, 2.0, 4.0], [5.0, 3.0, 4.0]])
    mean = np.repeat(maps.mean(axis=0, keepdims=True), 3, axis=0)
    halfway = (maps + mean) / 2
    for rebuilt, share in ((maps, 1.0), (mean, 0.0), (halfway, 0.75), (2 * mean - maps, -3.0)):
        assert explained_share(rows_of(maps, rebuilt)) == pytest.approx(share)


def test_principal_components_explain_what_they_span():
    """Three orthogonal directions of deviation 3, 2 and 1 about a mean: 9, 4 and 1 of 14."""
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], float)
    basis = np.linalg.qr(np.sin(np.arange(30.0)).reshape(10, 3))[0].T
    maps = 5 + signs * [3, 2, 1] @ basis
    for width, share in ((1, 9 / 14), (2, 13 / 14), (3, 1.0), (7, 1.0)):
        assert principal_share(maps, maps, width) == pytest.approx(share)
    shifted = maps + 2 * basis[2]  # the mean of the others is kept: what lies off it counts as an error
    assert principal_share(maps, shifted, 1) == pytest.approx((14 * 8 - 8 * (4 + 1) - 8 * 4) / (14 * 8))


@pytest.fixture(scope="module")
def network():
    config = override(PRESETS["demo"], TINY)
    torch.manual_seed(4)
    network = build_network(config, 6).train()
    with torch.no_grad():
        network(torch.randn(8, 3, 16, 8), torch.randn(8, 3, 16, 8))
    return config, network.eval()


def test_source_images_are_encoded_by_their_own_encoders(network):
    _, network = network
    images = torch.randn(3, 3, 16, 8)
    x = network.encoder_base(images)
    codes = source_codes(network, images)
    assert torch.equal(codes.private, network.encoder_s(x).mean((2, 3)))
    assert torch.equal(codes.logits, network.classifier(codes.common))
    assert not torch.allclose(codes.private, describe(network(images)[0])["e_p"])


def map_rows(embedder, network, samples) -> np.ndarray:
    """What D_C should rebuild of target images `(N, P)`."""

    def features(network, images):
        return {"map": network(images)[0].original.flatten(1)}

    return replace(embedder, features=features).embed(network, samples)["map"]


def test_the_yardsticks_of_a_network(network, data_root):
    """Each measure from its own images and codes; the same without private encoders."""
    config, network = network
    source, target = (load_dataset(name, data_root) for name in ("dukemtmc", "market1501"))
    labelled, embedder = labelled_samples(source, "train"), embedder_of(config.net, CPU, 0)
    measures = judge(embedder, network, labelled, source, target, steps=1)
    assert set(measures) == {
        "rec_explained",
        "rec_explained_source",
        "rec_explained_linear",
        "cs_accuracy",
        "domain_read_common",
        "domain_read_private",
        "domain_read_map",
    }
    rows_t = with_total(embedder, network, [*target.query, *target.gallery])
    rows_s = with_total(embedder, network, [*source.query, *source.gallery], source_codes)
    assert measures["rec_explained"] == explained_share(rows_t)
    assert measures["rec_explained_source"] == explained_share(rows_s)
    for name, feature in (("common", "e_c"), ("private", "e_p"), ("map", "X")):
        assert measures[f"domain_read_{name}"] == linear_probe(rows_s[feature], rows_t[feature], 1)
    known, tested = (
        map_rows(embedder, network, samples)
        for samples in ([*source.train, *target.train], [*target.query, *target.gallery])
    )
    assert measures["rec_explained_linear"] == pytest.approx(principal_share(known, tested, 6), rel=1e-6)
    assert measures["rec_explained"] < measures["rec_explained_linear"] <= 1

    alone = build_network(override(config, {"latent.private": False}), 6).eval()
    assert "domain_read_private" not in judge(embedder, alone, labelled, source, target, steps=2)


def test_the_classifiers_accuracy_is_that_of_its_labels(network, data_root):
    config, network = network
    labelled = labelled_samples(load_dataset("dukemtmc", data_root), "train")
    embedder = embedder_of(config.net, CPU, 0)

    def features(network, images):
        return {"logits": source_codes(network, images).logits}

    seen = replace(embedder, features=features).embed(network, labelled.samples)["logits"].argmax(axis=1)
    assert classifier_accuracy(embedder, network, labelled._replace(labels=seen)) == 1.0
    assert classifier_accuracy(embedder, network, labelled._replace(labels=seen + 1)) == 0.0


def test_what_rests_in_a_warm_up():
    for warmup, groups in (("literal_ei", ("latent", "cls")), ("freeze_ei", ("ei",)), ("source_ce", ())):
        recipe = RecipeConfig(warmup=warmup, warmup_epochs=2)
        assert [resting_groups(recipe, epoch) for epoch in (1, 2)] == [groups, ()]


@pytest.mark.parametrize(
    "preset, changes, words",
    [
        ("blog", {"w.rec": 0.1}, "--w.rec 0.1 belongs to a sum over channels (preset released)"),
        ("blog", {"w.ctr": 0.1}, "--w.ctr 0.1 belongs to a mean over pairs (preset released)"),
        ("blog", {"w.diff": 0.1}, "--w.diff 0.1 belongs to raw codes (preset released)"),
        ("blog", {"diff.form": "dot"}, "--w.diff 1500 with --diff.form dot drives signed codes to opposite"),
        ("blog", {"diff.form": "dot", "latent.last": "bn_relu"}, ""),
        ("released", {"diff.row_norm": True, "diff.reduction": "mean"}, "--w.diff 0.1 belongs to raw codes"),
        ("released", {"w.diff": 1500.0}, "--diff.reduction sum and --diff.no-row-norm it drowns"),
    ],
)
def test_weights_of_the_other_presets_forms_are_warned_of(caplog, preset, changes, words):
    warn(override(PRESETS[preset], changes))
    assert [words in message for message in caplog.messages] == ([True] if words else [])


def test_the_study_is_the_demo_but_for_named_deviations():
    study = PRESETS["study"]
    kept = {
        "latent.dropout": 0.5,
        "rec.reduction": "mean",
        "lr.latent": 0.01,
        "lr.cls": 0.02,
        "recipe.optimizer": "sgd",
        "recipe.batch": 16,
        "recipe.ids": 4,
        "recipe.epochs": 5,
        "recipe.drop_epoch": 0,
        "recipe.rest": "rate",
        "test.judge_steps": 0,
    }
    assert override(study, kept) == PRESETS["demo"] != study
