"""CUHK03 (Li et al., CVPR 2014): 1,467 people, each seen by one of five camera pairs, in two sets of boxes.

Protocols: `767/700` (CUHK03-NP, Zhong et al., CVPR 2017: 767 ids to train, 700 to test, query and gallery as
in Market-1501) and `classic` (Li et al.: 20 splits with 1,367 and 100 ids, single-shot: query and gallery
contain all test images, and the evaluator repeatedly draws one gallery image per id).

Layouts, where `images` is `detected` or `labeled`:

* CUHK03-NP in Market-1501's layout: `cuhk03-np/detected/bounding_box_train/...`, also
  `cuhk03_detected/...` as in HHL's data;
* extracted images `images_detected/1_001_1_01.png` (pair, person, view, number) with
  `splits_new_detected.json` or `splits_classic_detected.json` as torchreid writes them, or with the protocol
  authors' `cuhk03_new_protocol_config_detected.mat`;
* the raw `cuhk-03.mat`, which is extracted to that layout once, with its classic splits (needs h5py).

Only two cameras see a person, so the camera is the view within
the pair, 0 or 1.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from common.datasets.base import SPLITS, About, Counts, Official, ReIDDataset, Sample
from common.datasets.cuhk03_raw import RAW, extract
from common.datasets.layout import (
    MARKET_FOLDERS,
    find_root,
    has,
    keep_existing,
    name_rule,
    read_market_layout,
)
from common.errors import InputError

NAME_NP = name_rule(r"(\d+)_c(\d+)_")
PROTOCOLS = {"767/700": "new", "classic": "classic"}
OTHER = {"detected": "labeled", "labeled": "detected"}
OFFICIAL = {  # 767/700; cameras: counted in the protocol's cuhk03_new_protocol_config_*.mat
    "detected": Official(
        Counts(7_365, 767, cameras=(3_601, 3_764)),
        Counts(1_400, 700, cameras=(700, 700)),
        Counts(5_332, 700, cameras=(2_617, 2_715)),
    ),
    "labeled": Official(
        Counts(7_368, 767, cameras=(3_607, 3_761)),
        Counts(1_400, 700, cameras=(700, 700)),
        Counts(5_328, 700, cameras=(2_615, 2_713)),
    ),
}
ABOUT = About(
    num_cameras=2,
    official=OFFICIAL["detected"],
    paper="Li et al., CVPR 2014; Zhong et al., CVPR 2017",
    where="https://github.com/zhunzhong07/person-re-ranking (CUHK03-NP)",
    counts_of="detected boxes, 767/700 protocol",
)
_EXTRACTED_NAME = re.compile(r"([1-5])_(\d+)_([12])_\d+\.")


def load_cuhk03(
    root: str | Path | None, *, images: str = "detected", protocol: str = "767/700", split: int = 0
) -> ReIDDataset:
    """Reads CUHK03. `images` is `detected` or `labeled`, `protocol` is `767/700` or `classic`.

    `split`, 0..19, selects one of the classic splits.
    """
    if images not in OFFICIAL:
        raise InputError(f"cuhk03: images {images!r}: expected detected or labeled")
    if protocol not in PROTOCOLS:
        raise InputError(f"cuhk03: protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
    if split not in range(20 if protocol == "classic" else 1):
        raise InputError(f"cuhk03: split {split!r}: expected 0 to 19 with protocol classic, 0 with 767/700")
    folder = _find(root, images, protocol)
    if has(folder, MARKET_FOLDERS):
        return read_market_layout("cuhk03", folder, ABOUT.num_cameras, OFFICIAL[images], NAME_NP)
    return _read_extracted(folder, images, protocol, split)


def _find(root: str | Path | None, images: str, protocol: str) -> Path:
    names = ("cuhk03", "cuhk03-np", f"cuhk03_{images}", images, "cuhk03_release")
    extracted = (f"images_{images}",)
    layouts = [extracted] if protocol == "classic" else [MARKET_FOLDERS, extracted]
    try:
        folder = find_root("cuhk03", root, names, *layouts)
    except InputError:
        raw = _raw_file(root, names)
        if raw is None:
            raise
        if protocol != "classic":
            _split_list(raw.parent, images, protocol)
        extract(raw, images)
        folder = raw.parent
    if has(folder, MARKET_FOLDERS) and OTHER[images] in folder.name.lower():
        raise InputError(
            f"{folder}: expected {images} images, found a folder called {folder.name}: "
            f"name them, cuhk03:images={OTHER[images]}, or pass the other folder"
        )
    return folder


def _raw_file(root: str | Path | None, names: tuple[str, ...]) -> Path | None:
    try:
        return find_root("cuhk03", root, names, (RAW,)) / RAW
    except InputError:
        return None


def _split_list(folder: Path, images: str, protocol: str) -> Path:
    """Returns the file that lists the splits of extracted images. Raises `InputError` if there is none."""
    json_file = folder / f"splits_{PROTOCOLS[protocol]}_{images}.json"
    mat_file = folder / f"cuhk03_new_protocol_config_{images}.mat"
    if json_file.is_file():
        return json_file
    if protocol == "767/700" and mat_file.is_file():
        return mat_file
    expected = json_file.name + (f" or {mat_file.name}" if protocol == "767/700" else "")
    raw = f" ({RAW} holds the splits of cuhk03:protocol=classic)" if (folder / RAW).is_file() else ""
    raise InputError(
        f"{folder}: expected {expected}, the list of the {protocol} split, beside images_{images}; found "
        f"neither{raw}"
    )


def _read_extracted(folder: Path, images: str, protocol: str, split: int) -> ReIDDataset:
    source = _split_list(folder, images, protocol)
    names = _names_in_json(source, split) if source.suffix == ".json" else _names_in_mat(source)
    problems: list[str] = []
    train, query, gallery = (
        keep_existing([_sample(folder / f"images_{images}", n, source) for n in part], source, problems)
        for part in names
    )
    official = OFFICIAL[images] if protocol == "767/700" else None
    return ReIDDataset("cuhk03", folder, train, query, gallery, ABOUT.num_cameras, official, tuple(problems))


def _sample(folder: Path, name: str, source: Path) -> Sample:
    match = _EXTRACTED_NAME.match(name)
    if match is None:
        raise InputError(
            f"{source}: expected image names as 1_001_1_01.png (pair, person, view, number), found {name!r}"
        )
    pair, person, view = map(int, match.groups())
    return Sample(folder / name, 1_000 * pair + person, view - 1)


def _names_in_json(path: Path, split: int) -> list[list[str]]:
    """Reads the names of each split from rows [path, label, camera] with another machine's paths."""
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))[split]
        return [[re.split(r"[\\/]", row[0])[-1] for row in chosen[part]] for part in SPLITS]
    except Exception as error:  # a damaged or foreign file raises anything
        raise InputError(
            f"{path}: expected splits as torchreid writes them, with number {split} "
            f"({type(error).__name__}: {error})"
        ) from None


def _names_in_mat(path: Path) -> list[list[str]]:
    from scipy.io import loadmat

    try:
        mat = loadmat(path)
        names = [str(cell[0]) for cell in mat["filelist"].ravel()]
        return [[names[int(i) - 1] for i in mat[f"{part}_idx"].ravel()] for part in SPLITS]
    except Exception as error:  # a damaged or foreign file raises anything
        raise InputError(
            f"{path}: expected the split file of the 767/700 protocol ({type(error).__name__}: {error})"
        ) from None
