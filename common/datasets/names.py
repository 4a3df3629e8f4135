"""Parses what `--source` and `--target` accept.

market1501                                     a known dataset, below --data-root
market1501@c123                                some of its cameras
cuhk03:images=labeled,protocol=classic         with options of its reader
./photos   ~/data/photos   photos              a dataset of your own, by its folder
dukemtmc,cuhk03:images=labeled,./photos        several datasets as one
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from common.datasets.own import own_name
from common.errors import InputError

OPTION = re.compile(r"\w+=")  # how an option of a reader begins
CAMERAS = re.compile(r"@c\d+(,\d+)*$")


def split_names(text: str) -> list[str]:
    """Splits several datasets at their commas, which also separate options and cameras above 9, and stand in
    names of folders.
    """
    parts, names = text.split(","), []
    while parts:
        length = next((n for n in range(len(parts), 1, -1) if _exists(_plain(",".join(parts[:n])))), 1)
        name, parts = ",".join(parts[:length]), parts[length:]
        while parts and (OPTION.match(parts[0]) or (parts[0].isdecimal() and CAMERAS.search(name))):
            name += f",{parts.pop(0)}"
        names.append(name)
    if len(names) > 1 and "" in names:
        raise InputError(f"{text}: expected names of datasets between the commas, found nothing")
    return names


def _plain(name: str) -> str:
    """Returns a name without options and cameras."""
    return CAMERAS.sub("", re.sub(r":\w+=.*", "", name))


def parse_options(name: str) -> tuple[str, dict[str, int | str]]:
    """Parses `cuhk03:images=labeled,split=3` to ("cuhk03", {"images": "labeled", "split": 3}).

    The colons of a folder stay. Raises `InputError` for anything after another colon that is no list of
    KEY=VALUE.
    """
    match = re.fullmatch(r"(.+?):(\w+=.*)", name)
    plain_name, colon, text = (match[1], ":", match[2]) if match else name.partition(":")
    if _exists(name) or not colon or (match is None and is_path(name)):
        return name, {}
    return plain_name, dict(map(parse_option, text.split(",")))


def parse_option(text: str) -> tuple[str, int | str]:
    """Parses `KEY=VALUE`; a value of digits is a number. Raises `InputError` for anything else."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"option {text}: expected KEY=VALUE, as images=labeled")
    if key in ("name", "root"):
        raise InputError(f"unknown option {key!r}: it has its own place on the command line")
    return key, int(value) if re.fullmatch(r"-?[0-9]{1,30}", value) else value


def is_path(name: str) -> bool:
    """Returns whether a name is meant as a folder: it looks like a path, or there is such a folder."""
    head = name.partition(":")[0] if OPTION.match(name.partition(":")[2]) else name
    return bool(re.match(r"[.~]|[A-Za-z]:[\\/]", name) or re.search(r"[\\/]", head) or _exists(name))


def folder_of(name: str, known: Collection[str]) -> Path | None:
    """Returns the folder that a name without options and cameras means; None for a known dataset."""
    return Path(name).expanduser() if name not in known and is_path(name) else None


def label_of(text: str, known: Collection[str]) -> str:
    """Returns the name of a dataset in records and output folders: a folder of your own is `own-`, its last
    name, and four digits of a hash of its path.
    """
    labels = []
    for name in split_names(text):
        plain, at, cameras = name, "", ""
        if not _exists(name):
            plain, at, cameras = name.partition("@c")
        folder = folder_of(parse_options(plain)[0], known)
        if folder is not None:
            path = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()
            name = f"{own_name(folder)}-{path[:4]}{at}{cameras}"
        labels.append(name)
    return ",".join(labels)


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # a name that no folder can have
        return False
