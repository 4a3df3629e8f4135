"""ARN's network: `released` against arrays of the authors' code, `blog` by shapes, sizes and the routes of
its gradients.
"""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from arn.config import (
    PRESETS,
    ARNConfig,
    DecoderConfig,
    LatentConfig,
    NetConfig,
    RateConfig,
    ReconstructionConfig,
)
from arn.losses import reconstruction_loss, weighted_sum
from arn.model import build_network, conv6_kernel, load_weights, map_size, parameter_groups, released_names
from arn.train import loss_terms
from common import backbones
from common.cli import override
from common.errors import InputError

SMALL = {"net.backbone": "thin", "net.weights": "none", "net.height": 64, "net.width": 32}
OUTPUTS = ("private", "common", "rebuilt", "logits")
# names and shapes of the released state dict, C = 1812
FULL_STRUCTURE = "b25a78d54f91ce05adbdb5692a265d64eea0033e9df86783a8ab9d3b66ec396a"


# ---------------------------------------------------------------- released: parity


@pytest.fixture
def released(formulas):
    config = override(
        PRESETS["released"], {"net.backbone": "resnet18", "net.weights": "none", "cls.dropout": 0.0}
    )
    model = build_network(config, 10).double()
    names = released_names(model)
    formulas.fill(model, names.get)
    images = [formulas.scatter(f"{domain} images", 2, 3, 256, 128) for domain in ("target", "source")]
    return config, model, names, images


def close(ours, theirs, tolerance=1e-9) -> bool:
    ours, theirs = np.atleast_2d(ours), np.atleast_2d(theirs)
    return bool(
        (np.abs(ours - theirs) <= tolerance * np.abs(theirs).max(axis=1, keepdims=True) + 1e-30).all()
    )


def test_full_size_structure_is_the_released_one():
    config = override(PRESETS["released"], {"net.weights": "none"})
    with torch.device("meta"):
        model = build_network(config, 1812)
    names, state = released_names(model), model.state_dict()
    listed = sorted(f"{names[key]} {tuple(value.shape)}" for key, value in state.items())
    assert hashlib.sha256("\n".join(listed).encode()).hexdigest() == FULL_STRUCTURE

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert (
        count(model.encoder_base) == 8_543_296
        and count(model.decoder_base) == 49_785_021
        and count(model.classifier) == 2049 * 1812
    )
    assert all(count(e) == 14_964_736 for e in (model.encoder_t, model.encoder_c, model.encoder_s))
    # decoder_c, which nothing calls
    assert count(model) + 37_757_952 == 144_693_265 and len(state) + 21 == 566


def test_eval_outputs_are_the_released_ones(released, golden, formulas):
    _, model, names, images = released
    arrays = golden("arn_model")
    shapes = {name.split(" ", 1)[0]: name.split(" ", 1)[1] for name in arrays["shapes"]}
    assert {names[key]: str(tuple(value.shape)) for key, value in model.state_dict().items()} == shapes
    model.eval()
    with torch.no_grad():
        for domain, codes in zip(("target", "source"), model(*images)):
            for output in OUTPUTS:
                value = model.classifier(codes.common) if output == "logits" else getattr(codes, output)
                assert close(formulas.fingerprint({"": value}), arrays[f"eval_{domain}_{output}"]), (
                    domain,
                    output,
                )


def test_one_training_step_is_the_released_one(released, golden, formulas):
    """Outputs, losses, every gradient, the SGD step and the running statistics, from one pass where the
    released code makes two.
    """
    config, model, names, images = released
    arrays, labels = golden("arn_model"), torch.tensor([0, 1])
    optimizer = torch.optim.SGD(
        parameter_groups(model, RateConfig(1e-6, 1e-6, 1e-6)), lr=1e-6, momentum=0.9, weight_decay=5e-4
    )
    model.train()
    target, source = model(*images)
    for domain, codes in (("target", target), ("source", source)):
        for output in OUTPUTS[:3] + OUTPUTS[3:] * (domain == "source"):
            assert close(
                formulas.fingerprint({"": getattr(codes, output)}), arrays[f"train_{domain}_{output}"]
            ), (domain, output)
    terms = loss_terms(config, target, source, labels)
    total = weighted_sum(config.w, terms)
    ours = [float(terms[name].detach()) for name in ("cls", "rec", "diff", "ctr", "mmd")] + [
        float(total.detach())
    ]
    assert np.allclose(ours, arrays["losses"], rtol=1e-10)

    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    total.backward()
    assert close(
        formulas.fingerprint({names[key]: p.grad for key, p in model.named_parameters()}),
        arrays["gradients"],
        1e-7,
    )
    optimizer.step()
    assert close(
        formulas.fingerprint({names[key]: p.detach() - before[key] for key, p in model.named_parameters()}),
        arrays["steps"],
        1e-7,
    )
    running = {names[key]: value for key, value in model.named_buffers() if "running" in key}
    assert close(formulas.fingerprint(running), arrays["buffers"], 1e-6)


def test_without_the_double_pass_only_the_encoders_statistics_differ(released, golden, formulas):
    config, model, names, images = released
    single = build_network(replace(config, net=replace(config.net, bn_emulate_double=False)), 10).double()
    formulas.fill(single, names.get)
    single.train()(*images)
    arrays = golden("arn_model")["buffers"]
    running = sorted((names[key], value) for key, value in single.named_buffers() if "running" in key)
    same = {
        name: close(formulas.fingerprint({name: value}), row, 1e-6)
        for (name, value), row in zip(running, arrays)
    }
    assert not any(
        ok for name, ok in same.items() if name.startswith(("encoder_t", "encoder_c", "encoder_s"))
    )
    assert all(
        ok for name, ok in same.items() if not name.startswith(("encoder_t", "encoder_c", "encoder_s"))
    )


def test_a_released_checkpoint_loads_under_its_own_names(released):
    config, model, names, _ = released
    theirs = {"module." + names[key]: value for key, value in model.state_dict().items()} | {
        "module.decoder_c.block1.0.bias": torch.zeros(3)
    }
    other = build_network(config, 10).double()
    load_weights(other, theirs)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    more = build_network(config, 12).double()  # another number of identities: all but the classifier
    own = more.classifier.linear.weight.clone()
    load_weights(more, theirs, classifier=False)
    assert torch.equal(more.classifier.linear.weight, own)
    assert torch.equal(more.encoder_s.layer4[0].conv1.weight, model.encoder_s.layer4[0].conv1.weight)
    with pytest.raises(InputError, match="does not fit"):
        load_weights(other, {"module.encoder_base.model.0.weight": torch.zeros(1)})


# ---------------------------------------------------------------- blog: sizes and shapes


def blog(**changes) -> ARNConfig:
    return override(PRESETS["blog"], {"net.weights": "none", **changes})


def test_full_size_parameter_counts():
    with torch.device("meta"):
        model = build_network(blog(**{"latent.last": "none"}), 702)

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(model.encoder_base) == 23_508_032 and count(model.encoder_c.conv6) == 205_522_944
    assert all(
        count(m) == 213_923_840
        for m in (model.encoder_t, model.encoder_c, model.encoder_s, model.decoder_base)
    )
    assert (
        count(model) - count(model.classifier) == pytest.approx(879.2e6, abs=0.05e6)
        and count(model.classifier) == 2049 * 702
    )
    shape = tuple(model.encoder_base(torch.empty(2, 3, 224, 224, device="meta")).shape)
    assert shape == (2, 2048, 7, 7)
    codes = model(torch.empty(2, 3, 224, 224, device="meta"))[0]
    assert tuple(codes.common.shape) == (2, 2048) and tuple(codes.rebuilt.shape) == shape


@pytest.mark.parametrize(
    "height, width, kernel, code, dim",
    [
        (224, 224, 7, (1, 1), 8),
        (193, 224, 7, (1, 1), 8),
        (256, 256, 7, (2, 2), 8),
        (256, 128, "auto", (1, 1), 8),
        (64, 32, "auto", (1, 1), 8),
    ],
)
def test_spatial_arithmetic(height, width, kernel, code, dim):
    """Table 2.0 of the fact sheet, with resnet18 in place of resnet50 (the same strides); a flattened code
    has all its places.
    """
    for pool, size in (("mean", dim), ("flatten", dim * code[0] * code[1])):
        config = blog(
            **{
                "net.backbone": "resnet18",
                "net.height": height,
                "net.width": width,
                "latent.width": dim,
                "latent.kernel": kernel,
                "latent.pool": pool,
            }
        )
        model = build_network(config, 5).eval()
        x = torch.zeros(2, 3, height, width)
        assert tuple(model.encoder_base(x).shape[2:]) == map_size(config.net)
        codes, source = model(x, x)
        assert (
            tuple(model.encoder_c(codes.feature_map).shape[2:]) == code
            and codes.rebuilt.shape == codes.feature_map.shape
        )
        assert codes.common.shape == codes.private.shape == (2, size) and source.logits.shape == (2, 5)


@pytest.mark.parametrize(
    "backbone, height, width, words",
    [
        ("resnet50", 256, 128, ("X is 8x4", "conv6 is 7x7", "193 pixels", "--latent.kernel auto")),
        ("resnet50", 224, 192, ("X is 7x6", "each side / 32")),
        ("thin", 64, 32, ("X is 8x4", "each side / 8", "49 pixels")),
    ],
)
def test_an_input_for_which_conv6_cannot_be_placed(backbone, height, width, words):
    config = blog(**{"net.backbone": backbone, "net.height": height, "net.width": width})
    with pytest.raises(InputError) as error:
        conv6_kernel(config.net, config.latent)
    assert all(word in str(error.value) for word in words)


def test_an_input_that_the_released_decoder_cannot_paint():
    config = override(
        PRESETS["released"],
        {"net.weights": "none", "net.backbone": "thin", "net.height": 60, "net.width": 30},
    )
    with pytest.raises(InputError, match="multiples of 8 pixels a side: use 64x32"):
        build_network(config, 5)


@pytest.mark.parametrize(
    "latent, kinds",
    [
        (LatentConfig(width=4, kernel=1), "conv bn relu drop conv bn relu drop conv bn"),
        (LatentConfig(width=4, kernel=1, last="none"), "conv bn relu drop conv bn relu drop conv"),
        (LatentConfig(width=4, kernel=1, last="bn_relu"), "conv bn relu drop conv bn relu drop conv bn relu"),
        (
            LatentConfig(width=4, kernel=1, batch_norm=False, last="none"),
            "conv relu drop conv relu drop conv",
        ),
        (
            LatentConfig(width=4, kernel=1, batch_norm=False, relu=False, last="none"),
            "conv drop conv drop conv",
        ),
    ],
)
def test_conv678_follow_their_switches(latent, kinds):
    model = build_network(replace(PRESETS["demo"], latent=latent), 5)
    assert " ".join(name.rstrip("678") for name, _ in model.encoder_c.named_children()) == kinds
    assert not any(isinstance(m, nn.ReLU6) for m in model.modules())


@pytest.mark.parametrize(
    "dec, kinds",
    [
        (DecoderConfig(), "deconv bn relu deconv bn relu deconv"),
        (DecoderConfig(norm=False), "deconv deconv deconv"),
        (DecoderConfig(last="relu"), "deconv bn relu deconv bn relu deconv relu"),
        (DecoderConfig(last="bn_relu"), "deconv bn relu deconv bn relu deconv bn relu"),
    ],
)
def test_decoder_follows_its_switches(dec, kinds):
    model = build_network(replace(PRESETS["demo"], dec=dec), 5)
    assert " ".join(name.rstrip("123") for name, _ in model.decoder_base.named_children()) == kinds


def test_encoders_start_apart_or_alike():
    for init, alike in (("independent", False), ("identical", True)):
        for preset in ("demo", "released"):
            config = override(PRESETS[preset], {**SMALL, "latent.init": init})
            model = build_network(config, 5)
            weights = [
                next(p.detach() for p in e.parameters() if p.ndim > 1)
                for e in (model.encoder_t, model.encoder_c, model.encoder_s)
            ]
            assert all(torch.equal(weights[1], w) is alike for w in (weights[0], weights[2])), (preset, init)
            assert preset == "released" or float(weights[0].std()) == pytest.approx(
                float(weights[1].std()), rel=0.05
            )


def test_joint_batch_norm_sees_both_domains():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 32), 5 + 3 * torch.randn(4, 3, 64, 32)
    for bn, differs in (("separate", True), ("joint", False)):
        model = build_network(override(PRESETS["demo"], {"net.bn": bn, "latent.dropout": 0.0}), 5).train()
        target = model(*images)[0].feature_map
        both = model.encoder_base(torch.cat(images))[:4]
        assert torch.allclose(target, both, atol=1e-5) is not differs


@pytest.mark.parametrize("splits", [2, 4])
def test_each_split_of_joint_batch_norm_sees_its_share_of_both_domains(splits):
    """As that many processes would: each with its part of either domain, in one joint pass."""
    torch.manual_seed(0)
    target, source = torch.randn(8, 3, 64, 32), 5 + 3 * torch.randn(8, 3, 64, 32)
    changes = {"net.bn": "joint", "latent.dropout": 0.0}
    one = build_network(override(PRESETS["demo"], {**changes, "net.bn_splits": splits}), 5).train()
    process = build_network(override(PRESETS["demo"], changes), 5).train()
    process.load_state_dict(one.state_dict())
    whole = one(target, source)
    parts = [process(*pair) for pair in zip(target.chunk(splits), source.chunk(splits))]
    for ours, theirs in zip(whole, zip(*parts)):
        for output in ("feature_map", "common", "private", "rebuilt"):
            assert torch.allclose(
                getattr(ours, output), torch.cat([getattr(codes, output) for codes in theirs]), atol=1e-4
            ), output


# ---------------------------------------------------------------- where gradients go


def gradients(domain: str, **changes) -> dict[str, bool]:
    """Which modules a loss that sees everything of one domain reaches."""
    torch.manual_seed(0)
    model = build_network(override(PRESETS["demo"], changes), 5).train()
    codes = dict(zip(("target", "source"), model(torch.randn(4, 3, 64, 32), torch.randn(4, 3, 64, 32))))[
        domain
    ]
    loss = (
        codes.common.square().sum()
        + codes.private.square().sum()
        + reconstruction_loss(codes.rebuilt, codes.original)
    )
    (loss + (codes.logits.square().sum() if domain == "source" else 0)).backward()
    modules = ("encoder_base", "encoder_t", "encoder_c", "encoder_s", "decoder_base", "classifier")
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in getattr(model, name).parameters())
        for name in modules
    }


def test_each_domain_reaches_its_own_modules_only():
    everything = dict.fromkeys(
        ("encoder_base", "encoder_t", "encoder_c", "encoder_s", "decoder_base", "classifier"), True
    )
    assert gradients("target") == everything | {"encoder_s": False, "classifier": False}
    assert gradients("source") == everything | {"encoder_t": False}


def test_labels_reach_the_common_code_only():
    config = PRESETS["demo"]
    model = build_network(config, 5).train()
    target, source = model(torch.randn(4, 3, 64, 32), torch.randn(4, 3, 64, 32))
    terms = loss_terms(config, target, source, torch.tensor([0, 0, 1, 1]))
    (terms["cls"] + terms["ctr"]).backward()
    assert all(
        p.grad is None for m in (model.encoder_t, model.encoder_s, model.decoder_base) for p in m.parameters()
    )


@pytest.mark.parametrize("detach", [True, False])
def test_x_is_a_fixed_target_unless_said_otherwise(detach):
    config = replace(PRESETS["demo"], rec=ReconstructionConfig(detach_target=detach))
    codes, _ = build_network(config, 5)(torch.randn(2, 3, 64, 32))
    assert codes.original.requires_grad is not detach and torch.equal(codes.original, codes.feature_map)


def test_learning_rate_groups():
    for preset, rates in (("blog", (1e-7, 1e-3, 2e-3)), ("released", (1e-3, 1e-3, 1e-3))):
        config = override(PRESETS[preset], {**SMALL, "latent.kernel": "auto", "latent.width": 8})
        model = build_network(config, 5)
        groups = parameter_groups(model, config.lr)
        assert {g["name"]: g["lr"] for g in groups} == dict(zip(("ei", "latent", "cls"), rates))
        assert sum(p.numel() for g in groups for p in g["params"]) == sum(
            p.numel() for p in model.parameters()
        )
    model = build_network(PRESETS["demo"], 5)
    assert [g["name"] for g in parameter_groups(model, PRESETS["demo"].lr)] == ["latent", "cls"]
    assert not any(p.requires_grad for p in model.encoder_base.parameters())


def test_rows_without_private_encoders_have_none():
    model = build_network(replace(PRESETS["demo"], latent=replace(PRESETS["demo"].latent, private=False)), 5)
    codes, _ = model(torch.randn(2, 3, 64, 32))
    assert (
        model.encoder_t is None
        and codes.private is None
        and not any("encoder_s" in key for key in model.state_dict())
    )


def test_rows_without_private_encoders_start_from_a_checkpoint_that_has_them(released, caplog):
    caplog.set_level("INFO", logger="run")
    config, model, names, _ = released
    row = build_network(replace(config, latent=replace(config.latent, private=False)), 12).double()
    # the authors' names, then ours
    theirs = {names[key]: value for key, value in model.state_dict().items()}
    for state in (theirs, model.state_dict()):
        load_weights(row, state, classifier=False)
        assert torch.equal(row.encoder_c.layer4[0].conv1.weight, model.encoder_c.layer4[0].conv1.weight)
    assert sum("E_T and E_S of the checkpoint are left out" in message for message in caplog.messages) == 2
    load_weights(build_network(config, 12), theirs, classifier=False)
    assert len(caplog.messages) == 2  # nothing is left out where both have them


def test_a_start_from_a_checkpoint_fetches_no_imagenet_weights(monkeypatch):
    def fetched(name):
        raise InputError("fetched")

    monkeypatch.setattr(backbones, "imagenet_v1", fetched)
    changes = {"net.backbone": "resnet18", "latent.width": 8}
    build_network(override(PRESETS["blog"], {**changes, "recipe.init": "model.pt"}), 5)
    with pytest.raises(InputError, match="fetched"):
        build_network(override(PRESETS["blog"], changes), 5)


def test_net_config_defaults_are_the_blogs():
    assert NetConfig() == PRESETS["blog"].net and (NetConfig().height, NetConfig().width) == (224, 224)
