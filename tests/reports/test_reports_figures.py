"""Figures: their data from records, their drawing, the numbers in Markdown."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.provenance import ROOT
from common.published import Published
from common.records import METRICS, Record
from reports.build import figure_files
from reports.figures import figure_data, figure_specs, without_experiment
from reports.markdown import difference_text, markdown, number_text, published_text, values_text
from reports.rows import Row, Value, pair_text, tables
from reports.svg import draw_panel, panel_size, standalone, ticks


def record(key, r1=0.5, seed=0, **changes) -> Record:
    score = dict(zip(METRICS, (r1, 0.9, 0.95, 0.99, r1 / 2, 0.6)))
    return replace(
        Record(
            "hhl",
            key,
            "demo",
            "synthetic-duke",
            "synthetic-market",
            seed,
            {},
            "c",
            {},
            {"last": score, "last+adabn": score},
            {},
            {},
            "last epoch",
            "v",
            {},
            {},
            1.0,
            [],
            [],
            "2026-01-01",
        ),
        **changes,
    )


@pytest.fixture
def reports(tmp_path):
    """A folder of reports with three points of a curve, two seeds each, and a row that two configurations
    have measured.
    """
    (tmp_path / "results").mkdir()
    items = [
        record(f"hhl/fig5/beta={beta}", r1 + seed / 50, seed)
        for beta, r1 in (("0.1", 0.4), ("0.4", 0.6), ("2", 0.5))
        for seed in (0, 1)
    ]
    items += [
        record("hhl/table2/L_C", 0.1),
        record("hhl/table2/L_C", 0.7, config_hash="d", created="2026-02-01"),
        record("hhl/table1/distances", measures={"crop_l2": 0.25, "camstyle_l2": 0.75}),
    ]
    (tmp_path / "results" / "hhl.jsonl").write_text(
        "".join(item.to_json() + "\n" for item in items), encoding="utf-8"
    )
    return tmp_path


def spec(**fields):
    return {"name": "f", "title": "t", "kind": "bars", **fields}


def test_a_curve_takes_x_from_the_keys_and_spread_over_the_seeds(reports):
    published, measured = figure_data(
        spec(kind="curve", keys=["hhl/fig5/beta=*"], metrics=["R-1", "mAP"], x="beta"), reports
    )["panels"]
    assert [series["label"] for series in measured["series"]] == ["R-1", "mAP"]
    assert [(point["x"], point["y"], point["n"]) for point in measured["series"][0]["points"]] == [
        (0.1, 41.0, 2),
        (0.4, 61.0, 2),
        (2.0, 51.0, 2),
    ]
    assert measured["series"][0]["points"][0]["spread"] == pytest.approx(stdev([40, 42]), abs=1e-3)
    assert len(published["series"][0]["points"]) == 21 and published["series"][0]["points"][4] == {
        "y": 63.6,
        "x": 0.4,
    }
    assert published["x_range"] == measured["x_range"] == [0.0, 2.0]


def test_bars_show_the_newest_configuration_and_leave_out_what_is_not_run(reports):
    question = spec(keys=["hhl/table2/L_C", "hhl/table2/L_D"], adabn=True, question="?")
    [panel] = figure_data(question, reports)["panels"]  # no published panel for a question of ours
    assert [[(p["x"], p["y"], p["n"]) for p in series["points"]] for series in panel["series"]] == [
        [("+ camera invariance, L_C", 70.0, 1)]
    ] * 2
    assert panel["rows"] == [
        "+ camera invariance, L_C",
        "+ domain connectedness, L_D",
    ] and "not run" in draw_panel("bars", panel)


def test_measures_cmc_heat_maps_and_labelled_series(reports):
    data = figure_data(
        spec(kind="measures", keys=["hhl/table1/distances"], metrics=["crop", "flip", "camstyle"]), reports
    )
    assert [(p["x"], p["y"]) for p in data["panels"][0]["series"][0]["points"]] == [
        ("crop", 0.049),
        ("flip", 0.034),
        ("camstyle", 0.485),
    ]
    assert [(p["x"], p["y"]) for p in data["panels"][1]["series"][0]["points"]] == [
        ("crop", 0.25),
        ("camstyle", 0.75),
    ]
    data = figure_data(spec(kind="cmc", series={"camera": "hhl/table2/L_C"}), reports)
    assert [(p["x"], p["y"]) for p in data["panels"][1]["series"][0]["points"]] == [
        (1, 70.0),
        (5, 90.0),
        (10, 95.0),
        (20, 99.0),
    ]
    data = figure_data(spec(kind="heatmap", keys=["spgan/table3/parts=*,*"], x="parts"), reports)
    assert data["panels"][0]["series"][0]["points"][3] == {"y": 57.3, "x": "2", "x2": "max"}
    assert not data["panels"][1]["series"] and data["panels"][1]["note"].startswith("Not run")
    data = figure_data(
        spec(
            kind="curve", series={"LSRO": "dcgan_lsro/table2/lsro=*", "pseudo": "dcgan_lsro/table2/pseudo=*"}
        ),
        reports,
    )
    assert [(s["label"], len(s["points"])) for s in data["panels"][0]["series"]] == [
        ("LSRO", 6),
        ("pseudo", 6),
    ]


def test_the_committed_figures_are_declared_well():
    specs = figure_specs()
    assert len({entry["name"] for entry in specs}) == len(specs)
    assert {entry["name"]: without_experiment(entry) for entry in specs if without_experiment(entry)} == {}


def test_unknown_kinds_are_refused(tmp_path):
    (tmp_path / "figures.toml").write_text(
        '[[figure]]\nname = "f"\ntitle = "t"\nkind = "pie"\nkeys = ["hhl/table2/*"]\n',
        encoding="utf-8",
    )
    with pytest.raises(InputError, match="f: kind 'pie': expected one of curve, bars"):
        figure_specs(tmp_path)


def test_drawings_are_small_xml_without_scripts_or_links(reports):
    for kind, entry in (
        ("curve", spec(kind="curve", keys=["hhl/fig5/beta=*"], x="beta < 1")),
        ("bars", spec(keys=["hhl/table2/*"], adabn=True)),
        ("heatmap", spec(kind="heatmap", keys=["spgan/table3/parts=*,*"], x="parts")),
    ):
        data = figure_data(entry, reports)
        panels, sizes = (
            [function(kind, panel) for panel in data["panels"]] for function in (draw_panel, panel_size)
        )
        text = standalone(panels, sizes, "a & b")
        root = ElementTree.fromstring(text)
        assert (
            root.tag.endswith("svg")
            and kind == data["kind"]
            and not {"script", "a", "image"} & {e.tag.split("}")[1] for e in root.iter()}
        )
        points = sum(len(series["points"]) for panel in data["panels"] for series in panel["series"])
        assert text.count("<title>") == points and text.count("http") == 1  # the name space


def test_the_committed_figures_are_what_the_records_give():
    files = dict(figure_files())
    folder = ROOT / "reports" / "figures"
    assert set(files) == {path.name for path in folder.iterdir()}
    for name, text in files.items():
        old = (folder / name).read_text(encoding="utf-8")
        assert json.loads(old) == json.loads(text) if name.endswith(".json") else old == text, (
            f"figures/{name} is stale: python -m reports build"
        )
        assert len(text) < 200_000


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3))
def test_ticks_cover_the_range_in_few_round_steps(low, span):
    marks = ticks(low, low + span)
    assert (
        marks[0] <= low + 1e-6 * max(1, abs(low))
        and marks[-1] >= low + span - 1e-6 * max(1, abs(low + span))
        and 2 <= len(marks) <= 8
    )


# ---------------------------------------------------------------- rows and Markdown


def test_tables_come_by_number_with_their_pairs_and_what_is_not_run(reports):
    shown = tables("hhl", reports)
    assert [table.title for table in shown if table.target == "synthetic-market"][:5] == [
        "Table 1",
        "Table 2",
        "Fig. 3",
        "Fig. 5",
        "Fig. 6",
    ]
    table2 = next(table for table in shown if table.name == "table2")
    assert table2.published_on == "Duke → Market" and len(table2.rows) == 6 and not table2.comparable
    assert [row.stale for row in table2.rows if row.records] == [True]  # its configuration hash is made up
    triplet = next(table for table in shown if table.name == "triplet")
    assert (
        triplet.rows == () and len(triplet.idle) == 8 and not triplet.measured and triplet.published_on == ""
    )


def test_a_number_that_the_paper_prints_without_a_pair_is_said_to_have_none():
    shown = next(table for table in tables("ptgan") if table.name == "figure")
    assert shown.published_on == "a pair that it does not name"


def row(published=None, **scores) -> Row:
    made = record("hhl/table2/L_CD", scores={"last": dict.fromkeys(METRICS, 0.0) | scores})
    return Row("k", "t", "k", "last", published, (made,), False)


def printed(**changes) -> Published:
    return replace(
        Published(
            "k",
            "s",
            "t",
            "Table 2",
            "text",
            0.0,
            "trapezoid",
            "ours",
            "verified",
            "%",
            {"R-1": 62.2, "mAP": 31.4},
        ),
        **changes,
    )


def test_differences_are_shown_with_their_band():
    assert difference_text(row(printed(), **{"R-1": 0.61, "mAP": 0.32})) == "-1.2 / +0.6 in band"
    assert difference_text(row(printed(), **{"R-1": 0.60, "mAP": 0.32})) == "-2.2 / +0.6 outside"
    assert difference_text(row(printed(status="unverified"))) == "-" and difference_text(row()) == "-"


def test_cells():
    assert (
        published_text(printed(), ("R-1", "mAP")) == "62.2 / 31.4" and published_text(None, ("R-1",)) == "-"
    )
    assert published_text(printed(status="unverified"), ("R-1", "R-5")) == "(62.2 / -)"
    assert published_text(printed(unit="distance", values={"crop": 0.049}), ("crop",)) == "0.049"
    assert (
        number_text(Value(62.25, 1.04, 3)) == "62.2 ± 1.0"
        and number_text(Value(1.073, 0.647, 3)) == "1.1 ± 0.6"
        and number_text(None) == "-"
    )
    assert (
        number_text(Value(0.0484, None, 1, percent=False)) == "0.048"
        and number_text(Value(14.28, None, 1, percent=False)) == "14.3"
    )
    assert markdown(["a", "b"], [["x|y", "1"]], right=[1]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"
    assert values_text({"demo": 64, "released": 256, "paper": 256}) == "256; demo 64"
    assert (
        values_text({"demo": None, "paper": None}) == "none"
        and values_text({"demo": True, "paper": 0.5}) == "demo yes; paper 0.5"
    )
    assert (
        values_text({"released": 256, "scratch": 128, "scratch_cpu": 128}) == "256; scratch, scratch_cpu 128"
    )
    assert (
        pair_text("synthetic-duke", "synthetic-market") == "synthetic Duke → Market"
        and pair_text("market1501", "market1501") == "Market"
    )


# ---------------------------------------------------------------- published and measured beside each other


def test_both_panels_share_one_scale(reports):
    for fields in (
        {"kind": "curve", "keys": ["hhl/fig5/beta=*"], "x": "beta"},
        {"kind": "bars", "keys": ["hhl/fig5/beta=0.1", "hhl/fig5/beta=0.4"]},
    ):
        published, measured = figure_data(spec(**fields), reports)["panels"]
        assert published["y_range"] == measured["y_range"]
        values = [point["y"] for panel in (published, measured) for point in panel["series"][0]["points"]]
        low, high = published["y_range"]
        assert low <= min(values) and max(values) <= high
        drawn = [draw_panel(fields["kind"], panel) for panel in (published, measured)]
        marks = [re.findall(r'<line class="grid" [^>]*>', text) for text in drawn]
        assert marks[0] == marks[1] and len(marks[0]) >= 3


def test_bars_have_an_axis_and_those_with_adabn_are_as_large_as_the_others():
    def bar(name: str, y: float) -> dict:
        return {"x": name, "y": y, "spread": 1.0, "n": 3}

    panel = {
        "title": "t",
        "subtitle": "s",
        "rows": ["a", "b"],
        "absent": "not run",
        "series": [
            {"label": "", "points": [bar("a", 40.0), bar("b", 55.0)]},
            {"label": "with AdaBN", "points": [bar("a", 45.0), bar("b", 57.0)]},
        ],
    }
    text = draw_panel("bars", panel)
    assert len(set(re.findall(r'<rect class="bar"[^>]* height="(\d+)"', text))) == 1
    assert text.count('<g class="s0"><rect class="bar"') == text.count('<g class="s1"><rect class="bar"') == 2
    assert all(f">{mark}</text>" in text for mark in (0, 20, 40, 60)) and "opacity" not in text


def test_the_published_order_is_counted(reports):
    # printed 54.7, 63.6, 60.0; measured 41, 61, 51: all three pairs
    curve = spec(kind="curve", keys=["hhl/fig5/beta=*"], x="beta")
    assert figure_data(curve, reports)["order"] == "3 of 3 pairs in the published order"
    assert figure_data(spec(keys=["hhl/table2/*"]), reports)["order"] == ""  # one row measured
    assert figure_data({**curve, "question": "why?"}, reports)["order"] == ""


def test_the_committed_demo_records_stand_in_this_order():
    """As an independent script counted them."""
    counted = {spec["name"]: figure_data(spec)["order"].split(" pairs")[0] for spec in figure_specs()}
    expected = {
        "hhl-table2": "13 of 15",
        "hhl-fig5": "27 of 36",
        "spgan-fig8": "7 of 15",
        "lsro-amount": "60 of 149",
    }
    assert {name: counted[name] for name in expected} == expected
    back = [
        t for t in tables("hhl") if (t.name, t.source, t.preset) == ("table2", "synthetic-market", "demo")
    ]
    assert back[0].order == (14, 15)
