"""Writes what records and code say between the marks of the READMEs: claims and a figure on the first page,
results and switches of a paper.
"""

from __future__ import annotations

from pathlib import Path

from common.errors import InputError
from common.files import write_atomic
from common.provenance import ROOT
from common.records import PAPERS
from reports.claims import LEGEND, Claim, Difference, all_claims, claimed, measured, read_claims, verdict
from reports.collect import read_results
from reports.experiments import REPORTS, built_papers, switches
from reports.figures import figure_data, figure_specs, papers_of
from reports.markdown import markdown, result_markdown, switches_markdown
from reports.page import claim_view, difference_view
from reports.rows import TITLES, tables

BEGIN, END = "<!-- claims: python -m reports readme -->", "<!-- end of claims -->"
RESULTS_BEGIN, RESULTS_END = "<!-- results: python -m reports readme -->", "<!-- end of results -->"
SWITCHES_BEGIN, SWITCHES_END = "<!-- switches: python -m reports readme -->", "<!-- end of switches -->"


def update_readmes(root: Path = ROOT, reports: Path = REPORTS) -> None:
    """The claim table of README.md; results and switches in each paper's README that has marks for them."""
    write_between(root / "README.md", BEGIN, END, claim_table(reports))
    for paper in PAPERS:
        path = root / paper / "README.md"
        if RESULTS_BEGIN in path.read_text():
            write_between(path, RESULTS_BEGIN, RESULTS_END, result_text(paper, reports))
        if SWITCHES_BEGIN in path.read_text() and paper in built_papers():
            write_between(path, SWITCHES_BEGIN, SWITCHES_END, switches_markdown(switches(paper), "config.py"))


def write_between(path: Path, begin: str, end: str, text: str) -> None:
    """Replaces what stands between two marks; `InputError` if one is missing."""
    whole = path.read_text()
    if begin not in whole or end not in whole:
        raise InputError(f"{path.name}: expected the marks {begin!r} and {end!r}")
    head, rest = whole.split(begin, 1)
    _, tail = rest.split(end, 1)
    write_atomic(path, f"{head}{begin}\n{text}\n{end}{tail}")


def claim_table(reports: Path = REPORTS) -> str:
    """Markdown: the headline claims; published on the real pair, measured on the synthetic one, difference,
    verdict; what of it AdaBN leaves.
    """
    head = [
        "paper",
        "claim (rank-1, %)",
        "published",
        "measured here",
        "difference, 95 % interval",
        "verdict",
        "over direct transfer with AdaBN",
    ]
    return markdown(
        head,
        [
            [
                f"[{TITLES[claim.paper]}]({claim.paper}/)",
                claim.text,
                *_cells(claim, reports),
                over_adabn(claim, reports),
            ]
            for claim in read_claims(reports)
        ],
    )


def _cells(claim: Claim, reports: Path) -> list[str]:
    left, right = ("?" if value is None else f"{value:.1f}" for value in claimed(claim))
    ours = _measured(claim, reports)
    if ours is None:
        return [f"{left} v {right}", "not run", "not run", "not run"]
    return [
        f"{left} v {right}",
        f"{ours.left:.1f} v {ours.right:.1f}",
        difference_view(claim, ours),
        f"**{verdict(claim, ours)}**",
    ]


def over_adabn(headline: Claim, reports: Path = REPORTS) -> str:
    """Difference and verdict of the headline's method against direct transfer with AdaBN; a dash for a paper
    that has no such claim.
    """
    side = (headline.paper, headline.left, headline.pair, headline.metric, ("", "+adabn"))
    claim = next(
        (
            claim
            for claim in all_claims(reports)
            if (claim.paper, claim.left, claim.pair, claim.metric, claim.score) == side
        ),
        None,
    )
    if claim is None:
        return "–"
    ours = _measured(claim, reports)
    return "not run" if ours is None else f"{difference_view(claim, ours)}, **{verdict(claim, ours)}**"


def _measured(claim: Claim, reports: Path) -> Difference | None:
    return measured(claim, [record for paper in claim.papers for record in read_results(paper, reports)])


def result_text(paper: str, reports: Path = REPORTS) -> str:
    """Markdown: the tables of a paper that have records, and its figures that have; "not run" if there are
    none.
    """
    specs = [spec for spec in figure_specs(reports) if papers_of(spec) == [paper]]
    curves = {
        pattern.split("/")[1]
        for spec in specs
        if spec["kind"] in ("curve", "heatmap")
        for pattern in spec.get("keys", ())
    }
    parts = [
        result_markdown(table)
        for table in tables(paper, reports)
        if table.measured and table.name not in curves
    ]
    drawn = {
        spec["name"]: spec["title"]
        for spec in specs
        if spec["kind"] != "bars" and figure_data(spec, reports)["panels"][-1]["series"]
    }
    parts += [f"![{title}](../reports/figures/{name}.svg)" for name, title in drawn.items()]
    return "\n\n".join([*parts, *claims_text(paper, reports)]) or "not run"


def claims_text(paper: str, reports: Path = REPORTS) -> list[str]:
    """Markdown: every claim about a paper that has records, with its verdict, then those that have none;
    nothing if no claim has.
    """
    records = {name: read_results(name, reports) for name in PAPERS}
    everything = [claim_view(claim, records) for claim in all_claims(reports) if claim.paper == paper]
    views = [view for view in everything if view["measured"]]
    not_run = [f"{view['text']} ({view['pair']})" for view in everything if not view["measured"]]
    if not views:
        return []
    head = ["claim", "on", "published", "measured", "difference, 95 % interval", "verdict"]
    rows = [
        [
            f"{view['text']}{'' if view['origin'] == 'paper' else ' *(' + view['origin'] + ')*'}",
            view["pair"],
            view["published"] or "-",
            view["measured"],
            view["difference"],
            f"**{view['said']}**",
        ]
        for view in views
    ]
    return [
        "What is claimed, and what comes of it here (rank-1 in % unless the claim names something else; on the synthetic twin of the pair):",
        markdown(head, rows),
        *([f"Not run: {'; '.join(not_run)}."] if not_run else []),
        LEGEND,
    ]
