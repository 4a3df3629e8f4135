"""Fixtures of SPGAN's golden networks. Tests in gan/ run in a process with TensorFlow."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

collect_ignore = [] if os.environ.get("SPGAN_TENSORFLOW") else ["gan"]  # see test_spgan_tensorflow.py


@pytest.fixture(scope="session")
def formulas(formulas) -> SimpleNamespace:
    """The formulas of all papers, fingerprints in float32, and `weight`."""

    def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A variable from its name, `<network>/<layer>/<kernel, bias, scale, offset>`: kernels of variance 2
        / fan-in, scales about 1.
        """
        values, kind = formulas.scatter(name, *shape), name.rsplit("/", 1)[1]
        if kind == "kernel":
            values = values * (6 / np.prod(shape[:-1])) ** 0.5
        else:
            values = 1 + 0.2 * values if kind == "scale" else 0.1 * values
        return values.astype(np.float32)

    def fingerprint(arrays: dict[str, np.ndarray]) -> np.ndarray:
        return formulas.fingerprint(arrays).astype(np.float32)

    return SimpleNamespace(scatter=formulas.scatter, weight=weight, fingerprint=fingerprint)
