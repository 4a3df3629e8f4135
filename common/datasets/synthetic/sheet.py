"""Writes contact sheets: one person per row, cameras from left to right, two frames per camera.

    python -m common.datasets.synthetic.sheet [--data-seed 0] [--people 3] [--out DIR]

writes synthetic-market.png and synthetic-duke.png, by default beside this file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from common.datasets.synthetic.domains import DOMAINS, ImageKey
from common.datasets.synthetic.render import SyntheticDomain

GAP = 2  # pixels of white between cameras and between people
STEP = 17  # video frames between the two images of a camera


def contact_sheet(domain: SyntheticDomain, people: int) -> np.ndarray:
    """Renders the first `people` train ids in every camera, uint8 (H, W, 3)."""
    rows = []
    for pid in range(1, people + 1):
        cells = []
        for camid in range(domain.domain.num_cameras):
            frames = [domain.image(ImageKey(pid, camid, 1, 100 + STEP * number)) for number in range(2)]
            cell = np.concatenate(frames, axis=1)
            cells.append(np.pad(cell, ((0, GAP), (0, GAP), (0, 0)), constant_values=255))
        rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows)[:-GAP, :-GAP]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in DOMAINS:
        sheet = Image.fromarray(contact_sheet(SyntheticDomain(name, args.data_seed), args.people))
        palette = sheet.quantize(256, kmeans=4)  # a third of the size of full colour
        small = sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        small.save(args.out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
