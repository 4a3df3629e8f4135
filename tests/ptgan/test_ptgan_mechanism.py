"""Ours in the GAN: augmented images for the discriminators, the adversarial weight, bf16, judges."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.hashing import digest
from common.records import read_record
from ptgan import model, train
from ptgan.augment import augment
from ptgan.config import PRESETS, GANConfig, TranslationConfig
from ptgan.losses import generator_total
from ptgan.model import Discriminator
from ptgan.train_gan import start_training, train_step

CPU = torch.device("cpu")
SMALL = replace(PRESETS["demo"].gan, channels=4, blocks=1, d_channels=4, batch=2)


def test_the_new_switches_are_off_and_leave_hashes_as_they_were():
    off = GANConfig(augment_d=False, lambda_adv=1.0, precision="fp32", adam="pytorch")
    assert digest(GANConfig()) == digest(off) != digest(GANConfig(augment_d=True))
    assert digest(TranslationConfig()) == digest(TranslationConfig(judge_steps=0))
    assert digest(PRESETS["demo"]) == "1a7888fc5fb3"  # of the committed records


def test_augmented_images_are_shifted_mirrored_and_have_one_hole(formulas):
    torch.manual_seed(1)
    images = formulas.scattered("image", 16, 3, 64, 32) * 0.4 + 0.55  # above 0: only the hole is 0
    images.requires_grad_(True)
    seen = augment(images)
    hole = (seen == 0).all(dim=1)
    assert seen.shape == images.shape and (hole.sum(dim=(1, 2)) == 20 * 12).all()
    for original, image, of_image in zip(images.detach(), seen.detach(), hole):
        assert torch.isin(image[0, ~of_image], original[0]).all()  # reflection invents no colour
    seen.sum().backward()
    assert (images.grad.flatten(1).sum(1) > 0).all()
    torch.manual_seed(1)
    assert torch.equal(augment(images), seen)


def test_shifts_and_holes_reach_their_limits():
    """A ramp shows how far an image has moved and whether it was mirrored."""
    torch.manual_seed(0)
    rows, columns = torch.arange(1.0, 65)[:, None], torch.arange(1.0, 33)[None]
    ramp = torch.stack([rows.expand(64, 32), columns.expand(64, 32), torch.ones(64, 32)]).repeat(600, 1, 1, 1)
    seen, down, across, flips, tops, lefts = augment(ramp), set(), set(), set(), set(), set()
    for image in seen:
        visible = image[2] > 0
        inside = visible & (torch.arange(64)[:, None] >= 16) & (torch.arange(64)[:, None] < 48)
        y, x = torch.nonzero(inside & (torch.arange(32) >= 8) & (torch.arange(32) < 24), as_tuple=True)
        down.add(int((image[0, y, x] - 1 - y).median()))
        slope = (image[1, y, x].std() > 0) and torch.corrcoef(torch.stack([image[1, y, x], x.float()]))[0, 1]
        flips.add(bool(slope > 0))
        position = image[1, y, x] - 1 if slope > 0 else 32 - image[1, y, x]
        across.add(int((position - x).median()))
        hole = torch.nonzero(~visible)
        tops.add(int(hole[:, 0].min()))
        lefts.add(int(hole[:, 1].min()))
    assert (min(down), max(down)) == (-12, 12) and (min(across), max(across)) == (-8, 8)
    assert flips == {True, False}
    assert (min(tops), max(tops)) == (0, 44) and (min(lefts), max(lefts)) == (0, 20)


def test_an_augmented_discriminator_scores_what_it_sees(formulas):
    torch.manual_seed(0)
    plain = Discriminator(channels=4, layers=2)
    augmented = Discriminator(channels=4, layers=2, augmented=True)
    augmented.load_state_dict(plain.state_dict())
    images = formulas.scattered("image", 2, 3, 64, 32)
    torch.manual_seed(2)
    scores = augmented(images)
    torch.manual_seed(2)
    assert torch.equal(scores, plain(augment(images))) and not torch.equal(scores, plain(images))


@pytest.mark.parametrize("augmented", [True, False])
def test_discriminators_see_augmented_images_in_both_steps_or_never(formulas, monkeypatch, augmented):
    """Both fakes in the generators' step, then real images and pooled fakes of the source and the target."""
    seen = []
    monkeypatch.setattr(model, "augment", lambda images: seen.append(images.detach()) or images)
    config = replace(SMALL, augment_d=augmented, pool_size=1)
    training = start_training(config, CPU)
    source, target = (formulas.scattered(name, 2, 4, 64, 32) for name in ("source", "target"))
    old_source, old_target = (formulas.scattered(name, 2, 3, 64, 32) for name in ("old a", "old b"))
    training.pool.pairs = [[old_source, old_target]]
    with torch.no_grad():
        fake_target, fake_source = (
            training.networks.g_s2t(source[:, :3]),
            training.networks.g_t2s(target[:, :3]),
        )
    always = SimpleNamespace(random=lambda: 0.9)  # the pool gives what it has
    train_step(config, training, source, target, always)
    expected = [fake_target, fake_source, source[:, :3], old_source, target[:, :3], old_target]
    assert len(seen) == (6 if augmented else 0)
    assert all(torch.equal(image, wanted) for image, wanted in zip(seen, expected))


def test_both_adversarial_terms_have_their_weight():
    terms = {"adv_s2t": 1.0, "adv_t2s": 20.0, "cyc": 300.0, "id": 4000.0}
    config = GANConfig(lambda_adv=0.5, lambda_cyc=2.0, lambda_id=3.0)
    assert generator_total(terms, config) == 0.5 * 21 + 600 + 12000


def test_bf16_computes_networks_alone_in_low_precision(formulas):
    """The same step to three digits, with float32 weights, losses and moments."""
    images = [formulas.scattered(name, 2, 4, 64, 32) for name in ("source", "target")]
    images = [torch.cat([batch[:, :3], (batch[:, 3:] > 0).float()], dim=1) for batch in images]
    terms = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        config = replace(SMALL, precision=precision)
        training = start_training(config, CPU)
        terms[precision] = train_step(config, training, *images, None)
        tensors = [*training.networks.state_dict().values(), *terms[precision].values()]
        tensors += [m for s in training.g_optimizer.state.values() for m in s.values()]
        assert all(tensor.dtype == torch.float32 for tensor in tensors)
    for name, value in terms["fp32"].items():
        assert value.item() == pytest.approx(terms["bf16"][name].item(), rel=0.02, abs=1e-3), name
    assert any(terms["fp32"][name] != terms["bf16"][name] for name in terms["fp32"])


def test_the_study_is_the_demo_with_a_gan_that_does_its_job():
    demo, study = PRESETS["demo"], PRESETS["study"]
    assert (study.net, study.recipe, study.masks) == (demo.net, demo.recipe, demo.masks)
    assert study.translation == replace(demo.translation, judge_steps=500)
    assert study.gan.augment_d and (study.gan.lambda_id, study.gan.id_loss) == (20.0, "mse")


def test_a_row_with_judges_records_what_they_saw(data_root, tmp_path):
    flags = (
        "--masks.kind disk --recipe.epochs 1 --recipe.batch 16 --gan.channels 4 --gan.blocks 1 "
        "--gan.d-channels 4 --gan.epochs 1 --gan.decay none --gan.batch 24 --threads 1 "
        "--translation.judge-steps 2"
    ).split()
    data = ["--source", "dukemtmc", "--target", "market1501", "--data-root", str(data_root)]
    rows = ["--experiment", "ptgan/transfer/direct", "ptgan/transfer/PTGAN"]
    assert train.main([*data, "--out", str(tmp_path), *rows, *flags]) == 0
    direct, ptgan = (record(tmp_path, row) for row in ("direct", "PTGAN"))
    judged = {"target_share", "people_found", "edges_kept"}
    expected = {f"{name}{of}" for name in judged for of in ("", "_untouched")} | {"domain_judge_accuracy"}
    assert {"domain-judge", "person-judge", "judged"} <= set(ptgan.stages)
    assert expected | {"rms_inside", "rms_outside"} <= set(ptgan.measures)  # no oracle: not drawn by name
    assert not direct.measures and set(direct.stages) == {"reid", "scores"}


def record(out: Path, row: str):
    (path,) = (out / "runs" / f"ptgan+transfer+{row}").rglob("record.json")
    return read_record(path.read_text(encoding="utf-8"))
