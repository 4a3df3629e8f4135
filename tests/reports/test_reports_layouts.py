"""Tests tables laid out as the blog lays them out, and parity told from the tests' notes."""

import json
from dataclasses import replace

import pytest

from common.errors import InputError
from common.published import read_toml
from common.records import PAPERS
from reports.collect import read_results
from reports.experiments import REPORTS, experiments
from reports.layouts import LayoutsFile, layouts
from reports.parity import parity

ONE = """
[[layout]]
name = "one"
title = "One"
page = "blog"
pairs = ["dukemtmc->market1501"]
columns = ["R-1", "mAP"]
adabn = true
rows = [ ROW ]
"""


def view(folder, row: str) -> dict:
    (folder / "layouts.toml").write_text(ONE.replace("ROW", row), encoding="utf-8")
    demo = {paper: [r for r in read_results(paper) if r.preset == "demo"] for paper in PAPERS}
    [table] = layouts("blog", demo, folder)
    return table


def test_published_stands_above_measured(tmp_path):
    table = view(tmp_path, '{ label = "HHL", key = "hhl/table2/L_CD" }')
    [row] = table["rows"]
    assert [line["side"] for line in row["lines"]] == ["published", "measured", "with AdaBN"]
    assert [cell["text"] for cell in row["lines"][0]["cells"]] == ["62.2", "31.4"]
    assert all(cell["record"].startswith("r-hhl-table2-L_CD-") for cell in row["lines"][1]["cells"])
    assert table["blocks"] == ["Duke → Market"] and table["printed"]


def test_a_matched_row_has_another_score_of_the_same_run_and_no_published_number(tmp_path):
    row = '{ label = "direct + LMP", key = "spgan/table2/direct", score = "lmp7max" }'
    lines = view(tmp_path, row)["rows"][0]["lines"]
    assert [line["side"] for line in lines] == ["measured", "with AdaBN"]
    assert [line["cells"][0]["text"].split(" ± ")[0] for line in lines] == ["66.9", "79.2"]


def test_a_method_that_is_not_measured_here_has_its_published_line_alone(tmp_path):
    row = '{ label = "UMDL", published = "hhl/table4/UMDL" }'
    assert [line["side"] for line in view(tmp_path, row)["rows"][0]["lines"]] == ["published"]


@pytest.mark.parametrize("row", ['{ label = "none" }', '{ key = "hhl/table2/L_CD" }', "{ label = 3 }"])
def test_malformed_layouts_are_refused(tmp_path, row):
    with pytest.raises(InputError, match=r"layouts\.toml"):
        view(tmp_path, row)


def test_a_table_never_mixes_presets(tmp_path):
    keys = ("hhl/table2/L_CD", "hhl/table2/L_T")
    rows = ", ".join(f'{{ label = "{key}", key = "{key}" }}' for key in keys)
    (tmp_path / "layouts.toml").write_text(ONE.replace("ROW", rows), encoding="utf-8")
    records = {paper: list(read_results(paper)) for paper in PAPERS}
    records["hhl"] = [r for r in records["hhl"] if r.preset == "demo"]
    for key, preset in zip(keys, ("demo", "study")):
        place = (key, "synthetic-duke", "synthetic-market")
        made = [r for r in records["hhl"] if (r.key, r.source, r.target) == place]
        records["hhl"] += [replace(r, preset="study") for r in made]
        [table] = layouts("blog", records, tmp_path)
        links = [line["cells"][0]["record"] for row in table["rows"] for line in row["lines"][1:]]
        assert links and all(link.endswith(preset) for link in links)


def test_the_committed_layouts_name_experiments_and_pages_that_exist():
    for entry in read_toml(REPORTS / "layouts.toml", LayoutsFile)["layout"]:
        assert entry["page"] in ("blog", *PAPERS)
        for row in entry["rows"]:
            assert "key" not in row or row["key"] in experiments(row["key"].split("/")[0]), row


def test_parity_needs_a_commit_and_an_error(tmp_path):
    note = {"functions": ["f"], "repository": "r", "commit": "c", "tolerance": "1e-6"}
    (tmp_path / "hhl_losses.json").write_text(json.dumps(note), encoding="utf-8")
    [row] = parity("hhl", tmp_path)
    assert (row["what"], row["commit"], row["error"], row["measured"]) == ("losses", "c", "1e-6", None)
    (tmp_path / "errors.json").write_text('{"hhl_losses": 3e-8}', encoding="utf-8")
    assert parity("hhl", tmp_path)[0]["measured"] == 3e-8
    (tmp_path / "errors.json").write_text('{"hhl_losses": "small"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"errors\.json"):
        parity("hhl", tmp_path)
    (tmp_path / "errors.json").unlink()
    assert parity("arn", tmp_path) == []
    for name in note:
        spoilt = {key: value for key, value in note.items() if key != name}
        (tmp_path / "hhl_losses.json").write_text(json.dumps(spoilt), encoding="utf-8")
        with pytest.raises(InputError, match=r"hhl_losses\.json: expected functions"):
            parity("hhl", tmp_path)


def test_every_paper_with_released_code_has_parity_to_show():
    assert all(parity(paper) for paper in PAPERS)
