"""Which records are of one run: numerics and clocks."""

import datetime
from pathlib import Path

import pytest

from common.errors import InputError
from common.records import METRICS, Record
from reports.collect import collect, read_results

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
