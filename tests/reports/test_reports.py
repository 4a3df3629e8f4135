"""Records in, tables out: collecting, status, the READMEs' tables."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from common.errors import InputError
from common.provenance import ROOT
from common.records import METRICS, PAPERS, Record
from reports.__main__ import main
from reports.claims import LEGEND, bar, measured, read_claims
from reports.collect import collect, read_results
from reports.readme import BEGIN, END, claim_table, result_text, write_between
from reports.status import status


def record(key="hhl/table2/L_CD", seed=0, r1=0.5, **changes) -> Record:
    score = dict(zip(METRICS, (r1, 0.9, 0.95, 0.99, 0.3, 0.31)))
    return dataclasses.replace(
        Record(
            paper="hhl",
            key=key,
            preset="demo",
            source="synthetic-duke",
            target="synthetic-market",
            seed=seed,
            config={},
            config_hash="c",
            data={},
            scores={"last": score, "last+adabn": score},
            measures={},
            stages={},
            selection="last epoch",
            code_version="v",
            libraries={},
            hardware={},
            seconds=1.0,
            curves=[],
            pictures=["a.png"],
            created="2026-01-01",
        ),
        **changes,
    )


def put(folder: Path, item: Record) -> None:
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(item.to_json(), encoding="utf-8")
    Image.new("RGB", (2, 3)).save(folder / "a.png")


def test_collect_appends_and_refuses_contradictions(tmp_path):
    put(tmp_path / "a" / "0", record())
    put(tmp_path / "a" / "1", record(seed=1))
    assert len(collect([tmp_path / "a"], tmp_path)) == 2
    assert len(read_results("hhl", tmp_path)) == 2
    pictures = tmp_path / "pictures" / "hhl+table2+L_CD"
    assert [path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png")] == [
        "synthetic-duke+synthetic-market/a.png"
    ]
    put(tmp_path / "study", record(preset="study"))
    collect([tmp_path / "study"], tmp_path / "other")
    (study,) = (tmp_path / "other" / "pictures").rglob("a.png")
    assert study.parent.name == "synthetic-duke+synthetic-market+study"
    put(tmp_path / "b" / "0", record(r1=0.6))
    put(tmp_path / "b" / "1", record(measures={"style_gap": 1.0}))
    for other in ("0", "1"):
        with pytest.raises(InputError, match="other numbers"):
            collect([tmp_path / "b" / other], tmp_path)
    put(tmp_path / "c", record(r1=0.6, config_hash="d"))
    collect([tmp_path / "c"], tmp_path)
    assert len(read_results("hhl", tmp_path)) == 3


def test_replace_drops_older_records_of_the_same_cell(tmp_path):
    put(tmp_path / "a" / "0", record())
    put(tmp_path / "a" / "1", record(seed=1))
    put(tmp_path / "a" / "2", record(preset="released", config_hash="r"))
    collect([tmp_path / "a"], tmp_path)
    put(tmp_path / "b" / "0", record(config_hash="d", created="2026-01-02"))
    put(tmp_path / "b" / "1", record(seed=1, r1=0.6, created="2026-01-02"))
    name = "hhl/table2/L_CD synthetic-duke -> synthetic-market seed"
    lines = collect([tmp_path / "b"], tmp_path, replace=True)
    assert lines == [
        f"{what}: {name} {seed}{was}"
        for seed in (0, 1)
        for what, was in (("dropped", ", config c of 2026-01-01"), ("added", ""))
    ]
    assert {
        (r.seed, r.preset): (r.config_hash, r.scores["last"]["R-1"]) for r in read_results("hhl", tmp_path)
    } == {(0, "released"): ("r", 0.5), (0, "demo"): ("d", 0.5), (1, "demo"): ("c", 0.6)}
    # the newer ones stay
    before = read_results("hhl", tmp_path)
    assert collect([tmp_path / "a" / "0", tmp_path / "a" / "2"], tmp_path, replace=True) == [
        f"older: {name} 0 of 2026-01-01; the one of 2026-01-02 stays",
        f"known: {name} 0",
    ]
    with pytest.raises(
        InputError, match="a/1/record.json: .*of 2026-01-01 has other numbers than .*2026-01-02"
    ):
        collect([tmp_path / "a"], tmp_path, replace=True)  # the same configuration: is a clock wrong?
    assert read_results("hhl", tmp_path) == before


def test_of_two_new_records_the_later_one_counts_in_any_order(tmp_path):
    put(tmp_path / "a" / "0", record(r1=0.6, created="2026-01-02"))
    put(tmp_path / "a" / "1", record())
    collect([tmp_path / "a"], tmp_path, replace=True)
    assert [r.created for r in read_results("hhl", tmp_path)] == ["2026-01-02"]


MANIFEST = {"name": "synthetic-duke", "hash": "1"}


def test_replace_drops_what_was_made_on_other_data(tmp_path):
    put(tmp_path / "a" / "0", record(data={"source": MANIFEST}))
    put(tmp_path / "a" / "1", record("hhl/table2/L_C", data={"source": MANIFEST}))
    put(
        tmp_path / "a" / "2",
        record(
            "hhl/table2/L_D", source="synthetic-market", target="synthetic-duke", data={"target": MANIFEST}
        ),
    )
    collect([tmp_path / "a"], tmp_path)
    put(
        tmp_path / "b",
        record(data={"source": {**MANIFEST, "hash": "2"}}, created="2026-01-02", config_hash="d"),
    )
    with pytest.raises(
        InputError,
        match=r"b/record.json: its source synthetic-duke has the manifest 2, "
        r"that of hhl.jsonl is 1: run it again",
    ):
        collect([tmp_path / "b"], tmp_path)
    assert len(read_results("hhl", tmp_path)) == 3
    collect([tmp_path / "b"], tmp_path, replace=True)
    assert {(r.key, r.config_hash) for r in read_results("hhl", tmp_path)} == {
        ("hhl/table2/L_CD", "d"),
        ("hhl/table2/L_D", "c"),
    }


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda r: dataclasses.replace(r, scores={"last": {**r.scores["last"], "mAP": float("nan")}}),
            "wrong type in scores.last.mAP: expected a finite number, found nan",
        ),
        (
            lambda r: dataclasses.replace(r, measures={"fake_l1": float("inf")}),
            "wrong type in measures.fake_l1: expected a finite number, found inf",
        ),
        (lambda r: r, "is there already, hhl.jsonl, line 1"),
        (lambda r: dataclasses.replace(r, schema=2, seed=5), "schema: expected 1, found 2"),
        (
            lambda r: dataclasses.replace(r, seed=5, data={"source": {**MANIFEST, "hash": "2"}}),
            "has the manifest 2, that of hhl.jsonl, line 1 is 1",
        ),
    ],
)
def test_spoilt_results_are_refused_with_file_and_line(tmp_path, spoil, message):
    good = record(data={"source": MANIFEST})
    spoilt = json.dumps(dataclasses.asdict(spoil(good)))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "hhl.jsonl").write_text(
        "\n".join([good.to_json(), record(seed=1).to_json(), spoilt]) + "\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError, match=f"^hhl.jsonl, line 3: .*{message}"):
        read_results("hhl", tmp_path)


def test_collect_changes_nothing_when_one_record_is_bad(tmp_path):
    put(tmp_path / "a" / "0", record())
    put(tmp_path / "a" / "1", record(key="hhl/table9/none"))
    with pytest.raises(InputError, match="not in hhl's --list-experiments"):
        collect([tmp_path / "a"], tmp_path)
    (tmp_path / "a" / "1" / "record.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="missing fields"):
        collect([tmp_path / "a"], tmp_path)
    with pytest.raises(InputError, match="no record.json"):
        collect([tmp_path / "empty"], tmp_path)
    assert read_results("hhl", tmp_path) == []


def test_pictures_of_real_people_are_not_copied(tmp_path):
    put(tmp_path / "a", record(target="market1501"))
    collect([tmp_path / "a"], tmp_path)
    assert not (tmp_path / "pictures").exists()


def test_status_counts_seeds_and_says_not_run(tmp_path):
    for name in ("claims.toml", "gates.toml"):
        (tmp_path / name).write_text((ROOT / "reports" / name).read_text(encoding="utf-8"), encoding="utf-8")
    for seed in range(3):
        put(tmp_path / "runs" / str(seed), record(seed=seed, r1=0.5 + seed / 10))
        other = record("hhl/table2/baseline_source", seed=seed, r1=0.45)
        put(tmp_path / "runs" / f"b{seed}", other)
    collect([tmp_path / "runs"], tmp_path)
    text = status(tmp_path)
    assert max(map(len, text.splitlines())) < 120
    parts = {part.split()[0]: part for part in text.split("\n  ") if part.startswith("hhl/")}

    def of(key: str) -> str:
        return text.split(f"\n  {key}\n")[1].split("\n  hhl/")[0]

    assert "    synthetic-duke -> synthetic-market [demo, earlier]: 3 seeds\n" in of("hhl/table2/L_CD")
    assert "not run: 5 seeds on synthetic-duke -> synthetic-market [demo]" in of("hhl/table2/L_D")
    assert "[scratch] (needs market1501 and a GPU)" in of("hhl/table2/L_D")
    assert "not run, not planned" in of("hhl/fig5/beta=1.1")
    assert "\nhhl: 6 records, 0 of " in text
    assert "  the rest: python -m reports sweep --paper hhl --data-root DIR --gpu" in text
    assert "hhl/table3/L_CD (as hhl/table2/L_CD)" in text and parts
    # 15 +- 25: how many more seeds would tell
    assert "claims have too few seeds:" in text
    more = int(re.search(r"  (\d+) more, about \d+ min: HHL beats direct transfer:", text)[1])
    assert more == measured(read_claims(tmp_path)[0], read_results("hhl", tmp_path)).seeds_missing(
        bar(read_claims(tmp_path)[0])
    )
    assert re.fullmatch(
        r"total: 6 records, 0 of \d+ planned cells done, \d+ open claims", text.splitlines()[-1]
    )


def test_status_of_one_paper_shows_what_is_missing(tmp_path):
    for name in ("claims.toml", "gates.toml"):
        (tmp_path / name).write_text((ROOT / "reports" / name).read_text(encoding="utf-8"), encoding="utf-8")
    text = status(tmp_path, paper="ptgan", missing=True)
    keys = {line.split()[0] for line in text.splitlines() if line.startswith("  ptgan/")}
    assert "ptgan/transfer/PTGAN" in keys and "hhl" not in text
    assert not any("not planned" in line for line in text.splitlines())
    with pytest.raises(InputError, match="no paper 'none'"):
        status(tmp_path, paper="none")


def test_the_commands_answer(capsys, tmp_path):
    assert main(["status"]) == 0 and "hhl/table2/L_CD" in capsys.readouterr().out
    assert main(["collect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


# ---------------------------------------------------------------- README


def test_the_tables_say_not_run_until_something_is(tmp_path):
    for name in ("claims.toml", "figures.toml"):
        (tmp_path / name).write_text((ROOT / "reports" / name).read_text(encoding="utf-8"), encoding="utf-8")
    assert claim_table(tmp_path).count("not run") == 5 * len(read_claims(tmp_path)) - 2
    assert claim_table(tmp_path).endswith(" not run | – | – |")  # LSRO adapts nothing
    assert result_text("hhl", tmp_path) == "not run"
    for seed in range(2):
        put(tmp_path / "runs" / f"{seed}l", record(seed=seed, r1=0.5 + seed / 100))
        put(tmp_path / "runs" / f"{seed}r", record("hhl/table2/baseline_source", seed=seed, r1=0.3))
    collect([tmp_path / "runs"], tmp_path)
    row = next(line for line in claim_table(tmp_path).splitlines() if "HHL beats" in line)
    assert (
        "62.2 v 44.6" in row
        and "50.5 v 30.0" in row
        and "+20.5 ± 6.4 (2 seeds)" in row
        and "| **too few seeds to tell** |" in row
    )
    put(tmp_path / "more" / "l", record(seed=2, r1=0.52))
    put(tmp_path / "more" / "r", record("hhl/table2/baseline_source", seed=2, r1=0.31))
    collect([tmp_path / "more"], tmp_path)
    row = next(line for line in claim_table(tmp_path).splitlines() if "HHL beats" in line)
    assert "51.0 v 30.3" in row and "+20.7 ± 1.4 (3 seeds)" in row and "| **holds** |" in row
    # against the AdaBN score of direct transfer, and on both sides: here the same
    assert row.endswith("| +20.7 ± 1.4 (3 seeds), **holds** | +20.7 ± 1.4 (3 seeds), **holds** |")
    text = result_text("hhl", tmp_path)
    assert (
        "## Table 2\n\n**Table 2**, measured on synthetic-duke → synthetic-market, "
        "published on Duke → Market:\n\n| row | published R-1 / mAP |" in text
    )
    assert "| HHL, L_CD | 62.2 / 31.4 | 51.0 ± 1.0 / 30.0 ± 0.0 | 51.0 ± 1.0 / 30.0 ± 0.0 | 3 |" in text
    assert "| + domain connectedness, L_D | 49.8 / 23.8 | not run | not run | - |" in text
    assert "(../reports/figures/hhl-fig5.svg)" in text and "Table 3" not in text
    idle, legend = text.split("\n\n")[-2:]
    assert legend == LEGEND and idle.startswith(
        "Not run: HHL beats direct transfer (Market → Duke); Source triplets help"
    )
    assert "HHL beats direct transfer (Duke → Market)" not in idle


def test_marks_are_needed(tmp_path):
    (tmp_path / "README.md").write_text(f"a {BEGIN} old {END} b", encoding="utf-8")
    write_between(tmp_path / "README.md", "new")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == f"a {BEGIN}\nnew\n{END} b"
    (tmp_path / "README.md").write_text("none", encoding="utf-8")
    with pytest.raises(InputError, match="expected the marks"):
        write_between(tmp_path / "README.md", "new")


def test_collected_records_pass_their_own_check():
    for paper in PAPERS:
        for item in read_results(paper):
            assert json.loads(item.to_json())["schema"] == 1
