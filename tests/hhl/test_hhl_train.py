"""HHL end to end on tiny data: every command once, a kill and a resume, two processes against one, and bad
input.
"""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import spgan.config
from common import training
from common.datasets import load_dataset
from common.errors import InputError
from common.hashing import canonical
from common.job import Job, Options
from common.provenance import ROOT
from common.records import read_record
from common.runs import StageStore, read_curves
from hhl import evaluate
from hhl.config import PRESETS, GANConfig, HHLConfig, NetConfig
from hhl.experiments import EXPERIMENTS
from hhl.model import build_network
from hhl.stargan.train import learning_rate
from hhl.stargan.translate import FOLDER, to_uint8
from hhl.train import build_optimizer, check, main
from reports.collect import collect, read_results

TINY = (
    "--recipe.epochs 2 --recipe.pretrain-epochs 1 --recipe.drop-epoch 1 --recipe.batch-scale 1 "
    "--recipe.batch 16 --recipe.ids 3 --recipe.images-per-id 2 --recipe.target-batch 4 "
    "--stargan.iterations 6 --stargan.batch 4 --stargan.channels 4 --stargan.blocks 1 "
    "--stargan.d-channels 4 --net.embed-dim 16 --net.triplet-dim 8 --threads 1"
).split()
ROWS = [f"hhl/table2/{row}" for row in ("baseline_source", "L_CD", "baseline_target")]


@pytest.fixture(scope="session")
def data_root(draw_data_root) -> Path:
    """A few more people than elsewhere: batches here hold more of them."""
    return draw_data_root(train_ids=10)


def command(data_root: Path, out: Path, *flags: str, rows=("hhl/table2/L_CD",)) -> list[str]:
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


def run_hhl(*args, **options) -> int:
    return main(command(*args, **options))


def record(out: Path, row: str = "L_CD"):
    (path,) = (out / "runs" / f"hhl+table2+{row}").rglob("record.json")
    return read_record(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def finished(data_root, tmp_path_factory) -> Path:
    """One uninterrupted run of three rows, shared by the tests."""
    out = tmp_path_factory.mktemp("runs")
    assert run_hhl(data_root, out, rows=ROWS) == 0
    return out


def test_three_rows_give_records_pictures_and_a_camera_style_folder(finished):
    hhl = record(finished)
    assert set(hhl.scores) == {"last", "last+adabn"} and set(hhl.stages) == {
        "stargan",
        "camstyle",
        "pretrain",
        "reid",
        "scores",
        "analysis",
    }
    assert set(record(finished, "baseline_source").stages) == {"pretrain", "reid", "scores", "analysis"}
    assert {Path(p).name for p in hhl.pictures} == {
        "curves.png",
        "ranked_lists.png",
        "camera_styles.png",
        "feature_spaces.png",
    }
    assert all((finished / p).stat().st_size > 1000 for p in hhl.pictures)
    (folder,) = finished.rglob(FOLDER)
    assert len(list(folder.glob("*_fake_?.jpg"))) == 6 * hhl.data["target"]["train"]
    manifest = json.loads((folder.parent / "manifest.json").read_text(encoding="utf-8"))
    assert (
        manifest["checkpoint"] == hhl.stages["stargan"]["hash"] and manifest["source"] == hhl.data["target"]
    )


def test_curves_hold_every_term(finished):
    terms = set()
    for path in record(finished).curves:
        for line in (finished / path).read_text(encoding="utf-8").splitlines():
            terms |= set(json.loads(line))
    assert {
        "cross_entropy",
        "triplet",
        "d_real",
        "d_fake",
        "d_cls",
        "d_gp",
        "g_fake",
        "g_cls",
        "g_rec",
        "g_idt",
    } <= terms


def test_the_checkpoint_scores_as_the_record_says(finished, data_root, capsys):
    (model,) = (
        p
        for p in finished.glob("stages/reid-*/model.pt")
        if p.parent.name.endswith(record(finished).stages["reid"]["hash"])
    )
    for flags, score in ([], "last"), (["--adabn"], "last+adabn"):
        assert (
            evaluate.main(
                ["--checkpoint", str(model), "--target", "market1501", "--data-root", str(data_root), *flags]
            )
            == 0
        )
        assert json.loads(capsys.readouterr().out) == pytest.approx(record(finished).scores[score], abs=1e-6)


def test_a_style_folder_of_the_authors_is_accepted(finished, data_root, tmp_path):
    (folder,) = finished.rglob(FOLDER)
    assert run_hhl(data_root, tmp_path / "first", "--style.folder", str(folder)) == 0
    made = record(tmp_path / "first")
    assert made.scores == record(finished).scores and set(made.stages) == {
        "pretrain",
        "reid",
        "scores",
        "analysis",
    }

    # the same images elsewhere are the same stage; other images under the same path are another
    def reid_hash(out: Path) -> str:
        assert run_hhl(data_root, out, "--style.folder", str(copy)) == 0
        return record(out).stages["reid"]["hash"]

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert reid_hash(tmp_path / "again") == made.stages["reid"]["hash"]
    first = min(copy.iterdir())
    first.write_bytes(first.read_bytes() + b"\0")
    assert reid_hash(tmp_path / "changed") != made.stages["reid"]["hash"]


def test_collect_takes_records_once(finished, tmp_path):
    assert len(collect([finished], tmp_path)) == 3
    assert all(line.startswith("known") for line in collect([finished], tmp_path))
    assert {r.key for r in read_results("hhl", tmp_path)} == set(ROWS)
    assert not (tmp_path / "pictures").exists()  # dukemtmc and market1501: real people stay out


@pytest.mark.parametrize("stage", ["StarGAN", "re-ID"])
def test_kill_and_resume_equal_an_uninterrupted_run(
    finished, data_root, tmp_path, killed_then_resumed, stage
):
    # the re-ID stage saves after an epoch
    step = {"StarGAN": 3, "re-ID": record(finished).data["source"]["train"] // 16 + 1}[stage]
    killed_then_resumed(lambda *more: run_hhl(data_root, tmp_path, *more), stage, lambda loop, at: at == step)
    assert record(tmp_path).scores == record(finished).scores
    assert weights(finished) == weights(tmp_path)


def test_clusters_of_the_middle_of_an_epoch_survive_a_kill(finished, data_root, tmp_path, monkeypatch):
    """Ctrl-C saves in mid-epoch: the clusters that were made as the epoch began are part of what is saved."""
    (folder,) = finished.rglob(FOLDER)
    flags = ("--style.folder", str(folder), "--recipe.sampling", "cluster")
    assert run_hhl(data_root, tmp_path / "whole", *flags) == 0
    monkeypatch.setattr(training.Loop, "__iter__", interrupted_after(3, training.Loop.__iter__))
    assert run_hhl(data_root, tmp_path / "broken", *flags) == 130
    monkeypatch.undo()
    assert run_hhl(data_root, tmp_path / "broken", *flags, "--resume") == 0
    assert weights(tmp_path / "whole") == weights(tmp_path / "broken") != weights(finished)


def interrupted_after(steps: int, original):
    """A loop that gets a Ctrl-C in the middle of a step of the re-ID stage."""

    def loop(self):
        for step in original(self):
            if self.label == "re-ID" and step == steps:
                self._interrupted = True
            yield step

    return loop


def weights(out: Path) -> dict[str, bytes]:
    path = next(out.glob(f"stages/reid-{record(out).stages['reid']['hash']}/model.pt"))
    return {
        name: tensor.numpy().tobytes()
        for name, tensor in torch.load(path, weights_only=True)["state_dict"].items()
    }


def test_workers_change_nothing(finished, data_root, tmp_path):
    (folder,) = finished.rglob(FOLDER)
    assert run_hhl(data_root, tmp_path, "--style.folder", str(folder), "--workers", "2") == 0
    assert record(tmp_path).scores == record(finished).scores


def test_two_processes_equal_one_with_split_batch_norm(finished, data_root, tmp_path, torchrun):
    """Each process normalises by its own half, as `bn_splits=2` imitates; dropout is off, because each
    process draws its own mask.
    """
    (folder,) = finished.rglob(FOLDER)
    flags = [
        "--style.folder",
        str(folder),
        "--net.dropout",
        "0",
        "--recipe.embed-lr",
        "0.01",
        "--recipe.base-lr",
        "0.01",
        "--recipe.batch",
        "60",
        "--recipe.pretrain-epochs",
        "0",
    ]  # four steps
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*torchrun, "train.py", *command(data_root, tmp_path / "two", *flags)],
        cwd=ROOT / "hhl",
        env=environment,
        check=True,
        capture_output=True,
    )
    assert run_hhl(data_root, tmp_path / "one", *flags, "--net.bn-splits", "2") == 0
    one, both = (
        torch.load(next((tmp_path / name).glob("stages/reid-*/model.pt")), weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    for name in one:
        assert torch.allclose(one[name].float(), both[name].float(), rtol=1e-4, atol=2e-5), name
    assert len(list((tmp_path / "two").rglob("record.json"))) == 1


# ---------------------------------------------------------------- settings


def test_every_preset_builds_and_embedding_layers_follow_their_switch():
    for name, config in PRESETS.items():
        net = NetConfig(**{**vars(config.net), "weights": "none", "backbone": "thin"})
        model = build_network(net, 10, triplet=True)
        optimizer = build_optimizer(config.recipe, model, triplet=True)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates.get("embedding") == {"released": None, "paper": 0.01, "photos_cpu": 0.05}.get(name, 0.1)


def test_learning_rates_drop_once_at_epoch_40():
    config = HHLConfig(net=NetConfig(backbone="thin", weights="none"))
    optimizer = build_optimizer(config.recipe, build_network(config.net, 10, triplet=False), triplet=False)
    seen = {}
    for epoch in (0, 39, 40, 59):
        training.scale_learning_rate(optimizer, 0.1 ** (epoch // config.recipe.drop_epoch))
        seen[epoch] = {group["name"]: round(group["lr"], 6) for group in optimizer.param_groups}
    assert seen[0] == seen[39] == {"base": 0.01, "classifier": 0.1, "embedding": 0.1}
    assert seen[40] == seen[59] == {"base": 0.001, "classifier": 0.01, "embedding": 0.01}


def test_stargans_released_decay_hardly_decays_and_the_true_one_does():
    released, linear = GANConfig(), GANConfig(lr_decay="true_linear")
    assert learning_rate(released, 0) == learning_rate(released, 110_999) == 1e-4
    assert learning_rate(released, 220_000) == pytest.approx(9.99e-5)
    assert learning_rate(linear, 110_000) == 1e-4 and learning_rate(linear, 165_000) == pytest.approx(5e-5)
    assert learning_rate(linear, 220_000) == 0


def test_uint8_by_truncation_and_by_rounding():
    image = torch.full((1, 3, 1, 1), 2 * 100.7 / 255 - 1)
    assert to_uint8(image, truncate=True)[0, 0, 0, 0] == 100
    assert to_uint8(image, truncate=False)[0, 0, 0, 0] == 101


# ---------------------------------------------------------------- bad input: exit code 2, one line, nothing
# overwritten


def complaint(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--source", "market"], "unknown dataset 'market'"),
        (["--data-root", "no-such-folder"], "no-such-folder"),
        (["--net.height", "-64"], "--net.height -64: expected a positive number"),
        (["--recipe.batch", "100000"], "do not fill one batch"),
        (
            [
                "--recipe.batch",
                "1",
                "--recipe.batch-scale",
                "60",
                "--experiment",
                "hhl/table2/baseline_source",
            ],
            "follow --recipe.batch-scale and not",
        ),
        (["--recipe.ids", "500"], "identities"),
        (["--net.backbone", "resnet49"], "expected one of"),
        (["--net.backbone", "resnet18", "--net.weights", "no-such-file.pth"], "no such file"),
        (["--stargan.height", "60"], "multiples"),
        (["--style.folder", "no-such-styles"], "no-such-styles"),
        (["--style.folder", "no-such-styles", "--experiment", "hhl/table1/distances"], "no-such-styles"),
        (["--method.beta", "-1"], "--method.beta"),
        (["--recipe.weight-decay", "-1"], "--recipe.weight-decay"),
        (["--net.bn-splits", "16"], "expected at least 2"),
        (["--recipe.ids", "1", "--experiment", "hhl/table2/L_T"], "--recipe.ids 1"),
        (["--recipe.target-batch", "2", "--experiment", "hhl/table2/L_C"], "give at least 3"),
        (
            ["--recipe.images-per-id", "1", "--method.triplets", "all", "--experiment", "hhl/table2/L_T"],
            "has no positive",
        ),
        (["--method.triplets", "all", "--method.reduction", "sum"], "batch-hard"),
        (["--method.margin", "soft", "--method.no-hinge"], "no hinge"),
    ],
)
def test_bad_input(data_root, tmp_path, capsys, flags, words):
    row = flags[-1] if "--experiment" in flags else "hhl/table2/L_CD"
    flags = flags[:-2] if "--experiment" in flags else flags
    assert run_hhl(data_root, tmp_path, *flags, rows=(row,)) == 2
    assert words in complaint(capsys)
    assert not list(tmp_path.rglob("record.json"))
    if not flags[0].startswith("--stargan"):
        assert not (tmp_path / "stages").exists()  # before anything was trained


def test_faults_of_large_data_are_reported_before_training(data_root, tmp_path, monkeypatch):
    """MSMT17 has more identities than random pseudo-identities allow; PRID2011 has duplicate names."""
    source, target = load_dataset("dukemtmc", data_root), load_dataset("market1501", data_root)
    config = PRESETS["demo"]
    tiny = replace(
        config,
        recipe=replace(config.recipe, batch=16, ids=3, images_per_id=2, target_batch=4, batch_scale=1.0),
    )
    monkeypatch.setattr("common.datasets.loading.read_image", lambda path: pytest.fail("an image is decoded"))

    def checked(source, target) -> None:
        store = StageStore(tmp_path)
        check(Job("hhl", EXPERIMENTS[0], tiny, source, target, torch.device("cpu"), Options(), store))

    checked(source, target)
    twice = replace(
        target,
        train=[
            *target.train,
            replace(target.train[0], path=target.root / "cam_b" / target.train[0].path.name),
        ],
    )
    with pytest.raises(InputError, match="2 training images are called"):
        checked(source, twice)
    crowd = replace(source, train=[replace(source.train[0], pid=1 + i // 2) for i in range(2082)])
    with pytest.raises(InputError, match="1041 identities: use --method.pseudo unique"):
        checked(crowd, target)


def test_clusters_do_not_depend_on_the_test_settings(data_root, tmp_path):
    """Their features are in no key but the network's own."""
    rows = ("hhl/fig3/cluster",)
    assert run_hhl(data_root, tmp_path, "--style.kind", "self", "--test.no-normalise", rows=rows) == 0
    assert run_hhl(data_root, tmp_path / "fresh", "--style.kind", "self", rows=rows) == 0
    first, second = (next(out.glob("stages/reid-*/curves.jsonl")) for out in (tmp_path, tmp_path / "fresh"))
    assert first.parent.name == second.parent.name and [
        line | {"seconds": 0} for line in read_curves(first)
    ] == [line | {"seconds": 0} for line in read_curves(second)]


def test_200_epochs_of_stargan_are_the_papers_steps():
    config = PRESETS["paper"].stargan
    assert [config.on(images).iterations for images in (12_936, 16_522)] == [161_600, 206_400]
    # records keep their config hash
    assert "epochs" not in canonical(PRESETS["demo"].stargan) and canonical(config)["epochs"] == 200


def test_the_network_of_another_paper_is_refused(tmp_path):
    content = {"state_dict": {"x": torch.zeros(1)}, "num_ids": 3, "net": canonical(spgan.config.NetConfig())}
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(InputError, match="another paper"):
        evaluate.load_network(tmp_path / "model.pt")


def test_an_output_folder_that_is_a_file(data_root, tmp_path, capsys):
    (tmp_path / "out").write_text("", encoding="utf-8")
    assert run_hhl(data_root, tmp_path / "out", rows=ROWS[:1]) == 2
    assert "out" in complaint(capsys)


def test_a_folder_of_another_layout(tmp_path, capsys):
    (tmp_path / "market1501" / "images").mkdir(parents=True)
    (tmp_path / "DukeMTMC-reID").mkdir()
    assert run_hhl(tmp_path, tmp_path / "out") == 2
    assert "bounding_box_train" in complaint(capsys)


def test_a_broken_training_image_is_named(data_root, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(data_root, root)
    victim = sorted((root / "DukeMTMC-reID" / "bounding_box_train").glob("*.jpg"))[0]
    victim.write_bytes(victim.read_bytes()[:300])
    assert run_hhl(root, tmp_path / "out", rows=ROWS[:1]) == 2
    assert victim.name in complaint(capsys)


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
        evaluate.load_network(tmp_path / "none.pt")


def test_a_full_disk_ends_with_one_line_and_keeps_what_is_whole(
    finished, data_root, tmp_path, capsys, monkeypatch
):
    import errno

    from common import files

    def full(source, target):
        if Path(target).name == "model.pt":
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return rename(source, target)

    rename = os.replace
    monkeypatch.setattr(files.os, "replace", full)
    assert run_hhl(data_root, tmp_path, rows=ROWS[:1]) == 2
    assert "No space left on device" in complaint(capsys)
    assert not list(tmp_path.rglob("model.pt")) and not list(tmp_path.rglob("record.json"))
