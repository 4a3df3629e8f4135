"""The evaluator against a naive loop, toy values, and the released evaluators."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import InputError
from common.evaluation import distances as blocks
from common.evaluation.ranking import evaluate, evaluate_distances

RANKS = (1, 2, 3, 5)


def naive(distances, query_pids, query_camids, gallery_pids, gallery_camids, cut=None):
    """AP by trapezoid, by step, and rank of the first hit for each query; (NaN, NaN, 0) without a match. Ties
    count against.
    """
    merits = []
    for row, pid, camid in zip(distances, query_pids, query_camids, strict=True):
        right = (gallery_pids == pid) & (gallery_camids != camid)
        ignored = (gallery_pids == -1) | ((gallery_pids == pid) & (gallery_camids == camid))
        raw = sorted(range(len(row)), key=lambda g, row=row, right=right: (row[g], right[g]))[:cut]
        ranked = [right[g] for g in raw if not ignored[g]]
        trapezoid = step = hits = first = 0
        for place, hit in enumerate(ranked):
            if hit:
                before = hits / place if place else 1
                hits += 1
                trapezoid += (before + hits / (place + 1)) / 2
                step += hits / (place + 1)
                first = first or place + 1
        merits.append(
            (trapezoid / right.sum(), step / right.sum(), first) if right.any() else (np.nan, np.nan, 0)
        )
    return np.array(merits).T


@st.composite
def small_worlds(draw):
    """Features on a coarse grid (many exact ties), three people, two cameras, junk, distractors."""
    num_queries, num_gallery = draw(st.integers(1, 5)), draw(st.integers(1, 24))

    def ints(low, high, *shape):
        return draw(arrays(np.int64, shape, elements=st.integers(low, high)))

    return (
        ints(-2, 2, num_queries, 2).astype(np.float32),
        ints(1, 3, num_queries),
        ints(0, 1, num_queries),
        ints(-2, 2, num_gallery, 2).astype(np.float32),
        ints(-1, 3, num_gallery),
        ints(0, 1, num_gallery),
    )


def squared_distances(queries, gallery):
    return ((queries[:, None].astype(float) - gallery[None]) ** 2).sum(2)


@given(small_worlds(), st.sampled_from([None, 1, 3, 10]), st.sampled_from(["numpy", "torch"]))
@settings(max_examples=150, deadline=None)
def test_equals_the_naive_loop(world, cut, library):
    queries, query_pids, query_camids, gallery, gallery_pids, gallery_camids = world
    ap, ap_step, first = naive(
        squared_distances(queries, gallery), query_pids, query_camids, gallery_pids, gallery_camids, cut
    )
    if library == "torch":
        world = [torch.from_numpy(x) for x in world]
    result = evaluate(*world, ranks=RANKS, no_match="zero", cut=cut)

    np.testing.assert_allclose(result.ap, np.nan_to_num(ap), atol=1e-12)
    np.testing.assert_allclose(result.ap_step, np.nan_to_num(ap_step), atol=1e-12)
    np.testing.assert_array_equal(result.first_rank, first)
    assert result.cmc == pytest.approx({k: np.mean((first > 0) & (first <= k)) for k in RANKS})
    assert result.num_valid_queries == np.count_nonzero(~np.isnan(ap))


@given(small_worlds(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_gallery_order_does_not_matter(world, random):
    order = list(range(len(world[3])))
    random.shuffle(order)
    shuffled = [*world[:3], *(x[order] for x in world[3:])]
    np.testing.assert_array_equal(
        evaluate(*world, no_match="zero").ap, evaluate(*shuffled, no_match="zero").ap
    )


# right images all near: the near part is sorted; everywhere: one sweep each
@pytest.mark.parametrize("spread", [0.02, 1.0])
@pytest.mark.parametrize("people", [3, 300])
def test_large_rows_equal_the_naive_loop(spread, people):
    rng = np.random.default_rng(0)
    query_pids, gallery_pids = rng.integers(1, people + 1, 6), rng.integers(-1, people + 1, 3000)
    query_camids, gallery_camids = rng.integers(0, 3, 6), rng.integers(0, 3, 3000)
    distances = np.round(rng.random((6, 3000)), 3)
    distances[gallery_pids == query_pids[:, None]] *= spread
    ids = (query_pids, query_camids, gallery_pids, gallery_camids)
    result = evaluate_distances(distances, *ids)
    np.testing.assert_allclose(
        [result.ap, result.ap_step, result.first_rank], naive(distances, *ids), rtol=1e-12
    )


@pytest.mark.parametrize(
    "pattern, trapezoid, step",
    [
        ("010", 0.25, 0.5),
        ("001", 1 / 6, 1 / 3),
        ("101", 0.5 * (1 + (1 / 2 + 2 / 3) / 2), 0.5 * (1 + 2 / 3)),
        ("011", 0.5 * (0.25 + (1 / 2 + 2 / 3) / 2), 0.5 * (1 / 2 + 2 / 3)),
        ("100", 1, 1),
    ],
)
def test_toy_average_precisions(pattern, trapezoid, step):
    gallery_pids = np.array([1 if c == "1" else 2 for c in pattern])
    result = evaluate_distances(np.array([[1.0, 2.0, 3.0]]), [1], [0], gallery_pids, np.ones(3, dtype=int))
    assert (result.mAP, result.mAP_step) == pytest.approx((trapezoid, step))


def test_equals_the_released_hhl_evaluator(golden, evaluator_inputs):
    arrays_, tolerance = golden("ranking_evaluators")
    result = evaluate(*evaluator_inputs, ranks=range(1, 21))
    np.testing.assert_allclose(result.ap, arrays_["hhl_ap"], atol=tolerance)
    np.testing.assert_allclose(list(result.cmc.values()), arrays_["hhl_cmc"], atol=tolerance)
    assert result.mAP == pytest.approx(np.nanmean(arrays_["hhl_ap"])) and result.num_valid_queries == 39


def test_equals_layumis_evaluator(golden, evaluator_inputs):
    arrays_, tolerance = golden("ranking_evaluators")
    result = evaluate(*evaluator_inputs, ranks=range(1, 21), no_match="zero", metric="cosine")
    np.testing.assert_allclose(result.ap, arrays_["layumi_ap"], atol=tolerance)
    np.testing.assert_allclose(list(result.cmc.values()), arrays_["layumi_cmc"], atol=tolerance)
    assert result.mAP == pytest.approx(arrays_["layumi_ap"].mean())


def test_collapsed_features_score_zero_not_chance():
    result = evaluate(
        np.ones((2, 4)), [1, 2], [0, 0], np.ones((6, 4)), [1, 1, 2, 2, 3, 3], [1] * 6, ranks=(1, 4, 5)
    )
    assert result.cmc == {1: 0, 4: 0, 5: 1}


def test_cosine_ignores_length_and_euclidean_does_not():
    queries, gallery = np.array([[1.0, 0.0]]), np.array([[10.0, 1.0], [1.0, 0.6]])
    ids = ([1], [0]), ([1, 2], [1, 1])
    assert evaluate(queries, *ids[0], gallery, *ids[1], metric="cosine").cmc[1] == 1
    assert evaluate(queries, *ids[0], gallery, *ids[1]).cmc[1] == 0


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("rerank", [None, True])
def test_large_means_change_no_distance(evaluator_inputs, library, rerank):
    """In float32, `|g|^2 - 2 q.g` of features around 1000 has no digit left for their distances."""
    query, *query_ids, gallery, pids, camids = evaluator_inputs
    inputs = [(1000 + x).astype(np.float32) for x in (query, gallery)]
    expected = evaluate(*[inputs[0].astype(float), *query_ids, inputs[1].astype(float), pids, camids])
    if rerank:
        wide = [x.astype(float) - 1000 for x in inputs]
        expected = evaluate(wide[0], *query_ids, wide[1], pids, camids, rerank=True)
    if library == "torch":
        inputs = [torch.from_numpy(x) for x in inputs]
    result = evaluate(inputs[0], *query_ids, inputs[1], pids, camids, rerank=rerank)
    np.testing.assert_allclose(result.ap, expected.ap, atol=1e-3 if rerank else 1e-12)


def test_equal_distances_stay_equal_around_a_large_mean():
    gallery = 10_000 + np.array([[0, 3], [3, 0], [0, -3], [-3, 0], [5, 5]], dtype=np.float32)
    query = np.full((1, 2), 10_000, dtype=np.float32)
    result = evaluate(query, [1], [0], gallery, [1, 2, 3, 4, 5], [1] * 5)
    assert result.first_rank.tolist() == [4]  # after the three wrong images at the same distance


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_blocks_and_libraries_agree(evaluator_inputs, monkeypatch, metric, dtype):
    expected = evaluate(*evaluator_inputs, metric=metric)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 300 * 4 * 7)  # seven queries a block
    tensors = [torch.from_numpy(x) for x in evaluator_inputs]
    result = evaluate(
        tensors[0].to(dtype).requires_grad_(),
        *tensors[1:3],
        tensors[3].to(dtype),
        *tensors[4:],
        metric=metric,
    )
    np.testing.assert_allclose(result.ap, expected.ap, atol=1e-2 if dtype == torch.float16 else 1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("rerank", [None, True])
def test_cuda_agrees_with_the_cpu(evaluator_inputs, rerank):
    tensors = [torch.from_numpy(x).cuda() for x in evaluator_inputs]
    np.testing.assert_allclose(
        evaluate(*tensors, rerank=rerank).ap, evaluate(*evaluator_inputs, rerank=rerank).ap, atol=1e-3
    )


def test_scores_have_the_names_of_records(evaluator_inputs):
    scores = evaluate(*evaluator_inputs).scores()
    assert list(scores) == ["R-1", "R-5", "R-10", "R-20", "mAP", "mAP_step"]
    assert all(type(value) is float and 0 <= value <= 1 for value in scores.values())


def test_a_query_without_a_match_is_skipped_or_zero():
    arguments = np.eye(2), [1, 9], [0, 0], np.eye(2), [1, 2], [1, 1]
    assert evaluate(*arguments).mAP == 1 and np.isnan(evaluate(*arguments).ap[1])
    assert evaluate(*arguments, no_match="zero").mAP == 0.5
    with pytest.raises(InputError, match="no query has"):
        evaluate(np.eye(2), [8, 9], [0, 0], np.eye(2), [1, 2], [1, 1])


def spoiled(position, value):
    arguments = [np.eye(3, 2), [1, 1, 2], [0, 0, 0], np.eye(4, 2), [1, 2, 1, 2], [1, 1, 1, 1]]
    arguments[position] = value
    return arguments


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (spoiled(0, np.full((3, 2), np.nan)), {}, "query features.*NaN"),
        (spoiled(3, np.array([[np.inf, 0]] * 4)), {}, "gallery features.*infinity"),
        (spoiled(0, np.empty((0, 2))), {}, "query features.*at least one row"),
        (spoiled(0, np.ones(3)), {}, "query features.*shape"),
        (spoiled(0, np.ones((3, 5))), {}, "same width, found 5 and 2"),
        (spoiled(0, torch.ones(3, 2)), {}, "one of each"),
        (spoiled(0, np.ones((3, 2), dtype=np.float32)), {}, "one dtype"),
        (spoiled(1, [1, 1]), {}, "query_pids.*expected 3"),
        (spoiled(5, [0.5] * 4), {}, "gallery_camids.*integers"),
        (spoiled(1, [0, 1, 2]), {}, "query_pids.*from 1"),
        (spoiled(0, np.zeros((3, 2))), {"metric": "cosine"}, "row of zeros"),
        (spoiled(0, np.eye(3, 2)), {"metric": "manhattan"}, "metric 'manhattan'"),
        (spoiled(0, np.eye(3, 2)), {"ranks": (0, 1)}, "ranks"),
        (spoiled(0, np.eye(3, 2)), {"no_match": "drop"}, "no_match"),
        (spoiled(0, np.eye(3, 2)), {"cut": 0}, "cut 0"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(*arguments, **options)


@pytest.mark.parametrize(
    "distances, message",
    [
        (np.ones((2, 3)), "shape"),
        (np.full((1, 3), np.nan), "NaN"),
        (lambda start, stop: np.ones((1, 2)), "shape"),
    ],
)
def test_bad_distances_are_named(distances, message):
    with pytest.raises(InputError, match=message):
        evaluate_distances(distances, [1], [0], [1, 2, 3], [1, 1, 1])
