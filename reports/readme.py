"""Writes what the records say between the marks of the READMEs: the claim table of the first page, the result tables of the papers."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from common.errors import InputError
from common.files import write_atomic
from common.published import published_for
from common.records import PAPERS, ROOT, Record
from reports.claims import Claim, claimed, measured, read_claims
from reports.collect import read_results
from reports.experiments import REPORTS, experiments

BEGIN, END = "<!-- claims: python -m reports readme -->", "<!-- end of claims -->"
RESULTS_BEGIN, RESULTS_END = "<!-- results: python -m reports readme -->", "<!-- end of results -->"
TITLES = {"arn": "ARN", "hhl": "HHL", "spgan": "SPGAN", "ptgan": "PTGAN", "dcgan_lsro": "DCGAN+LSRO"}


def update_readmes(root: Path = ROOT, reports: Path = REPORTS) -> None:
    """The claim table of README.md, and the result table of each paper's README that has marks for one."""
    write_between(root / "README.md", BEGIN, END, claim_table(reports))
    for paper in PAPERS:
        path = root / paper / "README.md"
        if RESULTS_BEGIN in path.read_text():
            write_between(path, RESULTS_BEGIN, RESULTS_END, result_table(paper, reports))


def write_between(path: Path, begin: str, end: str, text: str) -> None:
    """Replaces what stands between two marks; `InputError` if one is missing."""
    whole = path.read_text()
    if begin not in whole or end not in whole:
        raise InputError(f"{path.name}: expected the marks {begin!r} and {end!r}")
    head, rest = whole.split(begin, 1)
    _, tail = rest.split(end, 1)
    write_atomic(path, f"{head}{begin}\n{text}\n{end}{tail}")


def claim_table(reports: Path = REPORTS) -> str:
    """Markdown: claim | published on the real pair | measured on the synthetic one | difference | verdict."""
    lines = ["| paper | claim (rank-1, %) | published | measured here | difference, 95 % interval | verdict |", "|---|---|---|---|---|---|"]
    for claim in read_claims(reports):
        lines.append("| " + " | ".join([f"[{TITLES[claim.paper]}]({claim.paper}/)", claim.text, *_cells(claim, reports)]) + " |")
    return "\n".join(lines)


def _cells(claim: Claim, reports: Path) -> list[str]:
    left, right = ("?" if value is None else f"{value:.1f}" for value in claimed(claim))
    ours = measured(claim, read_results(claim.paper, reports))
    if ours is None:
        return [f"{left} v {right}", "not run", "not run", "not run"]
    interval = "" if ours.half_width is None else f" ± {ours.half_width:.1f}"
    seeds = f"{ours.n} seed{'s' * (ours.n > 1)}"
    return [f"{left} v {right}", f"{ours.left:.1f} v {ours.right:.1f}", f"{ours.mean:+.1f}{interval} ({seeds})", f"**{ours.verdict(claim.margin)}**"]


def result_table(paper: str, reports: Path = REPORTS) -> str:
    """Markdown: a row an experiment with records of the demo: the paper's rank-1 / mAP, ours and ours with AdaBN (mean over seeds), in percent."""
    groups: dict[tuple, list[Record]] = {}
    for record in read_results(paper, reports):
        if record.preset == "demo":
            groups.setdefault((record.source, record.target, record.key), []).append(record)
    lines = ["| pair | row | published R-1 / mAP | measured | measured + AdaBN | seeds |", "|---|---|---|---|---|---|"]
    order = list(experiments(paper))
    for (source, target, key), records in sorted(groups.items(), key=lambda item: (item[0][:2], order.index(item[0][2]))):
        theirs = published_for(paper, key, source, target)
        title = experiments(paper)[key]["title"]
        cells = [f"{theirs.values['R-1']:.1f} / {theirs.values['mAP']:.1f}" if theirs and "mAP" in theirs.values else "-",
                 *(_mean_score(records, score) for score in ("last", "last+adabn"))]
        lines.append(f"| {source} → {target} | {title} | {' | '.join(cells)} | {len(records)} |")
    return "\n".join(lines if groups else ["not run"])


def _mean_score(records: list[Record], score: str) -> str:
    if not all(score in record.scores for record in records):
        return "-"
    return " / ".join(f"{100 * mean(record.scores[score][name] for record in records):.1f}" for name in ("R-1", "mAP"))
