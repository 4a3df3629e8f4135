"""Tampers with records: a build refuses what a record says falsely, names what has gone, and shows no foreign
text as markup.
"""

import dataclasses

import pytest

from common.errors import InputError
from common.hashing import digest
from common.records import METRICS, PAPERS, Record, read_record
from reports.collect import read_results
from reports.experiments import REPORTS
from reports.integrity import built, changes, check_records, last_build, name_of, text_of
from reports.judge import judge
from reports.page import pages

CONFIG = {"recipe": {"base_lr": 0.25, "pretrain_epochs": 5, "epochs": 7}}
DATA = {"target": {"name": "synthetic-market", "hash": "1", "query": 40}}


def record(key="hhl/table2/L_CD", seed=0, ranks=(20, 30, 35, 38), **changes) -> Record:
    """`ranks`: of 40 queries, how many find their person by rank 1, 5, 10, 20."""
    score = dict(zip(METRICS, (*(rank / 40 for rank in ranks), 0.3, 0.31)))
    blank = Record(
        paper="hhl",
        key=key,
        preset="demo",
        source="synthetic-duke",
        target="synthetic-market",
        seed=seed,
        config=CONFIG,
        config_hash=digest(CONFIG),
        data=DATA,
        scores={"last": score, "last+adabn": score},
        measures={"fake_l1": 25.0},
        stages={},
        selection="last epoch",
        code_version="v",
        libraries={},
        hardware={},
        seconds=90.0,
        curves=[],
        pictures=[],
        created="2026-01-01",
    )
    return dataclasses.replace(blank, **changes)


def forged(**score: float) -> Record:
    """A record whose first score was edited by hand."""
    honest = record()
    return dataclasses.replace(honest, scores={**honest.scores, "last": {**honest.scores["last"], **score}})


def test_the_committed_records_are_true_to_themselves():
    assert check_records({paper: read_results(paper) for paper in PAPERS}) == []


def test_honest_records_pass():
    assert check_records({"hhl": [record(), record(seed=1)]}) == []
    # three queries have no match in another camera: 37 are scored
    scored = {name: count / 37 for name, count in zip(("R-1", "R-5", "R-10", "R-20"), (20, 30, 33, 36))}
    some = {**record().scores["last"], **scored}
    assert check_records({"hhl": [record(scores={"last": some})]}) == []


def test_an_edited_configuration_is_refused():
    other = {"recipe": {**CONFIG["recipe"], "epochs": 70}}
    with pytest.raises(InputError, match=r"hhl\.jsonl, line 2: hhl/table2/L_CD .* seed 1 .*changed by hand"):
        check_records({"hhl": [record(), record(seed=1, config=other)]})


def test_an_edited_config_hash_is_refused():
    """A forged newer configuration would hide every honest seed."""
    with pytest.raises(InputError, match="its configuration hashes to"):
        check_records({"hhl": [record(config_hash="0123456789ab", created="2026-02-01")]})


@pytest.mark.parametrize("score", [{"R-1": 0.5123}, {"R-1": 0.51}, {"R-20": 0.999}, {"R-5": 0.75001}])
def test_a_rank_that_is_no_multiple_of_a_query_is_refused(score):
    with pytest.raises(InputError, match="no multiples of 1/n for any n up to its 40 queries"):
        check_records({"hhl": [forged(**score)]})


def test_one_record_that_hides_five_is_warned_of():
    newer = {"recipe": {**CONFIG["recipe"], "epochs": 8}}
    one = record(config=newer, config_hash=digest(newer), created="2026-02-01")
    [warning] = check_records({"hhl": [record(seed=seed) for seed in range(5)] + [one]})
    assert "has 1 seeds and hides an earlier one with 5" in warning and digest(newer) in warning
    many = [dataclasses.replace(one, seed=seed) for seed in range(5)]
    assert check_records({"hhl": [record(seed=seed) for seed in range(5)] + many}) == []


def runs(count: int = 5) -> list[Record]:
    made = [record(seed=seed, ranks=(20 + seed, 30, 35, 38)) for seed in range(count)]
    base = "hhl/table2/baseline_source"
    return made + [record(base, seed=seed, ranks=(10 + seed % 2, 30, 35, 38)) for seed in range(count)]


@pytest.fixture
def reports(tmp_path):
    for name in ("claims.toml", "coverage.toml", "figures.toml"):
        (tmp_path / name).write_text((REPORTS / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "results").mkdir()
    return tmp_path


def test_a_record_that_has_gone_and_a_verdict_that_changed_are_named(reports):
    before = built(runs(), judge({"hhl": runs()}, reports))
    (reports / "built.json").write_text(text_of(before), encoding="utf-8")
    assert last_build(reports) == before and changes(before, before) == []
    left = [r for r in runs() if not (r.key == "hhl/table2/L_CD" and r.seed > 0)]
    lines = changes(before, built(left, judge({"hhl": left}, reports)))
    gone = [name_of(r) for r in runs() if r not in left]
    assert [line for line in lines if line.startswith("gone")] == [
        f"gone since the last build: {name}" for name in gone
    ]
    assert (
        "verdict changed: hhl: HHL beats direct transfer (synthetic-duke->synthetic-market): "
        "holds -> too few seeds to tell" in lines
    )


def test_other_numbers_of_the_same_record_are_named(reports):
    before = built(runs(), [])
    after = built([record(ranks=(25, 30, 35, 38)), *runs()[1:]], [])
    assert changes(before, after) == [f"other numbers than at the last build: {name_of(record())}"]


def test_a_damaged_memory_of_the_last_build_is_one_line(reports):
    for text in ("{", "[]", '{"records": 3, "verdicts": {}}'):
        (reports / "built.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"built\.json"):
            last_build(reports)
    (reports / "built.json").unlink()
    assert last_build(reports) is None


def test_text_of_records_never_becomes_markup(reports):
    bad = "<img src=x onerror=alert(1)>"
    spoilt = [
        dataclasses.replace(
            r,
            measures={bad: 1.0},
            scores={**r.scores, bad: r.scores["last"]},
            code_version=bad,
            libraries={"torch": f"{bad}{r.seed}"},
        )
        for r in runs()
    ]
    lines = "".join(r.to_json() + "\n" for r in spoilt)
    (reports / "results" / "hhl.jsonl").write_text(lines, encoding="utf-8")
    made = pages(reports)
    assert all("<img src=x" not in text for text in made.values())
    assert "&lt;img src=x onerror=alert(1)&gt;" in made["pages/records.html"]
    assert "&lt;img src=x onerror=alert(1)&gt;0" in made["pages/hhl.html"]  # versions that differ


@pytest.mark.parametrize(
    "path", ["../../x.png", "/x.png", "a/../../x.png", "a\\..\\x.png", "./x.png", "a//x"]
)
@pytest.mark.parametrize("name", ["pictures", "curves"])
def test_paths_in_records_cannot_leave_their_folder(name, path):
    with pytest.raises(InputError, match="expected a path below the output folder"):
        read_record(record(**{name: [path]}).to_json())
