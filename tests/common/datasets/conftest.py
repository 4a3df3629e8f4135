"""Small trees in the real layouts, made of coloured noise."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image


def write_image(path: Path, size: tuple[int, int] = (16, 32)) -> Path:
    """A coloured noise image that depends on its name alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    colour = rng.integers(0, 256, 3)
    noise = np.clip(colour + rng.normal(0, 25, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    Image.fromarray(noise).save(path)
    return path


MARKET = {
    "bounding_box_train": [
        "0002_c1s1_000451_03.jpg",
        "0002_c2s1_000801_01.jpg",
        "0007_c3s3_028696_02.jpg",
        "0007_c6s1_001051_00.jpg",
    ],
    "query": ["0001_c1s1_001051_00.jpg", "0003_c3s1_000551_00.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg",
        "-1_c2s1_000401_03.jpg",
        "0000_c1s1_000151_01.jpg",
        "0001_c1s1_002301_01.jpg",
        "0001_c2s1_000301_01.jpg",
        "0003_c4s6_015641_02.jpg",
    ],
}


def market_tree(folder: Path, names: dict[str, list[str]] = MARKET) -> Path:
    for part, images in names.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in images:
            write_image(folder / part / name)
    return folder


def duke_tree(folder: Path) -> Path:
    return market_tree(
        folder,
        {
            "bounding_box_train": ["0001_c2_f0046182.jpg", "0001_c8_f0046302.jpg"],
            "query": ["0005_c2_f0046985.jpg"],
            "bounding_box_test": ["0002_c1_f0044158.jpg", "0005_c2_f0047105.jpg", "0005_c5_f0052865.jpg"],
        },
    )


def cuhk03_np_tree(folder: Path) -> Path:
    return market_tree(
        folder,
        {
            "bounding_box_train": ["0001_c1_1.png", "0001_c2_6.png"],
            "query": ["0003_c1_22.png", "0003_c2_28.png"],
            "bounding_box_test": ["0003_c1_21.png", "0003_c2_27.png"],
        },
    )


def cuhk03_extracted_tree(folder: Path, images: str = "detected") -> Path:
    """`images_detected` with torchreid's split files, whose paths are those of another machine."""
    names = [
        f"{pair}_{person:03d}_{view}_{number:02d}.png"
        for pair in (1, 2)
        for person in (1, 2)
        for view, number in ((1, 1), (2, 6))
    ]
    for name in names:
        write_image(folder / f"images_{images}" / name)

    def rows(*persons: str) -> list:
        return [
            [f"C:\\data\\cuhk03\\images_{images}\\{name}", 0, int(name[6]) - 1]
            for name in names
            if name.startswith(persons)
        ]

    new = {
        "train": rows("1_001", "2_001"),
        "query": rows("1_002_1", "2_002_1"),
        "gallery": rows("1_002_2", "2_002_2"),
    }
    classic = [
        {"train": rows("1", "2_001"), "query": rows("2_002"), "gallery": rows("2_002")},
        {"train": rows("2", "1_001"), "query": rows("1_002"), "gallery": rows("1_002")},
    ]
    (folder / f"splits_new_{images}.json").write_text(json.dumps([new]), encoding="utf-8")
    (folder / f"splits_classic_{images}.json").write_text(json.dumps(classic), encoding="utf-8")
    return folder


def msmt17_tree(folder: Path, train: str = "train", test: str = "test") -> Path:
    lists = {
        ("list_train.txt", train): [
            "0000/0000_000_01_0303morning_0008_0.jpg 0",
            "0001/0001_000_15_0113noon_0017_2.jpg 1",
        ],
        ("list_val.txt", train): ["0000/0000_005_12_0303morning_0020_0.jpg 0"],
        ("list_query.txt", test): ["0000/0000_000_01_0303morning_0015_0.jpg 0"],
        ("list_gallery.txt", test): [
            "0000/0000_003_14_0303noon_0018_1.jpg 0",
            "0001/0001_001_03_0113noon_0020_0.jpg 1",
        ],
    }
    for (name, images), lines in lists.items():
        for line in lines:
            write_image(folder / images / line.split()[0])
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def prid2011_tree(folder: Path) -> Path:
    """Every third person, of both cameras."""
    for camera, last in (("cam_a", 385), ("cam_b", 749)):
        for person in range(1, last + 1, 3):
            write_image(folder / camera / f"person_{person:04d}.png", (2, 4))
    return folder


@pytest.fixture(scope="session")
def trees() -> SimpleNamespace:
    """The makers above, for tests that need another folder or other names."""
    return SimpleNamespace(
        image=write_image,
        MARKET=MARKET,
        market=market_tree,
        duke=duke_tree,
        cuhk03_np=cuhk03_np_tree,
        cuhk03_extracted=cuhk03_extracted_tree,
        msmt17=msmt17_tree,
        prid2011=prid2011_tree,
    )


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return market_tree(tmp_path / "Market-1501-v15.09.15")
