"""Sparse re-ranking against a dense reference written from the paper, and against the released code."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.evaluation import distances as blocks
from common.evaluation.ranking import evaluate, evaluate_distances
from common.evaluation.rerank import RerankedDistances, RerankOptions, _upper_bounds


def dense_rerank(queries, gallery, k1, k2, lam):
    """Zhong et al. (CVPR 2017), Sec. 3, in float64 with sets; distances squared Euclidean, each row over its
    maximum.
    """
    points = np.concatenate([queries, gallery]).astype(np.float64)
    d = ((points[:, None] - points[None]) ** 2).sum(2)
    order = np.argsort(d, axis=1, kind="stable")
    d /= d.max(axis=1, keepdims=True)

    def reciprocal(i, k):
        return {j for j in order[i, : k + 1] if i in order[j, : k + 1]}

    v = np.zeros_like(d)
    for i in range(len(points)):
        near = reciprocal(i, k1)
        members = set(near)
        for c in near:
            half = reciprocal(c, round(k1 / 2))
            if len(near & half) > 2 / 3 * len(half):
                members |= half
        members = sorted(members)
        v[i, members] = np.exp(-d[i, members])
    v /= v.sum(axis=1, keepdims=True)
    v = np.stack([v[order[i, :k2]].mean(axis=0) for i in range(len(points))])
    q = len(queries)
    jaccard = np.array([[1 - np.minimum(a, b).sum() / np.maximum(a, b).sum() for b in v[q:]] for a in v[:q]])
    return (1 - lam) * jaccard + lam * d[:q, q:]


def clustered(seed, num_queries, num_gallery, width=8, people=6):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, width))
    return [
        centres[rng.integers(0, people, n)] + 0.7 * rng.normal(size=(n, width))
        for n in (num_queries, num_gallery)
    ]


@pytest.mark.parametrize("k1, k2, lam", [(20, 6, 0.3), (7, 3, 0.0), (5, 1, 0.5), (1, 2, 1.0)])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_equals_the_dense_reference(k1, k2, lam, library, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 4000)
    features = clustered(k1, 17, 90)
    inputs = [torch.from_numpy(x) for x in features] if library == "torch" else features
    reranked = RerankedDistances(*inputs, RerankOptions(k1, k2, lam))
    result = np.concatenate([reranked(start, min(start + 5, 17)) for start in range(0, 17, 5)])
    np.testing.assert_allclose(result, dense_rerank(*features, k1, k2, lam), atol=2e-6)


def test_equals_the_released_code(golden, rerank_inputs):
    arrays, tolerance = golden("ranking_rerank")  # float16 inside
    np.testing.assert_allclose(RerankedDistances(*rerank_inputs)(0, 24), arrays["distances"], atol=tolerance)


def test_many_columns_use_group_minima():
    block = np.random.default_rng(0).random((5, 3000)).astype(np.float32)
    bounds = _upper_bounds(block, 4)
    assert (np.count_nonzero(block <= bounds[:, None], axis=1) >= 4).all()
    assert (np.count_nonzero(block <= bounds[:, None], axis=1) < 16).all()


def test_duplicates_and_a_collapsed_network_give_finite_distances():
    same = np.ones((4, 3), dtype=np.float32), np.ones((30, 3), dtype=np.float32)
    assert np.isfinite(RerankedDistances(*same)(0, 4)).all()


def test_evaluate_takes_reranked_distances(evaluator_inputs):
    queries, query_pids, query_camids, gallery, gallery_pids, gallery_camids = evaluator_inputs
    ids = query_pids, query_camids, gallery_pids, gallery_camids
    for options in (RerankOptions(10, 3, 0.2), True):
        expected = dense_rerank(queries, gallery, *((10, 3, 0.2) if options is not True else (20, 6, 0.3)))
        ap = evaluate(*evaluator_inputs, rerank=options).ap
        np.testing.assert_allclose(ap, evaluate_distances(expected, *ids).ap, atol=1e-3)
        assert np.nanmax(np.abs(ap - evaluate(*evaluator_inputs).ap)) > 0.01


def test_cosine_reranks_normalised_features():
    queries, gallery = clustered(3, 5, 40)
    scaled = queries * np.arange(1, 6)[:, None]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, gallery)]
    np.testing.assert_allclose(
        RerankedDistances(scaled, gallery, metric="cosine")(0, 5), RerankedDistances(*unit)(0, 5), atol=1e-5
    )


@pytest.mark.parametrize("values", [(0, 1, 0.3), (5, 7, 0.3), (5, 0, 0.3), (5, 2, 1.5)])
def test_options_out_of_range_are_named(values):
    with pytest.raises(InputError, match="re-ranking"):
        RerankOptions(*values)


def test_too_few_images_are_named():
    with pytest.raises(InputError, match="more images than k1 = 20, found 12"):
        RerankedDistances(np.eye(2, 4), np.eye(10, 4))
