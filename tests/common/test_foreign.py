"""Checkpoints of other programs: recognised by their names, used as there, and reported."""

import argparse
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from common.backbones import build_backbone, thin_resnet
from common.checkpoints import load_checkpoint, read_state_dict, saved_network
from common.errors import InputError
from common.evaluation.networks import load_feature_network
from common.foreign import recognise
from common.osnet import OmniScaleBlock, build_osnet


def named(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def thin() -> nn.Module:
    return randomised(thin_resnet())


def randomised(module: nn.Module) -> nn.Module:
    """Moves the statistics of batch norm off their start, which hides a norm that was not loaded."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def saved(tmp_path, content):
    torch.save(content, tmp_path / "model.pth.tar")
    return tmp_path / "model.pth.tar"


def norm_of(size: int) -> nn.Module:
    return randomised(nn.BatchNorm1d(size))


# the names of each program, its entry in the file, what it adds to the pooled map
def layouts(base: nn.Module):
    linear, norm = nn.Linear(128, 8), norm_of(8)
    add_block = named("classifier.add_block.", nn.Sequential(linear, norm))
    fc = named("fc.", nn.Sequential(linear, norm, nn.ReLU()))
    neck = norm_of(128)
    head = {"classifier.weight": torch.zeros(5, 128), "classifier.bias": torch.zeros(5)}
    bnneck = named("heads.bottleneck.", nn.Sequential(neck))
    reduced = {
        **named("heads.bottleneck.", nn.Sequential(nn.Conv2d(128, 8, 1, bias=False), norm)),
        "heads.bottleneck.0.weight": linear.weight.detach()[:, :, None, None],
    }
    return {
        "torchreid": ({"state_dict": named("", base) | head}, lambda x: x, "torchreid"),
        "torchreid fc512": (
            {"state_dict": named("", base) | fc | {"classifier.weight": torch.zeros(5, 8)}},
            lambda x: F.relu(norm(linear(x))),
            "torchreid (fc512)",
        ),
        "fast-reid": (
            {"model": named("backbone.", base) | bnneck | {"heads.weight": torch.zeros(5, 128)}},
            neck,
            "fast-reid",
        ),
        "fast-reid of 2020": (
            {"model": named("backbone.", base) | named("heads.bnneck.", neck)},
            neck,
            "fast-reid before 1.0",
        ),
        "fast-reid with an embedding": (
            {"model": named("backbone.", base) | reduced},
            lambda x: norm(F.linear(x, linear.weight)),
            "fast-reid",
        ),
        "layumi": (
            named("model.", base) | add_block | {"classifier.classifier.0.weight": torch.zeros(5, 8)},
            lambda x: norm(linear(x)),
            "layumi's ft_net",
        ),
        "SPGAN's author": (
            {
                "IDE": named("model.", base)
                | named("model.fc.", nn.Sequential(linear, norm))
                | {"classifier.0.weight": torch.zeros(5, 8)},
                "Da": {"module.x": torch.zeros(1)},
            },
            lambda x: x,
            "the first SPGAN author's ft_net",
        ),
        "HHL": (
            {"state_dict": named("module.base.", base) | named("module.feat.", linear)
             | named("module.feat_bn.", norm) | {"module.classifier.weight": torch.zeros(702, 8)}},
            lambda x: x,
            "HHL or open-reid",
        ),
        "torchvision": (named("", base) | {"fc.weight": torch.zeros(1000, 128)}, lambda x: x, "torchvision"),
    }  # fmt: skip


NAMES = (
    "torchreid", "torchreid fc512", "fast-reid", "fast-reid of 2020", "fast-reid with an embedding", "layumi",
    "SPGAN's author", "HHL", "torchvision",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_feature_is_that_of_the_program(thin, tmp_path, name):
    content, feature, program = layouts(thin)[name]
    network = load_feature_network(saved(tmp_path, content), size=(32, 16))
    images = torch.randn(3, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    assert network.found.program.name == program and network.found.backbone == "thin"
    with torch.inference_mode():
        torch.testing.assert_close(network.network(images), feature(thin(images).mean(dim=(2, 3))))


@pytest.mark.parametrize("name", NAMES)
def test_any_of_them_starts_a_training(thin, tmp_path, name, caplog):
    path = saved(tmp_path, layouts(thin)[name][0])
    with caplog.at_level(logging.INFO, "run"):
        backbone = build_backbone("thin", str(path))
    expected = thin.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.state_dict().items())
    assert "recognised as" in caplog.text and "left out" in caplog.text


def test_what_is_left_out_is_said(thin):
    lines = recognise(layouts(thin)["HHL"][0]).lines()
    assert lines == [
        "checkpoint: recognised as HHL or open-reid, thin",
        f"  loaded: {len(thin.state_dict())} tensors of thin",
        "  left out: feat (8x128, 8), feat_bn (8, 8), classifier (702x8)",
    ]


@pytest.mark.parametrize("program", ["fast-reid", "fast-reid before 1.0", "reid-strong-baseline"])
def test_resnets_that_pool_stride_and_start_in_their_own_way(tmp_path, program):
    reference = randomised(torchvision.models.resnet18(weights=None))
    trunk = {name: value for name, value in reference.state_dict().items() if not name.startswith("fc.")}
    prefix, neck = {
        "fast-reid": ("backbone.", "heads.bottleneck.0."),
        "fast-reid before 1.0": ("backbone.", "heads.bnneck."),
        "reid-strong-baseline": ("base.", "bottleneck."),
    }[program]
    content = {f"{prefix}{name}": value for name, value in trunk.items()} | named(neck, norm_of(512))
    loaded = load_feature_network(saved(tmp_path, {"model": content}))
    assert loaded.found.program.name == program and loaded.normalise
    assert "  unlike torchvision's: layer4 has stride 1" in loaded.found.lines()
    if program == "fast-reid":
        reference.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    if program == "reid-strong-baseline":
        reference.relu = nn.Identity()
    reference.layer4[0].conv1.stride = reference.layer4[0].downsample[0].stride = (1, 1)
    reference.fc = norm_of(512)
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert loaded.network.base(images).shape[2:] == (4, 2)
        torch.testing.assert_close(loaded.network(images), reference(images))


def test_fast_reids_backbone_fields_without_a_classifier(thin):
    found = recognise({"model": named("backbone.", thin), "iteration": 7})
    assert found.program.name == "a ResNet" and not found.left_out


@pytest.mark.parametrize(
    "names, words",
    [
        ({"conv1.conv.weight": torch.zeros(1), "conv2.0.a": torch.zeros(1)}, "an OSNet or a ResNet"),
        ({"a": torch.zeros(1)}, "does not fit a network that is known here"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.bn1.IN.weight": torch.zeros(1)}, "IBN"),
        ({"backbone.conv1.weight": torch.zeros(64, 3, 7, 7), "backbone.layer1.0.conv1.weight": torch.zeros(1),
          "backbone.NL_1.0.g.weight": torch.zeros(1)}, "NL_1"),
        ({"backbone.conv1.weight": torch.zeros(64, 3, 7, 7), "backbone.layer1.0.conv1.weight": torch.zeros(1),
          "heads.pool_layer.p": torch.ones(1)}, "heads.pool_layer.p for one"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(1)}, "found blocks"),
    ],
)  # fmt: skip
def test_other_networks_are_one_line(names, words):
    with pytest.raises(InputError, match=words) as error:
        recognise(names)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, value",
    [("weight", torch.zeros(2, 128, 3, 3)), ("x", torch.ones(1)), ("weight", torch.zeros(128))],
)
def test_a_neck_that_is_none_is_one_line(thin, tmp_path, name, value):
    content = {"model": named("backbone.", thin) | {f"heads.bottleneck.0.{name}": value}}
    with pytest.raises(InputError, match="heads.bottleneck.0"):
        load_feature_network(saved(tmp_path, content))


def test_weights_of_another_depth_name_both(thin, tmp_path):
    path = saved(tmp_path, named("backbone.", thin))
    with pytest.raises(InputError, match="expected weights of resnet18, found thin"):
        build_backbone("resnet18", str(path))


def test_scalars_and_options_beside_the_tensors_are_read(tmp_path):
    content = {"state_dict": {"w": torch.ones(2)}, "best_top1": np.float64(0.8), "rank1": np.float32(0.5),
               "epoch": np.int64(3), "done": np.bool_(True), "args": argparse.Namespace(lr=0.1)}  # fmt: skip
    read = load_checkpoint(saved(tmp_path, content))
    assert read["best_top1"] == 0.8 and read["epoch"] == 3 and read["args"].lr == 0.1
    assert torch.equal(read_state_dict(tmp_path / "model.pth.tar")["w"], torch.ones(2))


def test_an_object_in_a_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match="holds a torch.nn.modules.linear.Linear.*state_dict"):
        load_checkpoint(saved(tmp_path, {"model": nn.Linear(1, 1)}))
    with pytest.raises(InputError, match="holds a print"):
        load_checkpoint(saved(tmp_path, {"model": print}))


@pytest.mark.parametrize("instance", [False, True], ids=["OSNet", "OSNet-IBN"])
def test_osnet_is_read_at_every_width(tmp_path, instance):
    trunk = osnet(instance)
    linear, norm = nn.Linear(128, 8), norm_of(8)
    state = (
        named("", trunk)
        | named("fc.", nn.Sequential(linear, norm))
        | {"classifier.weight": torch.zeros(5, 8)}
    )
    network = load_feature_network(saved(tmp_path, {"state_dict": state, "rank1": np.float64(0.9)}))
    assert network.found.backbone == "osnet" and network.found.left_out == {"classifier.weight": (5, 8)}
    assert not network.normalise and network.interpolation == "bilinear"
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = F.relu(norm(linear(trunk(images).mean(dim=(2, 3)))))
        torch.testing.assert_close(network.network(images), expected)


def osnet(instance: bool) -> nn.Module:
    """An OSNet of a quarter of the width, built from the shapes that name its widths."""
    shapes = {"conv1.conv": (16, 3, 7, 7), "conv2.0.conv3.conv": (64, 16, 1, 1)}
    shapes |= {"conv3.0.conv3.conv": (96, 24, 1, 1), "conv4.0.conv3.conv": (128, 32, 1, 1)}
    state = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    marks = ["conv2.0.IN.weight"] if instance else ["conv1.bn.running_mean"]
    torch.manual_seed(0)
    return randomised(build_osnet(state | {name: torch.zeros(16) for name in marks}, "test"))


def test_osnet_computes_what_its_paper_says():
    """One block against its definition, written naively: gated streams of 1 to 4 scales, a residual."""
    torch.manual_seed(0)
    block = randomised(OmniScaleBlock(8, 64, instance=False))
    x = torch.randn(2, 8, 6, 4)

    def normed(unit, y):
        return F.batch_norm(y, unit.bn.running_mean, unit.bn.running_var, unit.bn.weight, unit.bn.bias)

    def light(unit, y):
        y = F.conv2d(F.conv2d(y, unit.conv1.weight), unit.conv2.weight, padding=1, groups=16)
        return normed(unit, y).relu()

    with torch.inference_mode():
        reduced = normed(block.conv1, F.conv2d(x, block.conv1.conv.weight)).relu()
        total = 0
        for name in "abcd":
            y, stream = reduced, getattr(block, f"conv2{name}")
            for unit in [stream] if name == "a" else stream:
                y = light(unit, y)
            gate = block.gate.fc2(block.gate.fc1(y.mean(dim=(2, 3), keepdim=True)).relu())
            total = total + y * torch.sigmoid(gate)
        out = normed(block.conv3, F.conv2d(total, block.conv3.conv.weight))
        shortcut = normed(block.downsample, F.conv2d(x, block.downsample.conv.weight))
        torch.testing.assert_close(block(x), (out + shortcut).relu())


@pytest.mark.parametrize("shape", [(7, 3, 7, 7), (1 << 20, 1, 1, 1), (16,), None])
def test_osnets_of_impossible_widths_are_one_line(shape):
    state = {} if shape is None else {"conv1.conv.weight": torch.zeros(1).expand(shape)}
    with pytest.raises(InputError, match="expected an OSNet with 8 to 4096 channels"):
        build_osnet(state, "model.pth")


def test_the_papers_evaluate_names_the_command_that_reads_others(thin, tmp_path):
    path = saved(tmp_path, {"state_dict": named("base.", thin), "epoch": 3})
    with pytest.raises(
        InputError, match="has no net, num_ids: expected a model.pt of HHL; python -m common.eval"
    ):
        saved_network(path, dict, "HHL")


def test_an_efficientnet_of_this_project_is_named_in_its_settings(tmp_path):
    trunk = randomised(build_backbone("efficientnet_lite0"))
    state = named("base.", trunk) | {"classifier.weight": torch.zeros(5, trunk.num_features)}
    net = {"backbone": "efficientnet_lite0", "height": 64, "width": 32}
    network = load_feature_network(saved(tmp_path, {"state_dict": state, "net": net, "num_ids": 5}))
    again = build_backbone("efficientnet_lite0", str(tmp_path / "model.pth.tar"))
    assert torch.equal(next(again.parameters()), next(trunk.parameters()))
    assert network.found.backbone == "efficientnet_lite0" and network.found.left_out.keys() == {
        "classifier.weight"
    }
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network.network(images), trunk(images).mean(dim=(2, 3)))
