"""Settings, experiments, stages that rows share, translated folders, and TensorFlow's process."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from common.cli import override
from common.datasets.base import Sample
from common.errors import InputError
from common.hashing import digest
from common.job import Options, Workspace
from common.provenance import ROOT
from common.published import STANDS_FOR
from common.records import check_experiments
from common.runs import Stage
from spgan import process, translations
from spgan.config import PRESETS, RECIPES, GANConfig, SPGANConfig
from spgan.experiments import EXPERIMENTS, ROWS, SPGAN
from spgan.reid.data import train_transform
from spgan.translations import channel_statistics, frechet, gan_depends_on, picture_measures, samples_in

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

DUKE, MARKET = (SimpleNamespace(name=name, manifest={"hash": name}) for name in ("dukemtmc", "market1501"))


def gan_key(config: SPGANConfig, source=DUKE, target=MARKET) -> str:
    return digest(gan_depends_on(config.gan, source, target))


# ---------------------------------------------------------------- experiments


def test_every_published_row_is_an_experiment():
    keys = set(check_experiments("spgan", EXPERIMENTS))
    published = tomllib.loads((ROOT / "reports/published/spgan.toml").read_text(encoding="utf-8"))
    ours = {
        key for table in published["table"] if table.get("kind", "ours") == "ours" for key in table["rows"]
    }
    assert ours <= keys, ours - keys
    claims = tomllib.loads((ROOT / "reports/claims.toml").read_text(encoding="utf-8"))["spgan"]["claim"]
    sides = [claim[side] for claim in claims for side in ("left", "right")]
    named = {key.lstrip("-") for side in sides for key in ([side] if isinstance(side, str) else side)}
    assert named <= keys, named - keys
    assert set(SPGAN.demo) | set(SPGAN.headline) <= keys and STANDS_FOR[SPGAN.source] == "dukemtmc"


def test_the_grid_is_two_by_two_by_two_and_the_named_recipes_are_the_scripts():
    table = check_experiments("spgan", EXPERIMENTS)
    chosen = [key for key in table if key.startswith(("spgan/grid/", "spgan/recipe/"))]
    configs = {key: override(PRESETS["demo"], table[table[key].runs_as].overrides) for key in chosen}
    cells = {(c.net.head, c.recipe.bn, c.recipe.lr) for key, c in configs.items() if "grid" in key}
    assert len(cells) == 8 and all(c.method.images == "source" for c in configs.values())
    for name, overrides in RECIPES.items():
        assert configs[f"spgan/recipe/{name}"] == override(configs[f"spgan/recipe/{name}"], overrides)
    scripts = [configs[f"spgan/recipe/{name}"] for name in ("author_ide", "ide_plus", "blog_ide")]
    assert [(c.net.head, c.recipe.bn, c.recipe.lr) for c in scripts] == [
        ("fc", "eval", 1e-3),
        ("bottleneck", "eval", 1e-3),
        ("bottleneck", "train", 1e-2),
    ]
    for c in scripts:
        assert train_transform(c.net, c.recipe, "bicubic").first_size == (288, 144)
        assert (c.net.height, c.net.width, c.recipe.epochs, c.recipe.drop_epoch) == (256, 128, 60, 40)
        assert (c.test.interpolation, c.test.flip, c.recipe.lr_scale) == ("bicubic", True, 1.0)


def test_presets_differ_where_the_sources_do():
    released, paper = PRESETS["released"], PRESETS["paper"]
    assert (released.gan.pool, released.gan.neg, released.gan.con_div, released.gan.epochs) == (
        "lag1",
        "real_real",
        3.0,
        6.0,
    )
    assert (paper.gan.neg, paper.gan.dist, paper.gan.epochs) == ("fake_real", "onecos", 5.0)
    for recipe in (released.recipe, paper.recipe):  # Table 2 used Caffe's net
        assert recipe.freeze_affine and recipe.freeze_conv1_res2 and not recipe.nesterov
        assert recipe.head_lr_factor == 2
    assert (released.recipe.schedule, paper.recipe.schedule) == ("caffe", "paper")
    assert (released.test.no_match, PRESETS["demo"].test.no_match) == ("zero", "skip")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"gan.height": 60}, "multiples of 8"),
        ({"gan.load_width": 16}, "--gan.load-width 16"),
        ({"gan.sia_size": 128}, "--gan.sia-size 128"),
        ({"gan.batch": 0}, "--gan.batch 0"),
        ({"gan.margin": -1.0}, "--gan.margin"),
        ({"recipe.epochs": 0}, "--recipe.epochs"),
        ({"translate.quality": 0}, "--translate.quality"),
        ({"test.cut": 0}, "--test.cut"),
        ({"net.dropout": 1.0}, "--net.dropout"),
        ({"gan.beta1": 1.0}, "--gan.beta1 1.0"),
        ({"recipe.momentum": -0.1}, "--recipe.momentum -0.1"),
        ({"recipe.momentum": 1.5}, "--recipe.momentum 1.5"),
        ({"recipe.momentum": 0.0}, "--recipe.no-nesterov"),
        ({"recipe.weight_decay": -1e-4}, "--recipe.weight-decay -0.0001"),
    ],
)
def test_bad_settings(change, words):
    with pytest.raises(InputError, match=words):
        override(PRESETS["demo"], change)


@pytest.mark.parametrize("name", ["gan.neg", "gan.dist", "gan.sia_head", "recipe.bn", "method.images"])
def test_a_kind_that_is_not_handled_fails_with_the_configuration(name):
    with pytest.raises(InputError, match=re.escape("--" + name.replace("_", "-") + " 'new'")):
        override(PRESETS["demo"], {name: "new"})


# ---------------------------------------------------------------- stages that rows share


def test_one_gan_serves_both_directions_and_every_row_without_sianet():
    demo = PRESETS["demo"]
    assert gan_key(demo) == gan_key(demo, MARKET, DUKE)
    other = override(demo, {"recipe.epochs": 9, "translate.quality": 90, "net.head": "bottleneck"})
    assert gan_key(other) == gan_key(demo)
    plain = override(demo, ROWS["CycleGAN+L_ide"][1])
    idle = override(plain, {"gan.margin": 0.0, "gan.sia_dropout": "off"})
    assert gan_key(idle) == gan_key(plain) != gan_key(demo)
    rows = ("CycleGAN", "CycleGAN+L_ide", "SPGAN,m=0", "SPGAN,m=1", "SPGAN")
    assert len({gan_key(override(demo, ROWS[row][1])) for row in rows}) == 5


def test_curves_of_the_reverse_direction_exchange_source_and_target(tmp_path):
    line = {
        "step": 20,
        "cycle_source": 1,
        "cycle_target": 2,
        "positive_s": 3,
        "positive_t": 4,
        "sia_across": 5,
    }
    (tmp_path / "curves.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    gan = Stage("gan", "", tmp_path, 0.0, False)
    assert translations.gan_curves(gan, DUKE, MARKET) == [line]
    exchanged = {"cycle_source": 2, "cycle_target": 1, "positive_s": 4, "positive_t": 3}
    assert translations.gan_curves(gan, MARKET, DUKE) == [line | exchanged]


# ---------------------------------------------------------------- translated folders and picture measures


@pytest.fixture
def domain(tmp_path, formulas):
    """Nine images of three people; `brighter(path)` writes their translations."""
    samples = []
    for i in range(9):
        path = tmp_path / "real" / f"{i % 3 + 1:04d}_c{i % 2 + 1}_f{i:07d}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = (formulas.scatter(f"image {i}", 16, 8, 3) * 30 + 90 + 4 * i).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((32, 64)).save(path, quality=95)
        samples.append(Sample(path, i % 3 + 1, i % 2))
    return samples


def copies(samples, folder: Path, prefix: str = "", brighter: int = 0, contrast: float = 1.0) -> Path:
    folder.mkdir()
    for s in samples:
        levels = np.asarray(Image.open(s.path)) * contrast + brighter
        pixels = levels.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{prefix}{s.path.name}", quality=95)
    return folder


@pytest.mark.parametrize("prefix", ["", "market_"])
def test_translations_keep_order_and_labels(domain, tmp_path, prefix):
    fakes = samples_in(copies(domain, tmp_path / "fake", prefix), domain)
    assert [(s.pid, s.camid, s.path.name) for s in fakes] == [
        (s.pid, s.camid, prefix + s.path.name) for s in domain
    ]
    assert {s.origin for s in fakes} == {"translated"}


def test_a_folder_with_gaps(domain, tmp_path):
    folder = copies(domain, tmp_path / "fake")
    (folder / domain[4].path.name).unlink()
    with pytest.raises(InputError, match=rf"1 are missing, the first is {domain[4].path.stem}"):
        samples_in(folder, domain)
    with pytest.raises(InputError, match="expected a folder of translated images, found nothing"):
        samples_in(tmp_path / "none", domain)


def test_picture_measures_see_style_and_content(domain, tmp_path):
    target = samples_in(copies(domain, tmp_path / "target", brighter=60), domain)
    kept = picture_measures(domain, domain, target)
    assert (
        kept["change_l1"] == 0
        and kept["edges_kept"] == pytest.approx(1, abs=1e-4)
        and kept["style_gap"] == kept["style_gap_before"] > 1000
    )
    moved = picture_measures(domain, target, target)
    assert (
        moved["style_gap"] < 0.1 < moved["style_gap_before"]
        and 55 < moved["change_l1"] < 65
        and moved["edges_kept"] > 0.95
    )


def test_frechet_of_normal_clouds(formulas):
    a = formulas.scatter("cloud", 500, 3)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + [1, 2, 0]) == pytest.approx(5) and frechet(a, 2 * a - a.mean(0)) == pytest.approx(
        np.trace(np.cov(a.T))
    )


def test_statistics_bring_the_source_to_the_targets_colours(domain, tmp_path):
    brighter = samples_in(copies(domain, tmp_path / "target", brighter=90, contrast=0.4), domain)
    source, target = (
        SimpleNamespace(name=n, train=t, manifest={}) for n, t in (("s", domain), ("t", brighter))
    )
    work = Workspace(tmp_path / "work")
    translations.statistics_translations(work, 95, source, target)
    translated = samples_in(work.folder / translations.FOLDER, domain)
    (mean, deviation), (mean_t, deviation_t) = map(channel_statistics, (translated, brighter))
    assert np.abs(mean - mean_t).max() < 2 and np.abs(deviation - deviation_t).max() < 2


# ---------------------------------------------------------------- the TensorFlow process


def test_without_tensorflow_one_line_says_what_to_install(tmp_path):
    """`find_spec` answers as it would without TensorFlow; the row needs no GAN, later ones of the demo do."""
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'tensorflow' else find(name, *a)\n"
        "from spgan.train import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--out", str(tmp_path)],
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: {process.WHAT_TO_INSTALL}"
    assert not (tmp_path / "stages").exists()


def replace_tensorflow(monkeypatch, code: str) -> None:
    """Replaces TensorFlow's process by a short program; its `job` is the path of the job file."""
    start = subprocess.Popen
    program = (
        f"import json, os, signal, sys, time\nfrom pathlib import Path\njob = Path(sys.argv[-1])\n{code}"
    )
    monkeypatch.setattr(process, "require_tensorflow", lambda: None)
    monkeypatch.setattr(
        process.subprocess,
        "Popen",
        lambda command, **options: start([sys.executable, "-c", program, command[-1]], **options),
    )


def train_in_process(folder: Path) -> None:
    work = Workspace(folder, resume=True, seed=7, options=Options(device="cpu", threads=1))
    process.train(work, GANConfig(), [Path("a.jpg")], [Path("b.jpg")])


def test_the_job_arrives_with_absolute_paths(tmp_path, monkeypatch):
    replace_tensorflow(
        monkeypatch, "j = json.loads(job.read_text()); (job.parent / 'seen.json').write_text(json.dumps(j))"
    )
    train_in_process(tmp_path)
    seen = json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))
    assert GANConfig(**seen["gan"]) == GANConfig() and seen["source"] == [str(Path.cwd() / "a.jpg")]
    assert seen["resume"] and seen["folder"] == str(tmp_path)
    assert (seen["seed"], seen["device"], seen["threads"], seen["deterministic"]) == (7, "cpu", 1, False)
    assert not (tmp_path / "job.json").exists()


def test_files_of_the_stages_folder_are_never_imported(tmp_path, monkeypatch):
    """A `numpy.py` beside the job; relative entries of PYTHONPATH keep their meaning, empty ones go."""
    stage = tmp_path / "stage"
    stage.mkdir()
    for folder in (stage, tmp_path):
        (folder / "numpy.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(("", "relative")))
    replace_tensorflow(
        monkeypatch,
        "import numpy\nseen = json.dumps([os.getcwd(), sys.path])\n(job.parent / 'seen').write_text(seen)",
    )
    monkeypatch.chdir(tmp_path)
    train_in_process(stage)
    folder, search = json.loads((stage / "seen").read_text(encoding="utf-8"))
    assert folder == str(ROOT) and str(ROOT) in search and str(tmp_path / "relative") in search
    assert not {str(stage), str(tmp_path)} & set(search)


@pytest.mark.parametrize("code, kind", [(2, InputError), (1, RuntimeError)])
def test_its_errors_arrive_in_one_line(tmp_path, monkeypatch, code, kind):
    replace_tensorflow(
        monkeypatch, f"job.with_suffix('.error').write_text('x.jpg: broken'); sys.exit({code})"
    )
    with pytest.raises(kind, match="^x.jpg: broken$"):
        train_in_process(tmp_path)


def test_a_full_disk_there_is_a_full_disk_here(tmp_path, monkeypatch):
    replace_tensorflow(monkeypatch, f"sys.exit({process.OS_ERROR + errno.ENOSPC})")
    with pytest.raises(OSError) as refused:
        train_in_process(tmp_path)
    assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, str(tmp_path))


def test_a_crash_is_an_error(tmp_path, monkeypatch):
    replace_tensorflow(monkeypatch, "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(RuntimeError, match="ended with code -9"):
        train_in_process(tmp_path)


@pytest.mark.parametrize("number", process.STOP_SIGNALS)
def test_ctrl_c_lets_it_save(tmp_path, monkeypatch, number):
    replace_tensorflow(
        monkeypatch,
        "signal.signal(signal.SIGINT, lambda *a: ((job.parent / 'saved').touch(), sys.exit(130)))\n"
        "(job.parent / 'ready').touch()\nwhile True: time.sleep(0.05)",
    )

    def stop():
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt):
        train_in_process(tmp_path)
    assert (tmp_path / "saved").is_file()


def test_neither_framework_is_imported_beside_the_other():
    """Both sides import the config, which must stay free of both frameworks."""
    code = (
        "import sys, spgan.process, spgan.translations, spgan.experiments; "
        "sys.exit(int(bool({'torch', 'tensorflow'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    for path in (ROOT / "spgan" / "gan").glob("*.py"):
        of_torch = re.search(
            r"^\s*(import|from) (torch|common\.training)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert not of_torch, path
