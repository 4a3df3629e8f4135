"""Writes the claim table between its two marks in README.md."""

from __future__ import annotations

from pathlib import Path

from common.errors import InputError
from common.files import write_atomic
from common.records import ROOT
from reports.claims import Claim, claimed, measured, read_claims
from reports.collect import REPORTS, read_results

BEGIN, END = "<!-- claims: python -m reports readme -->", "<!-- end of claims -->"
TITLES = {"arn": "ARN", "hhl": "HHL", "spgan": "SPGAN", "ptgan": "PTGAN", "dcgan_lsro": "DCGAN+LSRO"}


def update_readme(path: Path = ROOT / "README.md", reports: Path = REPORTS) -> None:
    """Raises `InputError` if the marks are missing."""
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise InputError(f"{path.name}: expected the marks {BEGIN!r} and {END!r}")
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    write_atomic(path, f"{head}{BEGIN}\n{claim_table(reports)}\n{END}{tail}")


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
