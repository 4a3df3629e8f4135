"""Plans: which images come at which step."""

from __future__ import annotations

import numpy as np
import pytest

from common.datasets.plans import pair_plans
from common.errors import InputError


def test_an_epoch_of_pairs_is_the_smaller_domain_and_the_larger_one_rotates():
    plans = pair_plans(20, 6, 2, seed=0)
    assert plans.steps_per_epoch == 3
    epochs = [np.concatenate([plans.source(step) for step in range(3 * e, 3 * e + 3)]) for e in range(8)]
    assert all(len(set(epoch.tolist())) == 6 for epoch in epochs)
    assert len({i for epoch in epochs for i in epoch.tolist()}) > 15
    targets = [np.concatenate([plans.target(step) for step in range(3 * e, 3 * e + 3)]) for e in range(2)]
    assert sorted(targets[0]) == sorted(targets[1]) == list(range(6))
    assert targets[0].tolist() != targets[1].tolist()


def test_pairs_with_a_domain_of_one_image_and_one_smaller_than_a_batch():
    with pytest.raises(InputError, match="1 source training images: expected at least 2"):
        pair_plans(1, 9, 1, seed=0)
    with pytest.raises(InputError, match="do not fill one batch"):
        pair_plans(9, 3, 4, seed=0)
