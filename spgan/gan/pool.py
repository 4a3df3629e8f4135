"""The pool of earlier translations that the discriminators see. Released counterpart: `ItemPool` of
`SPGAN/Utils/utils.py`.
"""

from __future__ import annotations

import numpy as np


class ImagePool:
    """Fills up first and returns its input; then, by kind:

    history   with probability 0.5 swaps the image with a random one of the pool (Shrivastava et al., 2017)
    lag1      always swaps with a fixed slot, the image's position in its batch, and thus returns the image of
              the previous step. The released demo script (batch 1) reseeds NumPy at every step, so that each
              pool draws the same slot every time: 0 for G(x_S), 3 for F(x_T). The slot of the latter decides
              one image alone, the 51st: the script returns the fourth instead of the first
    none      returns every image unchanged, from the start
    """

    def __init__(self, kind: str, size: int):
        self.kind, self.size = kind, size
        self.items: list[np.ndarray] = []

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns as many images `(B, H, W, 3)` as it receives.

        A full `history` pool draws two random numbers for each image; the other kinds draw none.
        """
        if self.kind == "none":
            return images
        return np.stack([self._swap(image, position, rng) for position, image in enumerate(images)])

    def _swap(self, image: np.ndarray, position: int, rng: np.random.Generator) -> np.ndarray:
        if len(self.items) < self.size:
            self.items.append(image)
            return image
        if self.kind == "lag1":
            swap, slot = True, position % self.size
        else:
            swap, slot = rng.random() > 0.5, int(rng.integers(self.size))
        if not swap:
            return image
        earlier, self.items[slot] = self.items[slot], image
        return earlier
