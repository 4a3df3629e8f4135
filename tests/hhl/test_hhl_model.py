"""The re-ID network and its optimiser groups against the released ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.backbones import build_backbone, global_pool
from common.errors import InputError
from hhl.config import NetConfig
from hhl.model import HHLNet, load_released, parameter_groups

SMALL = NetConfig(embed_dim=64, triplet_dim=16)
EMBEDDING = {"feat.weight", "feat.bias", "feat_bn.weight", "feat_bn.bias", "triplet.weight", "triplet.bias"}


@pytest.fixture
def net(formulas) -> HHLNet:
    """ResNet-18 of 10 identities with an embedding of 64 and a triplet head of 16, filled by formula; dropout
    of every other entry.
    """
    model = HHLNet(build_backbone("resnet18"), 10, SMALL)
    formulas.fill(model)
    model.drop = formulas.HalfDrop()
    return model


def test_names_and_shapes_are_the_released_ones(net, golden):
    assert {f"{name} {tuple(value.shape)}" for name, value in net.state_dict().items()} == set(
        golden("hhl_model")["shapes"].tolist()
    )


def test_parameter_count_at_full_size():
    """28,508,006 as released, of which 2,049,000 belong to ImageNet's unused classifier."""
    with torch.device("meta"):
        full = HHLNet(build_backbone("resnet50"), 702, NetConfig())
        baseline = HHLNet(build_backbone("resnet50"), 702, NetConfig(), triplet=False)
    assert sum(p.numel() for p in full.parameters()) == 28_508_006 - 2_049_000
    assert sum(p.numel() for p in full.base.parameters()) == 25_557_032 - 2_049_000
    assert sum(p.numel() for p in baseline.parameters()) == 28_508_006 - 2_049_000 - (1024 + 1) * 128


def test_initial_weights():
    model = HHLNet(build_backbone("thin"), 700, NetConfig())
    stds = [layer.weight.std().item() for layer in (model.feat, model.classifier, model.triplet)]
    np.testing.assert_allclose(stds, [(2 / 1024) ** 0.5, 0.001, 0.001], rtol=0.03)
    assert not any(layer.bias.any() for layer in (model.feat, model.classifier, model.triplet, model.feat_bn))
    assert (model.feat_bn.weight == 1).all() and model.drop.p == 0.5


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_outputs_equal_the_released_ones(mode, net, formulas, golden):
    net.train(mode == "train")
    images, expected = formulas.scattered("images", 4, 3, 64, 32), golden("hhl_model")
    for output in ("logits", "triplet", "pool5"):
        with torch.no_grad():
            got = net(images, output).numpy()
        scale = np.abs(expected[f"{mode}_{output}"]).max()
        np.testing.assert_allclose(got / scale, expected[f"{mode}_{output}"] / scale, atol=2e-5)


def test_dropout_is_on_the_classifiers_branch_alone(formulas):
    """In training mode: FC-128 is the same under any seed, the logits are those of FC-1024 under the seed's
    mask.
    """
    model, images = (
        HHLNet(build_backbone("thin"), 5, NetConfig()).train(),
        formulas.scattered("images", 4, 3, 64, 32),
    )

    def output(name: str, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(images, name)

    assert torch.equal(output("triplet", 0), output("triplet", 1))
    assert not torch.equal(output("logits", 0), output("logits", 1))
    embedding = F.relu(model.feat_bn(model.feat(global_pool(model.base(images)))))
    torch.manual_seed(0)
    mask = F.dropout(torch.ones(4, 1024), 0.5)
    torch.testing.assert_close(output("logits", 0), model.classifier(mask * embedding))


def test_outputs_that_do_not_exist():
    model = HHLNet(build_backbone("thin"), 5, NetConfig(), triplet=False)
    for output in ("triplet", "fc128"):
        with pytest.raises(
            ValueError, match=f"output '{output}': expected logits, pool5, pooled, or triplet"
        ):
            model(torch.zeros(2, 3, 64, 32), output)


@pytest.mark.parametrize("embed_lr", [None, 0.01, 0.1])
def test_optimiser_membership(embed_lr, net, golden):
    groups = parameter_groups(net, base_lr=0.01, classifier_lr=0.1, embed_lr=embed_lr)
    names = {id(p): name for name, p in net.named_parameters()}
    lr_of = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(lr_of)  # none twice
    assert all(lr_of[name] == 0.01 for name in names.values() if name.startswith("base."))
    assert lr_of["classifier.weight"] == lr_of["classifier.bias"] == 0.1
    if embed_lr is None:
        assert set(names.values()) - set(lr_of) == set(golden("hhl_model")["unchanged"].tolist()) == EMBEDDING
    else:
        assert {lr_of[name] for name in EMBEDDING} == {embed_lr} and len(lr_of) == len(names)
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == (
        EMBEDDING if embed_lr is None else set()
    )


def test_groups_without_a_triplet_head():
    model = HHLNet(build_backbone("thin"), 5, NetConfig(), triplet=False)
    groups = parameter_groups(model, base_lr=0.01, classifier_lr=0.1, embed_lr=0.1)
    assert [group["name"] for group in groups] == ["base", "classifier", "embedding"] and len(
        groups[2]["params"]
    ) == 4


def test_released_checkpoints_load(net, formulas, tmp_path):
    state = {f"module.{name}": value.clone() for name, value in net.state_dict().items()}
    state |= {"module.base.fc.weight": torch.zeros(1000, 512), "module.base.fc.bias": torch.zeros(1000)}
    torch.save({"state_dict": state, "epoch": 60}, tmp_path / "checkpoint.pth.tar")
    fresh = HHLNet(build_backbone("resnet18"), 10, SMALL)
    load_released(fresh, tmp_path / "checkpoint.pth.tar")
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in fresh.state_dict().items())
    load_released(fresh, {"state_dict": state})
    load_released(fresh, state)


def test_checkpoints_that_do_not_fit(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "ten.pth")
    (tmp_path / "text.pth").write_text("no checkpoint", encoding="utf-8")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save({"state_dict": net}, tmp_path / "pickled.pth")  # a whole module: unpickling it could run code
    other = HHLNet(build_backbone("resnet18"), 11, SMALL)
    for name, words in {
        "ten.pth": "does not fit this network.*classifier.weight",
        "text.pth": "not a checkpoint",
        "empty.pth": "expected a state dict",
        "pickled.pth": "not a checkpoint that torch can read safely",
        "absent.pth": "no such file",
    }.items():
        with pytest.raises(InputError, match=words) as error:
            load_released(other, tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_any_backbone_width():
    model = HHLNet(build_backbone("thin"), 7, NetConfig(embed_dim=32, triplet_dim=8, dropout=0.0))
    outputs = {
        output: tuple(model(torch.zeros(2, 3, 64, 32), output).shape)
        for output in ("logits", "triplet", "pool5")
    }
    assert outputs == {"logits": (2, 7), "triplet": (2, 8), "pool5": (2, 128)} and isinstance(
        model.base, nn.Sequential
    )
