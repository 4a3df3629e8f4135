"""The pool of earlier translations that the discriminators see. Released counterpart: `ItemPool` of
`SPGAN/Utils/utils.py`.
"""

from __future__ import annotations

import numpy as np


class ImagePool:
    """Fills up first and returns what it is given; then, by kind:

    history   with probability 0.5 swaps the image with a random one of the pool (Shrivastava et al.,
    2017)
    lag1      always swaps with one and the same place, the image's position in its batch: it returns the
    image of the step before. The
              released demo script, of batch 1, seeds NumPy anew in every step, so that each pool draws
              the same place for ever
    none      every image is returned as it comes, from the start
    """

    def __init__(self, kind: str, size: int):
        self.kind, self.size = kind, size
        self.items: list[np.ndarray] = []

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Images `(B, H, W, 3)` to as many; the draws come from `rng`: for `history` two an image once the
        pool is full, else none.
        """
        return (
            images
            if self.kind == "none"
            else np.stack([self._swap(image, position, rng) for position, image in enumerate(images)])
        )

    def _swap(self, image: np.ndarray, position: int, rng: np.random.Generator) -> np.ndarray:
        if len(self.items) < self.size:
            self.items.append(image)
            return image
        swap, place = (
            (True, position % self.size)
            if self.kind == "lag1"
            else (rng.random() > 0.5, int(rng.integers(self.size)))
        )
        if not swap:
            return image
        earlier, self.items[place] = self.items[place], image
        return earlier
