"""Small plots as SVG text: curves with bands, bars, heat maps. Colours come from the style sheet, so that a
plot follows light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 380, 266
LEFT, RIGHT, TOP, BOTTOM = 38, 20, 62, 40
CELL = 34  # height of a heat map's cell
GAP = 28  # between two panels in a file
TONES = ("", " thin", " thinner")  # of the bars of a row, and of the squares that name them
STYLE = """
.plot { --ink: #22262b; --soft: #6b7280; --line: #e3e6ea; --a: #0b6e6e; --b: #b45309; --c: #6b7280; --d: #7c3aed; --paper: #fff;
  font: 11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) {
  .plot { --ink: #e6e8eb; --soft: #9aa2ad; --line: #2c323a; --a: #4fc3bf; --b: #f0a54a; --c: #9aa2ad; --d: #b794f6; --paper: #15181c; }
}
.plot text { fill: var(--soft); }
.plot .title { fill: var(--ink); font-weight: 600; font-size: 12px; }
.plot .small { font-size: 9px; }
.plot .strong { fill: var(--ink); }
.plot .grid { stroke: var(--line); }
.plot .s0 { --s: var(--a); } .plot .s1 { --s: var(--b); } .plot .s2 { --s: var(--c); } .plot .s3 { --s: var(--d); }
.plot path.curve { fill: none; stroke: var(--s); stroke-width: 1.8; stroke-linejoin: round; }
.plot .s2 path.curve { stroke-dasharray: 5 3; }
.plot .band { fill: var(--s); opacity: .16; }
.plot .dot, .plot .bar { fill: var(--s); }
.plot .thin { opacity: .45; }
.plot .thinner { opacity: .2; }
.plot .whisker { stroke: var(--ink); stroke-width: 1; }
.plot .cell { fill: var(--a); }
"""


def standalone(panels: Sequence[str], sizes: Sequence[tuple[int, int]], label: str) -> str:
    """One SVG file of panels side by side, with its own style sheet and background."""
    width, height = sum(w + GAP for w, _ in sizes) - GAP, max(h for _, h in sizes)
    places = [sum(w + GAP for w, _ in sizes[:number]) for number in range(len(sizes))]
    inner = "\n".join(panel.replace("<svg ", f'<svg x="{x}" y="0" ', 1) for panel, x in zip(panels, places))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 0 {width + 24} {height}" width="{width + 24}" height="{height}" class="plot" '
        f'role="img" aria-label="{escape(label)}">\n<style>{STYLE}</style>\n'
        f'<rect x="-12" width="100%" height="100%" style="fill: var(--paper)"/>\n{inner}\n</svg>\n'
    )


def panel_size(kind: str, panel: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height; bars and heat maps grow with their rows."""
    if not panel["series"]:
        return WIDTH, 92
    if kind == "bars":
        return WIDTH, _bars_top(panel) + len(panel["rows"]) * _row_height(panel)
    rows = len({point["x2"] for point in panel["series"][0]["points"]}) if kind == "heatmap" else 0
    return WIDTH, TOP + rows * CELL + BOTTOM if rows else HEIGHT


def draw_panel(kind: str, panel: Mapping[str, Any]) -> str:
    """One panel: `title`, `subtitle`, `series` of `label` and `points` (x, y; where measured spread and n),
    the axis `x`; if empty, its `note`.
    """
    width, height = panel_size(kind, panel)
    parts = [_text(0, 12, panel["title"], "title"), _text(0, 28, panel["subtitle"])]
    if not panel["series"]:
        parts += [_text(0, 52 + 16 * number, line) for number, line in enumerate(_wrap(panel["note"], 56))]
    elif kind == "bars":
        parts += _bars(panel)
    elif kind == "heatmap":
        parts += _heatmap(panel)
    else:
        parts += _curves(panel)
    name = escape(f"{panel['title']}: {panel['subtitle']}")
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{name}">\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover low..high: steps of 1, 2 or 5 times a power of ten."""
    size = max(abs(high), 1.0)
    span = high - low if high - low > 1e-9 * size else size  # one value has no range of its own
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


# ---------------------------------------------------------------- kinds


def _curves(panel: Mapping[str, Any]) -> list[str]:
    points = [point for series in panel["series"] for point in series["points"]]
    xs = [*panel["x_range"], *(point["x"] for point in points)]
    reach = [point["y"] + sign * (point.get("spread") or 0) for point in points for sign in (-1, 1)]
    y_ticks, (x_low, x_high) = ticks(min(reach), max(reach)), panel["x_range"]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1)
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = _axes(panel, y_ticks, sorted(set(xs)), place)
    for number, series in enumerate(panel["series"]):
        parts += [f'<g class="s{number % 4}">', *_curve(series, place), "</g>"]
    return parts + _legend(panel["series"])


def _axes(panel: Mapping[str, Any], y_ticks: Sequence[float], xs: Sequence[float], place: Any) -> list[str]:
    parts = []
    for tick in y_ticks:
        _, y = place(xs[0], tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{tick:g}", anchor="end"))
    taken = -math.inf
    for x in xs:  # no label on top of another
        across, words = place(x, y_ticks[0])[0], f"{x:g}"
        if across - taken > 3.5 * len(words) + 9:
            parts.append(_text(across, HEIGHT - BOTTOM + 15, words, anchor="middle"))
            taken = across + 3.5 * len(words)
    return [*parts, _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, panel["x"], anchor="middle")]


def _curve(series: Mapping[str, Any], place: Any) -> list[str]:
    points = sorted(series["points"], key=lambda point: point["x"])
    parts = []
    if any(point.get("spread") for point in points):
        upper, lower = (
            [place(p["x"], p["y"] + sign * (p.get("spread") or 0)) for p in points] for sign in (1, -1)
        )
        parts.append(f'<path class="band" d="{_line([*upper, *lower[::-1]])} Z"/>')
    parts.append(f'<path class="curve" d="{_line([place(p["x"], p["y"]) for p in points])}"/>')
    for point in points:
        x, y = place(point["x"], point["y"])
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.4"><title>{escape(_said(series, point))}</title></circle>'
        )
    return parts


def _line(places: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _bars(panel: Mapping[str, Any]) -> list[str]:
    """Horizontal: the row's name above its bars; two further series at most are thinner bars below."""
    points = [point for series in panel["series"] for point in series["points"]]
    high = max(point["y"] + (point.get("spread") or 0) for point in points)
    low = min(0.0, min(point["y"] for point in points))
    scale = (WIDTH - 80) / ((high - low) or 1)
    parts, y = [], _bars_top(panel)
    for name in panel["rows"]:
        parts.append(_text(0, y + 8, name, "strong"))
        for number, series in enumerate(panel["series"]):
            found = [point for point in series["points"] if point["x"] == name]
            parts += [
                piece
                for point in found
                for piece in _bar(point, series, y + 13 + 11 * number, scale, low, number)
            ]
        if not any(point["x"] == name for point in points):
            parts.append(_text(0, y + 22, panel["absent"]))
        y += _row_height(panel)
    return parts + _legend(panel["series"], thin=True)


def _bars_top(panel: Mapping[str, Any]) -> int:
    return TOP - (0 if len(panel["series"]) > 1 else 20)


def _row_height(panel: Mapping[str, Any]) -> int:
    return 34 + 10 * (len(panel["series"]) - 1)


def _bar(
    point: Mapping[str, Any], series: Mapping[str, Any], y: float, scale: float, low: float, number: int
) -> list[str]:
    zero, end, height = -low * scale, (point["y"] - low) * scale, 9 if number == 0 else 6
    parts = [
        f'<g class="s0"><rect class="bar{TONES[number]}" x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" height="{height}" '
        f'rx="1"><title>{escape(_said(series, point))}</title></rect></g>'
    ]
    spread = point.get("spread") or 0
    if spread:
        middle = y + height / 2
        parts.append(
            f'<line class="whisker" x1="{end - spread * scale:.1f}" x2="{end + spread * scale:.1f}" y1="{middle}" y2="{middle}"/>'
        )
    return [
        *parts,
        _text(
            end + spread * scale + 5,
            y + height - (0 if number == 0 else -1),
            _number(point["y"]),
            "small" if number else "strong",
        ),
    ]


def _heatmap(panel: Mapping[str, Any]) -> list[str]:
    points = panel["series"][0]["points"]
    columns, rows = (list(dict.fromkeys(point[axis] for point in points)) for axis in ("x", "x2"))
    low, high = min(point["y"] for point in points), max(point["y"] for point in points)
    width, height = (WIDTH - 60) / len(columns), CELL
    parts = [
        _text(60 + (i + 0.5) * width, TOP - 6, f"{name}", anchor="middle") for i, name in enumerate(columns)
    ]
    parts += [_text(54, TOP + (j + 0.5) * height + 4, f"{name}", anchor="end") for j, name in enumerate(rows)]
    for point in points:
        x, y = 60 + columns.index(point["x"]) * width, TOP + rows.index(point["x2"]) * height
        strength = 0.12 + 0.6 * (point["y"] - low) / ((high - low) or 1)
        parts += [
            f'<rect class="cell" x="{x + 1:.1f}" y="{y + 1:.1f}" width="{width - 2:.1f}" height="{height - 2:.1f}" rx="2" '
            f'style="opacity: {strength:.2f}"><title>{escape(_said(panel["series"][0], point))}</title></rect>',
            _text(x + width / 2, y + height / 2 + 4, _number(point["y"]), "strong", anchor="middle"),
        ]
    return [*parts, _text(60 + (WIDTH - 60) / 2, TOP + len(rows) * height + 18, panel["x"], anchor="middle")]


# ---------------------------------------------------------------- words


def _legend(series: Sequence[Mapping[str, Any]], *, thin: bool = False) -> list[str]:
    """A square and a name for each of several series; `thin`: of bars, whose further series are paler."""
    if len(series) < 2:
        return []
    parts, x = [], 0.0
    for number, entry in enumerate(series):
        group, pale = (0, TONES[number]) if thin else (number % 4, "")
        parts.append(
            f'<g class="s{group}"><rect class="dot{pale}" x="{x:.0f}" y="39" width="9" height="9" rx="2"/></g>'
        )
        parts.append(_text(x + 13, 47, entry["label"] or "as trained"))
        x += 28 + 5.9 * len(entry["label"] or "as trained")
    return parts


def _said(series: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    spread = f" ± {_number(point['spread'])}" if point.get("spread") else ""
    seeds = f", {point['n']} seed{'s' * (point['n'] > 1)}" if "n" in point else ""
    return f"{series['label'] + ', ' if series['label'] else ''}{point['x']}: {_number(point['y'])}{spread}{seeds}"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 2 else f"{value:.3g}"


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}"'
        + (f' class="{kind}"' if kind else "")
        + (f' text-anchor="{anchor}"' if anchor != "start" else "")
        + f">{escape(words)}</text>"
    )


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        lines[-1:] = (
            [f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < width else [lines[-1], word]
        )
    return lines
