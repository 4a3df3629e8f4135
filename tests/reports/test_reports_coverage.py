"""Tests coverage.toml: the committed file is correct, and every kind of gap is detected."""

import pytest

from common.errors import InputError
from reports.coverage import Item, coverage_problems, has_definition, read_coverage

SMALL = """
[counts]
section = 2
formula = 2
[[section]]
number = "2.2"
title = "Losses"
items = [
  { formula = 1, what = "L_T", functions = ["hhl.losses.batch_hard_triplet"], fields = [
    "hhl.config: method.margin"] },
  { formula = 2, what = "L_C", keys = ["hhl/table2/L_C", "leaderboard/transfer/HHL"] },
]
[[section]]
number = "2.3"
title = "Heading"
items = [ { setting = 1, what = "two modules", remark = "nothing to run" } ]
"""


@pytest.fixture
def changed(tmp_path):
    """A folder with a small coverage.toml in which one text is replaced by another."""

    def change(old: str, new: str):
        assert SMALL.count(old) == 1, (old, SMALL.count(old))
        (tmp_path / "coverage.toml").write_text(SMALL.replace(old, new), encoding="utf-8")
        return tmp_path

    return change


def test_all_of_the_blog_is_where_the_file_says():
    assert coverage_problems() == []


def test_the_blogs_tables_are_experiments_of_ours():
    tables = [item for item in read_coverage() if item.kind == "table"]
    assert [item.section for item in tables] == ["1.3.1", "1.3.2", "1.3.3", "2.3.1"] and all(
        item.keys for item in tables
    )


def test_a_sound_file_has_no_gaps(changed):
    folder = changed("nothing to run", "nothing")
    assert coverage_problems(folder) == []
    assert [item.name for item in read_coverage(folder)] == [
        "2.2 formula 1 (L_T)",
        "2.2 formula 2 (L_C)",
        "2.3 setting 1 (two modules)",
    ]


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("formula = 2\n", "formula = 3\n", "2 items of kind formula, the blog has 3"),
        ("formula = 2\n", "formula = 2\ntable = 1\n", "0 items of kind table, the blog has 1"),
        ("section = 2\n", "section = 1\n", "2 items of kind section, the blog has 1"),
        ("{ formula = 2,", "{ formula = 3,", "section 2.2: formula [1, 3]: expected 1, 2, ... in order"),
        ('"2.3"', '"2.2"', "section 2.2 is listed twice"),
        ('"hhl/table2/L_C"', '"hhl/table2/L_X"', "2.2 formula 2 (L_C): no experiment hhl/table2/L_X"),
        ('"hhl/table2/L_C"', '"other/table2/L_C"', "2.2 formula 2 (L_C): no experiment other/table2/L_C"),
        (
            "leaderboard/transfer/HHL",
            "leaderboard/transfer/HHH",
            "2.2 formula 2 (L_C): no experiment leaderboard/transfer/HHH",
        ),
        ("method.margin", "method.margins", "2.2 formula 1 (L_T): no switch hhl.config: method.margins"),
        (
            "batch_hard_triplet",
            "batch_soft_triplet",
            "2.2 formula 1 (L_T): no function hhl.losses.batch_soft_triplet",
        ),
        (
            ', remark = "nothing to run"',
            "",
            "2.3 setting 1 (two modules): where is it? name a key, a field or a function, or say why not",
        ),
    ],
)
def test_gaps_are_found(changed, old, new, sentence):
    assert sentence in coverage_problems(changed(old, new))


@pytest.mark.parametrize(
    "new",
    [
        "{ module = 1,",
        "{ setting = 1, colour = 1,",
        "{ setting = 1, table = 1,",
        '{ setting = 1, planned = "issue 99",',
    ],
)
def test_malformed_items_are_refused(changed, new):
    with pytest.raises(InputError, match="section 2.3"):
        read_coverage(changed("{ setting = 1,", new))


@pytest.mark.parametrize(
    "dotted, there",
    [
        ("reports.coverage.has_definition", True),
        ("reports.coverage.Item.name", True),
        ("reports.coverage.Item.nothing", False),
        ("reports.coverage.nothing", False),
        ("reports.nothing.at_all", False),
        ("common.evaluation.ranking.evaluate", True),
    ],
)
def test_definitions_are_looked_up_in_the_source(dotted, there):
    assert has_definition(dotted) is there


def test_an_item_names_itself():
    assert Item("2.2", "Losses", "formula", 3, "L_C").name == "2.2 formula 3 (L_C)"
