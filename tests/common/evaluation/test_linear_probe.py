"""The linear probe: what a linear classifier can read from codes, and nothing that it cannot."""

import numpy as np
import pytest

from common.evaluation.yardsticks import linear_probe


@pytest.mark.parametrize("shift, low, high", [(0.0, 0.3, 0.7), (2.0, 0.75, 0.92), (9.0, 1.0, 1.0)])
def test_a_shift_along_one_axis_is_read_as_well_as_it_can_be(shift, low, high):
    """The best accuracy at a shift of two deviations is 0.84."""
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(300, 8)), draw.normal(size=(201, 8))
    second[:, 3] += shift
    assert low <= linear_probe(first, second) <= high


def test_what_is_not_linear_is_not_read():
    """One domain inside the other: a quadratic classifier would tell them apart."""
    draw = np.random.default_rng(1)
    assert linear_probe(0.1 * draw.normal(size=(400, 4)), 5 * draw.normal(size=(400, 4))) < 0.75


def test_scales_and_constant_columns_do_not_matter():
    draw = np.random.default_rng(2)
    first, second = draw.normal(size=(200, 3)), draw.normal(size=(200, 3)) + 1
    scales = np.array([1e-4, 1.0, 1e4])
    constant = [np.hstack([scales * rows, np.ones((200, 1))]) for rows in (first, second)]
    assert linear_probe(*constant) == pytest.approx(linear_probe(first, second), abs=0.02)


def test_the_training_half_is_not_the_tested_half():
    """500 random columns separate 100 rows perfectly; other rows stay a guess."""
    draw = np.random.default_rng(3)
    assert linear_probe(draw.normal(size=(100, 500)), draw.normal(size=(100, 500))) < 0.7
