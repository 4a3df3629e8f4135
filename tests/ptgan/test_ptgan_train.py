"""PTGAN end to end on tiny data: every command once, a kill and a resume, two processes against one, bad
input.
"""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import override
from common.datasets import Sample, load_dataset
from common.errors import InputError
from common.provenance import ROOT
from common.records import read_record
from ptgan import evaluate, train
from ptgan.analysis import analyse, rms_change, style_distance
from ptgan.config import PRESETS, GANConfig, PTGANConfig
from ptgan.experiments import PTGAN
from ptgan.pictures import row_name
from ptgan.reid import load_network
from ptgan.translate import FOLDER

TINY = (
    "--masks.kind disk --recipe.epochs 2 --recipe.drop-epoch 1 --recipe.batch 16 --gan.channels 4 "
    "--gan.blocks 1 --gan.d-channels 4 --gan.epochs 2 --gan.decay-epoch 1 --gan.batch 24 --gan.pool-size 1 "
    "--threads 1"
).split()
ROWS = [f"ptgan/transfer/{row}" for row in ("direct", "CycleGAN", "PTGAN")]


def arguments(data_root: Path, out: Path, *flags: str, rows=("ptgan/transfer/PTGAN",)) -> list[str]:
    return [
        "--source",
        "dukemtmc",
        "--target",
        "market1501",
        "--data-root",
        str(data_root),
        "--out",
        str(out),
        "--experiment",
        *rows,
        *TINY,
        *flags,
    ]


def run_ptgan(*args, **options) -> int:
    return train.main(arguments(*args, **options))


def record(out: Path, row: str = "transfer+PTGAN"):
    (path,) = (out / "runs" / f"ptgan+{row}").rglob("record.json")
    return read_record(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def finished(data_root, tmp_path_factory) -> Path:
    """One uninterrupted run of three rows, shared by the tests."""
    out = tmp_path_factory.mktemp("runs")
    assert run_ptgan(data_root, out, rows=ROWS) == 0
    return out


def test_three_rows_give_records_pictures_and_a_transferred_dataset(finished, data_root):
    ptgan, cyclegan, direct = (record(finished, f"transfer+{row}") for row in ("PTGAN", "CycleGAN", "direct"))
    assert set(direct.stages) == {"reid", "scores"} and set(ptgan.scores) == {"last", "last+adabn"}
    assert set(ptgan.stages) == set(cyclegan.stages) == {"gan", "translation", "analysis", "reid", "scores"}
    assert ptgan.stages["gan"]["hash"] != cyclegan.stages["gan"]["hash"]
    assert {Path(p).name for p in ptgan.pictures} == {"curves.png", "ranked_lists.png", "transfer.png"}
    assert {
        "rms_inside",
        "rms_outside",
        "mask_coverage",
        "style_distance_source",
        "style_distance_translated",
    } <= set(ptgan.measures)
    heights = [
        Image.open(finished / next(p for p in r.pictures if p.endswith("transfer.png"))).height
        for r in (cyclegan, ptgan)
    ]
    assert heights[1] > heights[0] + 100  # source, mask, CycleGAN, PTGAN: one row more

    folder = finished / "stages" / f"translation-{ptgan.stages['translation']['hash']}"
    originals = {path.name: path for path in (data_root / "DukeMTMC-reID" / "bounding_box_train").iterdir()}
    made = {path.name: path for path in (folder / FOLDER).iterdir()}
    assert set(made) == set(originals)
    name = min(made)
    assert (
        Image.open(made[name]).size == Image.open(originals[name]).size
        and made[name].read_bytes() != originals[name].read_bytes()
    )
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["generator"], manifest["checkpoint"], manifest["source"]) == (
        "PTGAN",
        ptgan.stages["gan"]["hash"],
        ptgan.data["source"],
    )


def test_curves_hold_every_term(finished):
    terms = {
        term
        for path in record(finished).curves
        for line in (finished / path).read_text(encoding="utf-8").splitlines()
        for term in json.loads(line)
    }
    assert {
        "g_adv_s2t",
        "g_adv_t2s",
        "g_cyc",
        "g_id",
        "d_source",
        "d_target",
        "cross_entropy",
        "accuracy",
    } <= terms


def test_the_checkpoint_scores_as_in_the_record(finished, data_root, capsys):
    model = finished / "stages" / f"reid-{record(finished).stages['reid']['hash']}" / "model.pt"
    for flags, score in ([], "last"), (["--adabn"], "last+adabn"):
        assert (
            evaluate.main(
                ["--checkpoint", str(model), "--target", "market1501", "--data-root", str(data_root), *flags]
            )
            == 0
        )
        assert json.loads(capsys.readouterr().out) == pytest.approx(record(finished).scores[score], abs=1e-6)


def test_cyclegan_needs_no_masks_and_ptgan_does(finished, data_root, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(data_root, root, ignore=shutil.ignore_patterns("*_mask", "drawn"))
    assert run_ptgan(root, tmp_path / "out", rows=ROWS[1:]) == 2
    assert "expected its mask" in complaint(capsys)
    assert not list((tmp_path / "out").rglob("record.json"))  # all rows are checked before the first trains
    assert run_ptgan(root, tmp_path / "out", rows=ROWS[1:2]) == 0
    without = record(tmp_path / "out", "transfer+CycleGAN")
    assert (
        without.stages["gan"]["hash"] == record(finished, "transfer+CycleGAN").stages["gan"]["hash"]
        and "rms_inside" not in without.measures
    )


def test_a_folder_made_elsewhere_replaces_the_gan(finished, data_root, tmp_path):
    folder = finished / "stages" / f"translation-{record(finished).stages['translation']['hash']}" / FOLDER
    copy = tmp_path / "test"
    copy.mkdir()
    for path in folder.iterdir():
        shutil.copyfile(path, copy / f"AtoB_{path.name}")  # the released names
    assert run_ptgan(data_root, tmp_path / "out", "--translation.folder", str(copy)) == 0
    assert record(tmp_path / "out").scores == record(finished).scores and set(
        record(tmp_path / "out").stages
    ) == {"analysis", "reid", "scores"}


def test_rows_without_a_gan_ignore_the_folder(finished, data_root, tmp_path):
    """Direct transfer and the control `identity` ignore --translation.folder; the control changes storage
    only, and its manifest names it.
    """
    assert (
        run_ptgan(
            data_root,
            tmp_path,
            "--translation.folder",
            "no-such-images",
            rows=("ptgan/transfer/direct", "ptgan/control/identity"),
        )
        == 0
    )
    direct, identity = (record(tmp_path, row) for row in ("transfer+direct", "control+identity"))
    assert direct.scores == record(finished, "transfer+direct").scores and set(direct.stages) == {
        "reid",
        "scores",
    }
    assert set(identity.stages) == {"translation", "analysis", "reid", "scores"}
    assert 0 < identity.measures["rms_inside"] < record(finished).measures["rms_inside"]
    manifest = json.loads(
        (
            tmp_path / "stages" / f"translation-{identity.stages['translation']['hash']}" / "manifest.json"
        ).read_text(encoding="utf-8")
    )
    assert manifest["generator"] == "identity"


@pytest.mark.parametrize(
    "row, name",
    [
        ("transfer/PTGAN", "PTGAN"),
        ("transfer/CycleGAN", "CycleGAN"),
        ("control/identity", "identity"),
        ("lambda_id/100", "PTGAN"),
        ("control/identity_mapping,CycleGAN", "CycleGAN"),
    ],
)
def test_pictures_are_named_after_their_row(row, name):
    overrides = next(
        experiment.overrides for experiment in PTGAN.experiments if experiment.key == f"ptgan/{row}"
    )
    assert row_name(override(PTGANConfig(), overrides)) == name


def test_a_gan_for_each_target_camera(finished, data_root, tmp_path):
    assert (
        run_ptgan(
            data_root,
            tmp_path,
            "--gan.batch",
            "4",
            "--gan.epochs",
            "1",
            "--gan.decay",
            "none",
            "--recipe.epochs",
            "1",
            rows=("ptgan/prid/cam1+cam2",),
        )
        == 0
    )
    both = record(tmp_path, "prid+cam1+cam2")
    assert {"gan-cam1", "gan-cam2", "translation-cam1", "translation-cam2"} <= set(both.stages)
    assert both.stages["gan-cam1"]["hash"] != both.stages["gan-cam2"]["hash"]


@pytest.mark.parametrize("stage, step", [("GAN", 2), ("re-ID", 4)])
def test_kill_and_resume_equal_an_uninterrupted_run(
    finished, data_root, tmp_path, killed_then_resumed, stage, step
):
    """Of the GAN after its first epoch: weights, both optimisers, the history pool."""
    killed_then_resumed(
        lambda *more: run_ptgan(data_root, tmp_path, *more),
        stage,
        lambda loop, at: loop.start == 0 and at >= loop.save_every and at >= step,
    )
    assert record(tmp_path).scores == record(finished).scores
    assert weights(finished, "gan", "networks.pt") == weights(tmp_path, "gan", "networks.pt")
    assert weights(finished, "reid", "model.pt") == weights(tmp_path, "reid", "model.pt")


def weights(out: Path, stage: str, name: str) -> dict[str, bytes]:
    saved = torch.load(
        out / "stages" / f"{stage}-{record(out).stages[stage]['hash']}" / name, weights_only=True
    )
    return {key: tensor.numpy().tobytes() for key, tensor in saved.get("state_dict", saved).items()}


def test_two_processes_equal_one_in_the_gan(data_root, tmp_path, torchrun):
    """Instance norm is independent of the batch, the losses are means and every process keeps the whole
    history: the mean gradient of the halves of a batch is that of the batch.
    """
    flags = ["--gan.epochs", "1", "--gan.decay", "none", "--recipe.epochs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*torchrun, "train.py", *arguments(data_root, tmp_path / "two", *flags)],
        cwd=ROOT / "ptgan",
        env=environment,
        check=True,
        capture_output=True,
    )
    assert run_ptgan(data_root, tmp_path / "one", *flags) == 0
    one, both = (
        torch.load(next((tmp_path / name).glob("stages/gan-*/networks.pt")), weights_only=True)
        for name in ("one", "two")
    )
    for name in one:
        # three steps of 2e-4; Adam turns the rounding of tiny gradients into more
        assert (one[name] - both[name]).abs().mean() < 2e-6, name
    assert len(list((tmp_path / "two").rglob("record.json"))) == 1


# ---------------------------------------------------------------- measures


def test_change_inside_and_outside():
    before, masks = np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4))
    masks[0, :2] = 1  # the second image has no person
    after = before + np.where(masks[..., None] > 0, 0.3, -0.1)
    assert rms_change(before, after, masks) == pytest.approx({"rms_inside": 0.3, "rms_outside": 0.1})
    assert rms_change(before, after, np.zeros((2, 4, 4)))["rms_inside"] == 0


def test_every_measure_of_a_transfer_is_of_its_own_images(tmp_path):
    """One colour each; the transfer changes the upper half, the person, by 51 levels, the rest by 102."""

    def images(name: str, upper: int, lower: int) -> list[Sample]:
        grey = np.full((8, 4, 3), lower, np.uint8)
        grey[:4] = upper
        Image.fromarray(grey).save(tmp_path / f"{name}.png")
        return [Sample(tmp_path / f"{name}.png", 1, 0)]

    mask = np.zeros((8, 4), np.float32)
    mask[:4] = 1
    sets = images("source", 51, 51), images("translated", 102, 153), images("target", 255, 255)
    measures = analyse(*sets, lambda sample: mask, (8, 4))
    level = 2 / 255
    assert measures == pytest.approx(
        {
            "rms_inside": 51 * level,
            "rms_outside": 102 * level,
            "mask_coverage": 0.5,
            "style_distance_source": 204 * level / np.sqrt(2),
            "style_distance_translated": np.sqrt((127.5**2 + 25.5**2) / 2) * level,
        },
        abs=1e-5,
    )
    assert "rms_inside" not in analyse(*sets, None, (8, 4))


def test_distance_of_styles():
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
    assert style_distance(images, images) == 0
    # the means move, the deviations do not
    assert style_distance(images + 0.5, images) == pytest.approx(0.5 / np.sqrt(2))


# ---------------------------------------------------------------- settings


def test_presets():
    released, paper, demo = (PRESETS[name] for name in ("released", "paper", "demo"))
    assert PTGANConfig().gan == GANConfig()
    assert (released.masks.aug, released.gan.io, released.translation.size) == (
        "released",
        "scipy_bytescale",
        "generator",
    )
    assert (paper.net.backbone, paper.gan.epochs, paper.gan.decay, paper.gan.lr_d) == (
        "googlenet",
        40,
        "none",
        1e-4,
    )
    assert (
        demo.masks.kind == "oracle"
        and demo.gan.residual
        and {name for name, preset in PRESETS.items() if preset.gan.lambda_id != 10}
        == {"study", "shared", "photos_cpu"}
    )


def test_cyclegan_differs_by_its_weight_alone():
    rows = {experiment.key: experiment.overrides for experiment in PTGAN.experiments}
    assert rows["ptgan/transfer/CycleGAN"] == {"gan.lambda_id": 0.0} and rows["ptgan/transfer/PTGAN"] == {}


def test_the_literal_norm_causes_a_warning(data_root, tmp_path, caplog):
    for weight, warned in (("10", True), ("0.05", False)):
        caplog.clear()
        # stops at the batch
        run_ptgan(
            data_root,
            tmp_path / weight,
            "--gan.id-loss",
            "l2",
            "--gan.lambda-id",
            weight,
            "--gan.batch",
            "100000",
        )
        assert ("freezes the person" in caplog.text) is warned


# ---------------------------------------------------------------- bad input: exit code 2, one line


def complaint(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--source", "market"], "unknown dataset 'market'"),
        (["--gan.height", "62"], "expected multiples of 4"),
        (["--gan.load-height", "60"], "expected at least the crop's"),
        (["--gan.lambda-id", "-1"], "--gan.lambda-id"),
        (["--gan.decay-epoch", "9"], "--gan.decay-epoch 9"),
        (["--gan.batch", "100000"], "do not fill one batch"),
        (["--gan.target-cameras", "9"], "no training image of this one"),
        (["--gan.target-cameras", "0"], "counted from 1"),
        (["--gan.target-cameras", "1", "9", "--gan.batch", "2"], "--gan.target-cameras 9"),
        (["--gan.downsamplings", "5"], "too small"),
        (["--recipe.batch", "100000"], "do not fill one batch"),
        (["--net.backbone", "resnet49"], "googlenet"),
        (["--net.backbone", "resnet18", "--net.weights", "no-such-file.pth"], "no such file"),
        (["--masks.kind", "oracle"], "only the synthetic domains"),
        (["--masks.source-folder", "no-such-masks"], "no-such-masks"),
        (["--masks.target-folder", "no-such-masks"], "no-such-masks"),
        (["--recipe.momentum", "1"], "--recipe.momentum 1"),
        (["--recipe.momentum", "0"], "only with --recipe.no-nesterov"),
        (["--recipe.weight-decay", "-0.1"], "--recipe.weight-decay -0.1"),
        (["--recipe.colour-jitter", "1.5"], "--recipe.colour-jitter 1.5"),
        (["--gan.beta1", "1"], "--gan.beta1 1"),
        (["--masks.model", "pspnet"], "deeplabv3_resnet50"),
        (["--translation.folder", "no-such-images"], "no-such-images"),
        (["--translation.quality", "0"], "--translation.quality 0"),
    ],
)
def test_bad_input(data_root, tmp_path, capsys, flags, words):
    assert run_ptgan(data_root, tmp_path, *flags) == 2
    assert words in complaint(capsys)
    assert not list(tmp_path.rglob("record.json")) and not list(tmp_path.rglob("*.pt"))


def test_an_unknown_choice_is_refused_when_the_configuration_is_made():
    for name in ("gan.id_loss", "gan.id_reduce", "gan.adversarial", "masks.kind", "translation.kind"):
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} 'l1'"):
            override(PTGANConfig(), {name: "l1"})


def test_faults_end_the_run_before_the_gan(data_root, make_job, monkeypatch):
    source, target = load_dataset("dukemtmc", data_root), load_dataset("market1501", data_root)
    job = make_job(override(PRESETS["demo"], {"masks.kind": "disk"}), source, target)
    train.check(job)
    twice = replace(
        source,
        train=[
            *source.train,
            replace(source.train[0], path=source.root / "cam_b" / source.train[0].path.name),
        ],
    )
    with pytest.raises(InputError, match="2 training images are called"):
        train.check(replace(job, source=twice))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="--recipe.batch 64: does not divide into 3"):
        train.check(job)


def test_validation_compares_shapes_without_building_the_network(data_root, make_job, tmp_path):
    """Of weights that do not fit, as of absent ones."""
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    source, target = load_dataset("dukemtmc", data_root), load_dataset("market1501", data_root)
    config = override(PRESETS["demo"], {"net.weights": str(tmp_path / "weights.pth")})
    with pytest.raises(InputError, match="weights.pth: does not fit a network that is known here"):
        train.check(make_job(config, source, target))


def test_the_network_of_another_paper_is_refused(tmp_path):
    torch.save(
        {"state_dict": {"x": torch.zeros(1)}, "num_ids": 3, "net": {"embed_dim": 1024}}, tmp_path / "model.pt"
    )
    with pytest.raises(InputError, match="another paper"):
        load_network(tmp_path / "model.pt")


def test_a_domain_of_one_image(data_root, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(data_root, root, ignore=shutil.ignore_patterns("drawn"))
    for path in sorted((root / "Market-1501-v15.09.15" / "bounding_box_train").iterdir())[1:]:
        path.unlink()
    assert run_ptgan(root, tmp_path / "out", "--gan.batch", "1") == 2
    assert "1 target training images: expected at least 2" in complaint(capsys)


def test_a_mask_of_another_size_stops_the_run(data_root, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(data_root, root, ignore=shutil.ignore_patterns("drawn"))
    victim = min((root / "DukeMTMC-reID" / "bounding_box_train_mask").iterdir())
    Image.new("L", (10, 10)).save(victim)
    assert run_ptgan(root, tmp_path / "out") == 2
    assert victim.name in (said := complaint(capsys)) and "a mask of 10x10 for an image of 128x64" in said


def test_unreadable_checkpoints(tmp_path, data_root, capsys):
    (tmp_path / "model.pt").write_bytes(b"nothing")
    assert (
        evaluate.main(
            [
                "--checkpoint",
                str(tmp_path / "model.pt"),
                "--target",
                "market1501",
                "--data-root",
                str(data_root),
            ]
        )
        == 2
    )
    assert "model.pt" in complaint(capsys)
    with pytest.raises(InputError, match="no such file"):
        load_network(tmp_path / "none.pt")
