"""The triplet losses against the released one (golden arrays) and against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hhl.losses import batch_all_triplet, batch_hard_triplet, pairwise_distance

PK = np.repeat(np.arange(8) * 3, 8)
PSEUDO = 1000 + np.arange(16) * 617
LABELS = {
    "pk": PK,
    "mixed112": np.r_[PK, np.tile(PSEUDO, 7)],
    "mixed144": np.r_[PK, np.tile(PSEUDO, 9)],
    "singletons": np.r_[PK, PSEUDO],
    "duplicates": np.arange(24) // 4,
    "colliding": np.r_[PK, np.tile(np.where(np.arange(16) == 5, PSEUDO[2], PSEUDO), 7)],
}


@pytest.fixture
def embed(formulas):
    """Embeddings `(N, 16)` that cluster by label. All but `pk` lie on a grid of 1/8, where float32 is exact
    and ties are ties on any machine.
    """

    def build(name: str) -> Tensor:
        labels = LABELS[name]
        row = np.unique(labels, return_inverse=True)[1].ravel()
        values = 0.8 * formulas.scatter(f"{name} centre", row.max() + 1, 16)[row] + 0.6 * formulas.scatter(
            name, len(labels), 16
        )
        if name != "pk":
            values = np.round(8 * values) / 8
        if name == "duplicates":
            values = values[np.arange(24) // 2 % 10]  # equal rows, within an identity and across two
        return torch.tensor(values, dtype=torch.float32, requires_grad=True)

    return build


@pytest.mark.parametrize("name", LABELS)
def test_batch_hard_equals_the_released_loss_in_value_and_gradient(name, embed, golden):
    embeddings, expected = embed(name), golden("hhl_losses")
    loss, precision = batch_hard_triplet(embeddings, torch.from_numpy(LABELS[name]))
    loss.backward()
    np.testing.assert_allclose([loss.item(), precision.item()], expected[f"{name}_value"], atol=1e-6)
    np.testing.assert_allclose(embeddings.grad.numpy(), expected[f"{name}_gradient"], atol=1e-6)


def loop(
    distance: np.ndarray, labels: np.ndarray, *, margin, self_positive: bool, anchors: np.ndarray
) -> tuple[float, float]:
    terms, right = [], []
    for a in np.flatnonzero(anchors):
        positive = (labels == labels[a]) & (self_positive | (np.arange(len(labels)) != a))
        gap = max(distance[a][positive], default=0.0) - min(distance[a][labels != labels[a]])
        terms.append(np.log1p(np.exp(gap)) if margin == "soft" else max(0.0, gap + margin))
        right.append(gap < 0)
    return np.mean(terms), np.mean(right)


@pytest.mark.parametrize("margin", [0.3, 1.0, "soft"])
@pytest.mark.parametrize("self_positive", [True, False])
@pytest.mark.parametrize("subset", ["all", "source"])
def test_batch_hard_variants_equal_a_loop(margin, self_positive, subset, embed):
    labels, embeddings = LABELS["singletons"], embed("singletons").detach()
    anchors = np.arange(len(labels)) < (64 if subset == "source" else 80)
    got = batch_hard_triplet(
        embeddings,
        torch.from_numpy(labels),
        margin=margin,
        self_positive=self_positive,
        anchors=torch.from_numpy(anchors) if subset == "source" else None,
    )
    expected = loop(
        pairwise_distance(embeddings).double().numpy(),
        labels,
        margin=margin,
        self_positive=self_positive,
        anchors=anchors,
    )
    np.testing.assert_allclose([value.item() for value in got], expected, atol=1e-6)


def test_a_lone_image_pushes_its_negative_and_is_not_pulled(embed):
    """One image alone: with itself as the only positive its distance is about 0, so the gradient comes from
    the negative.
    """
    embeddings = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0]], requires_grad=True)
    loss, _ = batch_hard_triplet(
        embeddings, torch.tensor([7, 8, 9]), anchors=torch.tensor([True, False, False])
    )
    loss.backward()
    assert loss.item() == pytest.approx(0.2, abs=1e-5)
    assert embeddings.grad.tolist() == [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]


def test_gradients_are_finite_when_all_rows_are_equal():
    for triplet in (batch_hard_triplet, batch_all_triplet):
        for margin in (0.3, "soft"):
            embeddings = torch.full((6, 4), 0.7, requires_grad=True)
            triplet(embeddings, torch.tensor([0, 0, 1, 1, 2, 2]), margin=margin)[0].backward()
            assert torch.isfinite(embeddings.grad).all()


def test_batch_hard_says_what_is_missing():
    embeddings = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="4 anchors, 1 identities"):
        batch_hard_triplet(embeddings, torch.zeros(4))
    with pytest.raises(ValueError, match="0 anchors"):
        batch_hard_triplet(embeddings, torch.arange(4), anchors=torch.zeros(4, dtype=torch.bool))


@pytest.mark.parametrize("margin", [0.3, "soft"])
def test_batch_all_equals_a_loop(margin, embed):
    labels, embeddings = LABELS["duplicates"], embed("duplicates").detach()
    distance = pairwise_distance(embeddings).double().numpy()
    terms = []
    for a in range(24):
        for p in np.flatnonzero((labels == labels[a]) & (np.arange(24) != a)):
            for n in np.flatnonzero(labels != labels[a]):
                gap = distance[a, p] - distance[a, n]
                terms.append(np.log1p(np.exp(gap)) if margin == "soft" else max(0.0, gap + margin))
    terms = np.array(terms)
    mean, mean_active, share = batch_all_triplet(embeddings, torch.from_numpy(labels), margin=margin)
    np.testing.assert_allclose(
        [mean, mean_active, share], [terms.mean(), terms[terms > 0].mean(), (terms > 0).mean()], atol=1e-6
    )


def test_batch_all_at_its_edges():
    apart = torch.tensor([[0.0], [0.01], [9.0], [9.01]])
    assert [v.item() for v in batch_all_triplet(apart, torch.tensor([0, 0, 1, 1]))] == [0, 0, 0]
    with pytest.raises(ValueError, match="no triplet among 4 images of 4 identities"):
        batch_all_triplet(apart, torch.arange(4))


def test_distances_are_euclidean(embed):
    embeddings = embed("pk").detach()
    expected = torch.cdist(embeddings.double(), embeddings.double())
    torch.testing.assert_close(
        pairwise_distance(embeddings.double()), expected.clamp(min=1e-6), atol=1e-6, rtol=1e-6
    )
