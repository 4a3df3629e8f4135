"""SPGAN end to end on tiny data: rows that share a GAN, both directions, two processes, resume, bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import training
from common.checkpoints import save_checkpoint
from common.datasets import load_dataset
from common.errors import InputError
from common.job import Job, Options, Workspace
from common.provenance import ROOT
from common.records import read_record
from common.runs import StageStore
from spgan import evaluate, pictures, process
from spgan.config import PRESETS
from spgan.experiments import EXPERIMENTS
from spgan.reid.model import load_network
from spgan.train import check, main
from spgan.translations import FOLDER

TINY = (
    "--gan.height 16 --gan.width 8 --gan.load-height 18 --gan.load-width 9 --gan.g-channels 2 --gan.blocks 1 "
    "--gan.d-channels 2 --gan.sia-channels 2 --gan.epochs 0.3 --gan.batch 2 --recipe.pretrain-epochs 1 "
    "--recipe.epochs 1 --recipe.drop-epoch 1 --threads 1 --device cpu"
).split()
DUKE_TO_MARKET = ("dukemtmc", "market1501")
POOLINGS = {"last", "lmp1max", *(f"lmp{parts}{mode}" for parts in (2, 3, 7) for mode in ("avg", "max"))}
needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="TensorFlow is not installed: pip install -e '.[spgan]'",
)


def command(
    data_root: Path, out: Path, *flags: str, rows=("spgan/table2/direct",), pair=DUKE_TO_MARKET
) -> list[str]:
    return [
        "--source",
        pair[0],
        "--target",
        pair[1],
        "--data-root",
        str(data_root),
        "--out",
        str(out),
        "--experiment",
        *rows,
        *TINY,
        *flags,
    ]


def run_spgan(*args, **options) -> int:
    return main(command(*args, **options))


def record(out: Path, row: str, pair=DUKE_TO_MARKET):
    return read_record(
        next((out / "runs" / f"spgan+table2+{row}" / "+".join(pair)).glob("seed=0*/record.json")).read_text(
            encoding="utf-8"
        )
    )


def complaint(capsys) -> str:
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    return line


@pytest.fixture(scope="session")
def finished(data_root, tmp_path_factory) -> Path:
    """An uninterrupted run of a row without a GAN, shared by the tests."""
    out = tmp_path_factory.mktemp("runs")
    assert run_spgan(data_root, out) == 0
    return out


@needs_tensorflow
def test_rows_share_one_gan_and_both_directions_do(data_root, finished, capsys):
    assert run_spgan(data_root, finished, rows=("spgan/table2/SPGAN", "spgan/table2/SPGAN+LMP")) == 0
    forward = record(finished, "SPGAN")
    assert (
        set(forward.stages) == {"gan", "translation", "pretrain", "reid", "scores"}
        and forward.stages["pretrain"]["reused"]
    )
    assert set(forward.scores) == POOLINGS | {f"{name}+adabn" for name in POOLINGS}
    assert {Path(p).name for p in forward.pictures} == {
        "curves.png",
        "sianet.png",
        "ranked_lists.png",
        "translations.png",
    }
    assert {
        "sia_cos_source",
        "sia_across",
        "style_gap",
        "style_gap_before",
        "edges_kept",
        "change_l1",
    } <= set(forward.measures)
    assert "SPGAN + LMP" in capsys.readouterr().out

    gan = finished / "stages" / f"gan-{forward.stages['gan']['hash']}"
    assert json.loads((gan / "stage.json").read_text(encoding="utf-8"))["depends_on"]["seed"] == 0
    stage = finished / "stages" / f"translation-{forward.stages['translation']['hash']}"
    assert len(list((stage / FOLDER).glob("*.jpg"))) == forward.data["source"]["train"]
    assert (
        json.loads((stage / "manifest.json").read_text(encoding="utf-8"))["checkpoint"]
        == forward.stages["gan"]["hash"]
    )

    back = DUKE_TO_MARKET[::-1]
    assert run_spgan(data_root, finished, rows=("spgan/table2/SPGAN",), pair=back) == 0
    other = record(finished, "SPGAN", back)
    assert other.stages["gan"]["reused"] and other.stages["gan"]["hash"] == forward.stages["gan"]["hash"]
    assert not other.stages["translation"]["reused"]
    exchanged = [
        ("sia_within_source", "sia_within_target"),
        ("sia_cos_target", "sia_cos_source"),
        ("sia_across", "sia_across"),
    ]
    # the GAN's source is this run's target
    assert all(other.measures[a] == forward.measures[b] for a, b in exchanged)
    assert other.measures["sia_within_source"] != other.measures["sia_within_target"]


def test_a_row_without_a_gan_and_its_checkpoint(data_root, finished, capsys):
    direct = record(finished, "direct")
    assert set(direct.stages) == {"pretrain", "reid", "scores"} and set(direct.scores) == POOLINGS | {
        f"{name}+adabn" for name in POOLINGS
    }
    model = finished / "stages" / f"reid-{direct.stages['reid']['hash']}" / "model.pt"
    for flags, score in (
        ([], "last"),
        (["--parts", "7", "--pool", "max"], "lmp7max"),
        (["--adabn"], "last+adabn"),
    ):
        assert (
            evaluate.main(
                ["--checkpoint", str(model), "--target", "market1501", "--data-root", str(data_root), *flags]
            )
            == 0
        )
        assert json.loads(capsys.readouterr().out) == pytest.approx(direct.scores[score], abs=1e-6)


def test_wide_maps_are_pooled_one_way_at_a_time(data_root, finished, tmp_path, monkeypatch):
    direct = record(finished, "direct")
    model = load_network(finished / "stages" / f"reid-{direct.stages['reid']['hash']}" / "model.pt")
    monkeypatch.setattr(evaluate, "ONE_PASS_WIDTH", model.base.num_features - 1)
    work = Workspace(tmp_path, device=torch.device("cpu"))
    evaluate.score(model, load_dataset("market1501", data_root), PRESETS["demo"].test, work)
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8")) == direct.scores


def test_pools_and_networks_that_cannot_be_scored(data_root, finished, tmp_path, capsys):
    model = sorted(finished.glob("stages/reid-*/model.pt"))[0]
    foreign = tmp_path / "model.pt"
    save_checkpoint(
        foreign, torch.load(model, weights_only=True) | {"net": {"backbone": "thin", "embed_dim": 8}}
    )
    for flags, words in (
        (["--checkpoint", str(model), "--parts", "0"], "--parts 0"),
        (["--checkpoint", str(model), "--test.cut", "0"], "--test.cut 0"),
        (["--checkpoint", str(foreign)], "expected a re-ID network of SPGAN"),
    ):
        assert evaluate.main([*flags, "--target", "market1501", "--data-root", str(data_root)]) == 2
        assert words in complaint(capsys)


def test_a_translated_folder_needs_no_gan(data_root, finished, tmp_path):
    """The originals under released names, as if translated: the row trains on them and equals direct
    transfer.
    """
    folder = tmp_path / "bounding_box_train_duke2market"
    folder.mkdir()
    for path in (data_root / "DukeMTMC-reID" / "bounding_box_train").glob("*.jpg"):
        (folder / f"market_{path.name}").write_bytes(path.read_bytes())
    assert (
        run_spgan(
            data_root, tmp_path / "out", "--translate.folder", str(folder), rows=("spgan/table2/SPGAN",)
        )
        == 0
    )
    assert record(tmp_path / "out", "SPGAN").scores == record(finished, "direct").scores


def test_the_statistics_control_runs(data_root, tmp_path):
    assert run_spgan(data_root, tmp_path, rows=("spgan/control/statistics",)) == 0
    (path,) = tmp_path.rglob("record.json")
    measures = read_record(path.read_text(encoding="utf-8")).measures
    assert measures["style_gap"] < measures["style_gap_before"]


def test_a_row_shows_what_earlier_rows_translated(data_root, tmp_path, monkeypatch):
    """The columns of `translations.png`. TensorFlow is replaced: no GAN, and grey translations, shade 50 for
    the first row, 100 for the next.
    """
    shades, grids = iter((50, 100)), []

    def no_gan(work, config, source, target):
        (work.folder / "curves.jsonl").write_text("", encoding="utf-8")

    def paint(work, config, translation, networks, role, images):
        picture = Image.new("RGB", (8, 16), (next(shades),) * 3)
        for _, fake in images:
            fake.parent.mkdir(exist_ok=True)
            picture.save(fake)

    def look(rows, path, *, column_titles, **titles):
        means = np.array([[np.asarray(cell).mean() for cell in row] for row in rows])
        grids.append({title: column for title, column in zip(column_titles, means.T, strict=True)})
        draw(rows, path, column_titles=column_titles, **titles)

    draw = pictures.image_grid
    monkeypatch.setattr(pictures, "image_grid", look)
    monkeypatch.setattr("spgan.train.require_tensorflow", lambda: None)
    monkeypatch.setattr(process, "train", no_gan)
    monkeypatch.setattr(process, "translate", paint)
    assert (
        run_spgan(
            data_root,
            tmp_path,
            rows=("spgan/table2/CycleGAN", "spgan/table2/SPGAN", "spgan/control/statistics"),
        )
        == 0
    )
    assert [list(columns) for columns in grids] == [
        ["source", "CycleGAN", "target"],
        ["source", "CycleGAN", "SPGAN", "target"],
        ["source", "CycleGAN", "SPGAN", "statistics", "target"],
    ]
    for columns in grids:
        assert (
            (columns["CycleGAN"] == 50).all()
            and (columns.get("SPGAN", np.array(100)) == 100).all()
            and len(columns["CycleGAN"]) == 5
        )


def test_kill_and_resume_of_the_network(data_root, finished, tmp_path, monkeypatch):
    original = training.Loop.log

    def dying(self, at, **terms):
        if self.label == "re-ID" and at == 3:
            self._interrupted = True
        original(self, at, **terms)

    monkeypatch.setattr(training.Loop, "log", dying)
    assert run_spgan(data_root, tmp_path) == 130
    monkeypatch.setattr(training.Loop, "log", original)
    assert run_spgan(data_root, tmp_path) == 2  # neither --resume nor --fresh: nothing is overwritten
    assert run_spgan(data_root, tmp_path, "--resume") == 0
    assert record(tmp_path, "direct").scores == record(finished, "direct").scores


def test_two_processes_equal_one(data_root, tmp_path, torchrun):
    """Batch norm is in evaluation mode, so the halves of a batch do not differ from the whole."""
    flags = ["--recipe.pretrain-epochs", "0", "--recipe.batch", "32", "--recipe.lr-scale", "1"]
    subprocess.run(
        [*torchrun, "train.py", *command(data_root, tmp_path / "two", *flags)],
        cwd=ROOT / "spgan",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    assert run_spgan(data_root, tmp_path / "one", *flags) == 0
    one, both = (
        torch.load(next((tmp_path / name).glob("stages/reid-*/model.pt")), weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    for name in one:
        assert torch.allclose(one[name].float(), both[name].float(), rtol=1e-4, atol=2e-5), name


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--source", "duke"], "unknown dataset 'duke'"),
        (["--net.backbone", "resnet49"], "unknown backbone"),
        (["--recipe.batch", "100000"], "do not fill one batch"),
        (["--translate.folder", "no-such-folder", "--method.images", "translated"], "no-such-folder"),
        (["--gan.sia-size", "64"], "--gan.sia-size 64"),
        (["--recipe.weight-decay", "-1"], "--recipe.weight-decay -1.0"),
        (["--net.head", "bottleneck", "--recipe.batch", "1"], "at least 2 images a process"),
    ],
)
def test_bad_input(data_root, tmp_path, capsys, flags, words):
    assert run_spgan(data_root, tmp_path, *flags) == 2
    assert words in complaint(capsys) and not list(tmp_path.rglob("record.json"))


def test_check_refuses_before_the_gan_what_would_fail_after_it(data_root, tmp_path, monkeypatch):
    source, target = (load_dataset(name, data_root) for name in DUKE_TO_MARKET)
    row = next(e for e in EXPERIMENTS if e.key == "spgan/table2/SPGAN")
    device, store = torch.device("cpu"), StageStore(tmp_path)
    job = Job("spgan", row, PRESETS["demo"], source, target, device, Options(experiment=(row.key,)), store)
    monkeypatch.setattr("spgan.train.require_tensorflow", lambda: None)
    check(job)
    first = source.train[0]
    twice = [*source.train, replace(first, path=source.root / "cam_b" / first.path.name)]
    with pytest.raises(InputError, match="2 training images are called"):
        check(replace(job, source=replace(source, train=twice)))
    net = replace(job.config.net, weights=str(tmp_path / "none.pt"))
    with pytest.raises(InputError, match="none.pt"):
        check(replace(job, config=replace(job.config, net=net)))
    few = replace(source, train=source.train[:10])
    small = replace(job.config, recipe=replace(job.config.recipe, batch=8))
    with pytest.raises(InputError, match="10 labelled images do not fill the pretraining's batch of 32"):
        check(replace(job, source=few, config=small))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="--recipe.batch 16: does not divide into 3"):
        check(job)
