"""Market-1501 (Zheng et al., ICCV 2015): six cameras, DPM boxes, 751 ids to train and 750 to test.

Layout: `bounding_box_train`, `query`, `bounding_box_test` with names `0002_c1s1_000451_03.jpg` (id, camera,
sequence, frame, box). The gallery folder holds 19,732 files; 3,819 of them are junk (`-1_...`), which the
protocol ignores; hence the 15,913 of the papers. 2,798 of these are distractors (`0000_...`), which always
count as wrong.
"""

from __future__ import annotations

from pathlib import Path

from common.datasets.base import About, Counts, Official, ReIDDataset
from common.datasets.layout import MARKET_FOLDERS, TEST_FOLDERS, find_root, name_rule, read_market_layout

FOLDERS = ("Market-1501-v15.09.15", "market1501", "market")
NAME = name_rule(r"(-?\d+)_c(\d+)s\d+_")
OFFICIAL = Official(  # cameras: as in the evaluation files of zhunzhong07/person-re-ranking
    train=Counts(12_936, 751, cameras=(2_017, 1_709, 2_707, 920, 2_338, 3_245)),
    query=Counts(3_368, 750, cameras=(668, 530, 717, 248, 622, 583)),
    gallery=Counts(
        19_732, 750, junk=3_819, distractors=2_798, cameras=(3_156, 2_944, 3_803, 1_671, 3_814, 4_344)
    ),
)
ABOUT = About(
    num_cameras=6,
    official=OFFICIAL,
    paper="Zheng et al., ICCV 2015",
    where="https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
)


def load_market1501(root: str | Path | None) -> ReIDDataset:
    """Reads Market-1501 from `root`, the folder of all datasets or the one with `bounding_box_train`."""
    folder = find_root("market1501", root, FOLDERS, MARKET_FOLDERS, TEST_FOLDERS)
    return read_market_layout("market1501", folder, ABOUT.num_cameras, OFFICIAL, NAME)
