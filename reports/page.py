"""Builds the static pages: `reports/index.html` and `reports/pages/*.html`, for no server and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from common.errors import InputError
from common.records import PAPERS, Record
from reports.claim_views import claim_view, headlines, mechanisms
from reports.claims import LEGEND
from reports.collect import read_results
from reports.experiments import REPORTS
from reports.figures import figure_specs
from reports.judge import Judged, judge, tally
from reports.layouts import layouts
from reports.markdown import difference_text, number_text, published_number
from reports.rows import TITLES, anchor, pair_text
from reports.svg import STYLE
from reports.verdicts import VERDICTS
from reports.views import (
    PHOTOGRAPHS,
    baselines,
    coverage_view,
    estimated_minutes,
    figure_view,
    needs,
    paper_view,
    photographs,
    record_groups,
    source_text,
)

RANK_COLUMNS = ("R-1", "R-5", "R-10", "R-20", "mAP")
OTHERS = {
    "questions": "Questions nobody published",
    PHOTOGRAPHS: "Real photographs",
    "blog": "The blog post",
    "records": "Records",
}
FRONT = "index"
PEOPLE = "common/datasets/synthetic/synthetic-market.png"  # the front page's picture


@dataclass(frozen=True)
class Links:
    """The addresses of everything, as seen from one page."""

    here: str  # name of the page

    def href(self, path: str) -> str:
        """Returns the address of a file below `reports/`, or an address of the web as it is."""
        return path if "://" in path else ("" if self.here == FRONT else "../") + path

    def page_of(self, name: str) -> str:
        """Returns the address of a page; claims across papers stand on the blog's."""
        if name not in (FRONT, *PAPERS, *OTHERS):
            return self.page_of("blog") + "#across"
        return self.href(f"{FRONT}.html" if name == FRONT else f"pages/{name}.html")

    def record_link(self, name: str) -> str:
        """Returns the address of a group of records."""
        return f"{self.page_of('records')}#{name}"


def pages(reports: Path = REPORTS, judged: Sequence[Judged] | None = None) -> dict[str, str]:
    """Maps the path of each page below `reports/` to its HTML; committed files alone decide the content."""
    records = {paper: read_results(paper, reports) for paper in PAPERS}
    context = _context(records, judge(records, reports) if judged is None else judged, reports)
    environment = _environment()
    contents: dict[str, tuple[str, dict[str, Any]]] = {
        FRONT: ("front", {}),
        **{name: (name, {}) for name in OTHERS},
    }
    contents |= {view["name"]: ("paper", {"paper": view}) for view in context["papers"]}
    made = {}
    for name, (template, own) in contents.items():
        links = Links(name)
        functions = {key: getattr(links, key) for key in ("here", "href", "page_of", "record_link")}
        path = f"{FRONT}.html" if name == FRONT else f"pages/{name}.html"
        made[path] = environment.get_template(f"{template}.html.j2").render(**context, **functions, **own)
    return made


def _context(
    records: Mapping[str, Sequence[Record]], judged: Sequence[Judged], reports: Path
) -> dict[str, Any]:
    """Returns what all pages share."""
    everything = [record for own in records.values() for record in own]
    claims = [claim_view(item) for item in judged]
    counted = [claim for claim in claims if not claim["superseded"]]
    figures = [figure_view(spec, claims, reports) for spec in figure_specs(reports)]
    in_headlines = [item for item in judged if item.claim.headline and not item.superseded]
    return {
        "plot_style": Markup(STYLE),
        "claims": claims,
        "headlines": headlines(claims),
        "failed": [claim for claim in counted if claim["verdict"] == "reversed"],
        "mechanisms": mechanisms(in_headlines),
        "of_paper": {
            paper: mechanisms(item for item in judged if item.claim.paper == paper) for paper in PAPERS
        },
        "titles": TITLES | {PHOTOGRAPHS: "photographs"},
        "others": OTHERS,
        "verdicts": VERDICTS,
        "tally": tally(judged),
        "records": len(everything),
        "dirty": sum(record.code_version.endswith("-dirty") for record in everything),
        "legend": LEGEND,
        "intervals": sum(item.holm is not None for item in judged),
        "baselines": baselines(records),
        "overview": _overview(figures),
        "questions": [figure for figure in figures if figure["question"]],
        "papers": [paper_view(paper, claims, figures, reports) for paper in PAPERS],
        "groups": {paper: record_groups(paper, reports) for paper in PAPERS},
        "layouts": {page: layouts(page, records, reports) for page in ("blog", *PAPERS)},
        "across": [claim for claim in claims if claim["paper"] not in (*PAPERS, PHOTOGRAPHS)],
        "coverage": coverage_view(everything, reports),
        "photographs": photographs(claims, reports),
        "people": f"../{PEOPLE}",
    }


def _overview(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    for figure in figures:
        if figure["name"] == "overview":
            return figure
    raise InputError("figures.toml: expected a figure named overview, found none")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(REPORTS / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    functions = (
        anchor,
        difference_text,
        estimated_minutes,
        needs,
        number_text,
        pair_text,
        published_number,
        source_text,
    )
    environment.globals.update({function.__name__: function for function in functions})
    environment.globals["rank_columns"] = RANK_COLUMNS
    return environment
