"""DCGAN + LSRO end to end on tiny data: every row once, a kill and a resume, two processes against one, and bad input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import cli
from common.backbones import split_batch_norm
from common.datasets import load_dataset
from common.records import ROOT, read_record
from dcgan_lsro import evaluate, pictures
from dcgan_lsro import train as training
from dcgan_lsro.dcgan.sample import FOLDER
from dcgan_lsro.experiments import LSRO
from dcgan_lsro.train import train

TINY = ("--recipe.epochs 2 --recipe.drop-epoch 1 --recipe.batch 16 --method.pseudo-start 1 --dcgan.epochs 1 --dcgan.batch 16 --dcgan.g-channels 2 "
        "--dcgan.d-channels 2 --pool.batch 16 --threads 1").split()
BASELINE, LSRO_24K = "dcgan_lsro/table2/lsro=0", "dcgan_lsro/table2/lsro=24000"
ROWS = [BASELINE, LSRO_24K, *(f"dcgan_lsro/{row}" for row in ("table2/all_in_one=24000", "table2/pseudo=24000", "control/step_matched"))]


@pytest.fixture(scope="session")
def data_root(draw_data_root) -> Path:
    """With the queries as boxes drawn by hand."""
    root = draw_data_root()
    market = root / "Market-1501-v15.09.15"
    shutil.copytree(market / "query", market / "gt_bbox")
    return root


def command(data_root: Path, out: Path, *flags: str, rows=(LSRO_24K,), source: str = "market1501", target: str = "market1501") -> list[str]:
    return ["--source", source, "--target", target, "--data-root", str(data_root), "--out", str(out), "--experiment", *rows, *TINY, *flags]


def run_lsro(*args, **options) -> int:
    return cli.main(LSRO, train, command(*args, **options))


def record(out: Path, key: str = LSRO_24K):
    (path,) = (out / "runs" / key.replace("/", "+")).rglob("record.json")
    return read_record(path.read_text())


def weights(out: Path, key: str = LSRO_24K) -> dict[str, torch.Tensor]:
    (path,) = out.glob(f"stages/reid-{record(out, key).stages['reid']['hash']}/model.pt")
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.fixture(scope="session")
def finished(data_root, tmp_path_factory) -> Path:
    """One unbroken run of five rows, shared by the tests."""
    out = tmp_path_factory.mktemp("runs")
    assert run_lsro(data_root, out, rows=ROWS) == 0
    return out


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Only the run that the tests share draws its pictures: it is made before this takes effect."""
    monkeypatch.setattr(pictures, "draw", lambda *_: None)


def test_five_rows_share_one_dcgan_and_one_pool(finished):
    stages = {key: record(finished, key).stages for key in ROWS}
    assert set(stages[BASELINE]) == set(stages[ROWS[4]]) == {"reid", "scores"}
    generated = [stages[key] for key in ROWS[1:4]]
    assert all(set(s) == {"dcgan", "samples", "reid", "scores"} for s in generated)
    assert len({s["dcgan"]["hash"] for s in generated}) == len({s["samples"]["hash"] for s in generated}) == 1
    assert len({s["reid"]["hash"] for s in stages.values()}) == 5
    (folder,) = finished.rglob(FOLDER)
    real = record(finished).data["source"]["train"]
    assert len(list(folder.glob("gan_*.png"))) == round(real * 36_000 / 12_936)   # the largest amount of Table 2
    manifest = json.loads((folder.parent / "manifest.json").read_text())
    assert manifest["checkpoint"] == generated[0]["dcgan"]["hash"] and manifest["images"] == len(list(folder.iterdir()))


def test_records_hold_every_view_the_parts_of_the_loss_and_pictures(finished):
    lsro, baseline = record(finished), record(finished, BASELINE)
    assert set(lsro.scores) == set(baseline.scores) == {"last", "last+dense256", "last+mq_mean", "last+mq_max"}
    assert set(lsro.measures) == {"gan_spread", "real_spread", "last_real_ce", "last_accuracy", "last_gan_kl", "last_gan_confidence"}
    assert set(baseline.measures) == {"last_real_ce", "last_accuracy"}
    assert {Path(p).name for p in lsro.pictures} == {"curves.png", "ranked_lists.png", "unlabelled.png"}
    assert all((finished / p).stat().st_size > 1000 for p in lsro.pictures)
    terms = {term for path in lsro.curves for line in (finished / path).read_text().splitlines() for term in json.loads(line)}
    assert {"real_ce", "gan_kl", "gan_confidence", "accuracy", "d_real", "d_fake", "g_loss"} <= terms


def test_steps_of_the_rows(finished):
    def steps(key: str) -> int:
        (curves,) = finished.glob(f"stages/reid-{record(finished, key).stages['reid']['hash']}/curves.jsonl")
        return json.loads(curves.read_text().splitlines()[-1])["step"]

    real = record(finished).data["source"]["train"]
    both = real + round(real * 24_000 / 12_936)
    assert steps(BASELINE) == 2 * -(-real // 16) and steps(LSRO_24K) == steps(ROWS[2]) == steps(ROWS[4]) == 2 * -(-both // 16)
    assert steps(ROWS[3]) == -(-real // 16) + -(-both // 16)   # pseudo-labels come in after one of two epochs


def test_heads_have_k_or_k_plus_one_classes(finished):
    ids = record(finished).data["source"]["train_ids"]
    assert [weights(finished, key)["classifier.weight"].shape[0] for key in ROWS] == [ids, ids, ids + 1, ids, ids]


@pytest.mark.parametrize("flags, score", [
    ([], "last"), (["--view", "dense256"], "last+dense256"), (["--multi-query", "max"], "last+mq_max"), (["--multi-query", "mean"], "last+mq_mean"),
])
def test_the_checkpoint_scores_as_the_record_says(finished, data_root, capsys, flags, score):
    for key in ROWS[1:3]:
        (model,) = finished.glob(f"stages/reid-{record(finished, key).stages['reid']['hash']}/model.pt")
        assert evaluate.main(["--checkpoint", str(model), "--target", "market1501", "--data-root", str(data_root), *flags]) == 0
        assert json.loads(capsys.readouterr().out) == pytest.approx(record(finished, key).scores[score], abs=1e-6)


def test_a_folder_of_images_takes_the_place_of_the_dcgan(finished, data_root, tmp_path):
    (folder,) = finished.rglob(FOLDER)
    assert run_lsro(data_root, tmp_path, "--pool.folder", str(folder)) == 0
    assert set(record(tmp_path).stages) == {"reid", "scores"} and record(tmp_path).scores == record(finished).scores
    renamed = tmp_path / "any names"
    shutil.copytree(folder, renamed)
    first = min(renamed.iterdir())
    Image.fromarray(np.full((9, 9), 99, np.uint8)).save(first, "PNG")   # a grey image of another size is an image
    assert run_lsro(data_root, tmp_path, "--pool.folder", str(renamed)) == 0
    assert record(tmp_path).stages["reid"]["hash"] != record(finished).stages["reid"]["hash"]


def test_real_people_of_another_dataset_without_labels(data_root, tmp_path):
    row = "dcgan_lsro/table4/real"
    assert run_lsro(data_root, tmp_path, "--pool.people", "market1501", rows=[row]) == 0
    assert set(record(tmp_path, row).stages) == {"reid", "scores"} and "last_gan_kl" in record(tmp_path, row).measures


@pytest.mark.parametrize("stage", ["DCGAN", "re-ID"])
def test_kill_and_resume_equal_an_unbroken_run(data_root, tmp_path, monkeypatch, stage):
    from common.training import Loop

    def dying(self, at, **terms):
        if self.label == stage and at == self.total - 2:   # after the first of two epochs, which was saved
            raise SystemError("killed")
        original(self, at, **terms)

    flags, original = ["--dcgan.epochs", "2"], Loop.log
    monkeypatch.setattr(Loop, "log", dying)
    with pytest.raises(SystemError):
        run_lsro(data_root, tmp_path / "broken", *flags)
    monkeypatch.setattr(Loop, "log", original)
    assert run_lsro(data_root, tmp_path / "broken", *flags) == 2   # neither --resume nor --fresh: nothing is overwritten
    assert run_lsro(data_root, tmp_path / "broken", *flags, "--resume") == 0
    assert run_lsro(data_root, tmp_path / "whole", *flags) == 0
    broken, whole = (record(tmp_path / name) for name in ("broken", "whole"))
    assert broken.scores == whole.scores
    mine, expected = weights(tmp_path / "broken"), weights(tmp_path / "whole")
    assert all(torch.equal(mine[name], expected[name]) for name in expected)


def test_workers_change_nothing(finished, data_root, tmp_path):
    (folder,) = finished.rglob(FOLDER)
    assert run_lsro(data_root, tmp_path, "--pool.folder", str(folder), "--workers", "2") == 0
    assert record(tmp_path).scores == record(finished).scores


def test_two_processes_equal_one_with_split_batch_norm(data_root, tmp_path, monkeypatch):
    """Each process normalises by its own half of the batch; dropout is off, because each process draws its own mask."""
    folder = data_root / "Market-1501-v15.09.15" / "bounding_box_train"   # any images will do
    flags = ["--pool.folder", str(folder), "--method.amount", "1", "--net.dropout", "0", "--recipe.base-lr", "0.01",
             "--recipe.epochs", "1", "--recipe.batch", "48"]   # five steps, the last one smaller
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29587", "train.py"]
    subprocess.run([*two, *command(data_root, tmp_path / "two", *flags)], cwd=ROOT / "dcgan_lsro", env=environment, check=True, capture_output=True)

    plan, network = training.schedule, training.build_network
    monkeypatch.setattr(training, "build_network", lambda *args: split_batch_norm(network(*args), 2))
    monkeypatch.setattr(training, "schedule", lambda config, real, others, seed, world: plan(config, real, others, seed, world=2))
    assert run_lsro(data_root, tmp_path / "one", *flags) == 0
    one, both = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        assert torch.allclose(one[name].float(), both[name].float(), rtol=1e-4, atol=2e-5), name
    assert len(list((tmp_path / "two").rglob("record.json"))) == 1


# ---------------------------------------------------------------- bad input: exit code 2, one line, nothing overwritten

def complaint(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("flags, words", [
    (["--target", "dukemtmc"], "this paper is supervised"),
    (["--data-root", "no-such-folder"], "no-such-folder"),
    (["--net.backbone", "resnet18", "--net.weights", "no-such-file.pth"], "no such file"),
    (["--net.resize-height", "60"], "expected at least the crop's"),
    (["--net.dropout", "1"], "--net.dropout 1"),
    (["--method.amount", "0"], "expected unlabelled images"),
    (["--method.amount", "0.001"], "less than one unlabelled image"),
    (["--dcgan.height", "60"], "multiples of 32"),
    (["--dcgan.batch", "5000"], "do not fill one batch"),
    (["--dcgan.g-steps", "0"], "--dcgan.g_steps 0: expected a positive number"),
    (["--pool.folder", "no-such-images"], "expected a folder of unlabelled images"),
    (["--pool.quality", "0"], "--pool.quality"),
])
def test_bad_input(data_root, tmp_path, capsys, flags, words):
    assert run_lsro(data_root, tmp_path, *flags) == 2
    assert words in complaint(capsys)
    assert not list(tmp_path.rglob("record.json"))


def test_bad_folders_of_unlabelled_images(data_root, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run_lsro(data_root, tmp_path / "out", "--pool.folder", str(empty)) == 2
    assert "found 0" in complaint(capsys)
    (empty / "a.jpg").write_bytes(b"\xff\xd8\xff no picture")
    assert run_lsro(data_root, tmp_path / "out", "--pool.folder", str(empty), "--method.amount", "0.01") == 2
    assert "a.jpg" in complaint(capsys)
    assert not (tmp_path / "out" / "stages").exists()
    for index in range(4):   # a broken one among whole ones is found when it is read
        Image.new("RGB", (16, 32)).save(empty / f"{index}.jpg")
    (empty / "2.jpg").write_bytes((empty / "2.jpg").read_bytes()[:200])
    (empty / "a.jpg").unlink()
    assert run_lsro(data_root, tmp_path / "out", "--pool.folder", str(empty), "--method.amount", "0.04") == 2
    assert "2.jpg" in complaint(capsys)


def test_multi_query_without_boxes_is_refused_and_left_out(finished, data_root, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(data_root / "Market-1501-v15.09.15", root / "market1501")
    shutil.rmtree(root / "market1501" / "gt_bbox")
    (model,) = finished.glob(f"stages/reid-{record(finished).stages['reid']['hash']}/model.pt")
    assert evaluate.main(["--checkpoint", str(model), "--target", "market1501", "--data-root", str(root), "--multi-query", "mean"]) == 2
    assert "gt_bbox" in complaint(capsys)
    assert run_lsro(root, tmp_path / "out", rows=[BASELINE]) == 0
    assert set(record(tmp_path / "out", BASELINE).scores) == {"last", "last+dense256"}


def test_a_camera_split_has_no_boxes_because_its_cameras_are_numbered_anew(data_root):
    assert evaluate.multi_query_boxes(load_dataset("market1501", data_root))
    assert not evaluate.multi_query_boxes(load_dataset("market1501@c456", data_root))
