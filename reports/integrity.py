"""Checks the collected records before a build, and compares it with the last one: what a record says of
itself must be true of its content, and nothing disappears or changes its verdict unseen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from common.content import check_shape, parse_json, read_text
from common.errors import InputError
from common.hashing import digest
from common.records import RANKS, Record, newest_configuration
from reports.judge import Judged

BUILT = "built.json"
LARGEST = 100_000_000  # bytes of built.json
CLOSE = 1e-6  # of a number of queries to an integer


class Built(TypedDict):
    """What the last build saw: a digest of each record's numbers, and the verdict of each claim, by name."""

    records: dict[str, str]
    verdicts: dict[str, str]


def check_records(records: Mapping[str, Sequence[Record]]) -> list[str]:
    """Returns a warning for each newer configuration that hides more seeds than it brings.

    Raises `InputError` with file and line for a record whose config hash is not that of its configuration, or
    whose rank-k are no multiples of one query.
    """
    for paper, own in records.items():
        for line, record in enumerate(own, start=1):
            _check(record, f"{paper}.jsonl, line {line}: {name_of(record)}")
    return [warning for own in records.values() for warning in _hidden(own)]


def name_of(record: Record) -> str:
    drawing = f" drawing {record.data_seed}" if record.data_seed else ""
    place = f"{record.source}->{record.target} [{record.preset}]"
    return f"{record.key} {place} seed {record.seed}{drawing} config {record.config_hash}"


def _check(record: Record, origin: str) -> None:
    if record.config and digest(record.config) != record.config_hash:
        raise InputError(
            f"{origin}: its configuration hashes to {digest(record.config)}: the record was changed by hand; "
            "remove it, or run it again"
        )
    queries = record.data.get("target", record.data.get("source", {})).get("query")
    if isinstance(queries, int) and queries > 0 and not _multiples(record, queries):
        raise InputError(
            f"{origin}: its R-1 to R-20 are no multiples of 1/n for any n up to its {queries} queries: "
            "the record was changed by hand; remove it, or run it again"
        )


def _multiples(record: Record, queries: int) -> bool:
    """Returns whether one number of scored queries, at most all of them, makes every rank-k a whole number of
    them: queries without a match in another camera are not scored.
    """
    shares = np.array([score[rank] for score in record.scores.values() for rank in RANKS])
    counts = np.arange(queries, 0, -1)[:, None] * shares
    return bool((np.abs(counts - counts.round()) < CLOSE).all(axis=1).any())


def _hidden(records: Sequence[Record]) -> Iterator[str]:
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault((record.key, record.source, record.target, record.preset), []).append(record)
    for (key, source, target, preset), group in groups.items():
        newest = newest_configuration(group)
        seeds: dict[str, int] = {}
        for record in group:
            seeds[record.config_hash] = seeds.get(record.config_hash, 0) + 1
        most = max(seeds.values())
        if most > len(newest):
            yield (
                f"warning: {key} {source}->{target} [{preset}]: configuration {newest[0].config_hash} of "
                f"{newest[0].created} has {len(newest)} seeds and hides an earlier one with {most}"
            )


# ---------------------------------------------------------------- against the last build


def built(records: Iterable[Record], judged: Iterable[Judged]) -> Built:
    """Returns what a build has seen."""
    return {
        "records": {name_of(r): digest([r.scores, r.measures]) for r in records},
        "verdicts": {_claim_name(item): item.verdict for item in judged},
    }


def changes(before: Built, after: Built) -> list[str]:
    """Returns a line for each record that has gone or changed, and for each verdict that changed."""
    lines = []
    for name, numbers in before["records"].items():
        if name not in after["records"]:
            lines.append(f"gone since the last build: {name}")
        elif after["records"][name] != numbers:
            lines.append(f"other numbers than at the last build: {name}")
    for name, verdict in before["verdicts"].items():
        now = after["verdicts"].get(name, "no such claim any more")
        if now != verdict:
            lines.append(f"verdict changed: {name}: {verdict} -> {now}")
    return lines


def last_build(reports: Path) -> Built | None:
    """Reads what the last build saw; None before the first. Raises `InputError` for a damaged file."""
    path = reports / BUILT
    if not path.is_file():
        return None
    data = parse_json(read_text(path, LARGEST, links=True), path.name)
    check_shape(data, Built, path.name)
    return data


def text_of(state: Built) -> str:
    return json.dumps(state, indent=0, sort_keys=True, ensure_ascii=False) + "\n"


def _claim_name(item: Judged) -> str:
    claim = item.claim
    preset = "" if claim.preset == "demo" else f", {claim.preset}"
    return f"{claim.paper}: {claim.text} ({claim.measured_on}{preset})"
