"""The pages, the READMEs and the generated documents: their content for made-up records, their links, what a
screen reader and a browser find, and that the committed files match the records.
"""

import dataclasses
import json
import os
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.provenance import ROOT
from common.records import METRICS, PAPERS, Record
from reports.claims import LEGEND
from reports.coverage import read_coverage
from reports.experiments import REPORTS, experiments, switches
from reports.figures import figure_specs
from reports.page import pages
from reports.readme import BEGIN, END, claim_table, headline_table, results_page, switches_page
from reports.rows import anchor, tables
from reports.svg import STYLE
from reports.sweep import Choice, planned_cells
from reports.views import needs

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
        self.headings, self.images, self.heads, self.captions = [], [], [], 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.loads += [given[name] for name in ("src", "srcset", "data") if name in given] + (
            [given["href"]] if tag == "link" else []
        )
        self.images += [given.get("alt")] if tag == "img" else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.heads += [given.get("scope")] if tag == "th" else []
        self.captions += {"caption": 1, "table": -1}.get(tag, 0)
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
    return pages(folder)


@pytest.fixture(scope="module")
def built():
    """The pages of the committed records."""
    return pages()


def test_a_claim_that_fails_is_shown_as_failing(made_up):
    failing = made_up["index.html"].split('<h2 id="fails">')[1].split("<h2")[0]
    assert "HHL</a>: HHL beats direct transfer" in failing and "-20.0" in failing
    for page in ("index.html", "pages/hhl.html"):
        headline = made_up[page].split("Headline claims")[1].split("</table>")[0]
        assert '<span class="v v-reversed">reversed</span>' in headline
        assert "41.0 v 61.0" in headline and "62.2 v 44.6" in headline


def test_measured_numbers_link_to_their_records_and_published_ones_to_their_source(made_up):
    name = anchor("hhl/table2/L_CD", "synthetic-duke", "synthetic-market", "demo")
    link = f'<a href="../pages/records.html#{name}">41.0<span class="spread"> ± 1.0</span></a>'
    assert link in made_up["pages/hhl.html"]
    records = made_up["pages/records.html"].split(f'<h3 id="{name}">')[1].split("<h3")[0]
    assert (
        records.count("results/hhl.jsonl#L") == 3
        and "line 4" in records
        and "fake_l1 25" in records
        and "40.0" in records
    )
    assert re.search(
        r'<a href="http[^"]*" title="Table 2; text; mAP by the trapezoid rule; verified">62.2</a>',
        made_up["pages/hhl.html"],
    )
    # in italics where nobody has checked
    assert '<tr class="unverified"><th scope="row" class="name">' in made_up["pages/arn.html"]


def test_the_baselines_show_what_they_were_trained_with(made_up):
    questions = made_up["pages/questions.html"].split("The five baselines")[1]
    row = questions.split('<a href="../pages/hhl.html">')[1].split("</tr>")[0]
    assert (
        '61.0<span class="spread"> ± 1.0</span>' in row
        and '<td class="n">0.25</td><td class="n">12</td>' in row
    )


def test_what_is_not_run_says_what_it_needs(made_up):
    assert (
        "it needs <code>python -m reports sweep --paper hhl --table table2 "
        "--pairs &#39;synthetic-market-&gt;synthetic-duke&#39;</code>" in made_up["pages/hhl.html"]
    )
    assert (
        "--source cuhk03 --target market1501 --data-root DIR "
        "--experiment hhl/table3/baseline_target hhl/table3/baseline_source " in made_up["pages/hhl.html"]
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


def test_the_pages_say_how_to_read_intervals_and_what_was_made_with_changes(made_up):
    assert all(LEGEND.replace("'", "&#39;") in text for text in made_up.values())
    section = made_up["index.html"].split('<h2 id="tally">')[1].split("<h2")[0]
    papers = section.split("the papers&#39;")[1].split("</tr>")[0]
    assert re.findall(r">(\d+)<", papers)[1] == "1"  # reversed
    assert "if all 4 claims that have one were truly void" in section
    assert (
        "2 of the 6 records name a code version that ends in <code>-dirty</code>"
        in made_up["pages/records.html"]
    )
    assert '<div class="note soft">D_C rebuilds worse here' in made_up["pages/arn.html"]


def test_everything_of_the_blog_is_listed_and_what_has_records_links_to_them(made_up):
    part = made_up["pages/blog.html"].split('<h2 id="things">')[1]
    assert part.count("<tr><td") == len(read_coverage())
    name = anchor("hhl/table2/L_CD", "synthetic-duke", "synthetic-market", "demo")
    assert f'<a href="../pages/records.html#{name}"><code>hhl/table2/L_CD</code></a>' in part
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


def test_the_pages_are_whole_and_ask_for_nothing_outside(built):
    parsed = {path: Page(text) for path, text in built.items()}
    folders = {path: (REPORTS / path).parent for path in built}
    for path, html in parsed.items():
        assert len(set(html.ids)) == len(html.ids), path
        for link in html.links:
            file, _, name = link.partition("#")
            if link.startswith("http"):
                continue
            target = (folders[path] / file).resolve() if file else REPORTS / path
            assert target.exists(), (path, link)
            known = {(REPORTS / other).resolve(): other for other in parsed}.get(target.resolve())
            assert not (known and name) or name in parsed[known].ids, (path, link)
        for source in html.loads:
            assert source.startswith("data:") or (folders[path] / source).is_file(), (path, source)
        style = built[path].split("<style>")[1].split("</style>")[0]
        assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style


def test_the_pages_link_both_ways(built):
    assert set(built) == {
        "index.html",
        *(f"pages/{name}.html" for name in (*PAPERS, "questions", "photographs", "blog", "records")),
    }
    for path, text in built.items():
        links = set(Page(text).links)
        up = "" if path == "index.html" else "../"
        assert {up + other for other in built} <= links, path


def test_a_screen_reader_finds_its_way(built):
    """Headings do not jump, tables have captions and scoped heads, pictures say what is seen."""
    for path, text in built.items():
        html = Page(text)
        assert html.headings[0] == 1 and html.headings.count(1) == 1, path
        assert all(after <= before + 1 for before, after in zip(html.headings, html.headings[1:])), path
        assert set(html.heads) <= {"col", "row", "colgroup", "rowgroup"} and html.captions == 0, path
        assert all(alt and len(alt.split()) >= 5 for alt in html.images), (path, html.images)
        # each row of a body names itself
        for body in re.findall(r"<tbody>(.*?)</tbody>", text, flags=re.DOTALL):
            rows = body.split("<tr")[1:]
            assert all("<th scope=" in row or "colspan" in row or 'class="soft">' in row for row in rows)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours by WCAG 2: `#rrggbb` each."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_the_contrast_of_known_colours():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#777777") == 1
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def test_text_has_the_contrast_of_wcag_aa_in_both_themes():
    style = (REPORTS / "templates" / "style.css").read_text(encoding="utf-8")
    assert "opacity" not in style
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("}")[:2]]
    plots = [dict(re.findall(r"--(\w+): (#\w{3,6})", part)) for part in STYLE.split("}")[:2]]
    for theme in themes:
        for ink in ("ink", "soft", "accent", "good", "bad", "open"):
            for paper in ("paper", "tint"):
                assert contrast(theme[ink], theme[paper]) >= 4.5, (ink, paper)
    for theme, plot in zip(themes, plots):
        assert all(contrast(plot[ink], theme["paper"]) >= 4.5 for ink in ("ink", "soft"))
        assert all(contrast(plot[ink], theme["paper"]) >= 3 for ink in "abcd")  # graphics


def test_the_front_page_is_short(built):
    """At most four screens: few rows and few words; a browser measures it where there is one."""
    text = built["index.html"]
    body = text.split('<main id="main">')[1].split("</main>")[0]
    assert (
        len(re.sub(r"<[^>]+>", " ", body).split()) < 1200
        and text.count("<tr") < 40
        and "<details" not in text
    )


def test_each_row_says_how_it_was_made(built):
    for paper in PAPERS:
        made = built[f"pages/{paper}.html"].split("How each row was made")[2].split("</table>")[0]
        rows = made.split("<tr>")[2:]
        assert rows and all(f"cd {paper} &amp;&amp; python train.py" in row for row in rows)
        assert all("records.html#r-" in row and "no weights from elsewhere" in row for row in rows)


def test_parity_is_told_from_the_tests_notes(built):
    for paper in PAPERS:
        part = built[f"pages/{paper}.html"].split('<h2 id="parity">')[1]
        for note in sorted((ROOT / "tests" / "golden").glob(f"{paper}_*.json")):
            told = json.loads(note.read_text(encoding="utf-8"))
            assert f"../../tests/golden/{note.name}" in part and told["commit"] in part


def test_the_blogs_tables_stand_as_it_lays_them_out(built):
    part = built["pages/blog.html"]
    board = part.split('id="leaderboard"')[1].split("</table>")[0]
    assert board.count("<tbody>") == 10 and "60.2" in board and "18.5" in board  # ARN, UMDL
    tables2 = part.split('id="blog-hhl-2"')[1].split("</table>")[0]
    assert all(f">{value}<" in tables2 for value in ("93.3", "95.6", "97.1", "84.1", "88.1", "90.9"))
    table1 = part.split('id="blog-hhl-1"')[1].split("</table>")[0]
    assert table1.count("<tbody>") == 2 and "0.485" in table1 and "0.614" in table1
    assert all(f'id="blog-arn-{number}"' in part for number in (1, 2, 3))


def test_photographs_stand_apart_and_beside_no_published_number(built):
    section = built["pages/photographs.html"]
    for path, text in built.items():
        elsewhere = path not in ("pages/photographs.html", "pages/records.html")
        assert not (elsewhere and re.search("preset (scratch|photos)", text)), path
    # the columns of a table
    assert not re.search(r'colspan="\d+">published', section)
    assert re.search(r'colspan="\d+">published', built["pages/hhl.html"])
    assert "HHL beats direct transfer between cameras that share no person" in section
    commands = set(re.findall(r"sweep --paper (\w+) --pairs \S+ --data-root DIR( --gpu)?</code>", section))
    # what two cores can do from random weights has records, with ImageNet weights not yet
    for_gpu = {(paper, " --gpu") for paper in ("hhl", "arn", "ptgan", "dcgan_lsro")}
    assert for_gpu | {(paper, "") for paper in PAPERS} == commands


def test_the_committed_pages_are_what_the_records_give(built):
    for path, text in built.items():
        assert (REPORTS / path).read_text(encoding="utf-8") == text, (
            f"reports/{path} is stale: run python -m reports build"
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


SCREEN = 900  # pixels
FILES = ["index.html", *(f"pages/{name}.html" for name in (*PAPERS, "questions", "photographs", "blog"))]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_them_without_complaint_or_sideways_scrolling(browser, width, dark):
    for path in FILES:
        browser.complaints.clear()
        browser.open(REPORTS / path, width=width, dark=dark)
        browser.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true })")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, path
        colour = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 150) == dark
        assert browser.complaints == [], path


def test_the_front_page_takes_at_most_four_screens(browser):
    browser.open(REPORTS / "index.html", width=1280)
    assert browser.evaluate("document.documentElement.scrollHeight") <= 4 * SCREEN


def test_on_a_phone_a_claim_shows_its_difference_without_scrolling(browser):
    browser.open(REPORTS / "pages" / "hhl.html", width=390)
    cells = "[...document.querySelectorAll('td[data-label=difference]')]"
    right = browser.evaluate(f"Math.max(...{cells}.map(cell => cell.getBoundingClientRect().right))")
    assert 0 < right <= 390


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(browser, width, dark):
    """axe-core is not part of this repository: AXE_CORE names its axe.min.js."""
    script = Path(os.environ.get("AXE_CORE", "axe.min.js"))
    if not script.is_file():
        pytest.skip("no axe-core: set AXE_CORE to its axe.min.js")
    for path in FILES:
        browser.open(REPORTS / path, width=width, dark=dark)
        browser.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true })")
        browser.evaluate(script.read_text(encoding="utf-8"))
        ask = "axe.run().then(r => JSON.stringify(r.violations.map(v => [v.id, v.nodes[0].html])))"
        answer = browser.call("Runtime.evaluate", expression=ask, awaitPromise=True, returnByValue=True)
        assert json.loads(answer["result"]["value"]) == [], path


def test_a_measured_number_opens_its_record(browser):
    browser.open(REPORTS / "pages" / "hhl.html", width=1280)
    link = "document.querySelector('td.n a[href*=\"#r-\"]').href"
    _, _, name = browser.evaluate(link).partition("#")
    browser.open(REPORTS / "pages" / "records.html", width=1280)
    group = f"document.getElementById('{name}').closest('details')"
    assert browser.evaluate(f"{group}.open") is False
    browser.evaluate(f"location.hash = '{name}'; reveal()")
    assert browser.evaluate(f"{group}.open") is True
