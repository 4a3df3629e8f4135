"""Data, exact resume, translation, and errors that end a training with one line."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.errors import InputError, RunError
from common.job import Options, Workspace
from common.provenance import ROOT
from common.runs import read_curves
from spgan.config import PRESETS, GANConfig, TranslationConfig
from spgan.gan import __main__ as tf_process
from spgan.gan import train as gan_train
from spgan.gan.data import augment, iterations, pairs, plan, resize
from spgan.gan.loop import Loop, load_arrays
from spgan.gan.train import Trainer, train_gan
from spgan.gan.translate import load_generator, to_input, to_uint8, translate
from spgan.process import OS_ERROR

TINY = GANConfig(
    height=16,
    width=8,
    load_height=18,
    load_width=9,
    g_channels=2,
    blocks=1,
    d_channels=2,
    sia_channels=2,
    epochs=8.0,
    batch=2,
    pool_size=3,
)


@pytest.fixture(scope="module")
def files(data_root) -> tuple[list[str], list[str]]:
    return tuple(
        sorted(map(str, (data_root / folder / "bounding_box_train").glob("*.jpg")))[:count]
        for folder, count in (("DukeMTMC-reID", 9), ("Market-1501-v15.09.15", 7))
    )


def workspace(folder: Path, resume: bool = False) -> Workspace:
    return Workspace(folder, resume, options=Options(threads=1))


def test_iterations_of_duke_and_market():
    assert iterations(GANConfig(), 16_522, 12_936) == 77_616
    # the script's last checkpoint
    assert iterations(PRESETS["released"].gan, 16_522, 12_936) == 77_000
    assert iterations(PRESETS["paper"].gan, 16_522, 12_936) == 64_680
    for count, words in ((1, "at least two"), (2, "no step")):
        with pytest.raises(InputError, match=words):
            iterations(replace(TINY, epochs=0.5), 10, count)


def test_resize_is_tf1s(golden, formulas):
    photo = ((formulas.scatter("photo", 20, 10, 3) + 1) * 127.5).astype(np.uint8)
    released, ours = (
        golden("spgan_data")["resized"],
        resize(tf.constant(photo), 23, 13, "legacy").numpy() / 127.5 - 1,
    )
    np.testing.assert_allclose(ours, released, rtol=0, atol=1e-6)
    # white noise: half a pixel is much
    assert (
        np.abs(resize(tf.constant(photo), 23, 13, "half_pixel").numpy() / 127.5 - 1 - released).mean() > 0.05
    )


def test_flip_and_crop(formulas):
    photo = tf.constant(((formulas.scatter("photo", 18, 9, 3) + 1) * 127.5).astype(np.uint8))
    plain = augment(photo, tf.constant(False), 2, 1, TINY).numpy()
    assert np.abs(plain - (photo.numpy()[2:18, 1:9] / 127.5 - 1)).max() < 1e-6
    assert np.abs(augment(photo, tf.constant(True), 2, 0, TINY).numpy() - plain[:, ::-1]).max() < 1e-6


def test_every_pass_shows_every_image_once():
    drawn = plan(7, 21, TINY, 0, "source")
    assert (
        all(sorted(drawn["index"][k : k + 7]) == list(range(7)) for k in (0, 7, 14))
        and (drawn["index"][:7] != drawn["index"][7:14]).any()
    )
    assert drawn["top"].max() == 2 and drawn["left"].max() == 1 and 0 < drawn["flip"].mean() < 1


def test_batches_depend_on_the_step_alone(files):
    whole = list(pairs(*files, TINY, Workspace(Path()), range(6)))
    rest = list(pairs(*files, TINY, workspace(Path()), range(4, 6)))
    assert (
        len(whole) == 6
        and whole[0][0].shape == (2, 16, 8, 3)
        and -1 <= whole[0][0].min() < whole[0][0].max() <= 1
    )
    assert all((a == b).all() for early, late in zip(whole[4:], rest) for a, b in zip(early, late))


def test_resume_is_exact(files, tmp_path, monkeypatch):
    """Stopped in step 3 of 24 by SIGTERM and the parent's SIGINT, then --resume: the next 20 losses and all
    weights are those of an uninterrupted run.
    """
    terms = {name: [] for name in ("whole", "broken", "resumed")}
    original = Trainer.__call__

    def run(name: str, folder: str, resume: bool = False, stop: int | None = None) -> None:
        def recorded(self, source, target, seed, step):
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
            terms[name].append(original(self, source, target, seed, step))
            return dict(terms[name][-1])

        monkeypatch.setattr(Trainer, "__call__", recorded)
        (tmp_path / folder).mkdir(exist_ok=True)
        train_gan(workspace(tmp_path / folder, resume), TINY, *files)

    run("whole", "whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", "other", stop=3)
    assert (tmp_path / "other" / "kept").is_file() and not (tmp_path / "other" / "networks.npz").exists()
    run("resumed", "other", resume=True)
    assert (
        len(terms["whole"]) == 24
        and len(terms["broken"]) == 4
        and terms["broken"] + terms["resumed"] == terms["whole"]
    )
    weights = [load_arrays(tmp_path / name / "networks.npz") for name in ("whole", "other")]
    assert set(weights[0]) == set(weights[1]) and all(
        (weights[0][name] == weights[1][name]).all() for name in weights[0]
    )
    whole, other = (read_curves(tmp_path / name / "curves.jsonl")[-1] for name in ("whole", "other"))
    assert {"sia_cos_source", "sia_across", "g_loss", "d_target", "sianet"} <= set(whole) and other[
        "sia_across"
    ] == whole["sia_across"]
    assert not (tmp_path / "other" / "checkpoint.npz").exists()

    rendered_by(tmp_path / "whole" / "networks.npz", files[0], tmp_path / "out")
    with pytest.raises(InputError, match="another width"):
        load_generator(replace(TINY, g_channels=4), tmp_path / "whole" / "networks.npz", "g_s2t")


class Counter:
    """Replaces the trainer: counts its steps."""

    networks = SimpleNamespace(sianet=None)

    def __init__(self, *_):
        self.steps = 0

    def __call__(self, *_) -> dict[str, float]:
        self.steps += 1
        return {"steps": self.steps}

    def weights(self) -> dict[str, np.ndarray]:
        return {"steps": np.array(self.steps)}

    arrays = weights

    def restore(self, arrays, origin) -> None:
        self.steps = int(arrays["steps"])


def test_a_linear_decay_begins_in_the_middle_of_the_training(files, tmp_path, monkeypatch):
    factors: list[float] = []

    class Slowing(Counter):
        def set_rate(self, factor: float) -> None:
            factors.append(factor)

    monkeypatch.setattr(gan_train, "Trainer", Slowing)
    train_gan(workspace(tmp_path), replace(TINY, epochs=2.0, lr_decay="linear"), *files)
    assert factors == pytest.approx([1, 1, 1, 1, 2 / 3, 1 / 3])


def test_the_rates_of_all_four_optimisers_fall_together():
    trainer = Trainer(replace(TINY, lr=1e-3), 0)
    trainer.set_rate(0.5)
    rates = {name: float(adam.learning_rate) for name, adam in trainer.optimizers.items()}
    assert rates == pytest.approx(dict.fromkeys(("g", "d_target", "d_source", "sianet"), 5e-4))


def test_the_checkpoint_stays_until_the_networks_are_saved(files, tmp_path, monkeypatch):
    """The disk is full when a training of 24 steps ends; --resume continues from its last checkpoint."""

    def full(path, arrays):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(gan_train, "Trainer", Counter)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(gan_train, "save_arrays", full)
        train_gan(workspace(tmp_path), TINY, *files)
    assert load_arrays(tmp_path / "checkpoint.npz")["step"] == 18 and (tmp_path / "kept").is_file()
    assert not (tmp_path / "networks.npz").exists()
    train_gan(workspace(tmp_path, resume=True), TINY, *files)
    assert (
        load_arrays(tmp_path / "networks.npz")["steps"] == 24 and not (tmp_path / "checkpoint.npz").exists()
    )
    assert read_curves(tmp_path / "curves.jsonl")[-1]["step"] == 24


def rendered_by(networks: Path, files: list[str], out: Path) -> None:
    """Translations have the generator's size; existing ones stay."""
    names = [(path, str(out / Path(path).name)) for path in files]
    translate(TINY, TranslationConfig(), networks, "g_s2t", names[:-1])
    first = out / Path(files[0]).name
    assert Image.open(first).size == (8, 16)
    first.write_bytes(b"kept")
    translate(TINY, TranslationConfig(), networks, "g_s2t", names)
    assert first.read_bytes() == b"kept" and len(list(out.iterdir())) == len(files)


def test_levels_on_the_way_through_the_generator(golden, formulas):
    arrays, ramp = (
        golden("spgan_data"),
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)),
    )
    config = replace(TINY, height=16, width=16)
    read, exact = (
        np.rint((to_input(ramp, config, truncate=truncate)[:, :, 0].ravel() + 1) * 127.5)
        for truncate in (True, False)
    )
    assert (
        (read == arrays["read_levels"]).all()
        and (read != exact).sum() == 20
        and (exact == np.arange(256)).all()
    )
    output = formulas.scatter("output", 1000).astype(np.float32)
    assert (to_uint8(output, truncate=True) == arrays["saved_levels"]).all()
    assert (to_uint8(np.array([2 * 100.7 / 255 - 1]), truncate=False) == 101).all()


def test_a_broken_image_is_named(files, tmp_path):
    broken = tmp_path / "0001_c1_f0000001.jpg"
    broken.write_bytes(Path(files[0][0]).read_bytes()[:200])
    with pytest.raises(InputError, match=broken.name):
        list(pairs([*files[0], str(broken)], files[1], TINY, Workspace(tmp_path), range(8)))


def test_a_nan_ends_the_training(tmp_path):
    loop = Loop(Workspace(tmp_path), 5, state=None)
    with pytest.raises(RunError, match="g_loss is nan at step 2 of 5"):
        loop.log(2, {"g_loss": float("nan")})


class Fading(Counter):
    """A state whose weights turn NaN at step 3 while every logged term stays finite."""

    def arrays(self) -> dict[str, np.ndarray]:
        return {"g_s2t/c1_conv/kernel": np.full(2, np.nan if self.steps >= 3 else 1.0)}


@pytest.mark.parametrize("save_every, saved", [(2, True), (3, False), (9, False)])
def test_weights_that_are_not_finite_are_never_kept(tmp_path, save_every, saved):
    state = Fading()
    loop = Loop(Workspace(tmp_path), 3, state, save_every=save_every)
    with pytest.raises(RunError, match="g_s2t/c1_conv/kernel is not finite after step 3 of 3"):
        for step in loop:
            loop.log(step, state())
    assert loop.checkpoint.is_file() == saved
    assert not saved or load_arrays(loop.checkpoint)["step"] == 2


def test_a_checkpoint_of_finite_weights_is_not_replaced_by_others(tmp_path):
    state = Fading()
    with pytest.raises(RunError, match="after step 4 of 9"):
        for _ in Loop(Workspace(tmp_path), 9, state, save_every=2):
            state()
    assert load_arrays(tmp_path / "checkpoint.npz")["step"] == 2


@pytest.mark.parametrize("kind", ["kernel", "thread"])
def test_the_process_ends_with_its_parent(tmp_path, kind):
    """The parent is killed while the child works; without prctl(2) a thread notices it."""
    child = (
        "import os, sys, time\nfrom pathlib import Path\nfrom spgan.gan.__main__ import die_with\n"
        "if sys.argv[2] == 'thread': sys.platform = 'darwin'\n"
        "die_with(os.getppid())\nPath(sys.argv[1]).write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    ready = tmp_path / kind
    command = f"[sys.executable, '-c', {child!r}, {str(ready)!r}, {kind!r}]"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run({command})"], cwd=ROOT
    )
    wait_for(lambda: ready.is_file() and ready.read_text(encoding="utf-8"))
    number = int(ready.read_text(encoding="utf-8"))
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(number))


def alive(number: int) -> bool:
    """Whether a process runs; one whose parent has not yet asked for its exit code does not."""
    status = Path(f"/proc/{number}/status")
    return status.is_file() and "State:\tZ" not in status.read_text(encoding="utf-8")


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_damaged_checkpoint(tmp_path):
    (tmp_path / "checkpoint.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="checkpoint.npz"):
        Loop(Workspace(tmp_path, resume=True), 5, state=None)


@pytest.fixture
def job(files, tmp_path) -> Path:
    """The job of a training with one source image, which is too few."""
    job = {
        "task": "train",
        "gan": {**vars(TINY)},
        "source": files[0][:1],
        "target": files[1],
        "seed": 0,
        "folder": str(tmp_path),
        "resume": False,
        "device": "auto",
        "threads": 0,
        "deterministic": False,
        "parent": os.getppid(),
    }
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return path


def test_the_process_reports_a_faulty_job(job, caplog):
    with caplog.at_level(logging.INFO, logger="run"):
        assert tf_process.main(job) == 2 and "at least two" in job.with_suffix(".error").read_text(
            encoding="utf-8"
        )
    assert "GAN: trains on the CPU" in caplog.messages


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.ENOENT])
def test_a_full_or_closed_disk_is_an_exit_code(job, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "networks.npz")

    monkeypatch.setattr(tf_process, "train_gan", refuse)
    assert tf_process.main(job) == OS_ERROR + number and not job.with_suffix(".error").exists()


@pytest.mark.parametrize(
    "gpus, batch, words, warned",
    [
        (0, 4, "the CPU", False),
        (1, 4, "one GPU", False),
        (2, 4, "2 GPUs, a replica on each; they share batches of 4", False),
        (3, 4, "one GPU", True),
    ],
)
def test_the_log_names_the_devices_of_a_gan(caplog, gpus, batch, words, warned):
    with caplog.at_level(logging.INFO, logger="run"):
        tf_process.log_devices(gpus, batch)
    assert caplog.messages[-1] == f"GAN: trains on {words}"
    assert [record.levelname for record in caplog.records[:-1]] == ["WARNING"] * warned
    assert not warned or "--gan.batch 4 does not divide" in caplog.messages[0]
