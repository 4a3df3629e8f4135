"""Other drawings of the synthetic domains: the flag --data-seed, options in a dataset's name, the record."""

import pytest

from common.cli import drawing
from common.datasets import parse_options, read_dataset
from common.datasets.synthetic import load_synthetic
from common.errors import InputError
from common.job import Options
from common.records import Record
from common.runs import run_folder


def test_a_name_carries_options_of_its_reader():
    assert parse_options("cuhk03:images=labeled,split=3") == ("cuhk03", {"images": "labeled", "split": 3})
    assert parse_options("msmt17@c1,10:version=V2") == ("msmt17@c1,10", {"version": "V2"})
    assert parse_options("market1501") == ("market1501", {})


@pytest.mark.parametrize("name", ["cuhk03:", "cuhk03:images", "cuhk03:=3", "cuhk03:root=x", "cuhk03:,"])
def test_what_is_no_list_of_options_is_refused(name):
    with pytest.raises(InputError, match="option"):
        parse_options(name)


def test_the_flag_reaches_synthetic_domains_only():
    options = Options(data_seed=3)
    assert drawing("synthetic-duke", options) == "synthetic-duke:data_seed=3"
    assert drawing("synthetic-duke@c12", options) == "synthetic-duke@c12:data_seed=3"
    assert drawing("market1501", options) == "market1501"
    assert drawing("synthetic-duke", Options()) == "synthetic-duke"


def test_another_drawing_has_other_people_and_a_manifest_that_says_so(tmp_path):
    size = "train_ids=2,test_ids=2"
    plain = load_synthetic("synthetic-duke", tmp_path, train_ids=2, test_ids=2)
    other = read_dataset(f"synthetic-duke:data_seed=3,{size}", tmp_path)
    assert "options" not in plain.manifest
    assert other.manifest["options"]["data_seed"] == 3 and other.name == "synthetic-duke"
    assert other.manifest["hash"] != plain.manifest["hash"]
    assert other.train[0].path.read_bytes() != plain.train[0].path.read_bytes()


def test_records_of_two_drawings_are_no_duplicates(tmp_path):
    def record(manifest: dict) -> Record:
        data = {"source": manifest, "target": manifest}
        others = dict.fromkeys(Record.__dataclass_fields__, None) | {"data": data, "seed": 0, "hardware": {}}
        return Record(**others)

    plain, other = record({"name": "synthetic-duke"}), record({"options": {"data_seed": 3}})
    assert (plain.data_seed, other.data_seed) == (0, 3)
    assert plain.identity != other.identity
    pair = ("a", "b")
    folders = {run_folder(tmp_path, "hhl/table2/direct", pair, 0, "study", seed) for seed in (0, 3)}
    assert len(folders) == 2
