"""Two procedural pedestrian domains in Market-1501's layout, with masks and a camera-style oracle."""

from common.datasets.synthetic.build import dataset_folder, load_synthetic
from common.datasets.synthetic.domains import DOMAINS, TEST_IDS, TRAIN_IDS, ImageKey
from common.datasets.synthetic.oracle import moved, oracle, unstyled
from common.datasets.synthetic.render import SyntheticDomain

__all__ = [
    "DOMAINS",
    "TEST_IDS",
    "TRAIN_IDS",
    "ImageKey",
    "SyntheticDomain",
    "dataset_folder",
    "load_synthetic",
    "moved",
    "oracle",
    "unstyled",
]
