"""Formats tables as Markdown for README.md, RESULTS.md and SWITCHES.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.published import Published
from common.tables import BAND
from reports.rows import Row, Table, Value, on_photographs


def markdown(head: Sequence[str], body: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Returns a Markdown table; the columns in `right` are right-aligned."""
    rule = ["---:" if column in right else "---" for column in range(len(head))]
    return "\n".join(
        f"| {' | '.join(line)} |" for line in (head, rule, *([_safe(cell) for cell in line] for line in body))
    )


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def result_markdown(table: Table) -> str:
    """Returns caption, table and the rows that were not run: published, measured, measured with AdaBN, number
    of seeds; on the paper's own data also the difference.
    """
    columns = " / ".join(table.columns)
    head = ["row", f"published {columns}", "measured"] if table.printed else ["row", f"measured {columns}"]
    head += [
        *(["measured + AdaBN"] if table.adapted else []),
        *(["difference"] if table.comparable else []),
        "seeds",
    ]
    body = [_cells(table, row) for row in table.rows]
    idle = f"\n\nNot run: {'; '.join(row.title for row in table.idle)}." if table.idle else ""
    return f"{caption(table)}:\n\n{markdown(head, body, right=range(1, len(head)))}{idle}"


def caption(table: Table) -> str:
    """Returns where a table was measured, under which preset if not the demo's, and what was published on."""
    pair = table.source if table.source == table.target else f"{table.source} → {table.target}"
    preset = "" if table.preset == "demo" else f", preset {table.preset}"
    published_on = f", published on {table.published_on}" if table.published_on else ""
    return f"**{table.title}**, measured on {pair}{preset}{published_on}"


def _cells(table: Table, row: Row) -> list[str]:
    cells = [
        row.title,
        *([published_text(row.published, table.columns)] if table.printed else []),
        joined(row.value(c) for c in table.columns),
    ]
    if table.adapted:
        cells.append(joined(row.value(column, "+adabn") for column in table.columns))
    if table.comparable:
        cells.append(difference_text(row))
    return [*cells, str(len(row.records) or "-")]


def published_text(theirs: Published | None, columns: Sequence[str]) -> str:
    """Returns the printed numbers; in parentheses if unverified, `-` if there are none."""
    if theirs is None or not any(column in theirs.values for column in columns):
        return "-"
    text = " / ".join(published_number(theirs, column) for column in columns)
    return f"({text})" if theirs.status == "unverified" else text


def published_number(theirs: Published | None, column: str) -> str:
    """Returns a percentage with one digit, another unit without rounding, and `-` for a missing number."""
    if theirs is None or column not in theirs.values:
        return "-"
    return f"{theirs.values[column]:.1f}" if theirs.unit == "%" else f"{theirs.values[column]:g}"


def joined(values: Any) -> str:
    """Returns `62.8 ± 2.1 / 45.5 ± 0.7`, or `not run` if nothing was measured."""
    values = list(values)
    return "not run" if not any(values) else " / ".join(number_text(value) for value in values)


def number_text(value: Value | None) -> str:
    return "-" if value is None else value.text


def difference_text(row: Row) -> str:
    """Returns measured minus published rank-1 and mAP in points, and whether both lie within the band."""
    if (
        not row.published
        or not row.published.comparable
        or not row.records
        or not set(BAND) <= set(row.published.values)
    ):
        return "-"
    values = {metric: value.mean for metric in BAND if (value := row.value(metric))}
    gaps = {metric: values[metric] - row.published.values[metric] for metric in BAND}
    within = all(abs(gap) <= BAND[metric] for metric, gap in gaps.items())
    return f"{' / '.join(f'{gap:+.1f}' for gap in gaps.values())} {'in band' if within else 'outside'}"


def switches_markdown(entries: Sequence[dict]) -> str:
    """Returns one section with a table for each group of switches."""
    groups: dict[str, list[dict]] = {}
    for entry in entries:
        groups.setdefault(entry["name"].rpartition(".")[0], []).append(entry)
    return "\n\n".join(_switch_section(name, group) for name, group in groups.items())


def _switch_section(name: str, group: Sequence[dict]) -> str:
    body = [
        [f"`--{entry['name'].replace('_', '-')}`", values_text(entry["values"]), entry["comment"] or "-"]
        for entry in group
    ]
    table = markdown(["switch", "value", "meaning and source"], body)
    return f"## {name}\n\n{group[0]['group']}\n\n{table}"


def values_text(values: dict[str, Any]) -> str:
    """Returns `256; demo 64`: the value that most presets share, then the others with their presets' names.

    Every value is named if none has a majority. Presets of real photographs, which copy most of
    another preset's values, do not count towards the majority.
    """
    texts = {preset: value_text(value) for preset, value in values.items()}
    votes = [text for preset, text in texts.items() if not on_photographs(preset)]
    usual = next((text for text in votes if 2 * votes.count(text) > len(votes)), None)
    others: dict[str, list[str]] = {}
    for preset, text in texts.items():
        if text != usual:
            others.setdefault(text, []).append(preset)
    return "; ".join(
        [*([usual] if usual else []), *(f"{', '.join(presets)} {text}" for text, presets in others.items())]
    )


def value_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else "empty"
