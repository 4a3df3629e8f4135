"""Draws small plots as SVG text: curves with bands, bars, heat maps.

Colours come from the style sheet, so that a plot follows the light or dark theme.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

WIDTH, HEIGHT = 380, 266
LEFT, RIGHT, TOP, BOTTOM = 38, 20, 62, 40
CELL = 34  # height of a heat map's cell
NAMES = 60  # width of a heat map's row names
VALUES = 80  # width kept for the number behind a bar
GAP = 28  # between two panels in a file
AXIS = 24  # height of the axis below bars
BAR = 9  # height of a bar
STYLE = """
.plot { --ink: #22262b; --soft: #565e69; --line: #dfe3e8; --a: #0b6e6e; --b: #b45309; --c: #6b7280; \
--d: #7c3aed; --paper: #ffffff;
  font: 11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) {
  .plot { --ink: #e6e8eb; --soft: #a5adb8; --line: #2c323a; --a: #4fc3bf; --b: #f0a54a; --c: #9aa2ad; \
--d: #b794f6; --paper: #15181c; }
}
.plot text { fill: var(--soft); }
.plot .title { fill: var(--ink); font-weight: 600; font-size: 12px; }
.plot .small { font-size: 9px; }
.plot .strong { fill: var(--ink); }
.plot .grid { stroke: var(--line); }
.plot .s0 { --s: var(--a); } .plot .s1 { --s: var(--b); } .plot .s2 { --s: var(--c); } \
.plot .s3 { --s: var(--d); }
.plot path.curve { fill: none; stroke: var(--s); stroke-width: 1.8; stroke-linejoin: round; }
.plot .s2 path.curve { stroke-dasharray: 5 3; }
.plot .band { fill: var(--s); opacity: .16; }
.plot .dot, .plot .bar { fill: var(--s); }
.plot .whisker { stroke: var(--ink); stroke-width: 1; }
.plot .cell { fill: var(--a); }
"""


Panel = Mapping[str, Any]
Series = Mapping[str, Any]
Point = Mapping[str, Any]
Mapper = Callable[[float, float], tuple[float, float]]  # from data to pixels


def standalone(panels: Sequence[str], sizes: Sequence[tuple[int, int]], label: str) -> str:
    """Returns one SVG file of panels side by side, with its own style sheet and background."""
    width, height = sum(w + GAP for w, _ in sizes) - GAP, max(h for _, h in sizes)
    places = [sum(w + GAP for w, _ in sizes[:number]) for number in range(len(sizes))]
    inner = "\n".join(panel.replace("<svg ", f'<svg x="{x}" y="0" ', 1) for panel, x in zip(panels, places))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 0 {width + 24} {height}" '
        f'width="{width + 24}" height="{height}" class="plot" role="img" aria-label="{escape(label)}">\n'
        f"<style>{STYLE}</style>\n"
        f'<rect x="-12" width="100%" height="100%" style="fill: var(--paper)"/>\n{inner}\n</svg>\n'
    )


def panel_size(kind: str, panel: Panel) -> tuple[int, int]:
    """Returns width and height; bars and heat maps grow with their rows."""
    if not panel["series"]:
        return WIDTH, 92
    if kind == "bars":
        return WIDTH, _bars_top(panel) + len(panel["rows"]) * _row_height(panel) + AXIS
    rows = len({point["x2"] for point in panel["series"][0]["points"]}) if kind == "heatmap" else 0
    return WIDTH, TOP + rows * CELL + BOTTOM if rows else HEIGHT


def draw_panel(kind: str, panel: Panel) -> str:
    """Draws one panel: `title`, `subtitle`, the name `x` of the axis, and `series` of `label` and `points`
    (x, y; spread and n if measured), or a `note` if there are no series. `y_range` is the range of the
    values, which two panels share.
    """
    width, height = panel_size(kind, panel)
    parts = [_text(0, 12, panel["title"], class_="title"), _text(0, 28, panel["subtitle"])]
    if panel["series"]:
        parts += {"bars": _bars, "heatmap": _heatmap, "curve": _curves}[kind](panel)
    else:
        lines = textwrap.wrap(panel["note"], 56, break_long_words=False, break_on_hyphens=False)
        parts += [_text(0, 52 + 16 * number, line) for number, line in enumerate(lines)]
    name = escape(f"{panel['title']}: {panel['subtitle']}")
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{name}">\n' + "\n".join(parts) + "\n</svg>"
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns round numbers that cover low..high: steps of 1, 2 or 5 times a power of ten."""
    size = max(abs(high), 1.0)
    span = high - low if high - low > 1e-9 * size else size  # a single value spans no range
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


# ---------------------------------------------------------------- curves


def _curves(panel: Panel) -> list[str]:
    points = [point for series in panel["series"] for point in series["points"]]
    y_ticks, (x_low, x_high) = ticks(*y_range(panel)), panel["x_range"]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1)
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = _axes(panel["x"], y_ticks, sorted({x_low, x_high, *(point["x"] for point in points)}), place)
    for number, series in enumerate(panel["series"]):
        parts += [f'<g class="s{number % 4}">', *_curve(series, place), "</g>"]
    return parts + _legend(panel["series"])


def _axes(name: str, y_ticks: Sequence[float], xs: Sequence[float], place: Mapper) -> list[str]:
    parts = []
    for tick in y_ticks:
        _, y = place(xs[0], tick)
        parts.append(_element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        parts.append(_text(LEFT - 6, y + 4, f"{tick:g}", text_anchor="end"))
    taken = -math.inf
    for x in xs:  # labels do not overlap
        across, label = place(x, y_ticks[0])[0], f"{x:g}"
        if across - taken > 3.5 * len(label) + 9:
            parts.append(_text(across, HEIGHT - BOTTOM + 15, label, text_anchor="middle"))
            taken = across + 3.5 * len(label)
    return [*parts, _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, name, text_anchor="middle")]


def _curve(series: Series, place: Mapper) -> list[str]:
    """Draws the band of the spread, the curve and its points."""
    points = sorted(series["points"], key=lambda point: point["x"])
    parts = []
    if any(point.get("spread") for point in points):
        lower, upper = ([place(p["x"], _interval(p)[side]) for p in points] for side in (0, 1))
        parts.append(_element("path", class_="band", d=f"{_line([*upper, *lower[::-1]])} Z"))
    parts.append(_element("path", class_="curve", d=_line([place(p["x"], p["y"]) for p in points])))
    for point in points:
        x, y = place(point["x"], point["y"])
        parts.append(_element("circle", _tooltip(series, point), class_="dot", cx=x, cy=y, r=2.4))
    return parts


def _line(places: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)


# ---------------------------------------------------------------- bars and heat maps


class _Axis(NamedTuple):
    """Maps the values of bars to pixels."""

    low: float
    scale: float

    def at(self, value: float) -> float:
        return (value - self.low) * self.scale


def y_range(panel: Panel) -> tuple[float, float]:
    """Returns the range of a panel's values with their spread, or the one that it shares with its twin."""
    if "y_range" in panel:
        low, high = panel["y_range"]
        return low, high
    limits = [limit for series in panel["series"] for point in series["points"] for limit in _interval(point)]
    return min(limits), max(limits)


def _bars(panel: Panel) -> list[str]:
    """Draws horizontal bars below the name of their row, above an axis that starts at zero."""
    low, high = y_range(panel)
    marks = ticks(min(0.0, low), max(0.0, high))
    axis = _Axis(marks[0], (WIDTH - VALUES) / (marks[-1] - marks[0]))
    top, bottom = _bars_top(panel), _bars_top(panel) + len(panel["rows"]) * _row_height(panel)
    parts = []
    for mark in marks:
        parts.append(_element("line", class_="grid", x1=axis.at(mark), x2=axis.at(mark), y1=top, y2=bottom))
        parts.append(_text(axis.at(mark), bottom + 14, f"{mark:g}", text_anchor="middle"))
    for name in panel["rows"]:
        parts.append(_text(0, top + 8, name, class_="strong"))
        bars = []
        for number, series in enumerate(panel["series"]):
            for point in series["points"]:
                if point["x"] == name:
                    bars += _bar(point, _tooltip(series, point), number, top + 13 + (BAR + 3) * number, axis)
        parts += bars or [_text(0, top + 22, panel["absent"])]
        top += _row_height(panel)
    return parts + _legend(panel["series"])


def _bars_top(panel: Panel) -> int:
    return TOP - (0 if len(panel["series"]) > 1 else 20)


def _row_height(panel: Panel) -> int:
    return 34 + (BAR + 3) * (len(panel["series"]) - 1)


def _bar(point: Point, tooltip: str, number: int, y: int, axis: _Axis) -> list[str]:
    """Draws the bar of a row's `number`-th series, its whisker and its number."""
    zero, end = axis.at(0.0), axis.at(point["y"])
    low, high = map(axis.at, _interval(point))
    size = {"x": min(zero, end), "y": y, "width": abs(end - zero), "height": BAR, "rx": 1}
    parts = [f'<g class="s{number % 4}">{_element("rect", tooltip, class_="bar", **size)}</g>']
    if point.get("spread"):
        middle = y + BAR / 2
        parts.append(_element("line", class_="whisker", x1=low, x2=high, y1=middle, y2=middle))
    return [*parts, _text(max(high, zero) + 5, y + BAR, _number(point["y"]), class_="strong")]


def _heatmap(panel: Panel) -> list[str]:
    series = panel["series"][0]
    points = series["points"]
    columns, rows = (list(dict.fromkeys(point[axis] for point in points)) for axis in ("x", "x2"))
    low, high = y_range(panel)
    width = (WIDTH - NAMES) / len(columns)
    parts = [
        _text(NAMES + (i + 0.5) * width, TOP - 6, f"{name}", text_anchor="middle")
        for i, name in enumerate(columns)
    ]
    parts += [
        _text(NAMES - 6, TOP + (j + 0.5) * CELL + 4, f"{name}", text_anchor="end")
        for j, name in enumerate(rows)
    ]
    for point in points:
        x, y = NAMES + columns.index(point["x"]) * width, TOP + rows.index(point["x2"]) * float(CELL)
        size = {"x": x + 1, "y": y + 1, "width": width - 2, "height": CELL - 2.0, "rx": 2}
        opacity = f"opacity: {0.12 + 0.6 * (point['y'] - low) / ((high - low) or 1):.2f}"
        parts.append(_element("rect", _tooltip(series, point), class_="cell", **size, style=opacity))
        label = {"class_": "strong", "text_anchor": "middle"}
        parts.append(_text(x + width / 2, y + CELL / 2 + 4, _number(point["y"]), **label))
    middle = NAMES + (WIDTH - NAMES) / 2
    return [*parts, _text(middle, TOP + len(rows) * CELL + 18, panel["x"], text_anchor="middle")]


# ---------------------------------------------------------------- elements and words


def _legend(series: Sequence[Series]) -> list[str]:
    """Draws a square and a name for each of several series."""
    if len(series) < 2:
        return []
    parts, x = [], 0.0
    for number, entry in enumerate(series):
        square = _element("rect", class_="dot", x=f"{x:.0f}", y=39, width=9, height=9, rx=2)
        name = entry["label"] or "as trained"
        parts += [f'<g class="s{number % 4}">{square}</g>', _text(x + 13, 47, name)]
        x += 28 + 5.9 * len(name)
    return parts


def _tooltip(series: Series, point: Point) -> str:
    label = f"{series['label']}, " if series["label"] else ""
    spread = f" ± {_number(point['spread'])}" if point.get("spread") else ""
    seeds = f", {point['n']} seed{'s' * (point['n'] > 1)}" if "n" in point else ""
    text = f"{label}{point['x']}: {_number(point['y'])}{spread}{seeds}"
    return f"<title>{escape(text)}</title>"


def _interval(point: Point) -> tuple[float, float]:
    spread = point.get("spread") or 0
    return point["y"] - spread, point["y"] + spread


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 2 else f"{value:.3g}"


def _text(x: float, y: float, words: str, **attributes: str) -> str:
    return _element("text", escape(words), x=float(x), y=float(y), **attributes)


def _element(name: str, content: str = "", **attributes: str | float) -> str:
    """Returns an SVG element; a float attribute has one digit, `class_` is class, text_anchor text-anchor."""
    parts = [f"<{name}"]
    for attribute, value in attributes.items():
        text = f"{value:.1f}" if isinstance(value, float) else value
        parts.append(f'{attribute.rstrip("_").replace("_", "-")}="{text}"')
    return " ".join(parts) + (f">{content}</{name}>" if content else "/>")
