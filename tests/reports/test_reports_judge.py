"""Tests gates and verdicts among many claims: what a reader is told about a claim beside its interval."""

from dataclasses import replace

import pytest

from common.errors import InputError
from common.provenance import ROOT
from common.published import read_toml
from common.records import METRICS, PAPERS, Record
from reports.claims import all_claims
from reports.experiments import REPORTS, experiments
from reports.gates import about, concerns, read_gates
from reports.judge import judge, tally
from reports.verdicts import HOLDS, NOT_RUN, NOT_TESTABLE, TOO_FEW

CLAIMS = """
[hhl]
pair = "dukemtmc->market1501"
measured_on = "synthetic-duke->synthetic-market"
[[hhl.claim]]
text = "HHL beats direct transfer"
left = "hhl/table2/L_CD"
right = "hhl/table2/baseline_source"
headline = true
[[hhl.claim]]
text = "in mAP too"
left = "hhl/table2/L_CD"
right = "hhl/table2/baseline_source"
metric = "mAP"
[[hhl.claim]]
text = "L_T beats direct transfer"
left = "hhl/table2/L_T"
right = "hhl/table2/baseline_source"
later = "Seed 2 was added after a look"
[[hhl.claim]]
text = "The pictures are what limits HHL"
left = "hhl/style/oracle"
right = "hhl/table2/L_CD"
origin = "ours"
gated = false
"""
GATES = """
[[gate]]
name = "camera styles"
keys = ["hhl/table2/L_*"]
but = ["hhl/table2/L_T"]
[[gate.check]]
words = "fakes taken for the camera:"
measure = "style_share"
comparison = "at least"
threshold = 0.7
reference = "style_share_oracle"
"""


def record(key: str, seed: int, r1: float, **changes) -> Record:
    score = dict(zip(METRICS, (r1, 0.95, 0.97, 0.99, r1 / 2, r1 / 2)))
    blank = Record(
        paper=key.split("/")[0],
        key=key,
        preset="demo",
        source="synthetic-duke",
        target="synthetic-market",
        seed=seed,
        config={},
        config_hash="c",
        data={},
        scores={"last": score},
        measures={},
        stages={},
        selection="last epoch",
        code_version="v",
        libraries={},
        hardware={},
        seconds=1.0,
        curves=[],
        pictures=[],
        created="2026-01-01",
    )
    return replace(blank, **changes)


def runs(measures: dict | None = None, **changes) -> list[Record]:
    """HHL 10 points above direct transfer, L_T level with it, over three seeds."""
    made = []
    for seed in range(3):
        made.append(record("hhl/table2/L_CD", seed, 0.5 + seed / 100, measures=measures or {}, **changes))
        made.append(record("hhl/table2/baseline_source", seed, 0.4 + seed / 90, **changes))
        made.append(record("hhl/table2/L_T", seed, (0.4, 0.5, 0.3)[seed], **changes))
        made.append(record("hhl/style/oracle", seed, 0.6 + seed / 80, **changes))
    return made


@pytest.fixture
def reports(tmp_path):
    (tmp_path / "claims.toml").write_text(CLAIMS, encoding="utf-8")
    (tmp_path / "gates.toml").write_text(GATES, encoding="utf-8")
    return tmp_path


def test_a_mechanism_that_misses_its_gate_makes_a_claim_not_testable(reports):
    missed = judge({"hhl": runs({"style_share": 0.5, "style_share_oracle": 0.8})}, reports)
    assert [item.verdict for item in missed] == [NOT_TESTABLE, NOT_TESTABLE, TOO_FEW, HOLDS]
    assert missed[0].interval == HOLDS and missed[0].mechanism == "misses"
    assert missed[0].missed[0].text == "fakes taken for the camera: 0.50, needs ≥ 0.56"
    passed = judge({"hhl": runs({"style_share": 0.57, "style_share_oracle": 0.8})}, reports)
    assert passed[0].verdict == HOLDS and passed[0].mechanism == "passes"
    # L_T needs no fakes; a claim about the mechanism's failure is not gated
    assert passed[2].mechanism == passed[3].mechanism == ""


def test_a_mechanism_without_the_measure_is_not_measured(reports):
    for measures in ({}, {"style_share": 0.9}, {"style_share_oracle": 0.8}):
        item = judge({"hhl": runs(measures)}, reports)[0]
        assert (item.verdict, item.mechanism) == (HOLDS, "not measured"), measures
    assert judge({"hhl": runs()}, reports)[0].gates[0].needed_text == "≥ 0.7 × style_share_oracle"
    some = runs({"style_share": 0.9, "style_share_oracle": 0.8})
    some[0] = replace(some[0], measures={})  # one record of three lacks it
    assert judge({"hhl": some}, reports)[0].mechanism == "not measured"


def test_a_gate_is_about_the_presets_that_it_names(reports):
    few = {"style_share": 0.1, "style_share_oracle": 0.8}
    for presets, verdict in ((["demo"], NOT_TESTABLE), (["photos_cpu"], HOLDS)):
        text = GATES.replace("[[gate.check]]", f"presets = {presets}\n[[gate.check]]", 1).replace("'", '"')
        (reports / "gates.toml").write_text(text, encoding="utf-8")
        assert judge({"hhl": runs(few)}, reports)[0].verdict == verdict
    photographs = [about(gate, "photos_cpu") for gate in ({}, {"presets": ["photos_cpu"]})]
    assert photographs == [False, True]


def test_a_gate_may_compare_two_experiments(reports):
    text = GATES.split("[[gate.check]]")[0] + (
        '[[gate.check]]\nwords = "gap:"\nmeasure = "R-1"\nof = "hhl/table2/baseline_source"\n'
        'reference_of = "hhl/style/oracle"\ncomparison = "within"\nthreshold = THRESHOLD\n'
    )
    for threshold, verdict in (("25.0", HOLDS), ("15.0", NOT_TESTABLE)):
        (reports / "gates.toml").write_text(text.replace("THRESHOLD", threshold), encoding="utf-8")
        assert judge({"hhl": runs()}, reports)[0].verdict == verdict
    text = text.replace("within", "more by")  # 20 points
    for threshold, verdict in (("15.0", NOT_TESTABLE), ("-25.0", HOLDS)):
        (reports / "gates.toml").write_text(text.replace("THRESHOLD", threshold), encoding="utf-8")
        assert judge({"hhl": runs()}, reports)[0].verdict == verdict


def test_the_study_is_judged_beside_the_demo_and_never_with_it(reports):
    study = runs({"style_share": 0.7, "style_share_oracle": 0.8}, preset="study", config_hash="s")
    items = judge({"hhl": runs({"style_share": 0.1, "style_share_oracle": 0.8}) + study}, reports)
    assert [(item.claim.preset, item.superseded) for item in items[:2]] == [("study", False), ("demo", True)]
    assert [item.verdict for item in items[:2]] == [HOLDS, NOT_TESTABLE]
    assert sum(sum(counts.values()) for counts in tally(items).values()) == 3  # mAP is the same comparison
    two = [r for r in study if r.seed < 2]
    items = judge({"hhl": runs() + two}, reports)
    assert [(item.claim.preset, item.superseded) for item in items[:2]] == [("study", True), ("demo", False)]


def test_the_tally_counts_the_papers_claims_apart_and_scores_of_the_same_runs_once(reports):
    counts = tally(judge({"hhl": runs()}, reports))
    assert (counts["paper"][HOLDS], counts["paper"][TOO_FEW], counts["ours"][HOLDS]) == (1, 1, 1)
    counts = tally(judge({}, reports))
    assert (counts["paper"][NOT_RUN], counts["ours"][NOT_RUN], counts["blog"][NOT_RUN]) == (2, 1, 0)


def test_a_decided_claim_says_which_correction_it_survives(reports):
    first, second, open_one, last = judge({"hhl": runs()}, reports)
    assert {first.survives, second.survives, last.survives} <= {"Holm", "BH", "neither"}
    assert open_one.survives == "" and 0 <= first.bh <= first.holm <= 1


def test_what_a_reader_must_know_about_the_records_is_said(reports):
    mixed = [
        replace(r, libraries={"torch": f"2.{r.seed // 2}"}, code_version=f"v{r.seed // 2}") for r in runs()
    ]
    items = judge({"hhl": mixed}, reports)
    assert items[0].remarks == ["Records of torch 2.0 and 2.1.", "Records of 2 versions of the code."]
    assert items[2].remarks[0] == "Seed 2 was added after a look."


def test_a_contradiction_of_size_is_said_where_the_sign_agrees(reports):
    rows = []
    for seed in range(3):
        rows.append(record("hhl/table2/L_CD", seed, 0.80 + seed / 100))
        rows.append(record("hhl/table2/L_T", seed, 0.70))
        rows.append(record("hhl/table2/baseline_source", seed, 0.40 + seed / 100))
    items = judge({"hhl": rows}, reports)
    # +40 where the paper prints 62.2 - 44.6: not five times; +29 where it prints 48.6 - 44.6
    assert items[0].size == ""
    assert items[2].size == "Same sign, another size: +29.0 here, +4.0 in the paper."
    assert items[2].size in items[2].remarks


def test_intervals_over_drawings_say_so(reports):
    drawn = [
        replace(r, data={"target": {"name": "synthetic-market", "options": {"data_seed": r.seed}}})
        for r in runs()
    ]
    assert judge({"hhl": drawn}, reports)[0].over == "drawings"
    assert judge({"hhl": runs()}, reports)[0].over == "seeds"


@pytest.mark.parametrize("line", ['comparison = "more"', 'comparison = "within"', "threshold = true"])
def test_malformed_gates_are_refused(reports, line):
    name = line.split(" = ")[0]
    lines = [line if old.startswith(name) else old for old in GATES.splitlines()]
    (reports / "gates.toml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=r"gates\.toml"):
        read_gates(reports)


def test_the_committed_gates_name_experiments_that_exist_and_claims_that_they_decide():
    gates = read_gates(REPORTS)
    runs_of = {key: entry["alias_of"] or key for paper in PAPERS for key, entry in experiments(paper).items()}
    claimed = {runs_of[key] for claim in all_claims() for key in claim.keys}
    for gate in gates:
        assert any(concerns(gate, run) for run in claimed), gate["name"]
        for check in gate["check"]:
            assert {check.get("of"), check.get("reference_of")} - {None} <= set(runs_of), gate["name"]
    for claim in all_claims():
        if claim.headline:
            assert any(concerns(gate, runs_of[key]) for gate in gates for key in claim.keys), claim.text


def test_the_committed_gates_read_measures_that_the_papers_write():
    for gate in read_gates(REPORTS):
        papers = {pattern.split("/")[0] for pattern in gate["keys"]}
        rooms = [*(ROOT / paper for paper in papers), ROOT / "common" / "evaluation"]
        text = "".join(path.read_text(encoding="utf-8") for room in rooms for path in room.rglob("*.py"))
        for check in gate["check"]:
            for name in {check["measure"], check.get("reference", check["measure"])} - set(METRICS):
                stems = [name, *(name.removesuffix(end) for end in ("_oracle", "_untouched", "_l2"))]
                assert any(stem in text for stem in stems), (gate["name"], name)


def test_baselines_without_adaptation_have_no_gate():
    for entry in read_toml(REPORTS / "baselines.toml")["baseline"]:
        if not entry["key"].startswith("dcgan_lsro/"):  # LSRO's gate is about the baseline itself
            assert not any(concerns(gate, entry["key"]) for gate in read_gates(REPORTS)), entry["key"]
