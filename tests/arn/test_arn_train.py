"""ARN end to end on tiny data: every command once, a kill and a resume, two processes against one, and bad
input.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import arn.train
from arn import evaluate
from arn.config import PRESETS, ARNConfig
from arn.evaluate import describe
from arn.experiments import ARN
from arn.model import build_network
from arn.train import check_batches, learning_rates, warn
from common import cli
from common.backbones import build_backbone, global_pool
from common.datasets import ReIDDataset, Sample, load_dataset
from common.errors import InputError
from common.evaluation.features import load_features
from common.job import Workspace
from common.provenance import ROOT
from common.records import read_record

TINY = (
    "--pretrain.epochs 1 --pretrain.batch 16 --recipe.epochs 2 --recipe.batch 8 --recipe.ids 2 "
    "--latent.width 8 --threads 1"
).split()
ROWS = [f"arn/{row}" for row in ("ablation/baseline", "ablation/rec", "ablation/full")]
RELEASED = (
    "--preset released --net.backbone thin --net.weights none --net.height 64 --net.width 32 "
    "--recipe.epochs 1"
).split()
SMALL_RELEASED = {"net.backbone": "thin", "net.weights": "none", "net.height": 64, "net.width": 32}


def row_of(preset: ARNConfig, row: str) -> ARNConfig:
    return cli.override(
        preset, next(experiment.overrides for experiment in ARN.experiments if experiment.key == f"arn/{row}")
    )


def command(data_root: Path, out: Path, *flags: str, rows=("arn/ablation/full",)) -> list[str]:
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


def run_arn(*args, **options) -> int:
    return arn.train.main(command(*args, **options))


def record(out: Path, row: str = "ablation/full"):
    (path,) = (out / "runs" / f"arn/{row}".replace("/", "+")).rglob("record.json")
    return read_record(path.read_text(encoding="utf-8"))


def weights(out: Path, row: str = "ablation/full") -> dict:
    return torch.load(
        out / "stages" / f"joint-{record(out, row).stages['joint']['hash']}" / "model.pt", weights_only=True
    )["state_dict"]


@pytest.fixture(scope="session")
def finished(data_root, tmp_path_factory) -> Path:
    """One unbroken run of three rows, shared by the tests."""
    out = tmp_path_factory.mktemp("runs")
    assert run_arn(data_root, out, rows=ROWS) == 0
    return out


def test_rows_share_the_stage_of_ei_and_leave_records_and_pictures(finished):
    records = {row: record(finished, row[4:]) for row in ROWS}
    full, rec, baseline = (records[f"arn/ablation/{row}"] for row in ("full", "rec", "baseline"))
    assert all(set(r.stages) == {"pretrain", "joint", "scores"} for r in records.values())
    assert (
        len({r.stages["pretrain"]["hash"] for r in records.values()}) == 1
        and rec.stages["pretrain"]["reused"]
    )
    assert set(full.scores) == {"last", "last+adabn", "raw", "X", "sum"} and set(rec.scores) == {
        "last",
        "last+adabn",
        "raw",
        "X",
    }
    # E_I is frozen in the demo: direct transfer
    assert baseline.scores["last"] == baseline.scores["X"] == full.scores["X"]
    assert full.scores["last"] != full.scores["X"]
    assert {"rec_relative_error", "mean_map_relative_error", "mean_abs_cosine", "source_accuracy"} == set(
        full.measures
    )
    assert "mean_abs_cosine" not in rec.measures
    assert {Path(p).name for p in full.pictures} == {"curves.png", "codes.png", "ranked_lists.png"}
    assert all((finished / p).stat().st_size > 1000 for p in full.pictures)


def test_measures_by_hand():
    """Three maps, (0, 1), (1, 2) and (1, 1) say, of which D_C gets half the squared norm wrong."""
    query = {
        "energy": [[1.0], [5.0]],
        "error": [[0.5], [2.5]],
        "cosine": [[-1.0], [0.5]],
        "total": [[1.0, 3.0]],
    }
    gallery = {"energy": [[2.0]], "error": [[1.0]], "cosine": [[0.0]], "total": [[1.0, 1.0]]}
    rows = [{name: np.array(values) for name, values in part.items()} for part in (query, gallery)]
    assert evaluate.code_measures(rows) == pytest.approx(
        {"rec_relative_error": 0.5, "mean_map_relative_error": 1 - (4 + 16) / 3 / 8, "mean_abs_cosine": 0.5}
    )


def test_curves_hold_every_term(finished):
    terms = {
        path.split("/")[1].split("-")[0]: set().union(
            *(json.loads(line) for line in (finished / path).read_text(encoding="utf-8").splitlines())
        )
        for path in record(finished).curves
    }
    assert {"cross_entropy", "ei_accuracy"} <= terms["pretrain"]
    assert {
        "cls",
        "ctr",
        "rec",
        "diff",
        "total",
        "cosine_source",
        "cosine_target",
        "source_accuracy",
    } <= terms["joint"]


def test_a_row_without_labels_leaves_the_classifier_untrained_and_ei_fixed(finished):
    base = torch.load(next(finished.glob("stages/pretrain-*/base.pt")), weights_only=True)["state_dict"]
    after = weights(finished, "ablation/rec")
    # weights and statistics
    assert all(torch.equal(value, after[f"encoder_base.{name}"]) for name, value in base.items())
    assert not torch.equal(
        after["encoder_c.conv6.weight"], weights(finished, "ablation/baseline")["encoder_c.conv6.weight"]
    )


def test_the_checkpoint_scores_as_the_record_says(finished, data_root, capsys):
    model = finished / "stages" / f"joint-{record(finished).stages['joint']['hash']}" / "model.pt"
    for flags, score in (
        ([], "last"),
        (["--adabn"], "last+adabn"),
        (["--raw"], "raw"),
        (["--feature", "X"], "X"),
        (["--feature", "sum"], "sum"),
    ):
        assert (
            evaluate.main(
                ["--checkpoint", str(model), "--target", "market1501", "--data-root", str(data_root), *flags]
            )
            == 0
        )
        assert json.loads(capsys.readouterr().out) == pytest.approx(record(finished).scores[score], abs=1e-6)
    alone = (
        finished / "stages" / f"joint-{record(finished, 'ablation/rec').stages['joint']['hash']}" / "model.pt"
    )
    assert (
        evaluate.main(
            [
                "--checkpoint",
                str(alone),
                "--target",
                "market1501",
                "--data-root",
                str(data_root),
                "--feature",
                "sum",
            ]
        )
        == 2
    )


@pytest.mark.parametrize("stage", ["E_I", "ARN"])
def test_kill_and_resume_equal_an_unbroken_run(finished, data_root, tmp_path, killed_then_resumed, stage):
    flags = ["--pretrain.epochs", "2"] if stage == "E_I" else []  # both stages save after an epoch
    if stage == "E_I":
        assert run_arn(data_root, tmp_path / "whole", *flags, "--recipe.epochs", "1") == 0
        flags += ["--recipe.epochs", "1"]
    whole = tmp_path / "whole" if flags else finished
    step = record(finished).data["source"]["train"] // {"E_I": 16, "ARN": 8}[stage] + 1
    killed_then_resumed(
        lambda *more: run_arn(data_root, tmp_path, *flags, *more), stage, lambda loop, at: at == step
    )
    assert record(tmp_path).scores == record(whole).scores
    assert all(torch.equal(value, weights(tmp_path)[name]) for name, value in weights(whole).items())


def test_workers_change_nothing(finished, data_root, tmp_path):
    assert run_arn(data_root, tmp_path, "--workers", "1") == 0
    assert record(tmp_path).scores == record(finished).scores


IN_DOUBLE = """
import sys
import torch
import arn.data
from common.datasets import loading

single = loading.normalise
arn.data.normalise = loading.normalise = lambda *arguments: single(*arguments).double()
torch.set_default_dtype(torch.float64)

import arn.train

sys.exit(arn.train.main())
"""


def test_two_processes_equal_one_with_split_batch_norm(data_root, tmp_path, torchrun):
    """Each process normalises by its own half, as `bn_splits=2` imitates; dropout is off, because each
    process draws its own mask. In float64, so that rounding stays far below what a fault would change.
    """
    flags = (
        "--recipe.epochs 1 --latent.dropout 0 --cls.dropout 0 --pretrain.dropout 0 --lr.ei 0.001 --w.mmd 0.1 "
        "--w.diff 1 --recipe.batch 24 --pretrain.batch 48"
    ).split() + ["--recipe.no-ei-bn-eval"]
    script = tmp_path / "in_double.py"
    script.write_text(IN_DOUBLE, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name, start, more in (
        ("two", torchrun, []),
        ("one", [sys.executable], ["--net.bn-splits", "2"]),
    ):
        arguments = command(data_root, tmp_path / name, *flags, *more)
        subprocess.run([*start, script, *arguments], env=environment, check=True, capture_output=True)
    one, both = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        assert torch.allclose(one[name].double(), both[name].double(), rtol=1e-9, atol=1e-9), name
    assert one["encoder_c.conv6.weight"].dtype == torch.float64
    assert len(list((tmp_path / "two").rglob("record.json"))) == 1


def test_the_released_preset_and_a_start_from_a_checkpoint(data_root, tmp_path):
    assert run_arn(data_root, tmp_path, *RELEASED) == 0
    first = record(tmp_path)
    assert set(first.stages) == {"pretrain", "joint", "scores"} and first.config["w"]["mmd"] == 0.1
    lines = next(tmp_path.glob("stages/joint-*/curves.jsonl")).read_text(encoding="utf-8")
    assert '"mmd"' in lines and '"diff"' in lines
    checkpoint = next(tmp_path.glob("stages/joint-*/model.pt"))
    assert run_arn(data_root, tmp_path / "from", *RELEASED, "--recipe.init", str(checkpoint)) == 0
    assert set(record(tmp_path / "from").stages) == {"joint", "scores"}
    untrained = [*RELEASED, "--recipe.epochs", "0", "--recipe.init", str(checkpoint)]
    assert run_arn(data_root, tmp_path / "untrained", *untrained) == 0
    before, after = torch.load(checkpoint, weights_only=True)["state_dict"], weights(tmp_path / "untrained")
    assert {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])} == {
        "classifier"
    }


def test_stages_depend_on_their_own_fields_only(finished, data_root, tmp_path):
    shutil.copytree(finished / "stages", tmp_path / "stages")
    assert run_arn(data_root, tmp_path, "--test.feature", "X", rows=("arn/ablation/rec",)) == 0
    ranked = record(tmp_path, "ablation/rec")
    assert (
        ranked.stages["joint"]["reused"]
        and not ranked.stages["scores"]["reused"]
        and ranked.scores["last"] == record(finished).scores["X"]
    )
    assert run_arn(data_root, tmp_path, "--ctr.margin", "1.5", "--recipe.epochs", "1") == 0
    other = record(tmp_path)
    assert other.stages["pretrain"]["reused"] and not other.stages["joint"]["reused"]


# ---------------------------------------------------------------- settings


def test_the_four_readings_of_the_first_epochs():
    blog = PRESETS["blog"]
    rates = {"ei": 1e-7, "latent": 1e-3, "cls": 2e-3}
    for warmup, resting in (
        ("source_ce", ()),
        ("none", ()),
        ("literal_ei", ("latent", "cls")),
        ("freeze_ei", ("ei",)),
    ):
        config = cli.override(blog, {"recipe.warmup": warmup, "recipe.warmup_epochs": 3})
        assert learning_rates(config, 2) == {
            name: 0.0 if name in resting else rate for name, rate in rates.items()
        }
        assert learning_rates(config, 3) == rates
    dropped = cli.override(blog, {"recipe.drop_epoch": 10})
    assert learning_rates(dropped, 9) == rates and learning_rates(dropped, 20)["cls"] == pytest.approx(2e-5)


def test_the_literal_reading_moves_only_ei(data_root, tmp_path):
    flags = ["--recipe.warmup", "literal_ei", "--recipe.warmup-epochs", "1", "--lr.ei", "0.001"]
    assert run_arn(data_root, tmp_path / "start", *flags, "--recipe.epochs", "0") == 0
    assert run_arn(data_root, tmp_path / "end", *flags, "--recipe.epochs", "1") == 0
    before, after = weights(tmp_path / "start"), weights(tmp_path / "end")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    moved = {name.split(".")[0] for name in changed if "running" not in name and "num_batches" not in name}
    assert moved == {"encoder_base"} and "pretrain" not in record(tmp_path / "end").stages


def test_blogs_weights_on_released_forms_are_warned_of(data_root, tmp_path, caplog):
    assert run_arn(data_root, tmp_path, "--diff.reduction", "sum", "--recipe.epochs", "0") == 0
    assert any("--w.diff" in message and "drowns" in message for message in caplog.messages)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rec.reduction": "sum"}, "--w.rec 2 belongs to a mean"),
        ({"ctr.reduction": "mean"}, "--w.ctr 0.01 belongs to a sum"),
        ({"recipe.warmup": "literal_ei"}, "its 1 epochs move no weight, because --lr.ei is 0"),
    ],
)
def test_what_hardly_runs_as_meant_is_warned_of(caplog, changes, words):
    warn(cli.override(PRESETS["demo"], changes))
    assert words in caplog.text


def test_the_presets_and_their_rows_are_not_warned_of(caplog):
    for preset in PRESETS.values():
        for row in ("ablation/full", "ablation/rec", "question/warmup=literal"):
            warn(row_of(preset, row))
    assert not caplog.messages


def test_every_process_and_split_needs_two_images():
    config = cli.override(PRESETS["demo"], {"recipe.batch": 8})
    check_batches(config, 4)
    for processes in (3, 8):
        with pytest.raises(
            InputError, match=f"--recipe.batch 8: expected an equal share for each process, here {processes}"
        ):
            check_batches(config, processes)
    loaded = cli.override(config, {"recipe.init": "model.pt", "pretrain.batch": 2})
    check_batches(loaded, 2)  # no stage of E_I, so that its batch does not count
    with pytest.raises(InputError, match="--pretrain.batch 2"):
        check_batches(replace(loaded, recipe=config.recipe), 2)


def test_direct_transfer_ranks_by_the_whole_backbone():
    """X is the backbone's map in `blog`; in `released` it ends at layer3, and e_c of an untouched E_C is the
    pooled map of layer4.
    """
    assert {name: row_of(preset, "ablation/baseline").ranked for name, preset in PRESETS.items()} == {
        "demo": "X",
        "study": "X",
        "shared": "X",
        "blog": "X",
        "scratch": "X",
        "photos_cpu": "X",
        "released": "e_c",
    }
    assert cli.override(PRESETS["released"], {"test.feature": "X"}).ranked == "X"
    config = row_of(cli.override(PRESETS["released"], SMALL_RELEASED), "ablation/baseline")
    backbone = build_backbone("thin").eval()
    images = torch.randn(2, 3, 64, 32)
    codes, _ = build_network(config, 5, backbone.state_dict()).eval()(images)
    assert torch.allclose(describe(codes)[config.ranked], global_pool(backbone(images)), atol=1e-6)


def test_scores_rank_direct_transfer_of_the_released_network_by_e_c(data_root, tmp_path):
    config = row_of(cli.override(PRESETS["released"], SMALL_RELEASED), "ablation/baseline")
    target = load_dataset("market1501", data_root)
    work = Workspace(tmp_path, device=torch.device("cpu"))
    evaluate.score(build_network(config, 5).eval(), config.net, config.ranked, target, work)
    ranked, width = load_features(tmp_path / "query.npz").features, build_backbone("thin").num_features
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert ranked.shape[1] == width and scores["last"] != scores["X"]


def test_rows_with_reconstruction_alone_keep_ei_fixed():
    for preset in PRESETS.values():
        for row in ("ablation/rec", "question/rec_alone=pixel"):
            config = row_of(preset, row)
            assert config.lr.ei == 0 and config.recipe.ei_bn_eval


def test_choices_that_no_field_offers():
    for name in ("ctr.distance", "ctr.reduction", "rec.norm", "diff.form", "cls.reduction", "recipe.warmup"):
        with pytest.raises(InputError, match=f"--{name} 'new': expected Literal"):
            cli.override(PRESETS["blog"], {name: "new"})


def test_validation_allocates_no_network(monkeypatch):
    """The blog's network has 879 M parameters."""
    built = []

    def build(*args):
        built.append(build_network(*args))
        return built[0]

    monkeypatch.setattr(arn.train, "build_network", build)
    config = cli.override(PRESETS["blog"], {"net.weights": "none"})
    images = [Sample(Path("x.jpg"), number % 8, 0) for number in range(80)]
    data = ReIDDataset("made-up", Path("."), images, [], [], 1)
    arn.train.check(SimpleNamespace(config=config, source=data, target=data))
    assert sum(p.numel() for p in built[0].parameters()) > 879e6
    assert all(tensor.is_meta for tensor in built[0].state_dict().values())


def test_every_experiment_is_a_configuration_of_every_preset():
    for preset in ARN.presets.values():
        for experiment in ARN.experiments:
            cli.override(preset, experiment.overrides)


# ---------------------------------------------------------------- bad input: exit code 2, one line, nothing
# overwritten


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--source", "market"], "unknown dataset 'market'"),
        (["--data-root", "no-such-folder"], "no-such-folder"),
        (["--net.width", "0"], "--net.width 0: expected a positive number, at most 16,384"),
        (
            ["--latent.kernel", "7"],
            "conv6 cannot be placed: X is 8x4 (each side / 8, rounded up), conv6 is 7x7",
        ),
        (["--net.arch", "released", "--net.height", "60"], "multiples of 8 pixels"),
        (["--recipe.batch", "9"], "expected a multiple of --recipe.ids 2"),
        (["--recipe.ids", "10", "--recipe.batch", "10"], "--recipe.ids 10: the source has 6 identities"),
        (["--recipe.batch", "100000"], "do not fill one batch"),
        (["--net.backbone", "resnet49"], "expected one of"),
        (["--net.backbone", "resnet18", "--net.weights", "no-such-file.pth"], "no such file"),
        (["--recipe.init", "no-such-checkpoint.pth.tar"], "no such file"),
        (["--w.diff", "-1"], "--w.diff -1.0: expected 0 or more"),
        (["--latent.dropout", "1"], "--latent.dropout"),
        (
            ["--recipe.source-split", "all", "--source", "market1501"],
            "market1501 and market1501 are of one dataset",
        ),
        (
            ["--recipe.source-split", "all", "--source", "market1501@c123", "--target", "market1501@c456"],
            "use --recipe.source-split train",
        ),
        (
            ["--net.bn-splits", "8"],
            "--recipe.batch 8: expected an equal share for each process, here 1, and at least 2 images in "
            "each",
        ),
        (["--net.bn-splits", "2", "--recipe.batch", "3", "--recipe.ids", "3"], "--recipe.batch 3: expected"),
        (["--pretrain.batch", "1"], "--pretrain.batch 1: expected"),
        (
            ["--net.bn", "joint", "--net.bn-splits", "3"],
            "--recipe.batch 8: expected, for --net.bn joint, a multiple of 3",
        ),
        # only L_diff, which needs private codes
        (["--w.cls", "0", "--w.ctr", "0", "--w.rec", "0", "--latent.no-private"], "found none: raise one"),
        (["--recipe.momentum", "1.5"], "--recipe.momentum 1.5: expected 0 to less than 1"),
        (["--recipe.weight-decay", "-1"], "--recipe.weight-decay -1.0: expected 0 or more"),
        (["--recipe.flip", "1.5"], "--recipe.flip 1.5: expected 0 to 1"),
        (["--pretrain.lr", "0"], "--pretrain.lr 0.0: expected more than 0"),
    ],
)
def test_bad_input(data_root, tmp_path, capsys, flags, words):
    assert run_arn(data_root, tmp_path, *flags) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert words in line and not list(tmp_path.rglob("record.json"))
    assert not (tmp_path / "stages").exists()  # said before anything was trained


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
    assert "model.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "entry, change, words",
    [
        ("architecture", lambda a: a | {"net": a["net"] | {"colour": 1}}, "expected a re-ID network of ARN"),
        ("architecture", lambda a: {"net": a["net"], "dec": a["dec"]}, "expected a re-ID network of ARN"),
        ("architecture", lambda a: a | {"head": {}}, "expected a re-ID network of ARN"),
        ("architecture", lambda a: a | {"latent": 8}, "expected a re-ID network of ARN"),
        ("architecture", lambda a: [a], "expected a re-ID network of ARN"),
        ("architecture", lambda a: a | {"net": {}}, "does not fit"),  # the blog's network
        ("architecture", lambda a: a | {"latent": a["latent"] | {"width": 9}}, "size mismatch"),
        ("architecture", lambda a: a | {"latent": a["latent"] | {"width": 10**30}}, "at most 16,384"),
        (
            "architecture",
            lambda a: a | {"net": a["net"] | {"height": "tall"}},
            "--net.height 'tall': expected int",
        ),
        (
            "architecture",
            lambda a: a | {"net": a["net"] | {"arch": "new"}},
            "--net.arch 'new': expected Literal",
        ),
        ("architecture", None, "this checkpoint has no architecture"),
        ("num_ids", lambda n: n + 1, "size mismatch"),
        ("num_ids", lambda n: "six", "expected a positive number of identities, found num_ids = 'six'"),
        ("num_ids", lambda n: -1, "expected a positive number of identities, found num_ids = -1"),
        ("num_ids", None, "this checkpoint has no num_ids"),
        ("state_dict", lambda s: dict(list(s.items())[1:]), "Missing key(s)"),
        ("state_dict", lambda s: s | {"encoder_x.weight": torch.zeros(1)}, "Unexpected key(s)"),
        ("state_dict", lambda s: {name: value[None] for name, value in s.items()}, "size mismatch"),
        ("state_dict", lambda s: {name: 1.0 for name in s}, "does not fit"),
        ("state_dict", lambda s: {7: torch.zeros(1)}, "does not fit"),
        ("state_dict", lambda s: [], "does not fit"),
        ("state_dict", None, "this checkpoint has no state_dict"),
    ],
)
def test_checkpoints_with_missing_extra_and_misshapen_entries(
    finished, tmp_path, capsys, entry, change, words
):
    """`change` makes an entry of a good checkpoint wrong; None removes it."""
    good = finished / "stages" / f"joint-{record(finished).stages['joint']['hash']}" / "model.pt"
    saved = torch.load(good, weights_only=True)
    value = saved.pop(entry)
    if change is not None:
        saved[entry] = change(value)
    torch.save(saved, tmp_path / "model.pt")
    assert evaluate.main(["--checkpoint", str(tmp_path / "model.pt")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


def test_evaluate_refuses_a_negative_number_of_workers(tmp_path, capsys):
    assert evaluate.main(["--checkpoint", str(tmp_path / "model.pt"), "--workers", "-1"]) == 2
    assert "--workers -1: expected 0 or more" in capsys.readouterr().err
