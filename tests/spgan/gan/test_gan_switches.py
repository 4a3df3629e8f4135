"""Every field of the GAN's configuration, set to another value, changes the trained weights (or the number of
steps), and every field of the translation that the generator heeds changes the stored images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from common.job import Options, Workspace
from spgan.config import GANConfig, TranslationConfig
from spgan.gan import train as gan_train
from spgan.gan.loop import load_arrays
from spgan.gan.train import Trainer, train_gan
from spgan.gan.translate import translate

TINY = GANConfig(
    height=16,
    width=8,
    load_height=18,
    load_width=9,
    g_channels=2,
    blocks=1,
    d_channels=2,
    sia_channels=2,
    epochs=3.0,
    batch=2,
    lr=1e-3,
    pool_size=1,
)
# field -> another value, with the settings under which it acts, if the tiny ones are not
OTHER: dict[str, Any] = {
    "height": 8,
    "width": 16,
    "load_height": 20,
    "load_width": 12,
    "resize": "half_pixel",
    "g_channels": 3,
    "blocks": 2,
    "residual": True,
    "d_channels": 3,
    "sia_channels": 3,
    "sia_size": 272,
    "sia_head": "fc128",
    "sia_dropout": "off",
    "neg": "fake_real",
    "con_div": 4.0,
    "dist": "onecos",
    "margin": 1.0,
    "lambda1": 1.0,
    "lambda2": 0.0,
    "lambda3": 1.0,
    "epochs": 2.0,
    "round_down": 2,
    "batch": 1,
    "lr": 2e-3,
    "lr_decay": "linear",
    "beta1": 0.9,
    "pool": "none",
    "pool_size": 3,
    "augment_d": True,
    "g_norm": "none",
    "d_norm": "none",
}
WITH: dict[str, dict[str, Any]] = {"width": {"load_width": 16}}
OF_SIANET = {
    "sia_channels",
    "sia_size",
    "sia_head",
    "sia_dropout",
    "neg",
    "con_div",
    "dist",
    "margin",
    "lambda3",
}
# further pairs of values whose difference could be lost
ALSO = [
    ("sia_head", "fc64"),
    ("sia_dropout", "shared"),
    ("neg", "espgan"),
    ("pool", "lag1"),
    ("lambda3", 0.0),
]


@pytest.fixture(autouse=True)
def eager(monkeypatch) -> Iterator[None]:
    """No graphs are compiled, and SiaNet's distances, which train nothing, are measured on two images."""
    two = partial(gan_train.probe_images, count=2)
    monkeypatch.setattr(gan_train, "probe_images", two)
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def files(data_root) -> tuple[list[str], list[str]]:
    return tuple(
        sorted(map(str, (data_root / folder / "bounding_box_train").glob("*.jpg")))[:count]
        for folder, count in (("DukeMTMC-reID", 4), ("Market-1501-v15.09.15", 3))
    )


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """`trained(config)` -> the weights after three steps and their number."""
    finished: dict[GANConfig, dict[str, np.ndarray]] = {}

    def train(config: GANConfig) -> dict[str, np.ndarray]:
        if config not in finished:
            folder = tmp_path_factory.mktemp("gan")
            train_gan(Workspace(folder, options=Options(threads=1)), config, *files)
            finished[config] = load_arrays(folder / "networks.npz")
        return finished[config]

    return train


def differ(a: dict[str, np.ndarray], b: dict[str, np.ndarray], *, only: str = "") -> bool:
    if set(a) != set(b):
        return True
    return any(not np.array_equal(a[name], b[name]) for name in a if name.startswith(only))


def test_every_field_has_another_value():
    assert set(OTHER) == {f.name for f in dataclasses.fields(GANConfig)}
    assert all(getattr(TINY, name) != value for name, value in [*OTHER.items(), *ALSO])


@pytest.mark.parametrize("name, value", [*OTHER.items(), *ALSO])
def test_every_field_changes_the_generators(trained, name, value):
    base = replace(TINY, **WITH.get(name, {}))
    if name not in OF_SIANET:  # faster
        base = replace(base, lambda3=0.0)
    assert differ(trained(base), trained(replace(base, **{name: value})), only="g_")


def test_the_same_configuration_trains_the_same_networks(trained, files, tmp_path):
    train_gan(Workspace(tmp_path, options=Options(threads=1)), TINY, *files)
    assert not differ(trained(TINY), load_arrays(tmp_path / "networks.npz"))


def test_every_kind_of_negatives_trains_another_sianet_or_generator(trained):
    kinds = {neg: trained(replace(TINY, neg=neg)) for neg in ("real_real", "fake_real", "espgan")}
    assert differ(kinds["real_real"], kinds["fake_real"], only="sianet")
    assert differ(kinds["fake_real"], kinds["espgan"], only="g_")


@pytest.mark.parametrize("change", [{}, {"quality": 20}, {"truncate": False}, {"role": "g_t2s"}])
def test_every_field_of_the_translation_changes_the_images(files, tmp_path, change):
    (tmp_path / "a").mkdir()
    weights = Trainer(TINY, 0).weights()
    np.savez(tmp_path / "networks.npz", **weights)

    def images(folder: str, role: str = "g_s2t", **options: Any) -> list[bytes]:
        outputs = [tmp_path / folder / Path(path).name for path in files[0]]
        names = [(path, str(output)) for path, output in zip(files[0], outputs)]
        translate(TINY, TranslationConfig(**options), tmp_path / "networks.npz", role, names)
        return [output.read_bytes() for output in outputs]

    assert (images("a") == images("b", **change)) == (not change)
