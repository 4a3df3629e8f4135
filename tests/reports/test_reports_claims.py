"""Tests claims: the file, the interval, the verdicts, and the records and published rows behind them."""

from dataclasses import replace

import pytest
from scipy.stats import false_discovery_control, ttest_1samp
from scipy.stats import t as student

from common.errors import InputError
from common.published import read_toml
from common.records import METRICS, PAPERS, Record
from reports.claims import Claim, all_claims, bar, borne_out, claimed, compare, matched, measured, read_claims
from reports.collect import read_results
from reports.experiments import REPORTS, experiments
from reports.figures import figure_specs, keys_of
from reports.sweep import Choice, planned_cells
from reports.verdicts import NO_EFFECT, TOO_FEW, Bar, benjamini_hochberg, difference, holm

L_CD, L_C, L_D, L_T, BASE = (f"hhl/table2/{row}" for row in ("L_CD", "L_C", "L_D", "L_T", "baseline_source"))
WAY = {"pair": "dukemtmc->market1501", "measured_on": "synthetic-duke->synthetic-market"}


def record(key: str, seed: int, r1: float, *, adabn: float | None = None, **changes) -> Record:
    """`r1` in percent."""
    scores = {
        name: dict(zip(METRICS, (value / 100, 0.95, 0.97, 0.99, value / 200, value / 190)))
        for name, value in (("last", r1), ("last+adabn", adabn), ("lmp7max", r1 + 5))
        if value is not None
    }
    return replace(
        Record(
            paper=key.split("/")[0],
            key=key,
            preset="demo",
            source="synthetic-duke",
            target="synthetic-market",
            seed=seed,
            config={},
            config_hash="c",
            data={},
            scores=scores,
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
        ),
        **changes,
    )


def runs(**columns: list[float]) -> list[Record]:
    """Records of Table 2's rows, one a seed."""
    return [
        record(f"hhl/table2/{row}", seed, value)
        for row, values in columns.items()
        for seed, value in enumerate(values)
    ]


def claim(left, right, **changes) -> Claim:
    return Claim("hhl", "text", left, right, **{"metric": "R-1", **WAY, **changes})


# ---------------------------------------------------------------- the interval


@pytest.mark.parametrize(
    "gaps, mean, half_width",
    [
        ([1, 3], 2, 12.706204736),  # s = sqrt(2), t(0.975, 1) = 12.7062047362, / sqrt(2)
        ([10, 20, 30], 20, 24.841377118),  # s = 10, t(0.975, 2) = 4.3026527297, / sqrt(3)
        ([1, 2, 3, 4, 5], 3, 1.963243161),  # s = sqrt(2.5), t(0.975, 4) = 2.7764451052, / sqrt(5)
        ([-4, -4, -4], -4, 0.0),
    ],
)
def test_the_interval_is_students_of_the_sample(gaps, mean, half_width):
    result = difference([50.0 + gap for gap in gaps], [50.0] * len(gaps))
    assert (result.n, result.mean) == (len(gaps), pytest.approx(mean)) and result.half_width == pytest.approx(
        half_width, rel=1e-8
    )
    assert result.left == pytest.approx(50 + mean) and result.right == 50


def test_pairing_takes_the_seed_effect_out():
    seeds = [40.0, 50.0, 60.0]  # far apart, yet every gap is 2 +- 0.1
    result = difference([value + gap for value, gap in zip(seeds, (1.9, 2.0, 2.1))], seeds)
    assert result.mean == pytest.approx(2) and result.half_width == pytest.approx(
        4.3026527297 * 0.1 / 3**0.5, rel=1e-6
    )


FIVE, THREE = [10, 11, 12, 10, 12], [10, 11, 12]  # 11 +- 1.24, 11 +- 2.48


@pytest.mark.parametrize(
    "relation, margin, gaps, expected",
    [
        ("greater", 0, FIVE, "holds"),
        ("greater", 9.7, FIVE, "holds"),
        ("greater", 0, THREE, "holds"),
        ("greater", 7.5, THREE, "holds"),  # 1.02 from the limit
        ("greater", 7.6, THREE, TOO_FEW),  # 0.92, with three seeds
        ("greater", 8.6, THREE, TOO_FEW),
        ("greater", 0, [10, 11], TOO_FEW),  # two seeds never decide
        ("greater", 0, [-gap for gap in THREE], "reversed"),
        ("greater", 9, [-gap for gap in THREE], TOO_FEW),
        ("greater", 0, [10, -10, 3], TOO_FEW),
        ("greater", 0, [0.5, -0.5, 0.1], NO_EFFECT),  # +- 1.25, below the effect of 2
        ("greater", 0, [0.56, 1.2, 1.84], TOO_FEW),  # +- 1.6, but it reaches the effect
        ("less", 0, [-0.56, -1.2, -1.84], TOO_FEW),
        ("less", 0, [0.56, 1.2, 1.84], NO_EFFECT),
        ("greater", 0, [1.5, -1.5, 0.1], TOO_FEW),  # +- 3.73, above it
        ("less", 0, [-gap for gap in THREE], "holds"),
        ("less", 0, THREE, "reversed"),
        ("less", 8.6, [-gap for gap in THREE], TOO_FEW),
        ("equivalent", 2.3, [0.9, 1.0, 1.1], "holds"),  # 1 +- 0.25
        ("equivalent", 2, [0.9, 1.0, 1.1], TOO_FEW),
        ("equivalent", 2, [0.9, 1.0, 1.1, 0.9, 1.1], "holds"),
        ("equivalent", 2, [-0.9, -1.0, -1.1, -0.9, -1.1], "holds"),
        ("equivalent", 1.05, [0.9, 1.0, 1.1, 0.9, 1.1], TOO_FEW),
        ("equivalent", 0.7, [0.9, 1.0, 1.1, 0.9, 1.1], "reversed"),
        ("equivalent", 0.7, [-0.9, -1.0, -1.1, -0.9, -1.1], "reversed"),
        ("equivalent", 2, [5, -5, 0], TOO_FEW),
        ("best_among", 0, THREE, "holds"),
        ("greater", 0, [10], TOO_FEW),
        ("equivalent", 2, [0], TOO_FEW),
    ],
)
def test_verdicts(relation, margin, gaps, expected):
    assert difference(gaps, [0.0] * len(gaps)).verdict(Bar(relation, margin)) == expected


def test_power_says_how_many_more_seeds_would_decide():
    for gaps in ([3.0, 1.0, 2.0], [1.5, -1.5, 0.1], [10, 11]):
        result, limit = difference(gaps, [0.0] * len(gaps)), Bar()
        more = result.seeds_missing(limit)
        spread = result.error * result.n**0.5

        def after(extra: int, result=result, spread=spread) -> str:
            n = result.n + extra
            half_width = student.ppf(0.975, n - 1) * spread / n**0.5
            return replace(result, n=n, half_width=half_width).verdict(Bar())

        assert result.verdict(limit) == TOO_FEW and after(more) != TOO_FEW
        assert all(after(extra) == TOO_FEW for extra in range(1, more)), gaps
    assert difference(FIVE, [0.0] * 5).seeds_missing(Bar()) == 0
    assert difference([5.0], [0.0]).seeds_missing(Bar()) is None


def test_the_p_value_is_where_the_interval_would_just_decide():
    gaps = [1.0, 4.0, 2.5, 3.5]
    result = difference(gaps, [0.0] * 4)
    assert result.p_value(Bar()) == pytest.approx(ttest_1samp(gaps, 0).pvalue)
    assert result.p_value(Bar("less")) == pytest.approx(ttest_1samp(gaps, 0).pvalue)
    low, high = (ttest_1samp(gaps, m, alternative=a).pvalue for m, a in ((-6, "greater"), (6, "less")))
    assert result.p_value(Bar("equivalent", 6)) == pytest.approx(2 * max(low, high))
    assert difference([1.0], [0.0]).p_value(Bar()) is None
    assert difference([1.0, 1.0], [0.0, 0.0]).p_value(Bar()) == 0


def test_corrections_for_many_claims():
    p_values = [0.01, 0.04, 0.03, 0.005, 0.2]
    assert benjamini_hochberg(p_values) == pytest.approx(false_discovery_control(p_values))
    # sorted: 0.005 x 5, 0.01 x 4, 0.03 x 3, 0.04 x 2 (raised to its predecessor's), 0.2 x 1
    assert holm(p_values) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == benjamini_hochberg([]) == []


# ---------------------------------------------------------------- from records


def test_a_gain_of_gains():
    records = runs(L_C=[60, 62, 61], baseline_source=[44, 45, 46], L_D=[50, 51, 49], L_T=[48, 48, 48])
    one = claim((L_C, f"-{BASE}"), (L_D, f"-{L_T}"))
    result = measured(one, records)
    # gains of L_C: 16 17 15, of L_D: 2 3 1; gaps 14 14 14
    assert (result.left, result.right, result.mean, result.half_width) == pytest.approx(
        (16, 2, 14, 0)
    ) and result.verdict(bar(one, result)) == "holds"
    assert one.keys == (L_C, BASE, L_D, L_T)


def test_only_seeds_that_every_side_has_count():
    records = runs(L_CD=[60, 62, 64], baseline_source=[44, 45])
    assert measured(claim(L_CD, BASE), records).n == 2
    assert measured(claim((L_CD, f"-{L_C}"), BASE), records) is None


def test_other_presets_and_pairs_do_not_count():
    records = runs(L_CD=[60, 62], baseline_source=[44, 45])
    assert measured(claim(L_CD, BASE), [replace(r, preset="released") for r in records]) is None
    assert (
        measured(claim(L_CD, BASE, preset="released"), [replace(r, preset="released") for r in records]).n
        == 2
    )
    assert measured(claim(L_CD, BASE, measured_on="synthetic-market->synthetic-duke"), records) is None


def test_the_best_of_each_side_is_compared():
    records = runs(L_CD=[60, 60, 60], L_C=[70, 50, 55], baseline_source=[44, 44, 44], L_T=[30, 62, 30])
    result = measured(claim((L_CD, L_C), (BASE, L_T), relation="best_among"), records)
    assert (result.left, result.right) == pytest.approx((60, 44))  # means 60 > 58.3 and 44 > 40.7
    # a member was not run
    assert measured(claim((L_CD, L_D), (BASE,), relation="best_among"), records) is None


def test_aliases_lead_to_their_record_and_score():
    if "hhl/fig5/beta=0.5" not in experiments("hhl"):
        pytest.skip("HHL's figures are not listed yet")
    records = runs(L_CD=[60, 61], baseline_source=[44, 45])
    assert measured(claim("hhl/fig5/beta=0.5", BASE), records).left == pytest.approx(60.5)


def test_another_score_of_the_record():
    records = [record(L_CD, seed, 60 + seed) for seed in range(2)] + [
        record(BASE, seed, 44, adabn=50 + seed) for seed in range(2)
    ]
    result = measured(claim(L_CD, BASE, score=("", "+adabn")), records)
    assert (result.left, result.right) == pytest.approx((60.5, 50.5)) and claimed(
        claim(L_CD, BASE, score=("", "+adabn"))
    ) == (62.2, None)
    assert measured(claim(L_CD, BASE, score=("lmp7max", "last")), records).left == pytest.approx(65.5)
    assert measured(claim(L_CD, BASE, score=("+adabn", "")), records) is None


def test_a_drawing_pairs_with_the_same_drawing_alone():
    """Records of seed N on drawing N are one group; those of the first drawing alone are another."""

    def on(drawing: int) -> dict:
        return {"target": {"name": "synthetic-market", "options": {"data_seed": drawing}}}

    drawn = [record(L_CD, seed, 60 + seed, data=on(seed)) for seed in range(3)]
    drawn += [record(BASE, seed, 50, data=on(seed)) for seed in range(3)]
    comparison = compare(claim(L_CD, BASE), drawn)
    assert comparison.drawings and comparison.difference.n == 3 and comparison.difference.mean == 11
    same = [record(L_CD, seed, 90) for seed in (1, 2)] + [record(BASE, seed, 10) for seed in (1, 2)]
    mixed = compare(claim(L_CD, BASE), [*drawn, *same])
    assert mixed.difference == comparison.difference  # seeds 1 and 2 on the first drawing stay out
    assert not compare(claim(L_CD, BASE), same).drawings


def test_the_claimed_effect_is_the_papers_own_gap():
    assert bar(claim(L_CD, BASE)).effect == pytest.approx(62.2 - 44.6)
    assert bar(claim(L_CD, BASE, score=("", "+adabn"))).effect == pytest.approx(62.2 - 44.6)
    assert bar(claim(L_CD, "hhl/control/single_pass")).effect == 2.0
    assert bar(claim(L_CD, "hhl/control/single_pass", metric="mAP")).effect == 1.5


def test_sides_with_other_pooling_or_adabn_are_unmatched():
    lmp, spgan, direct = "spgan/table2/SPGAN+LMP", "spgan/table2/SPGAN", "spgan/table2/direct"
    assert not matched(claim(lmp, direct)) and matched(claim(spgan, direct))
    assert not matched(claim(spgan, direct, score=("", "+adabn")))
    assert matched(claim(spgan, direct, score=("+adabn", "+adabn")))
    assert matched(claim(spgan, direct, score=("lmp7max", "lmp7max")))
    # the same run: pooling is what the claim is about; gains are compared with gains
    assert matched(claim(lmp, spgan)) and matched(claim((lmp, f"-{spgan}"), (spgan, f"-{direct}")))


def test_every_unmatched_comparison_of_a_method_has_a_matched_twin():
    claims = all_claims()
    for one in claims:
        if one.paper == "leaderboard" or matched(one) or one.score == ("lmp7max", "lmp7max+adabn"):
            continue
        runs = [tuple(map(_run_of, side)) for side in ((one.left,), (one.right,))]
        twins = [
            other
            for other in claims
            if isinstance(other.left, str)
            and isinstance(other.right, str)
            and [(_run_of(other.left),), (_run_of(other.right),)] == runs
            and (other.measured_on, other.preset) == (one.measured_on, one.preset)
        ]
        assert any(matched(twin) for twin in twins), one.text


def test_measures_stay_in_their_own_unit():
    records = [
        record(
            "ptgan/transfer/PTGAN", seed, 40, measures={"rms_inside": 0.2 + seed / 100, "rms_outside": 0.3}
        )
        for seed in range(3)
    ]
    records += [
        record("ptgan/transfer/CycleGAN", seed, 40, measures={"rms_inside": 0.4 + seed / 50})
        for seed in range(3)
    ]
    inside = next(
        c
        for c in all_claims()
        if c.measure == ("rms_inside", "rms_inside") and c.relation == "less" and c.origin == "paper"
    )
    result = measured(inside, records)
    assert (result.left, result.right) == pytest.approx((0.21, 0.42))
    assert result.verdict(bar(inside, result)) == "holds"
    assert claimed(inside) == (0.23, 0.47) and inside.unit == "rms_inside"
    background = next(c for c in all_claims() if c.measure == ("rms_outside", "rms_inside"))
    assert (
        measured(background, records).mean == pytest.approx(0.09)
        and background.unit == "rms_outside and rms_inside"
    )


# ---------------------------------------------------------------- the file


def test_a_reading_that_nobody_printed_has_no_published_numbers():
    assert claimed(claim(L_CD, BASE, printed=False)) == (None, None)
    readings = {key for c in all_claims() if not c.printed for key in c.keys}
    assert {
        "arn/question/diff=dot",
        "arn/control/train_ei",
        "ptgan/mask_aug/released",
        "hhl/control/embedding=frozen",
    } <= readings


def test_the_records_bear_the_note_on_private_encoders_out():
    noted = [c for c in all_claims() if "worse here than a constant mean map" in c.note]
    assert {c.paper for c in noted} == {"arn"}
    for c in noted:
        result = [
            r.measures
            for r in read_results("arn")
            if r.key in c.keys and f"{r.source}->{r.target}" == c.measured_on and r.preset == c.preset
        ]
        assert result and all(
            measures["rec_relative_error"] > measures["mean_map_relative_error"] for measures in result
        )


def test_each_headline_is_also_held_against_direct_transfer_with_adabn():
    """But LSRO's, which is trained on the data set that it is tested on. The README's table shows it."""
    baselines = {entry["key"] for entry in read_toml(REPORTS / "baselines.toml")["baseline"]}
    for headline in read_claims():
        twins = [
            c
            for c in all_claims()
            if (c.left, c.pair, c.metric, c.score) == (headline.left, headline.pair, "R-1", ("", "+adabn"))
        ]
        assert [twin.right in baselines for twin in twins] == [True] * (headline.paper != "dcgan_lsro"), (
            headline.paper
        )
        both = [
            c
            for c in all_claims()
            if (c.left, c.pair, c.score) == (headline.left, headline.pair, ("+adabn", "+adabn"))
        ]
        assert [c.right for c in both] == [twin.right for twin in twins], headline.paper


def test_each_paper_has_one_headline():
    assert sorted(c.paper for c in read_claims()) == sorted(PAPERS)
    assert {c.metric for c in read_claims()} == {"R-1"}


def test_both_ways_exchanges_the_domains():
    pairs = [(c.pair, c.measured_on) for c in all_claims() if c.text == "HHL beats direct transfer"]
    assert pairs == [
        ("dukemtmc->market1501", "synthetic-duke->synthetic-market"),
        ("market1501->dukemtmc", "synthetic-market->synthetic-duke"),
    ]


def test_every_claim_on_data_that_can_be_had_is_planned():
    """Else it could never get a verdict."""
    planned = {(cell.key, f"{cell.source}->{cell.target}", cell.preset) for cell in planned_cells(Choice())}
    for claim in all_claims():
        if claim.measured_on != "cuhk03->cuhk03":
            for key in claim.keys:
                assert (_run_of(key), claim.measured_on, claim.preset) in planned, (claim.text, key)


def test_each_question_has_an_answer_and_each_answer_a_question():
    questions = {spec["name"] for spec in figure_specs() if "question" in spec}
    assert {name for claim in all_claims() for name in claim.answers} == questions


def test_a_claim_shares_a_run_with_each_figure_that_it_answers():
    shown = {spec["name"]: {_run_of(key) for key in keys_of(spec)} for spec in figure_specs()}
    for claim in all_claims():
        for name in claim.answers:
            assert {_run_of(key) for key in claim.keys} & shown[name], (claim.text, name)


def _run_of(key: str) -> str:
    return experiments(key.split("/")[0])[key]["alias_of"] or key


def test_no_claim_is_repeated():
    statements = [
        (c.left, c.right, c.relation, c.metric, c.score, c.measure, c.measured_on, c.preset)
        for c in all_claims()
    ]
    assert len(set(statements)) == len(statements)
    assert len({(c.text, c.measured_on) for c in all_claims()}) == len(all_claims())


@pytest.mark.parametrize("paper", PAPERS)
def test_what_claims_compare_can_be_run(paper):
    keys = {key for c in all_claims() for key in c.keys if key.startswith(f"{paper}/")}
    assert keys and keys <= set(experiments(paper)), sorted(keys - set(experiments(paper)))


def test_the_papers_own_numbers_bear_their_claims_out():
    for c in all_claims():
        assert bool(c.against) == (borne_out(c) is False), (c.paper, c.text, c.pair, claimed(c))
        if c.origin == "ours":
            assert None in claimed(c), (c.text, claimed(c))  # else somebody has published it
        else:
            assert c.where, c.text


def test_the_published_numbers_of_a_claim():
    assert claimed(claim((L_C, f"-{BASE}"), (L_D, f"-{L_T}"))) == pytest.approx((16.0, 1.2))
    betas = tuple(f"hhl/fig5/beta={beta}" for beta in ("0.3", "0.4", "0.5"))
    assert claimed(claim(betas, ("hhl/fig5/beta=0", "hhl/fig5/beta=1.5"), relation="best_among")) == (
        63.6,
        62.3,
    )
    # from memory: never compared
    assert claimed(claim("arn/recalled/full", L_CD, metric="R-5", pair="market1501->dukemtmc")) == (
        None,
        61.0,
    )
    assert (
        claimed(claim(L_CD, "hhl/table2/none")) == (62.2, None)
        and borne_out(claim(L_CD, "hhl/table2/none")) is None
    )


@pytest.mark.parametrize(
    "relation, margin, expected",
    [
        ("greater", 0, True),
        ("greater", 18, False),
        ("less", 0, False),
        ("equivalent", 17, False),
        ("equivalent", 18, True),
    ],
)
def test_borne_out_by_the_paper(relation, margin, expected):
    assert borne_out(claim(L_CD, BASE, relation=relation, margin=margin)) is expected  # 62.2 against 44.6


def test_a_claim_across_papers_names_both():
    across = next(c for c in all_claims() if c.paper == "leaderboard")
    assert across.papers == ("hhl", "spgan")
    records = runs(L_CD=[60, 62]) + [record("spgan/table2/SPGAN", seed, 50) for seed in range(2)]
    records = [replace(r, source=r.target, target=r.source, preset="shared") for r in records]
    assert measured(across, records).mean == pytest.approx(11)


HEAD = """
[hhl]
pair = "a->b"
measured_on = "c->d"
[[hhl.claim]]
text = "t"
left = ["hhl/a/b"]
right = "hhl/a/c"
"""


@pytest.mark.parametrize(
    "line, words",
    [
        ('relation = "beats"', "expected a relation of"),
        ('origin = "me"', "an origin of"),
        ('metric = "rank"', "a metric of"),
        ("margin = -1.0", "margin -1.0"),
        ('relation = "equivalent"', "more than 0 for an equivalence"),
        ('left = "twice"', "not TOML"),
        ('relation = "best_among"\nright = "-hhl/a/c"', "without signs"),
        ('colour = "red"', "colour: no such field"),
        ('[[hhl.claim]]\ntext = "t"\nleft = "hhl/a/b"', "right: missing"),
    ],
)
def test_malformed_claims_are_refused(tmp_path, line, words):
    head = HEAD.replace('right = "hhl/a/c"\n', "") if "right =" in line else HEAD
    (tmp_path / "claims.toml").write_text(head + line, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        all_claims(tmp_path)


def test_a_claims_field_in_a_sections_head_is_refused(tmp_path):
    (tmp_path / "claims.toml").write_text(
        HEAD.replace("measured_on", 'answers = "hhl-jitter"\nmeasured_on'), encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"\[hhl\]: answers: no such field of a section"):
        all_claims(tmp_path)


def test_a_good_one_of_that_file_is_read(tmp_path):
    (tmp_path / "claims.toml").write_text(HEAD, encoding="utf-8")
    assert [(c.left, c.right, c.pair, c.relation) for c in all_claims(tmp_path)] == [
        (("hhl/a/b",), "hhl/a/c", "a->b", "greater")
    ]
