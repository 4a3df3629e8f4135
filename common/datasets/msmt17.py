"""MSMT17 (Wei et al., CVPR 2018, with PTGAN): fifteen cameras, 1,041 ids to train and 3,060 to test.

Layout: `list_train.txt`, `list_val.txt`, `list_query.txt`, `list_gallery.txt` with lines
`0000/0000_000_01_0303morning_0015_0.jpg 0` (folder/name, id; the third field of the name is the camera,
01..15) beside `train` and `test` (V1) or `mask_train_v2` and `mask_test_v2` (V2, faces masked). Ids start at
0 in both the training and the test lists, for different people. The reader renumbers them 1..1041 and
1042..4101, so that no id is shared and none is 0, which means distractor elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from common.datasets.base import About, Counts, Official, ReIDDataset, Sample
from common.datasets.layout import find_root, has, keep_existing
from common.errors import InputError
from common.files import regular_file

FOLDERS = ("MSMT17_V1", "MSMT17_V2", "msmt17")
TRAIN_IDS = 1_041
LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
IMAGE_FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
TRAIN_LISTS = {"train": ("list_train.txt",), "train+val": ("list_train.txt", "list_val.txt")}
TRAIN_IMAGES = {"train": 30_248, "train+val": 32_621}
ABOUT = About(
    num_cameras=15,
    official=Official(Counts(32_621, TRAIN_IDS), Counts(11_659, 3_060), Counts(82_161, 3_060)),
    paper="Wei et al., CVPR 2018",
    where="https://www.pkuvmc.com/dataset.html (on request)",
    counts_of="train and val lists together",
)


def load_msmt17(root: str | Path | None, *, version: str = "any", train: str = "train+val") -> ReIDDataset:
    """Reads MSMT17. `version` is `V1`, `V2` or `any` (V1 first).

    `train` is `train+val` (the paper's 32,621 images) or `train` (30,248, torchreid's default).
    """
    versions = ("V1", "V2") if version == "any" else (version,)
    if not set(versions) <= IMAGE_FOLDERS.keys():
        raise InputError(f"msmt17: version {version!r}: expected V1, V2 or any")
    if train not in TRAIN_LISTS:
        raise InputError(f"msmt17: train {train!r}: expected one of {', '.join(TRAIN_LISTS)}")
    layouts = [(*LISTS, *IMAGE_FOLDERS[v]) for v in versions]
    folder = find_root("msmt17", root, FOLDERS, *layouts)
    train_folder, test_folder = next(
        IMAGE_FOLDERS[v] for v, layout in zip(versions, layouts, strict=True) if has(folder, layout)
    )

    problems: list[str] = []
    train_samples = [
        s
        for name in TRAIN_LISTS[train]
        for s in _read_list(folder / name, folder / train_folder, 1, problems)
    ]
    train_samples.sort(key=lambda s: s.path.as_posix())
    query, gallery = (
        _read_list(folder / name, folder / test_folder, 1 + TRAIN_IDS, problems) for name in LISTS[2:]
    )
    official = Official(Counts(TRAIN_IMAGES[train], TRAIN_IDS), ABOUT.official.query, ABOUT.official.gallery)
    return ReIDDataset(
        "msmt17", folder, train_samples, query, gallery, ABOUT.num_cameras, official, tuple(problems)
    )


def _read_list(path: Path, images: Path, first_id: int, problems: list[str]) -> list[Sample]:
    regular_file(path, "a list of images")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: this list cannot be read ({error})") from None
    samples = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            name, pid = line.rsplit(maxsplit=1)
            samples.append(Sample(images / name, first_id + int(pid), int(Path(name).name.split("_")[2]) - 1))
        except (ValueError, IndexError):
            raise InputError(
                f"{path}: line {number}: expected 'FOLDER/NAME ID' as "
                f"0000/0000_000_01_0303morning_0015_0.jpg 0, found {line[:80]!r}"
            ) from None
    return keep_existing(samples, path, problems)
