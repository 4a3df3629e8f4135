"""Prepares what pages and documents show of a judged claim: the texts of its line in a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from common.published import published_file
from common.records import PAPERS
from reports.claims import Claim, Difference, claimed
from reports.experiments import run_of
from reports.judge import Judged
from reports.rows import TITLES, anchor, pair_text


def claim_view(judged: Judged) -> dict[str, Any]:
    """Returns the fields of a claim, and the texts of its line in a table."""
    claim, result = judged.claim, judged.difference
    source, target = claim.measured_on.split("->")
    link = f"published/{claim.papers[0]}.toml"
    return {
        **vars(claim),
        "pair": pair_text(*claim.pair.split("->")),
        "published": versus(claimed(claim), claim),
        "measured": versus((result.left, result.right), claim) if result else "",
        "difference": difference_view(claim, result, judged.over),
        "verdict": judged.verdict,
        "style": judged.verdict.split()[0],
        "interval": judged.interval,
        "missed": list(dict.fromkeys(f"{outcome.gate}: {outcome.text}" for outcome in judged.missed)),
        "gates_missed": list(dict.fromkeys(outcome.gate for outcome in judged.missed)),
        "mechanism": judged.mechanism,
        "survives": judged.survives,
        "more_seeds": judged.more_seeds,
        "over": judged.over,
        "matched": judged.matched,
        "remarks": judged.remarks,
        "superseded": judged.superseded,
        "anchor": anchor(run_of(claim.keys[0]), source, target, claim.preset),
        "link": published_file(claim.paper).get("link", "") if claim.paper in PAPERS else link,
    }


def headlines(claims: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the headline claims, each with `one_sided` and `both_sides`: the claims that hold its method
    against direct transfer with AdaBN, on that side alone and on both; None for a paper without.
    """
    shown = [claim for claim in claims if not claim["superseded"]]
    views = []
    for claim in shown:
        if claim["headline"]:
            same = [
                other
                for other in shown
                if all(other[name] == claim[name] for name in ("paper", "left", "pair", "metric"))
            ]
            twins = {other["score"]: other for other in same}
            one_sided, both = twins.get(("", "+adabn")), twins.get(("+adabn", "+adabn"))
            views.append({**claim, "one_sided": one_sided, "both_sides": both})
    return views


def versus(sides: tuple[float | None, float | None], claim: Claim) -> str:
    """Returns `62.2 v 44.6`; a question mark for an unpublished side, an empty text if both are."""
    if sides == (None, None):
        return ""
    form = ".1f" if claim.unit == "points" else ".3g"
    return " v ".join("?" if side is None else f"{side:{form}}" for side in sides)


def difference_view(claim: Claim, result: Difference | None, over: str = "seeds") -> str:
    if result is None:
        return ""
    form = ".1f" if claim.unit == "points" else ".3g"
    interval = "" if result.half_width is None else f" ± {result.half_width:{form}}"
    return f"{result.mean:+{form}}{interval} ({result.n} {over if result.n > 1 else over[:-1]})"


def mechanisms(judged: Iterable[Judged]) -> list[dict[str, Any]]:
    """Returns a line for each check of the gates of these claims, the same check on the same pair once."""
    lines = {}
    for item in judged:
        for outcome in () if item.comparison is None else item.gates:
            state = "not measured" if not outcome.measured else "passes" if outcome.passed else "misses"
            pair = pair_text(*item.claim.measured_on.split("->"))
            name = (item.claim.paper, outcome.gate, outcome.words, pair, item.claim.preset)
            lines[name] = {
                "paper": item.claim.paper,
                "title": TITLES.get(item.claim.paper, ""),
                "gate": outcome.gate,
                "words": outcome.words.rstrip(":"),
                "pair": pair,
                "preset": item.claim.preset,
                "measured": outcome.measured_text,
                "needed": outcome.needed_text,
                "state": state,
                "run": outcome.run,
            }
    return list(lines.values())
