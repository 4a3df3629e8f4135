"""Plans of the images at each step: shuffled epochs, PK batches, pairs of domains, and their random streams.

A *plan* maps a step to the indices of its batch. It is a pure function of the seed and the step, so that a
resumed run sees the batches of an uninterrupted one. Imports without PyTorch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from common.errors import InputError

Plan = Callable[[int], np.ndarray]


def random_stream(seed: int, stream: str, *place: int) -> np.random.Generator:
    """Returns NumPy's generator for one place (an epoch, a step) of a named random stream."""
    return np.random.default_rng((seed, zlib.crc32(stream.encode()), *place))


class Passes(Protocol):
    """Batches in passes over a list of images, `steps_per_epoch` batches each."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, epoch: int, position: int) -> np.ndarray: ...


@dataclass(frozen=True)
class EpochPlan:
    """Shuffled epochs over 0..n-1; images that do not fill the last batch of an epoch are left out of it."""

    n: int
    batch_size: int
    seed: int
    stream: str = ""

    @property
    def steps_per_epoch(self) -> int:
        return self.n // self.batch_size

    def batch(self, epoch: int, position: int) -> np.ndarray:
        """Returns the indices `(batch_size,)` at a position of an epoch."""
        start = position * self.batch_size
        return _permutation(self.n, self.seed, self.stream, epoch)[start : start + self.batch_size]

    def __call__(self, step: int) -> np.ndarray:
        return self.batch(*divmod(step, self.steps_per_epoch))


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, stream: str, epoch: int) -> np.ndarray:
    order = random_stream(seed, stream, epoch).permutation(n)
    order.setflags(write=False)
    return order


def epoch_plan(n: int, batch_size: int, *, seed: int, stream: str = "") -> EpochPlan:
    """Returns shuffled epochs with `drop_last`. Raises `InputError` if the images do not fill one batch."""
    if batch_size < 1 or seed < 0:
        raise InputError(f"batch size {batch_size}, seed {seed}: expected at least 1 and 0")
    if n < batch_size:
        raise InputError(
            f"{n} images do not fill one batch of {batch_size}: use a smaller batch or more images"
        )
    return EpochPlan(n, batch_size, seed, stream)


@dataclass(frozen=True)
class IdentityPlan:
    """PK sampling: each identity appears at most once an epoch, in random order, with `images_per_id` images.

    The released `RandomIdentitySampler` of HHL under `drop_last`.
    """

    images_of: tuple[np.ndarray, ...]  # indices of each identity's images
    ids_per_batch: int
    images_per_id: int
    seed: int
    stream: str

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images_of) // self.ids_per_batch

    def batch(self, epoch: int, position: int) -> np.ndarray:
        """Returns indices `(ids_per_batch * images_per_id,)`, grouped by identity.

        An identity with too few images draws all of them with replacement.
        """
        order = random_stream(self.seed, self.stream, epoch).permutation(len(self.images_of))
        chosen = order[position * self.ids_per_batch : (position + 1) * self.ids_per_batch]
        draw = random_stream(self.seed, self.stream, epoch, position + 1)
        k = self.images_per_id
        return np.concatenate(
            [draw.choice(self.images_of[i], k, replace=len(self.images_of[i]) < k) for i in chosen]
        )

    def __call__(self, step: int) -> np.ndarray:
        return self.batch(*divmod(step, self.steps_per_epoch))


def identity_plan(
    labels: Sequence[int] | np.ndarray, *, ids: int, images_per_id: int, seed: int, stream: str
) -> IdentityPlan:
    """Returns PK batches of `ids` identities; `labels` `(N,)` holds each image's identity.

    Raises `InputError` if there are fewer identities than one batch needs.
    """
    labels = np.asarray(labels)
    images_of = tuple(np.flatnonzero(labels == label) for label in np.unique(labels))
    if min(ids, images_per_id) < 1:
        raise InputError(
            f"identity sampling: {ids} identities x {images_per_id} images a batch: expected at least 1 x 1"
        )
    if len(images_of) < ids:
        raise InputError(
            f"identity sampling: expected at least {ids} identities for one batch, found {len(images_of)}: "
            "use fewer identities a batch, or more data"
        )
    return IdentityPlan(images_of, ids, images_per_id, seed, stream)


@dataclass(frozen=True)
class PairPlans:
    """Both domains of a GAN, shuffled every epoch of min(source, target) images.

    The rest of the larger domain waits for a later epoch.
    """

    source: Plan
    target: Plan
    steps_per_epoch: int


def pair_plans(num_source: int, num_target: int, batch: int, seed: int) -> PairPlans:
    """Returns the batches of both domains. Raises `InputError` for a domain of one image, and for one
    that does not fill a batch.
    """
    for domain, count in (("source", num_source), ("target", num_target)):
        if count < 2:
            raise InputError(
                f"{count} {domain} training images: expected at least 2, "
                "a domain of one image has no style to learn"
            )
    steps = min(num_source, num_target) // batch

    def plan(count: int, domain: str) -> Plan:
        epochs = epoch_plan(count, batch, seed=seed, stream=f"gan {domain}")
        return lambda step: epochs.batch(*divmod(step, steps))

    return PairPlans(plan(num_source, "source"), plan(num_target, "target"), steps)
