"""Multi-query pooling and CUHK03's single-shot protocol."""

import numpy as np
import pytest

from common.errors import InputError
from common.evaluation.protocols import evaluate_single_shot, multi_query
from common.evaluation.ranking import evaluate


def test_multi_query_pools_the_group_of_each_query():
    features = np.array([[3.0, 0], [1, 4], [5, 5], [0, 2]])
    pids, camids = np.array([1, 1, 1, 2]), np.array([0, 0, 1, 0])
    mean = multi_query([2, 1], [0, 0], features, pids, camids, normalise=False)
    np.testing.assert_allclose(mean, [[0, 2], [2, 2]])
    np.testing.assert_allclose(
        multi_query([1], [0], features, pids, camids, pooling="max"), [[0.6, 0.8]], rtol=1e-6
    )
    with pytest.raises(InputError, match="person 2 in camera 1"):
        multi_query([2], [1], features, pids, camids)
    with pytest.raises(InputError, match="pooling"):
        multi_query([1], [0], features, pids, camids, pooling="median")


def two_cameras(per_person, seed=0):
    rng = np.random.default_rng(seed)
    pids = np.repeat(np.arange(1, 21), per_person)
    centres = rng.normal(size=(21, 4))
    gallery = centres[pids] + 0.8 * rng.normal(size=(len(pids), 4))
    return centres[1:], np.arange(1, 21), np.zeros(20, int), gallery, pids, np.ones(len(pids), int)


def test_single_shot_with_one_image_a_person_is_the_plain_ranking():
    arguments = two_cameras(per_person=1)
    expected, result = evaluate(*arguments), evaluate_single_shot(*arguments, repeats=3)
    assert result.scores() == pytest.approx(expected.scores())
    np.testing.assert_allclose(result.first_rank, expected.first_rank)


def test_single_shot_averages_seeded_draws():
    arguments = two_cameras(per_person=5)
    first, again, other = (evaluate_single_shot(*arguments, repeats=20, seed=seed) for seed in (0, 0, 1))
    assert first.scores() == again.scores() != other.scores()
    np.testing.assert_allclose(first.ap_step, first.ap_step.clip(0, 1))

    queries, query_pids, _, gallery, pids, _ = arguments
    distances = ((queries[:, None] - gallery) ** 2).sum(2)
    # chance that d is nearest of a draw
    wins = [
        np.prod([(distances[i, pids == other] > d).mean() for other in range(1, 21) if other != pid])
        for i, pid in enumerate(query_pids)
        for d in distances[i, pids == pid]
    ]
    many = evaluate_single_shot(*arguments, repeats=400)
    assert many.cmc[1] == pytest.approx(np.mean(wins), abs=0.02)


def test_single_shot_draws_from_other_cameras_only():
    queries, gallery = np.eye(2), np.array([[1.0, 0], [0, 1], [0, 1]])
    result = evaluate_single_shot(queries, [1, 2], [0, 1], gallery, [1, 2, 1], [0, 0, 1], repeats=5)
    assert result.num_valid_queries == 2
    assert result.first_rank.tolist() == [1, 1]  # the copy of query 1 in its own camera is never drawn
    alone = evaluate_single_shot(queries, [1, 2], [0, 0], gallery, [1, 2, 1], [0, 0, 1], repeats=2)
    assert alone.num_valid_queries == 1 and np.isnan(alone.ap[1])
    with pytest.raises(InputError, match="repeats 0"):
        evaluate_single_shot(queries, [1, 2], [0, 1], gallery, [1, 2, 1], [0, 0, 1], repeats=0)
