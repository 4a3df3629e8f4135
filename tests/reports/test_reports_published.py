"""Tests the published files: the committed ones are consistent, and every kind of slip is detected."""

import shutil

import pytest

from common.errors import InputError
from common.published import FOLDER, published, published_for, published_source
from common.records import PAPERS
from reports.consistency import FILES, check_published, missing_experiments, problems

FIG5_BETAS = [f"{number / 10:g}" for number in range(21)]


@pytest.fixture
def copy(tmp_path):
    """A copy of the files in which one text is replaced by another."""

    def changed(name: str, old: str, new: str):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(FOLDER, folder)
        text = (folder / f"{name}.toml").read_text(encoding="utf-8")
        assert text.count(old) == 1, (old, text.count(old))
        (folder / f"{name}.toml").write_text(text.replace(old, new), encoding="utf-8")
        return folder

    return changed


def test_the_committed_files_are_sound():
    assert problems() == []
    check_published()


@pytest.mark.parametrize("paper", PAPERS)
def test_every_row_of_ours_is_an_experiment(paper):
    assert missing_experiments(paper) == []


@pytest.mark.parametrize("name", FILES)
def test_every_file_names_its_source(name):
    source = published_source(name)
    assert source.title and source.link.startswith("http")


def test_whole_curves_are_there():
    rows = published("hhl")
    for source in ("dukemtmc", "cuhk03", "market1501"):
        for target in ("market1501", "dukemtmc"):
            if source != target:
                assert all((f"hhl/fig5/beta={beta}", source, target) in rows for beta in FIG5_BETAS)
                assert all((f"hhl/fig6/n_t={n}", source, target) in rows for n in range(0, 33, 4))
    assert sum(key.startswith("hhl/fig5/") for key, _, _ in rows) == 4 * len(FIG5_BETAS)


@pytest.mark.parametrize(
    "name, old, new, words",
    [
        ("hhl", "[62.2, 78.8, 84.0, 88.3, 31.4]", "[62.2, 87.8, 84.0, 88.3, 31.4]", "the CMC curve falls"),
        (
            "hhl",
            "[44.6, 62.5, 69.6, 76.5, 20.6]",
            "[44.6, 62.5, 69.6, 765, 20.6]",
            "expected a number in 0..100",
        ),
        ("hhl", "[0.049, 0.034, 0.485]", "[0.049, 0.034, 4.85]", "expected a number in 0..2"),
        ("hhl", "[61.5, 31.3]", "[0.0, 31.3]", "expected a number in 0..100"),
        (
            "hhl",
            "[48.6, 23.5], [35.1, 20.5]",
            "[46.8, 23.5], [35.1, 20.5]",
            "hhl/fig6/n_t=0 (Fig. 6) gives R-1 46.8",
        ),
        (
            "hhl",
            '"hhl/fig5/beta=0"   = [[44.6, 20.6], [32.9, 18.2]',
            '"hhl/fig5/beta=0"   = [[44.6, 20.6], [32.9, 16.9]',
            "is listed as contradicting",
        ),
        (
            "spgan",
            '"spgan/table3/parts=7,avg" = [[44.2, 24.4]',
            '"spgan/table3/parts=7,avg" = [[47.2, 24.4]',
            "parts=7,max (Table 3) gives R-1 46.9",
        ),
        ("spgan", "[55.7, 21.8]", "[55.7, 23.8]", "spgan/table3/parts=1,max is listed as contradicting"),
        ("arn", "[70.3, 80.4, 86.3, 39.4]", "[73.0, 80.4, 86.3, 39.4]", "arn/pdanet/ARN"),
        (
            "dcgan_lsro",
            '"dcgan_lsro/table3/lsro"     = [67.68, 47.13]',
            '"dcgan_lsro/table3/lsro"     = [67.86, 47.13]',
            "the text quotes 2.46",
        ),
        (
            "dcgan_lsro",
            '"dcgan_lsro/table4/none"       = [73.69, 51.48]',
            '"dcgan_lsro/table4/none"       = [73.96, 51.48]',
            "dcgan_lsro/table4/none",
        ),
        (
            "leaderboard",
            '"leaderboard/transfer/HHL"       = [46.9, 27.2]',
            '"leaderboard/transfer/HHL"       = [60.2, 33.4]',
            "leaderboard/transfer/HHL",
        ),
        (
            "leaderboard",
            'keys = ["hhl/table2/L_CD", "leaderboard/transfer/HHL"]',
            'keys = ["hhl/table2/L_CD"]',
            "a reprint of which row?",
        ),
        ("ptgan", '"hhl/table5/PTGAN"]', '"hhl/table6/PTGAN"]', "hhl/table6/PTGAN: no such row"),
    ],
)
def test_slips_are_found(copy, name, old, new, words):
    folder = copy(name, old, new)
    assert any(words in sentence for sentence in problems(folder)), problems(folder)
    with pytest.raises(InputError, match="list the papers' own contradiction"):
        check_published(folder)


def test_an_unlisted_contradiction_of_a_paper_fails(copy):
    folder = copy("spgan", 'against = "spgan/table3/parts=1,avg"', 'against = "spgan/table3/parts=2,avg"')
    assert any("parts=1,max (Table 3) gives mAP 21.8" in sentence for sentence in problems(folder))


@pytest.mark.parametrize(
    "name, old, new, words",
    [
        # a key twice in one table
        ("hhl", '"hhl/table2/L_T"             =', '"hhl/table2/L_D"             =', "not TOML.*line 31"),
        ("hhl", 'where = "Table 1"', "", "expected where in the table"),
        ("arn", 'pairs = ["dukemtmc->market1501", "market1501->dukemtmc"]', "", "expected pair or pairs"),
        (
            "arn",
            '"arn/context/MMFA" = [56.7, 27.4]',
            '"arn/context/MMFA" = [56.7]',
            "1 numbers for 2 columns",
        ),
        (
            "hhl",
            "[[0.049, 0.034, 0.485], [0.059, 0.044, 0.614]]",
            "[[0.049, 0.034, 0.485]]",
            "1 lists of numbers for 2 pairs",
        ),
        ("arn", 'status = "unverified"', 'status = "probably"', "expected one of verified"),
        (
            "leaderboard",
            '"leaderboard/transfer/HHL"       =',
            '"hhl/transfer/HHL"       =',
            "expected a key of leaderboard/",
        ),
        (
            "arn",
            '"arn/pdanet/ARN" =',
            '"arn/ablation/full" =',
            "arn/ablation/full on dukemtmc->market1501: expected a key of arn/, once",
        ),
    ],
)
def test_malformed_files_are_refused(copy, name, old, new, words):
    with pytest.raises(InputError, match=words):
        problems(copy(name, old, new))


def test_nothing_is_compared_with_what_rests_on_memory():
    rows = [row for name in FILES for row in published(name).values()]
    assert any(row.status == "unverified" for row in rows)
    assert not any(row.comparable for row in rows if row.status == "unverified" or row.kind != "ours")
    assert all(row.error > 0 for row in rows if row.status == "read from plot")


def test_a_second_printing_differs():
    rows, place = published("spgan"), ("market1501", "dukemtmc")
    first, second = (rows[(f"spgan/{table}/SPGAN+LMP", *place)] for table in ("table2", "cvpr"))
    assert second.values["R-1"] == 46.4 != first.values["R-1"]


def test_pairs_are_found():
    assert published_for("ptgan", "ptgan/figure/CycleGAN", "synthetic-duke", "synthetic-market").values == {
        "rms_inside": 0.47,
        "rms_outside": 0.38,
    }
    assert (
        published_for("ptgan", "ptgan/transfer/PTGAN", "synthetic-duke", "synthetic-market").values["R-1"]
        == 38.6
    )
    assert published_for("hhl", "hhl/table4/CAMEL", "market1501", "dukemtmc") is None  # a dash
    assert published_for("hhl", "hhl/table3/L_C", "cuhk03", "dukemtmc").values["mAP"] == 20.8
