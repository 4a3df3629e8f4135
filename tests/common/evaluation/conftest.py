"""Data that several tests of the evaluator share."""

import json
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[2] / "golden"


def closed_form_features(pids: np.ndarray, width: int, phase: float) -> np.ndarray:
    """The formula in tests/golden/ranking_*.json."""
    i, j = np.arange(len(pids))[:, None], np.arange(1, width + 1)
    x = np.sin(0.7 * i * j + phase) + 0.6 * np.cos(1.7 * pids[:, None] * j)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def golden(golden):
    """name -> (arrays, tolerance)."""

    def load(name: str):
        notes = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
        return golden(name), notes["tolerance"]

    return load


@pytest.fixture
def evaluator_inputs():
    """Arguments of `evaluate` behind ranking_evaluators.npz: junk, distractors, four cameras, one query
    without a match.
    """
    i, g = np.arange(40), np.arange(300)
    query_pids, gallery_pids = 1 + i % 13, g * 5 % 17 - 1
    query_pids[-1] = 40
    return (
        closed_form_features(query_pids, 16, 0.2),
        query_pids,
        i * 7 % 4,
        closed_form_features(gallery_pids, 16, 0.9),
        gallery_pids,
        g // 3 % 4,
    )


@pytest.fixture
def rerank_inputs():
    """Query and gallery features behind ranking_rerank.npz."""
    queries = closed_form_features(1 + np.arange(24) % 9, 12, 0.4)
    return queries.astype(np.float32), closed_form_features(np.arange(120) * 5 % 11, 12, 1.1).astype(
        np.float32
    )
