"""DCGAN + LSRO end to end on tiny data: every row once, a kill and a resume, two processes against one, and
bad input.
"""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import cli
from common.backbones import split_batch_norm
from common.checkpoints import save_checkpoint
from common.datasets import load_dataset
from common.errors import InputError
from common.hashing import canonical, digest
from common.job import Job, Options
from common.provenance import ROOT
from common.records import read_record
from common.runs import Stage, StageStore, stage_hash
from dcgan_lsro import config as settings
from dcgan_lsro import evaluate, pictures
from dcgan_lsro import train as training
from dcgan_lsro.config import PRESETS
from dcgan_lsro.dcgan import train as dcgan_training
from dcgan_lsro.dcgan.sample import FOLDER
from dcgan_lsro.experiments import LSRO
from dcgan_lsro.model import build_network

TINY = (
    "--recipe.epochs 2 --recipe.drop-epoch 1 --recipe.batch 16 --method.pseudo-start 1 --dcgan.epochs 1 "
    "--dcgan.batch 16 --dcgan.g-channels 2 --dcgan.d-channels 2 --pool.batch 16 --threads 1"
).split()
BASELINE, LSRO_24K = "dcgan_lsro/table2/lsro=0", "dcgan_lsro/table2/lsro=24000"
ROWS = [
    BASELINE,
    LSRO_24K,
    *(
        f"dcgan_lsro/{row}"
        for row in ("table2/all_in_one=24000", "table2/pseudo=24000", "control/step_matched")
    ),
]


@pytest.fixture(scope="session")
def data_root(draw_data_root) -> Path:
    """With the queries as boxes drawn by hand."""
    root = draw_data_root()
    market = root / "Market-1501-v15.09.15"
    shutil.copytree(market / "query", market / "gt_bbox")
    return root


def command(
    data_root: Path,
    out: Path,
    *flags: str,
    rows=(LSRO_24K,),
    source: str = "market1501",
    target: str = "market1501",
) -> list[str]:
    return [
        "--source",
        source,
        "--target",
        target,
        "--data-root",
        str(data_root),
        "--out",
        str(out),
        "--experiment",
        *rows,
        *TINY,
        *flags,
    ]


def run_lsro(*args, **options) -> int:
    return training.main(command(*args, **options))


def record(out: Path, key: str = LSRO_24K):
    (path,) = (out / "runs" / key.replace("/", "+")).rglob("record.json")
    return read_record(path.read_text(encoding="utf-8"))


def weights(out: Path, key: str = LSRO_24K) -> dict[str, torch.Tensor]:
    (path,) = out.glob(f"stages/reid-{record(out, key).stages['reid']['hash']}/model.pt")
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.fixture(scope="session")
def finished(data_root, tmp_path_factory) -> Path:
    """One uninterrupted run of five rows, shared by the tests."""
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
    # the largest amount of Table 2
    assert len(list(folder.glob("gan_*.png"))) == round(real * 36_000 / 12_936)
    manifest = json.loads((folder.parent / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["checkpoint"] == generated[0]["dcgan"]["hash"] and manifest["images"] == len(
        list(folder.iterdir())
    )


def test_records_hold_every_view_the_parts_of_the_loss_and_pictures(finished):
    lsro, baseline = record(finished), record(finished, BASELINE)
    assert (
        set(lsro.scores) == set(baseline.scores) == {"last", "last+dense256", "last+mq_mean", "last+mq_max"}
    )
    assert set(lsro.measures) == {
        "gan_spread",
        "real_spread",
        "last_real_ce",
        "last_accuracy",
        "last_gan_kl",
        "last_gan_confidence",
    }
    assert set(baseline.measures) == {"last_real_ce", "last_accuracy"}
    assert {Path(p).name for p in lsro.pictures} == {"curves.png", "ranked_lists.png", "unlabelled.png"}
    assert all((finished / p).stat().st_size > 1000 for p in lsro.pictures)
    terms = {
        term
        for path in lsro.curves
        for line in (finished / path).read_text(encoding="utf-8").splitlines()
        for term in json.loads(line)
    }
    assert {"real_ce", "gan_kl", "gan_confidence", "accuracy", "d_real", "d_fake", "g_loss"} <= terms


def test_steps_of_the_rows(finished):
    def steps(key: str) -> int:
        (curves,) = finished.glob(f"stages/reid-{record(finished, key).stages['reid']['hash']}/curves.jsonl")
        return json.loads(curves.read_text(encoding="utf-8").splitlines()[-1])["step"]

    real = record(finished).data["source"]["train"]
    both = real + round(real * 24_000 / 12_936)
    assert steps(BASELINE) == 2 * -(-real // 16) and steps(LSRO_24K) == steps(ROWS[2]) == steps(
        ROWS[4]
    ) == 2 * -(-both // 16)
    assert steps(ROWS[3]) == -(-real // 16) + -(-both // 16)  # pseudo-labels come in after one of two epochs


def test_heads_have_k_or_k_plus_one_classes(finished):
    ids = record(finished).data["source"]["train_ids"]
    assert [weights(finished, key)["classifier.weight"].shape[0] for key in ROWS] == [
        ids,
        ids,
        ids + 1,
        ids,
        ids,
    ]


@pytest.mark.parametrize(
    "flags, score",
    [
        ([], "last"),
        (["--view", "dense256"], "last+dense256"),
        (["--multi-query", "max"], "last+mq_max"),
        (["--multi-query", "mean"], "last+mq_mean"),
    ],
)
def test_the_checkpoint_scores_as_the_record_says(finished, data_root, capsys, flags, score):
    for key in ROWS[1:3]:
        (model,) = finished.glob(f"stages/reid-{record(finished, key).stages['reid']['hash']}/model.pt")
        assert (
            evaluate.main(
                ["--checkpoint", str(model), "--target", "market1501", "--data-root", str(data_root), *flags]
            )
            == 0
        )
        assert json.loads(capsys.readouterr().out) == pytest.approx(
            record(finished, key).scores[score], abs=1e-6
        )


def test_a_checkpoint_can_be_scored_with_adabn(finished, data_root, capsys):
    (model,) = finished.glob(f"stages/reid-{record(finished).stages['reid']['hash']}/model.pt")
    flags = ["--checkpoint", str(model), "--target", "market1501", "--data-root", str(data_root), "--adabn"]
    assert evaluate.main(flags) == 0
    adapted = json.loads(capsys.readouterr().out)
    assert set(adapted) == set(record(finished).scores["last"]) and adapted != record(finished).scores["last"]


def test_a_network_of_another_paper_is_refused(tmp_path, data_root, capsys):
    net = {**canonical(PRESETS["demo"].net), "embed_dim": 16}
    save_checkpoint(tmp_path / "model.pt", {"state_dict": {}, "num_classes": 2, "net": net})
    flags = [
        "--checkpoint",
        str(tmp_path / "model.pt"),
        "--target",
        "market1501",
        "--data-root",
        str(data_root),
    ]
    assert evaluate.main(flags) == 2
    assert "expected a re-ID network of DCGAN+LSRO" in complaint(capsys)


def test_a_folder_of_images_takes_the_place_of_the_dcgan(finished, data_root, tmp_path):
    (folder,) = finished.rglob(FOLDER)
    assert run_lsro(data_root, tmp_path, "--pool.folder", str(folder)) == 0
    assert (
        set(record(tmp_path).stages) == {"reid", "scores"}
        and record(tmp_path).scores == record(finished).scores
    )
    renamed = tmp_path / "any names"
    shutil.copytree(folder, renamed)
    first = min(renamed.iterdir())
    # a grey image of another size is an image
    Image.fromarray(np.full((9, 9), 99, np.uint8)).save(first, "PNG")
    assert run_lsro(data_root, tmp_path / "again", "--pool.folder", str(renamed)) == 0
    assert record(tmp_path / "again").stages["reid"]["hash"] != record(finished).stages["reid"]["hash"]


def test_real_people_of_another_dataset_without_labels(data_root, tmp_path):
    row = "dcgan_lsro/table4/real"
    assert run_lsro(data_root, tmp_path, "--pool.people", "dukemtmc", rows=[row]) == 0
    assert (
        set(record(tmp_path, row).stages) == {"reid", "scores"}
        and "last_gan_kl" in record(tmp_path, row).measures
    )


class Noted(Job):
    """Notes what its stages depend on and builds none."""

    def stage(self, name, depends_on, build, *, seed=None, collective=False, longer="") -> Stage:
        depends_on = depends_on if seed is None else {**depends_on, "seed": seed}
        self.keys[name] = depends_on
        return Stage(name, stage_hash(name, depends_on), self.store.out, 0.0, True)

    def record(self, *_, **__) -> None:
        pass


def stage_keys(data_root: Path, folder: Path, dataset: str, monkeypatch, **overrides) -> dict[str, dict]:
    """What each stage of LSRO depends on; the pool is not generated, so its images are not looked for."""
    monkeypatch.setattr(training, "first_images", lambda *_: [])
    for name in ("measures.json", "scores.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    (folder / "curves.jsonl").touch()
    options = Options(source=dataset, target=dataset, data_root=data_root, device="cpu")
    data, config = load_dataset(dataset, data_root), cli.override(PRESETS["demo"], overrides)
    experiment = next(e for e in LSRO.experiments if e.key == LSRO_24K)
    store = StageStore(folder)
    job = Noted("dcgan_lsro", experiment, config, data, data, torch.device("cpu"), options, store)
    job.keys = {}
    training.train(job)
    return job.keys


def test_a_row_on_another_dataset_shares_the_dcgan_and_the_pool_of_the_images_that_it_saw(
    data_root, tmp_path, monkeypatch
):
    few = {"method.amount": 0.5}  # in each of two runs fewer than the pool holds
    own = stage_keys(data_root, tmp_path, "market1501", monkeypatch, **few)
    foreign = stage_keys(
        data_root, tmp_path, "dukemtmc", monkeypatch, **few, **{"dcgan.dataset": "market1501"}
    )
    assert canonical(own["dcgan"]) == canonical(foreign["dcgan"]) and canonical(own["samples"]) == canonical(
        foreign["samples"]
    )
    market, duke = (load_dataset(name, data_root) for name in ("market1501", "dukemtmc"))
    amount = PRESETS["demo"].pool.amount
    assert (
        foreign["samples"]["images"] == round(amount * len(market.train)) != round(amount * len(duke.train))
    )
    assert foreign["dcgan"]["dataset"] == market.manifest and foreign["reid"]["dataset"] == duke.manifest
    more = stage_keys(
        data_root, tmp_path, "dukemtmc", monkeypatch, **{"method.amount": 9.0, "dcgan.dataset": "market1501"}
    )
    assert more["samples"]["images"] == 9 * len(duke.train)  # never fewer than the row takes


def test_scores_hang_on_the_boxes_of_multi_query(data_root, tmp_path, monkeypatch):
    root = tmp_path / "data"
    shutil.copytree(data_root / "Market-1501-v15.09.15", root / "market1501")

    def key() -> str:
        return digest(stage_keys(root, tmp_path, "market1501", monkeypatch)["scores"])

    before = key()
    target = load_dataset("market1501", root)
    box = evaluate.multi_query_boxes(target)[0].path
    box.write_bytes(box.read_bytes() + b"x")
    assert key() != before
    assert evaluate.box_files(target, settings.TestConfig(multi_query=False)) == {}
    assert evaluate.box_files(load_dataset("market1501@c456", root), settings.TestConfig()) == {}
    # the manifest has these boxes: query and gallery
    named_as_drawn = dataclasses.replace(target, name="synthetic-market", root=tmp_path)
    assert (
        evaluate.multi_query_boxes(named_as_drawn)
        and evaluate.box_files(named_as_drawn, settings.TestConfig()) == {}
    )


def test_deterministic_reaches_the_dcgan(data_root, tmp_path, monkeypatch, capsys):
    def stop(seed: int, *, deterministic: bool = False) -> None:
        raise InputError(f"deterministic: {deterministic}")

    monkeypatch.setattr(dcgan_training, "seed_everything", stop)
    for flags, deterministic in (([], False), (["--deterministic"], True)):
        assert run_lsro(data_root, tmp_path, *flags) == 2
        assert complaint(capsys).endswith(f"deterministic: {deterministic}")


def test_a_batch_that_the_processes_cannot_share_is_refused_before_the_gan(
    data_root, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(training, "rank_and_world", lambda: (0, 3))
    assert run_lsro(data_root, tmp_path) == 2
    assert "--recipe.batch 16: a batch of 16 images does not divide into 3 equal parts" in complaint(capsys)
    assert not (tmp_path / "stages").exists()


@pytest.fixture
def cuhk03(tmp_path) -> Path:
    """Four people in two classic splits: 1 and 2 are tested in split 0, 3 and 4 in split 1; and an untrained
    network beside them.
    """
    folder, names = (
        tmp_path / "cuhk03",
        {pid: [f"1_{pid:03d}_{view}_01.png" for view in (1, 2)] for pid in (1, 2, 3, 4)},
    )
    (folder / "images_detected").mkdir(parents=True)
    for index, name in enumerate(name for of_one in names.values() for name in of_one):
        Image.new("RGB", (32, 64), (30 * index, 99, 200 - 20 * index)).save(folder / "images_detected" / name)

    def rows(*people: int) -> list[list]:
        return [[name, pid, 0] for pid in people for name in names[pid]]

    splits = [
        {"train": rows(*rest), "query": rows(*test), "gallery": rows(*test)}
        for test, rest in (((1, 2), (3, 4)), ((3, 4), (1, 2)))
    ]
    (folder / "splits_classic_detected.json").write_text(json.dumps(splits), encoding="utf-8")
    (folder / "splits_new_detected.json").write_text(json.dumps(splits[:1]), encoding="utf-8")
    net = PRESETS["demo"].net
    save_checkpoint(
        tmp_path / "model.pt",
        {"state_dict": build_network(net, 2).state_dict(), "num_classes": 2, "net": canonical(net)},
    )
    return tmp_path


@pytest.mark.parametrize(
    "flags, tested, protocol",
    [
        ([], {1_001, 1_002}, "classic"),
        (["--cuhk03-split", "1"], {1_003, 1_004}, "classic"),
        (["--cuhk03-protocol", "767/700"], {1_001, 1_002}, "767/700"),
    ],
)
def test_a_checkpoint_is_scored_on_its_own_split_of_cuhk03(cuhk03, monkeypatch, flags, tested, protocol):
    def noted(target, query, gallery, config, **_) -> dict:
        seen.append(
            ({s.pid for s in target.query}, config.cuhk03_protocol, ranked(target, query, gallery, config))
        )
        return {}

    seen, ranked = [], evaluate.rank
    monkeypatch.setattr(evaluate, "rank", noted)
    assert (
        evaluate.main(
            [
                "--checkpoint",
                str(cuhk03 / "model.pt"),
                "--target",
                "cuhk03",
                "--data-root",
                str(cuhk03),
                *flags,
            ]
        )
        == 0
    )
    ((people, used, scores),) = seen
    assert (people, used) == (tested, protocol) and 0 <= scores["mAP"] <= 1


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--cuhk03-split", "20"], "expected 0 to 19"),
        (["--rerank"], "take neither --rerank nor --cut"),
        (["--cut", "5"], "take neither"),
        (["--cut", "0"], "--eval.cut 0: expected 1 or more"),
    ],
)
def test_what_the_protocol_of_cuhk03_does_not_have_is_refused(cuhk03, capsys, flags, words):
    assert (
        evaluate.main(
            [
                "--checkpoint",
                str(cuhk03 / "model.pt"),
                "--target",
                "cuhk03",
                "--data-root",
                str(cuhk03),
                *flags,
            ]
        )
        == 2
    )
    assert words in complaint(capsys)


@pytest.mark.parametrize("stage", ["DCGAN", "re-ID"])
def test_kill_and_resume_equal_an_uninterrupted_run(data_root, tmp_path, killed_then_resumed, stage):
    flags = ["--dcgan.epochs", "2"]
    killed_then_resumed(
        lambda *more: run_lsro(data_root, tmp_path / "broken", *flags, *more),
        stage,
        lambda loop, at: at == loop.total - 2,  # after the first of two epochs, which was saved
    )
    assert run_lsro(data_root, tmp_path / "whole", *flags) == 0
    broken, whole = (record(tmp_path / name) for name in ("broken", "whole"))
    assert broken.scores == whole.scores
    mine, expected = weights(tmp_path / "broken"), weights(tmp_path / "whole")
    assert all(torch.equal(mine[name], expected[name]) for name in expected)


def test_workers_change_nothing(finished, data_root, tmp_path):
    (folder,) = finished.rglob(FOLDER)
    assert run_lsro(data_root, tmp_path, "--pool.folder", str(folder), "--workers", "2") == 0
    assert record(tmp_path).scores == record(finished).scores


def test_two_processes_equal_one_with_split_batch_norm(data_root, tmp_path, monkeypatch, torchrun):
    """Each process normalises by its own half of the batch; dropout is off, because each process draws its
    own mask.
    """
    folder = data_root / "Market-1501-v15.09.15" / "bounding_box_train"  # any images will do
    flags = [
        "--pool.folder",
        str(folder),
        "--method.amount",
        "1",
        "--net.dropout",
        "0",
        "--recipe.base-lr",
        "0.01",
        "--recipe.epochs",
        "1",
        "--recipe.batch",
        "48",
    ]  # five steps, the last one smaller
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*torchrun, "train.py", *command(data_root, tmp_path / "two", *flags)],
        cwd=ROOT / "dcgan_lsro",
        env=environment,
        check=True,
        capture_output=True,
    )

    plan, network = training.Schedule, training.build_network
    monkeypatch.setattr(training, "build_network", lambda *args: split_batch_norm(network(*args), 2))
    monkeypatch.setattr(
        training, "Schedule", lambda planned, batch, seed, world: plan(planned, batch, seed, world=2)
    )
    assert run_lsro(data_root, tmp_path / "one", *flags) == 0
    one, both = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        assert torch.allclose(one[name].float(), both[name].float(), rtol=1e-4, atol=2e-5), name
    assert len(list((tmp_path / "two").rglob("record.json"))) == 1


# ---------------------------------------------------------------- bad input: exit code 2, one line, nothing
# overwritten


def complaint(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--target", "dukemtmc"], "this paper is supervised"),
        (["--data-root", "no-such-folder"], "no-such-folder"),
        (["--net.backbone", "resnet18", "--net.weights", "no-such-file.pth"], "no such file"),
        (["--net.resize-height", "60"], "expected at least the crop's"),
        (["--net.dropout", "1"], "--net.dropout 1"),
        (["--method.amount", "0"], "expected unlabelled images"),
        (["--method.amount", "0.001"], "less than one unlabelled image"),
        (["--dcgan.height", "60"], "multiples of 32"),
        (["--dcgan.batch", "5000"], "do not fill one batch"),
        (["--dcgan.g-steps", "0"], "--dcgan.g-steps 0: expected a positive number"),
        (["--pool.folder", "no-such-images"], "expected a folder of unlabelled images"),
        (["--pool.quality", "0"], "--pool.quality"),
        (["--dcgan.beta1", "1"], "--dcgan.beta1 1.0: expected 0 to less than 1"),
        (["--dcgan.beta2", "-0.1"], "--dcgan.beta2 -0.1: expected 0 to less than 1"),
        (["--recipe.weight-decay", "-1e-4"], "--recipe.weight-decay -0.0001: expected 0 or more"),
        (["--recipe.pseudo-weight-decay", "-1"], "--recipe.pseudo-weight-decay -1.0: expected 0 or more"),
        (["--net.bn-momentum", "1.5"], "--net.bn-momentum 1.5: expected 0 to 1"),
        (["--eval.cut", "0"], "--eval.cut 0: expected 1 or more"),
        (["--method.step-matched"], "--method.step-matched with --method.loss lsro"),
        (
            ["--method.step-matched", "--method.loss", "none", "--method.amount", "0"],
            "--method.amount 0: expected loss none",
        ),
        (
            ["--method.images", "people", "--pool.people", "market1501"],
            "--pool.people market1501: expected people whom market1501 does not have",
        ),
    ],
)
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
    for index in range(4):  # a broken one among whole ones is found when it is read
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
    assert (
        evaluate.main(
            [
                "--checkpoint",
                str(model),
                "--target",
                "market1501",
                "--data-root",
                str(root),
                "--multi-query",
                "mean",
            ]
        )
        == 2
    )
    assert "gt_bbox" in complaint(capsys)
    assert run_lsro(root, tmp_path / "out", rows=[BASELINE]) == 0
    assert set(record(tmp_path / "out", BASELINE).scores) == {"last", "last+dense256"}


def test_a_camera_split_has_no_boxes_because_its_cameras_are_renumbered(finished, data_root, capsys):
    assert evaluate.multi_query_boxes(load_dataset("market1501", data_root))
    assert not evaluate.multi_query_boxes(load_dataset("market1501@c456", data_root))
    (model,) = finished.glob(f"stages/reid-{record(finished).stages['reid']['hash']}/model.pt")
    flags = ["--target", "market1501@c456", "--data-root", str(data_root), "--multi-query", "mean"]
    assert evaluate.main(["--checkpoint", str(model), *flags]) == 2
    message = complaint(capsys)
    assert "a camera split renumbers its cameras" in message and "gt_bbox" not in message
