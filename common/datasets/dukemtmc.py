"""DukeMTMC-reID (Ristani et al., ECCV-W 2016; Zheng et al., ICCV 2017): eight cameras, 702 ids to train and
702 to test.

Its authors withdrew DukeMTMC in 2019 and it is never downloaded here; the reader serves those who already
hold a copy and may use it. The layout is Market-1501's, with names `0005_c2_f0046985.jpg` (id, camera,
frame). The gallery contains 408 additional ids, which act as distractors because they have no query. There is
no junk.
"""

from __future__ import annotations

from pathlib import Path

from common.datasets.base import About, Counts, Official, ReIDDataset
from common.datasets.layout import MARKET_FOLDERS, TEST_FOLDERS, find_root, name_rule, read_market_layout

FOLDERS = ("DukeMTMC-reID", "dukemtmc", "duke")
NAME = name_rule(r"(-?\d+)_c(\d+)_f\d+")
OFFICIAL = Official(
    train=Counts(16_522, 702, cameras=(2_809, 3_009, 1_088, 1_395, 1_685, 3_700, 1_330, 1_506)),
    query=Counts(2_228, 702),
    gallery=Counts(17_661, 1_110),
)
ABOUT = About(
    num_cameras=8,
    official=OFFICIAL,
    paper="Ristani et al., ECCV-W 2016; Zheng et al., ICCV 2017",
    where="no longer offered",
    status="withdrawn by its authors in 2019; nothing here fetches it",
)


def load_dukemtmc(root: str | Path | None) -> ReIDDataset:
    """Reads DukeMTMC-reID from `root`, the folder of all datasets or the one with `bounding_box_train`."""
    folder = find_root("dukemtmc", root, FOLDERS, MARKET_FOLDERS, TEST_FOLDERS)
    return read_market_layout("dukemtmc", folder, ABOUT.num_cameras, OFFICIAL, NAME)
