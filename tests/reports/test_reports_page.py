"""The page, the READMEs and the generated documents: their content for made-up records, their links, and that
the committed files match the records.
"""

import dataclasses
import re
import shlex
import sys
from html.parser import HTMLParser

import pytest

from common.provenance import ROOT
from common.records import METRICS, PAPERS, Record
from reports.claims import LEGEND
from reports.coverage import read_coverage
from reports.experiments import REPORTS, experiments, switches
from reports.figures import figure_specs
from reports.page import anchor, needs, page
from reports.readme import BEGIN, END, claim_table, headline_table, results_page, switches_page
from reports.rows import tables
from reports.sweep import Choice, planned_cells

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VOID = {"meta", "link", "img", "br", "rect", "line", "circle", "path"}


class Page(HTMLParser):
    """Checks that tags close, and keeps ids, links and sources."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.links, self.loads, self.words = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.loads += [given[name] for name in ("src", "srcset", "data") if name in given] + (
            [given["href"]] if tag == "link" else []
        )
        assert tag != "img" or given.get("alt")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID

    def handle_data(self, text):
        self.words += text.split()


def record(key, r1, seed, **changes) -> Record:
    score = dict(zip(METRICS, (r1, 0.9, 0.95, 0.99, 0.3, 0.31)))
    return dataclasses.replace(
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
            {"fake_l1": 25.0},
            {},
            "last epoch",
            "v",
            {},
            {},
            90.0,
            [],
            [],
            "2026-01-01",
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A page on which HHL's headline claim is reversed."""
    folder = tmp_path_factory.mktemp("reports")
    for name in ("claims.toml", "coverage.toml", "figures.toml"):
        (folder / name).write_text((REPORTS / name).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "results").mkdir()
    recipe = {"recipe": {"base_lr": 0.25, "pretrain_epochs": 5, "epochs": 7}}
    rows = [record("hhl/table2/baseline_source", 0.6 + seed / 100, seed, config=recipe) for seed in range(3)]
    rows += [
        record("hhl/table2/L_CD", 0.4 + seed / 100, seed, code_version=("v", "v-dirty")[seed > 0])
        for seed in range(3)
    ]
    (folder / "results" / "hhl.jsonl").write_text(
        "".join(item.to_json() + "\n" for item in rows), encoding="utf-8"
    )
    return page(folder)


def test_a_claim_that_fails_is_shown_as_failing(made_up):
    failing = made_up.split("Claims that fail here")[1].split("<h2")[0]
    assert "HHL beats direct transfer" in failing and '<span class="v v-reversed">reversed</span>' in failing
    assert "41.0 v 61.0" in failing and "-20.0" in failing and "62.2 v 44.6" in failing


def test_measured_numbers_link_to_their_records_and_published_ones_to_their_source(made_up):
    name = anchor("hhl/table2/L_CD", "synthetic-duke", "synthetic-market", "demo")
    assert f'<a href="#{name}">41.0<span class="spread"> ± 1.0</span></a>' in made_up
    records = made_up.split(f'<h4 id="{name}">')[1].split("<h4")[0]
    assert (
        records.count("results/hhl.jsonl#L") == 3
        and "line 4" in records
        and "fake_l1 25" in records
        and "40.0" in records
    )
    assert re.search(
        r'<a href="http[^"]*" title="Table 2; text; mAP by the trapezoid rule; verified">62.2</a>', made_up
    )
    assert '<tr class="unverified"><td class="name">' in made_up  # greyed where nobody has checked


def test_the_baselines_show_what_they_were_trained_with(made_up):
    row = made_up.split("The five baselines")[1].split('<a href="#hhl">')[1].split("</tr>")[0]
    assert (
        '61.0<span class="spread"> ± 1.0</span>' in row
        and '<td class="n">0.25</td><td class="n">12</td>' in row
    )


def test_what_is_not_run_says_what_it_needs(made_up):
    assert (
        "it needs <code>python -m reports sweep --paper hhl --table table2 "
        "--pairs &#39;synthetic-market-&gt;synthetic-duke&#39;</code>" in made_up
    )
    assert (
        "--source cuhk03 --target market1501 --data-root DIR "
        "--experiment hhl/table3/baseline_target hhl/table3/baseline_source " in made_up
    )


def test_each_command_that_is_printed_has_something_to_run(tmp_path):
    """With the committed records, and before anything was run."""
    printed = [
        needs(table)
        for reports in (REPORTS, tmp_path)
        for paper in PAPERS
        for table in tables(paper, reports)
    ]
    commands = [shlex.split(text) for text in dict.fromkeys(printed) if text]
    for command in commands:
        sweeping = command[:4] == ["python", "-m", "reports", "sweep"]
        flags = dict(zip(command, command[1:]))
        if sweeping:
            assert planned_cells(Choice(flags["--paper"], flags.get("--table", ""), flags["--pairs"])), (
                command
            )
        else:
            assert command[:1] + command[2:5] == ["cd", "&&", "python", "train.py"], command
            keys = command[command.index("--experiment") + 1 :]
            assert keys and set(keys) <= set(experiments(command[1], flags["--preset"])), command
    assert {command[0] for command in commands} == {"cd", "python"}


def test_the_page_says_how_to_read_intervals_and_what_was_made_with_changes(made_up):
    section = made_up.split('<h2 id="claims">')[1].split("<h2")[0]
    legend = LEGEND.replace("'", "&#39;")
    # and under HHL's claims, the only paper with records
    assert legend in section and made_up.count(legend) == 2
    # each with three seeds
    decided = sum(
        int(count)
        for count in re.findall(r"<li><b>(\d+)</b>(?:claims hold|undecided|reversed)</li>", made_up)
    )
    assert f"if all {decided} claims that have one were truly void" in section
    assert "2 of the 6 records name a code version that ends in <code>-dirty</code>" in made_up
    assert '<div class="note soft">D_C rebuilds worse here' in made_up


def test_everything_of_the_blog_is_listed_and_what_has_records_links_to_them(made_up):
    part = made_up.split('<h2 id="blog">')[1].split("<h2")[0]
    assert part.count("<tr><td") == len(read_coverage())
    name = anchor("hhl/table2/L_CD", "synthetic-duke", "synthetic-market", "demo")
    assert f'<a href="#{name}"><code>hhl/table2/L_CD</code></a>' in part
    assert (
        '<code>hhl/table2/L_T</code> <span class="soft">not run</span>' in part
        and "<code>hhl.losses.batch_hard_triplet</code>" in part
    )


def test_baselines_name_switches_that_exist():
    for entry in tomllib.loads((REPORTS / "baselines.toml").read_text(encoding="utf-8"))["baseline"]:
        paper = entry["key"].split("/")[0]
        names = {switch["name"] for switch in switches(paper)}
        assert entry["key"] in experiments(paper)
        assert {*entry["rate"], *entry["epochs"]} <= names, entry["key"]


def test_the_page_is_whole_and_asks_for_nothing_outside():
    text = (REPORTS / "index.html").read_text(encoding="utf-8")
    html = Page(text)
    assert len(set(html.ids)) == len(html.ids)
    for link in html.links:
        assert link
        if link.startswith("#"):
            assert link[1:] in html.ids, link
        elif not link.startswith("http"):
            assert (REPORTS / link.split("#")[0]).exists(), link
    assert all(not source.startswith(("http", "//")) for source in html.loads)
    assert all(source.startswith("data:") or (REPORTS / source).is_file() for source in html.loads)
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style


def test_photographs_stand_apart_and_beside_no_published_number():
    before, section = page().split('<h2 id="photographs">')
    section = section.split("<h2")[0]
    assert "preset scratch" not in before.split("</nav>")[1]
    # the columns of a table
    assert not re.search(r'colspan="\d+">published', section) and re.search(
        r'colspan="\d+">published', before
    )
    assert "HHL beats direct transfer between cameras that share no person" in section
    commands = set(re.findall(r"sweep --paper (\w+) --pairs \S+ --data-root DIR( --gpu)?</code>", section))
    # what two cores can do has records
    assert {(paper, " --gpu") for paper in ("hhl", "arn", "ptgan", "dcgan_lsro")} == commands


def test_the_committed_page_is_what_the_records_give():
    assert (REPORTS / "index.html").read_text(encoding="utf-8") == page(), (
        "reports/index.html is stale: run python -m reports build"
    )


STALE = "is stale: run python -m reports readme"


def test_the_committed_front_page_is_what_the_records_give():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{BEGIN}\n{claim_table()}\n{END}" in text, f"README.md {STALE}"
    assert len(text.splitlines()) <= 100


@pytest.mark.parametrize("paper", PAPERS)
def test_the_committed_documents_are_what_records_and_switches_give(paper):
    folder = ROOT / paper
    headline = f"{BEGIN}\n{headline_table(paper)}\n{END}"
    assert headline in (folder / "README.md").read_text(encoding="utf-8"), f"{paper}/README.md {STALE}"
    assert (folder / "RESULTS.md").read_text(encoding="utf-8") == results_page(paper), (
        f"{paper}/RESULTS.md {STALE}"
    )
    assert (folder / "SWITCHES.md").read_text(encoding="utf-8") == switches_page(paper), (
        f"{paper}/SWITCHES.md {STALE}"
    )


@pytest.mark.parametrize("paper", PAPERS)
def test_the_generated_documents_hold_every_table_and_every_switch(paper):
    results, ledger = results_page(paper), switches_page(paper)
    curves = {key.split("/")[1] for spec in figure_specs() for key in spec.get("keys", ())}
    for table in tables(paper):
        if table.measured and table.name not in curves:
            assert all(f"\n| {row.title.replace('|', chr(92) + '|')} | " in results for row in table.rows)
    for switch in switches(paper):
        assert f"\n| `--{switch['name'].replace('_', '-')}` | " in ledger, switch["name"]
    assert headline_table(paper) in results


@pytest.mark.parametrize("paper", PAPERS)
def test_a_papers_readme_is_short_and_names_what_exists(paper):
    text = (ROOT / paper / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    rows = [line.split("|") for line in text.split("## Where to read what")[1].splitlines() if "|" in line]
    for name in re.findall(r"`([^`]+)`", " ".join(row[2] for row in rows)):
        assert (ROOT / paper / name).exists() or (ROOT / name).exists(), name
    for link in re.findall(r"\]\((?!http)([^)#\s]+)", text):
        assert (ROOT / paper / link).exists(), link


@pytest.mark.parametrize("paper", PAPERS)
def test_a_papers_readme_names_flags_and_experiments_that_exist(paper):
    text = (ROOT / paper / "README.md").read_text(encoding="utf-8")
    names = {switch["name"].replace("_", "-") for switch in switches(paper)}
    for flag in re.findall(r"--([a-z]+\.[\w.-]+)", text):
        assert flag.replace(".no-", ".").replace("_", "-") in names, flag
    keys = set(experiments(paper))
    for key in re.findall(rf"[` ]({paper}/\w+/[\w=.,]+)(?=[` \n])", text):
        assert key in keys, key


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_complaint_or_sideways_scrolling(browser, width, dark):
    browser.complaints.clear()
    browser.open(REPORTS / "index.html", width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    paper = [
        int(part)
        for part in re.findall(r"\d+", browser.evaluate("getComputedStyle(document.body).backgroundColor"))[
            :3
        ]
    ]
    assert (sum(paper) < 150) == dark
    assert browser.complaints == []


def test_a_measured_number_opens_its_record(browser):
    browser.open(REPORTS / "index.html", width=1280)
    link = "document.querySelector('td.n a[href^=\"#r-\"]')"
    if browser.evaluate(f"{link} === null"):
        pytest.skip("no record yet")
    assert browser.evaluate(f"document.getElementById({link}.hash.slice(1)).closest('details').open") is False
    browser.evaluate(f"{link}.click()")
    browser.evaluate("reveal()")
    assert browser.evaluate(f"document.getElementById({link}.hash.slice(1)).closest('details').open") is True
