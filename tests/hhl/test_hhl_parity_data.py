"""Identity sampling, pseudo-labels and scores against the released ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch.nn.functional as F

from common.datasets import plans
from common.evaluation.ranking import evaluate, evaluate_distances
from hhl.data import PSEUDO_LABELS

# ---------------------------------------------------------------- sampling and pseudo-labels


def check_identity_pass(indices: np.ndarray, pids: np.ndarray) -> None:
    """Checks the released `RandomIdentitySampler`'s rules on a pass whose batches hold all identities."""
    rows, counts = indices.reshape(-1, 8), np.bincount(pids)
    # 8 images of one identity side by side
    assert (pids[rows] == pids[rows[:, :1]]).all()
    # every identity once
    assert sorted(pids[rows[:, 0]]) == list(range(len(counts)))
    distinct = {pids[row[0]]: len(set(row)) for row in rows}
    # else with replacement
    assert all(
        distinct[pid] == 8 if count >= 8 else distinct[pid] <= count for pid, count in enumerate(counts)
    )
    repeated = [pid for pid, count in enumerate(counts) if count < 8 and distinct[pid] < count]
    # all 8 drawn: some image may be left out
    assert repeated


@pytest.fixture
def pids() -> np.ndarray:
    """20 identities with 5 to 15 images."""
    return np.repeat(np.arange(20), 5 + 7 * np.arange(20) % 11)


def test_identity_passes_and_the_released_sampler_follow_the_same_rules(pids, golden):
    """The sequences differ: the released one is the next in line of two global generators, ours a function of
    seed, pass and position.
    """
    passes = plans.identity_plan(pids, ids=4, images_per_id=8, seed=0, stream="source")
    ours = [np.concatenate([passes.batch(number, position) for position in range(5)]) for number in range(2)]
    for first, second in (ours, golden("hhl_parity")["sampler_sequence"]):
        check_identity_pass(first, pids)
        check_identity_pass(second, pids)
        # a new order in each pass
        assert pids[first].tolist() != pids[second].tolist()


def test_identity_passes_give_the_released_sequence_from_the_released_draws(pids, golden, monkeypatch):
    """`np.random.seed(3)`, and the two permutations that torch gave the released sampler: index for index the
    same.
    """

    class ReleasedDraws:
        legacy = np.random.RandomState(3)

        def permutation(self, n: int) -> np.ndarray:
            return order[number]

        def choice(self, *args, **kwargs) -> np.ndarray:
            return self.legacy.choice(*args, **kwargs)

    order = golden("hhl_parity")["sampler_order"]
    draws = ReleasedDraws()
    monkeypatch.setattr(plans, "random_stream", lambda *place: draws)
    passes = plans.identity_plan(pids, ids=4, images_per_id=8, seed=0, stream="source")
    for number, expected in enumerate(golden("hhl_parity")["sampler_sequence"]):
        assert (
            np.concatenate([passes.batch(number, position) for position in range(5)]).tolist()
            == expected.tolist()
        )


def test_pseudo_labels_are_those_of_the_released_draws(golden):
    """Three accesses of one image in three views, with 0, 0.25 and the last number before 1 in place of
    `torch.rand(1)`.
    """
    labels, span = golden("hhl_parity")["pseudo_labels"], PSEUDO_LABELS
    # shared by the views
    assert (labels == labels[:, :1]).all()
    assert (
        labels[:, 0].tolist()
        == [span[int(u * len(span))] for u in (0.0, 0.25, 1 - 2**-24)]
        == [span[0], 3500, span[-1]]
    )


# ---------------------------------------------------------------- evaluation


def test_scores_of_random_features_equal_the_released_ones(formulas, golden):
    """Float32 features, 200 gallery images: junk, distractors, 37 same-camera pairs, one query without a
    match.
    """
    arrays = golden("hhl_parity")
    i, g = np.arange(30), np.arange(200)
    query_pids, gallery_pids = np.where(i == 29, 77, 1 + i % 9), g * 7 % 12 - 1
    # the first gallery in which no right and wrong image are within 1e-5
    trial = arrays["evaluation_trial"].item()
    query, gallery = (
        F.normalize(formulas.scattered(name, n, 24))
        for name, n in (("query features", 30), (f"gallery features {trial}", 200))
    )
    result = evaluate(query, query_pids, i * 5 % 6, gallery, gallery_pids, g * g // 3 % 6, ranks=range(1, 21))
    np.testing.assert_allclose(result.ap, arrays["evaluation_ap"], atol=1e-9)
    np.testing.assert_allclose(list(result.cmc.values()), arrays["evaluation_cmc"], atol=1e-9)
    assert (
        result.mAP == pytest.approx(arrays["evaluation_map"].item(), abs=1e-9)
        and result.num_valid_queries == 29
    )


TIES = {
    "hit=miss": ([1, 1, 2], [1, 0, 0]),
    "miss=hit, then hit": ([1, 1, 2], [0, 1, 1]),
    "hit=hit after miss": ([1, 2, 2], [0, 1, 1]),
    "all equal": ([1, 1, 1, 1], [1, 0, 0, 0]),
}


def one_threshold_ap(distances: list[float], hits: list[int]) -> float:
    """Trapezoids over the points of the precision-recall curve, equal distances being one point, from (recall
    0, precision 1).
    """
    distances, hits, area, before = np.array(distances), np.array(hits), 0.0, (0.0, 1.0)
    for threshold in np.unique(distances):
        found = hits[distances <= threshold]
        point = (found.sum() / hits.sum(), found.mean())
        area, before = area + (point[0] - before[0]) * (point[1] + before[1]) / 2, point
    return area


@pytest.mark.parametrize(
    "name, ours",
    [
        ("hit=miss", 1 / 4),
        ("miss=hit, then hit", 5 / 12),
        ("hit=hit after miss", 5 / 12),
        ("all equal", 1 / 8),
    ],
)
def test_ties_are_where_we_leave_the_released_evaluator(name, ours, golden):
    """The released AP takes equal distances as one threshold; ours puts the wrong images first, so that
    constant features score low.
    """
    distances, hits = TIES[name]
    arrays = golden("hhl_parity")
    assert one_threshold_ap(distances, hits) == pytest.approx(
        arrays["tie_ap"][arrays["tie_names"].tolist().index(name)]
    )
    result = evaluate_distances(
        np.array([distances], float), [1], [0], np.where(hits, 1, 2), np.ones(len(hits), int)
    )
    assert result.mAP == pytest.approx(ours)
