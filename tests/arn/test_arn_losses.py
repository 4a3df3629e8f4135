"""ARN's losses: the released forms against arrays of the released code, the blog's forms against closed
values, and every numerical hazard.
"""

import itertools
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from arn.config import ContrastiveConfig, DifferenceConfig, LossWeights, ReconstructionConfig
from arn.losses import (
    contrastive_loss,
    difference_loss,
    mean_cosine,
    mmd_loss,
    reconstruction_loss,
    safe_sqrt,
    weighted_sum,
)

RELEASED_CTR = {"distance": "sq_mean", "square_hinge": False, "reduction": "mean"}
RELEASED_REC = {"norm": "l1", "reduction": "pixel"}
RELEASED_DIFF = {"form": "dot", "row_norm": False, "reduction": "sum"}
LABELS = {
    "positives4": [0, 0, 1, 2],
    "none4": [0, 1, 2, 3],
    "pk8": [0] * 4 + [1] * 4,
    "uniform16": [*range(15), 14],
}
DISTANCES = ("rms", "l2", "l2norm", "sq_mean", "signed")
FORMS = list(itertools.product(("nxn", "dxd", "dot"), (True, False), (True, False), ("mean", "sum")))


@pytest.fixture(scope="module")
def ab() -> tuple[torch.Tensor, torch.Tensor]:
    i, j = torch.arange(6, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)
    return torch.sin(0.7 * i + 0.3 * j), torch.sin(0.5 * i + 0.9 * j)


# ---------------------------------------------------------------- parity with the released code


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_golden_values_of_the_fact_sheet(ab, golden, dtype, tolerance):
    a, b = (x.to(dtype) for x in ab)
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    images = a.view(2, 3, 2, 4), b.view(2, 3, 2, 4)
    ours = [
        reconstruction_loss(*images, **RELEASED_REC),
        reconstruction_loss(*images, norm="frobenius", reduction="pixel"),
        contrastive_loss(a, labels, **RELEASED_CTR),
        contrastive_loss(3 * a, labels, **RELEASED_CTR),
        difference_loss(a, b, **RELEASED_DIFF),
        mmd_loss(a, b) ** 2,
        mmd_loss(a, b),
    ]
    assert np.allclose([float(x) for x in ours], golden("arn_losses")["section9"], rtol=tolerance, atol=0)
    sheet = [
        2.4185887316,
        0.4443162189,
        0.6349428603,
        0.9266040762,
        -0.6093107660,
        1.0441870279,
        1.0218547000,
    ]
    assert np.allclose(golden("arn_losses")["section9"], sheet, atol=1e-10)
    raw = difference_loss(a, b, form="dxd", row_norm=False, reduction="sum")
    assert float(raw) == pytest.approx(259.9618176938, rel=max(tolerance, 1e-10)) and float(
        (a.T @ b).square().sum()
    ) == pytest.approx(float(raw))


@pytest.mark.parametrize("case", LABELS)
def test_every_released_loss_and_gradient(case, golden, formulas):
    arrays, labels = golden("arn_losses"), torch.tensor(LABELS[case])
    n, scale = len(labels), 0.7 if case == "none4" else 3.0
    codes = {
        kind: (scale * formulas.scatter(f"{case} {kind.replace('_', ' ')}", n, 12)).requires_grad_()
        for kind in ("source_common", "source_private", "target_common", "target_private")
    }
    rebuilt = {
        d: formulas.scatter(f"{case} rebuilt {d}", n, 3, 4, 2).requires_grad_() for d in ("source", "target")
    }
    logits = (4 * formulas.scatter(f"{case} logits", n, 20)).requires_grad_()
    terms = [
        F.cross_entropy(logits, labels),
        sum(
            reconstruction_loss(rebuilt[d], formulas.scatter(f"{case} {d}", n, 3, 4, 2), **RELEASED_REC)
            for d in ("source", "target")
        ),
        sum(
            difference_loss(codes[f"{d}_common"], codes[f"{d}_private"], **RELEASED_DIFF)
            for d in ("source", "target")
        ),
        contrastive_loss(codes["source_common"], labels, **RELEASED_CTR),
        mmd_loss(codes["target_common"], codes["source_common"]),
    ]
    total = terms[0] + 0.1 * sum(terms[1:])
    total.backward()
    assert np.allclose(
        [float(t.detach()) for t in [*terms, total]], arrays[f"{case}_values"], rtol=1e-12, atol=0
    )
    for kind, code in codes.items():
        assert np.allclose(code.grad.numpy(), arrays[f"{case}_grad_{kind}"], rtol=1e-10, atol=1e-13), kind
    assert np.allclose(
        formulas.fingerprint({d: x.grad for d, x in rebuilt.items()}),
        arrays[f"{case}_grad_rebuilt"],
        rtol=1e-12,
        atol=1e-15,
    )
    assert np.allclose(
        formulas.fingerprint({"l": logits.grad}), arrays[f"{case}_grad_logits"], rtol=1e-12, atol=1e-15
    )


# ---------------------------------------------------------------- closed values of the blog's forms


def test_contrastive_by_hand():
    """Three codes in the plane: the pair (0, 1) has one identity and distance 5, the others are 1 and
    sqrt(34) apart.
    """
    codes, labels = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, -1.0]]), torch.tensor([7, 7, 3])
    assert float(contrastive_loss(codes, labels, distance="l2")) == pytest.approx(25 + (2 - 1) ** 2 + 0)
    assert float(
        contrastive_loss(codes, labels, distance="l2", square_hinge=False, margin=3)
    ) == pytest.approx(25 + 2)
    assert float(contrastive_loss(codes, labels, distance="rms")) == pytest.approx(
        25 / 2 + (2 - 0.5**0.5) ** 2
    )
    assert float(
        contrastive_loss(codes, labels, distance="sq_mean", square_hinge=False, reduction="mean")
    ) == pytest.approx((12.5 + 1.5) / 3)
    # the letter of Eq. 2: 2 x 25 for the positive pair, the hinge of each signed difference for the others,
    # both ways round
    hinges = [(0, 1), (3, 5)]
    for power, square in ((2, True), (1, False)):
        signed = 50 + sum(max(0, 2 - s * d) ** power for pair in hinges for d in pair for s in (1, -1))
        loss = contrastive_loss(codes, labels, distance="signed", square_hinge=square)
        assert float(loss) == pytest.approx(signed)


def test_with_unnormalised_codes_and_margin_2_no_negative_is_active():
    """Raw 2048-d codes lie tens apart: `l2` with the released margin sees no negative, `rms` sees all."""
    codes = torch.randn(16, 2048, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16)
    assert float(contrastive_loss(codes, labels, distance="l2")) == 0
    assert float(contrastive_loss(codes, labels, distance="rms")) > 10


def test_reconstruction_scales():
    rebuilt, original = torch.zeros(2, 3, 4, 5), torch.full((2, 3, 4, 5), 2.0)
    assert float(reconstruction_loss(rebuilt, original)) == 4
    assert float(reconstruction_loss(rebuilt, original, reduction="sum")) == 4 * 120
    # 3 x the mean absolute error
    assert float(reconstruction_loss(rebuilt, original, **RELEASED_REC)) == 2 * 3
    assert float(reconstruction_loss(rebuilt, original, norm="frobenius", reduction="sum")) == pytest.approx(
        (4 * 120) ** 0.5
    )


def codes_of(kind: str, n: int = 16, d: int = 2048) -> tuple[torch.Tensor, torch.Tensor]:
    common = torch.rand(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if kind == "equal":
        return common, common.clone()
    if kind == "orthogonal":  # disjoint supports
        half = torch.arange(d) < d // 2
        return common * half, common.flip(0) * ~half
    basis = torch.eye(d, dtype=torch.float64)
    return basis[:n], basis[n : 2 * n]


def test_the_blindness_of_the_dxd_reading():
    """Section 3.4 of the fact sheet: orthogonal codes cost as much as equal ones under d x d, nothing under N
    x N.
    """
    value = {
        (kind, form): float(difference_loss(*codes_of(kind), form=form, reduction="sum"))
        for kind in ("equal", "orthogonal", "orthonormal")
        for form in ("nxn", "dxd")
    }
    assert value["equal", "dxd"] == pytest.approx(150, rel=0.05) and value[
        "orthogonal", "dxd"
    ] == pytest.approx(value["equal", "dxd"], rel=0.05)
    assert value["equal", "nxn"] == pytest.approx(150, rel=0.05) and value["orthogonal", "nxn"] == 0
    assert value["orthonormal", "dxd"] == pytest.approx(16) and value["orthonormal", "nxn"] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_the_trace_identity(n, d, row_norm, center, seed):
    generator = torch.Generator().manual_seed(seed)
    common, private = (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))
    value = difference_loss(common, private, form="dxd", row_norm=row_norm, center=center, reduction="sum")
    if center:
        common, private = common - common.mean(0), private - private.mean(0)
    if row_norm:
        common, private = F.normalize(common), F.normalize(private)
    assert float(value) == pytest.approx(float((common.T @ private).square().sum()), rel=1e-9, abs=1e-12)


def test_scales_that_decide_how_gamma_is_read():
    """1500 x the term, N = 16, d = 2048: tiny for d x d with a mean, of order one for signed codes under N x
    N, vast for every sum.
    """
    generator = torch.Generator().manual_seed(2)
    signed = [torch.randn(16, 2048, generator=generator) for _ in range(2)]
    positive = [torch.rand(16, 2048, generator=generator) for _ in range(2)]
    assert 1500 * float(difference_loss(*positive, form="dxd")) == pytest.approx(0.054, rel=0.1)
    assert 1500 * float(difference_loss(*signed)) == pytest.approx(0.73, rel=0.2)
    assert 1500 * float(difference_loss(*positive)) == pytest.approx(847, rel=0.05)
    assert 1500 * float(difference_loss(*positive, form="dxd", reduction="sum")) > 1e5


def test_mmd_floor_where_the_kernels_have_died():
    far = 1e4 * torch.eye(32)
    assert float(mmd_loss(far[:16], far[16:])) == pytest.approx((6 / 16) ** 0.5)
    with pytest.raises(ValueError, match="16 and 15"):
        mmd_loss(far[:16], far[:15])


def test_mean_cosine():
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert float(mean_cosine(a, -3 * a)) == pytest.approx(1) and float(mean_cosine(a, a.flip(0))) == 0


def test_eq_5_weighs_each_term_and_omits_absent_ones():
    weights = LossWeights(cls=1, ctr=0.01, rec=2, diff=1500, mmd=0.1)
    terms = {
        name: torch.tensor(value) for name, value in zip(("cls", "ctr", "rec", "diff", "mmd"), range(1, 6))
    }
    assert float(weighted_sum(weights, terms)) == pytest.approx(1 + 0.02 + 6 + 6000 + 0.5)
    for name in terms:
        others = {other: term for other, term in terms.items() if other != name}
        missing = float(weighted_sum(weights, terms)) - float(weighted_sum(weights, others))
        assert missing == pytest.approx(getattr(weights, name) * float(terms[name]), abs=1e-3)


@pytest.mark.parametrize(
    "config, loss",
    [
        (ContrastiveConfig(), lambda a, b, **form: contrastive_loss(a, torch.tensor([0, 0, 1, 1]), **form)),
        (
            ReconstructionConfig(),
            lambda a, b, **form: reconstruction_loss(a.view(4, 3, 2, 1), b.view(4, 3, 2, 1), **form),
        ),
        (DifferenceConfig(), difference_loss),
    ],
)
def test_every_choice_of_a_loss_has_a_branch(config, loss, formulas):
    """Each combination of choices returns another value, and no value is that of an unhandled choice."""
    codes = [formulas.scatter(f"branch {name}", 4, 6) for name in "ab"]
    kinds = {
        name: get_args(kind)
        for name, kind in get_type_hints(type(config)).items()
        if get_origin(kind) is Literal
    }
    assert len(kinds) == 2
    values = [
        float(loss(*codes, **dict(zip(kinds, choices)))) for choices in itertools.product(*kinds.values())
    ]
    assert len({round(value, 9) for value in values}) == len(values)


# ---------------------------------------------------------------- hazards


def hazards():
    for distance, square, reduction in itertools.product(DISTANCES, (True, False), ("sum", "mean")):
        name = f"ctr {distance} {square} {reduction}"
        yield (
            name,
            lambda a, b, d=distance, s=square, r=reduction: contrastive_loss(
                a, torch.arange(len(a)), distance=d, square_hinge=s, reduction=r
            ),
        )
    for form, row_norm, center, reduction in FORMS:
        name = f"diff {form} {row_norm} {center} {reduction}"
        yield (
            name,
            lambda a, b, f=form, n=row_norm, c=center, r=reduction: difference_loss(
                a, b, form=f, row_norm=n, center=c, reduction=r
            ),
        )
    for norm in ("squared", "l1", "frobenius"):
        yield (
            f"rec {norm}",
            lambda a, b, n=norm: reconstruction_loss(
                a[:, :, None, None], b.detach()[:, :, None, None], norm=n
            ),
        )
    yield "mmd", mmd_loss
    yield "cosine", mean_cosine


@pytest.mark.parametrize("name, loss", [pytest.param(n, f, id=n) for n, f in hazards()])
@pytest.mark.parametrize("case", ["zero codes", "equal codes", "one image"])
def test_no_nan_at_zero_distances_and_for_one_image(name, loss, case):
    start = {"zero codes": torch.zeros(4, 6), "equal codes": torch.ones(4, 6), "one image": torch.ones(1, 6)}[
        case
    ]
    a, b = start.clone().requires_grad_(), start.clone().requires_grad_()
    value = loss(a, b)
    assert torch.isfinite(value)
    if value.requires_grad:
        value.backward()
        for x in (a, b):
            assert x.grad is None or torch.isfinite(x.grad).all()


def test_safe_sqrt():
    x = torch.tensor([-1.0, 0.0, 4.0], requires_grad=True)
    value = safe_sqrt(x)
    value.sum().backward()
    assert value.tolist() == [0, 0, 2] and x.grad.tolist() == [0, 0, 0.25]
