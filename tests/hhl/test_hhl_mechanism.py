"""Ours in the camera StarGAN: conditional norms, augmented images for D, independent judges."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import hhl.train
from common.datasets import ReIDDataset, Sample
from common.errors import InputError
from common.evaluation import transfers
from common.evaluation.yardsticks import PersonNetwork, embed, feature_distance, share_found
from common.hashing import digest
from common.job import Job, Options, Workspace
from common.runs import StageStore
from hhl import judges
from hhl.config import GANConfig, HHLConfig, TranslationConfig
from hhl.experiments import EXPERIMENTS
from hhl.stargan.augment import AugmentedDiscriminator, augment
from hhl.stargan.model import CameraNorm2d, Discriminator, Generator, camera_one_hot
from hhl.styles import CameraStyles
from hhl.views import fake_path

CPU = torch.device("cpu")


def ramp(*shape: int) -> torch.Tensor:
    return torch.sin(torch.arange(float(torch.Size(shape).numel()))).reshape(shape)


def test_the_new_switches_are_off_and_leave_hashes_as_they_were():
    assert not GANConfig().conditional_norm and not GANConfig().augment_d
    assert TranslationConfig().judge_steps == 0
    names = set(Generator(4, width=4, blocks=1).state_dict())
    assert not any("CameraNorm" in name for name in names)
    assert digest(GANConfig()) == digest(GANConfig(conditional_norm=False, augment_d=False))
    assert digest(GANConfig()) != digest(GANConfig(augment_d=True))


def test_uniform_gains_are_refused_with_conditional_norms_which_ignore_them():
    with pytest.raises(InputError, match="uniform-gamma: has no effect with --stargan.conditional-norm"):
        HHLConfig(stargan=GANConfig(uniform_gamma=True, conditional_norm=True))


def test_a_conditional_norm_is_instance_norm_with_the_cameras_gain_and_bias():
    norm = CameraNorm2d(3, 2)
    with torch.no_grad():
        norm.weight[1], norm.bias[1] = 2.0, -1.0
    x = ramp(2, 3, 8, 4)
    plain = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    out = norm(x, camera_one_hot(torch.tensor([0, 1]), 2))
    assert torch.allclose(out[0], plain[0], atol=1e-5) and torch.allclose(out[1], 2 * plain[1] - 1, atol=1e-5)


def test_the_target_camera_reaches_the_centre_of_the_image_through_the_norms():
    """With instance norm the label enters at the border only; the camera's bias reaches all pixels."""
    torch.manual_seed(0)
    generator = Generator(2, width=4, blocks=1, downsamplings=1, conditional_norm=True)
    cameras = [camera_one_hot(torch.tensor([camera]), 2) for camera in range(2)]
    with torch.no_grad():
        for norm in (m for m in generator.modules() if isinstance(m, CameraNorm2d)):
            norm.bias[1] = 0.5
        first, second = (generator(ramp(1, 3, 64, 32), camera) for camera in cameras)
    assert (first - second)[:, :, 24:40, 12:20].abs().mean() > 0.01


def test_augmented_images_are_shifted_mirrored_and_have_one_hole():
    torch.manual_seed(1)
    images = ramp(16, 3, 64, 32) * 0.4 + 0.55  # above 0: only the hole is 0
    images.requires_grad_(True)
    seen = augment(images)
    assert seen.shape == images.shape
    assert ((seen == 0).all(dim=1).sum((1, 2)) == 20 * 12).all()
    for original, augmented in zip(images.detach(), seen.detach()):
        outside = augmented[:, ~(augmented == 0).all(0)]
        assert torch.isin(outside[0], original[0]).all()  # reflection invents no colour
    seen.sum().backward()
    assert images.grad is not None and (images.grad.flatten(1).sum(1) > 0).all()
    torch.manual_seed(1)
    assert torch.equal(augment(images), seen)


def test_a_discriminator_of_augmented_images_scores_what_it_sees():
    torch.manual_seed(0)
    discriminator = Discriminator(3, 64, 32, base=4, layers=3)
    torch.manual_seed(2)
    patches, cameras = AugmentedDiscriminator(discriminator)(ramp(2, 3, 64, 32))
    torch.manual_seed(2)
    expected = discriminator(augment(ramp(2, 3, 64, 32)))
    assert torch.equal(patches, expected[0]) and torch.equal(cameras, expected[1])


def test_an_untrained_person_judge_finds_copies_in_other_cameras(tmp_path):
    """The gallery holds the query's file under another camera: an exact copy is the nearest image."""
    samples = []
    for pid in range(1, 5):
        path = tmp_path / f"{pid}.png"
        pixels = (127 * (1 + torch.sin(torch.arange(64.0 * 32 * 3) * pid))).byte().reshape(64, 32, 3)
        Image.fromarray(pixels.numpy()).save(path)
        samples.append(Sample(path, pid, 0))
    judge = PersonNetwork(4).eval()
    assert feature_distance(judge.features, samples, samples, CPU) == pytest.approx(0, abs=1e-6)
    first, other = samples[:2], samples[1::-1]
    a, b = embed(judge.features, first, CPU)
    expected = 1 - float(a @ b)
    assert (
        feature_distance(judge.features, first, other, CPU) == pytest.approx(expected, abs=1e-6)
        and expected > 0
    )
    elsewhere = [replace(s, camid=1) for s in samples]
    assert share_found(judge, samples, samples, [*samples, *elsewhere], CPU) == 1.0
    wrong = [replace(s, pid=s.pid + 1) for s in elsewhere]
    assert share_found(judge, samples, samples, [*samples, *wrong], CPU) == 0.0


def of_kind(images: list) -> str:
    """Returns what the images are: untouched, fake or oracle."""
    names = [getattr(image, "path", image).name for image in images]
    kinds = {
        "untouched" if isinstance(image, Sample) else "fake" if "_fake_" in name else "oracle"
        for image, name in zip(images, names)
    }
    (kind,) = kinds
    return kind


@pytest.fixture
def known(monkeypatch):
    """Judges that know the answers: the style by the file's name, of the first image always a wrong one."""

    def judged_styles(network, images, device):
        assert network == ["features", "last layer"]
        if of_kind(images) == "oracle":
            return np.zeros(len(images), int)
        if of_kind(images) == "untouched":
            return np.array([sample.camid for sample in images])
        return np.array([-1 if p.stem.startswith("0_") else int(p.stem[-1]) - 1 for p in images])

    def share_found(network, queries, originals, gallery, device):
        assert (network.features, len(queries)) == ("person", len(originals))
        own = [getattr(q, "stem", "").startswith(f"{s.stem}_fake") for q, s in zip(queries, originals)]
        return {"fake": float(np.mean(own)), "untouched": 0.2, "oracle": 0.3}[of_kind(queries)]

    def distance(features, first, second, device):
        assert of_kind(second) == "oracle" and len(first) == len(second)
        return {"fake": 0.1, "untouched": 0.2}[of_kind(first)] + (1 if features == "person" else 0)

    edges = {"fake": 0.4, "untouched": 0.5, "oracle": 0.6}
    monkeypatch.setattr(judges, "load_style_judge", lambda *arguments: ["features", "last layer"])
    monkeypatch.setattr(judges, "load_person_judge", lambda *arguments: SimpleNamespace(features="person"))
    monkeypatch.setattr(judges, "judged_styles", judged_styles)
    monkeypatch.setattr(judges, "share_found", share_found)
    monkeypatch.setattr(transfers, "feature_distance", distance)
    monkeypatch.setattr(judges, "edge_correlation", lambda originals, images: edges[of_kind(images)])
    monkeypatch.setattr(judges, "oracle", lambda sample, camera: np.zeros((4, 2, 3), np.uint8))


def test_every_measure_is_of_its_own_images(known, tmp_path):
    """Five images of three cameras: ten fakes in another style, two of which the judge does not recognise."""
    samples = [Sample(tmp_path / f"{i}_c{i % 3 + 1}.jpg", i, i % 3) for i in range(5)]
    for sample in samples:
        for camera in range(3):
            fake_path(tmp_path, sample.stem, camera + 1).touch()
    target = ReIDDataset("synthetic-market", tmp_path, samples, samples, samples, 3)
    measures = judges.judge(Workspace(tmp_path, device=CPU), target, tmp_path, tmp_path, tmp_path)
    camera_0 = (
        3 / 10
    )  # the oracle's images, which this judge takes for camera 0, of images of cameras 1 and 2
    assert measures == {
        "style_share": 0.8,
        "style_share_untouched": 0.0,
        "style_share_oracle": camera_0,
        "people_found": 1.0,
        "people_found_untouched": 0.2,
        "people_found_oracle": 0.3,
        "edges_kept": 0.4,
        "edges_kept_untouched": 0.5,
        "edges_kept_oracle": 0.6,
        "oracle_distance": 0.1,
        "oracle_distance_untouched": 0.2,
        "oracle_person_distance": 1.1,
        "oracle_person_distance_untouched": 1.2,
        "style_judge_accuracy": 1.0,
    }


def test_the_person_judge_trains_three_times_as_long(tmp_path, monkeypatch):
    trained = {}
    samples = [Sample(tmp_path / f"{i}.jpg", i, i % 2) for i in range(4)]
    for sample in samples:
        sample.path.touch()
    target = ReIDDataset("people", tmp_path, samples, samples, samples, 2)
    monkeypatch.setattr(
        judges,
        "build_style_judge",
        lambda work, images, cameras, steps: trained.update(style=(images, cameras, steps)),
    )
    monkeypatch.setattr(
        judges, "build_person_judge", lambda work, images, steps: trained.update(person=(images, steps))
    )
    monkeypatch.setattr(judges, "judge", lambda *arguments: {"style_share": 0.5})
    config = HHLConfig(style=TranslationConfig(judge_steps=7))
    job = Job("hhl", EXPERIMENTS[0], config, target, target, CPU, Options(), StageStore(tmp_path / "out"))
    assert judges.judge_styles(job, CameraStyles(tmp_path, "styles")) == {"style_share": 0.5}
    assert trained == {"style": (samples, [0, 1, 0, 1], 7), "person": (samples, 21)}


@pytest.fixture(scope="module")
def judged(draw_data_root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    tiny = (
        "--recipe.epochs 1 --recipe.pretrain-epochs 1 --recipe.batch-scale 1 --recipe.batch 8 --recipe.ids 3 "
        "--recipe.images-per-id 2 --recipe.target-batch 4 --stargan.iterations 3 --stargan.batch 4 "
        "--stargan.channels 4 --stargan.blocks 1 --stargan.d-channels 4 --net.embed-dim 16 "
        "--net.triplet-dim 8 "
        "--threads 1 --stargan.conditional-norm --stargan.augment-d --style.judge-steps 3"
    )
    root = draw_data_root(train_ids=10)
    data = ["--source", "dukemtmc", "--target", "market1501", "--data-root", str(root)]
    command = [*data, "--out", str(out), "--experiment", "hhl/table2/L_CD", *tiny.split()]
    assert hhl.train.main(command) == 0
    return out


def test_a_row_with_judges_records_what_they_saw(judged):
    (path,) = judged.rglob("record.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert {"style-judge", "person-judge", "judged"} <= set(record["stages"])
    measures = {n: v for n, v in record["measures"].items() if n.startswith(("style_", "people_"))}
    expected = {"style_share", "style_share_untouched", "people_found", "people_found_untouched"}
    assert set(measures) == expected | {"style_judge_accuracy"}  # no oracle: not a synthetic domain by name
    assert all(0 <= value <= 1 for value in measures.values())
