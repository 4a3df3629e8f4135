"""Which records are of one run: numerics and clocks."""

import dataclasses
import datetime
from pathlib import Path

import pytest

from common.errors import InputError
from common.records import METRICS, Record, newest_configuration
from reports.collect import collect, read_results
from reports.sweep import Cell, is_done

SCORE = dict(zip(METRICS, (0.5, 0.9, 0.95, 0.99, 0.3, 0.31)))


def record_json(**changes) -> str:
    """Returns a record of HHL as its file holds it."""
    fields = {
        "paper": "hhl",
        "key": "hhl/table2/L_CD",
        "preset": "scratch_cpu",
        "source": "market1501",
        "target": "dukemtmc",
        "seed": 0,
        "config": {},
        "config_hash": "c",
        "data": {},
        "scores": {"last": SCORE},
        "measures": {},
        "stages": {},
        "selection": "last epoch",
        "code_version": "v",
        "libraries": {},
        "hardware": {"cores": 2},
        "seconds": 1.0,
        "curves": [],
        "pictures": [],
        "created": "2026-01-01T00:00:00+00:00",
    }
    return Record(**{**fields, **changes}).to_json()


def put(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(record_json(**changes), encoding="utf-8")
    return folder


def test_a_record_from_the_future_is_not_collected(tmp_path):
    """No later record could replace it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    for days, name in ((0.5, "a"), (30, "b")):
        created = (now + datetime.timedelta(days=days)).isoformat(timespec="seconds")
        folder = put(tmp_path / name, created=created)
        if days > 1:
            with pytest.raises(InputError, match="later than now: is a clock wrong"):
                collect([folder], tmp_path / "reports", replace=True)
        else:
            collect([folder], tmp_path / "reports")
    assert len(read_results("hhl", tmp_path / "reports")) == 1


BF16 = {"cores": 2, "precision": "bf16", "pack": True}


@pytest.mark.parametrize("replace", [False, True])
def test_a_bf16_record_is_no_duplicate_of_an_fp32_one(tmp_path, replace):
    folders = [
        put(tmp_path / "a", hardware=BF16),
        put(tmp_path / "b", created="2026-01-02", scores={"last": SCORE | {"mAP": 0.4}}),
    ]
    for folder in folders:
        collect([folder], tmp_path / "reports", replace=replace)
    kept = read_results("hhl", tmp_path / "reports")
    assert [record.setting for record in kept] == [("c", "precision=bf16,pack=True"), ("c", "")]
    assert newest_configuration(kept) == kept[1:]  # two seeds of one setting are averaged, not two settings


def test_a_sweep_looks_for_the_numerics_of_its_flags(tmp_path):
    """A cell with `--precision bf16` is not done by an fp32 record, and neither way round."""
    cell = Cell("hhl", "hhl/table2/L_CD", "market1501", "dukemtmc", 0, "scratch_cpu", "c")
    flagged = dataclasses.replace(cell, flags=("--precision", "bf16", "--pack"))
    assert cell.folder(tmp_path).name == "scratch_cpu+seed=0"
    assert flagged.folder(tmp_path).name == "scratch_cpu+seed=0+precision=bf16,pack=True"
    put(cell.folder(tmp_path))
    assert is_done(cell, tmp_path) and not is_done(flagged, tmp_path)
    put(flagged.folder(tmp_path), hardware=BF16)
    assert is_done(flagged, tmp_path)
