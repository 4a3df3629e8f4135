"""What the blog contains and where it is here: true as committed, and every kind of gap is found."""

import pytest

from common.errors import InputError
from reports.coverage import Item, coverage_problems, has_definition, read_coverage
from reports.experiments import REPORTS

TEXT = (REPORTS / "coverage.toml").read_text()


@pytest.fixture
def changed(tmp_path):
    """A folder whose coverage.toml has one text replaced by another."""
    def change(old: str, new: str):
        assert TEXT.count(old) == 1, (old, TEXT.count(old))
        (tmp_path / "coverage.toml").write_text(TEXT.replace(old, new))
        return tmp_path
    return change


def test_all_of_the_blog_is_where_the_file_says():
    assert coverage_problems() == []


def test_the_blogs_tables_are_experiments_of_ours():
    tables = [item for item in read_coverage() if item.kind == "table"]
    assert [item.section for item in tables] == ["1.3.1", "1.3.2", "1.3.3", "2.3.1"] and all(item.keys for item in tables)


@pytest.mark.parametrize("old, new, words", [
    ("formula = 24", "formula = 25", "24 items of kind formula, the blog has 25"),
    ("section = 43", "section = 42", "43 items of kind section, the blog has 42"),
    ('{ formula = 4, what = "L_D"', '{ formula = 5, what = "L_D"', "section 2.2: formula"),
    ('number = "2.6"', 'number = "2.5"', "section 2.5 is listed twice"),
    ('"hhl/fig5/beta=1.7"', '"hhl/fig5/beta=1.75"', "no experiment hhl/fig5/beta=1.75"),
    ('"leaderboard/transfer/MMFA"', '"leaderboard/transfer/MMTA"', "no experiment leaderboard/transfer/MMTA"),
    ('"hhl.config: stargan.beta1"', '"hhl.config: stargan.beta9"', "no switch hhl.config: stargan.beta9"),
    ('"hhl.losses.batch_all_triplet"', '"hhl.losses.batch_some_triplet"', "no function hhl.losses.batch_some_triplet"),
    ('{ setting = 2, what = "128x64", fields = ["hhl.config: stargan.height", "hhl.config: stargan.width"] }', '{ setting = 2, what = "128x64" }',
     "2.4.1 setting 2 (128x64): where is it?"),
    ('"issue 6" = "ptgan"', '"issue 6" = "hhl"', "planned in issue 6, but hhl is built"),
    ('"issue 6" = "ptgan"', '"issue 66" = "ptgan"', "issue 6 is not listed under [planned]"),
])
def test_gaps_are_found(changed, old, new, words):
    assert any(words in sentence for sentence in coverage_problems(changed(old, new)))


@pytest.mark.parametrize("old, new", [
    ('{ setting = 3, what = "Adam 0.5, 0.999"', '{ adam = 3, what = "Adam 0.5, 0.999"'),
    ('{ setting = 3, what = "Adam 0.5, 0.999"', '{ setting = 3, colour = 1, what = "Adam 0.5, 0.999"'),
    ('{ setting = 3, what = "Adam 0.5, 0.999"', '{ setting = 3, table = 1, what = "Adam 0.5, 0.999"'),
])
def test_malformed_items_are_refused(changed, old, new):
    with pytest.raises(InputError, match="section 2.4.1"):
        read_coverage(changed(old, new))


@pytest.mark.parametrize("dotted, there", [
    ("reports.coverage.has_definition", True),
    ("reports.coverage.Item.name", True),
    ("reports.coverage.Item.nothing", False),
    ("reports.coverage.nothing", False),
    ("reports.nothing.at_all", False),
    ("common.evaluation.ranking.evaluate", True),
])
def test_definitions_are_looked_up_in_the_source(dotted, there):
    assert has_definition(dotted) is there


def test_an_item_names_itself():
    assert Item("2.2", "Losses", "formula", 3, "L_C").name == "2.2 formula 3 (L_C)"
