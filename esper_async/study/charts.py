"""Charts as SVG text, with nothing to load: lines with bands, points with bars, and timelines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 640.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 150.0, 16.0, 44.0
_LEGEND_STEP = 18.0
COLOURS = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5",
    "#9c6b4e", "#9498a0",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """A named line through (x, y) points, with a band (low, high) around it where there is one."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Dot:
    """A named point with the interval of its y."""

    name: str
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of a timeline's row, from `start` to `end`, with a colour and what it says."""

    row: int
    start: float
    end: float
    colour: str
    text: str


class _Frame:
    """A plotting area with its scales."""

    def __init__(
        self, xs: Sequence[float], ys: Sequence[float], *, names: int, log_x: bool = False
    ) -> None:
        self.height = max(HEIGHT, _TOP + _LEGEND_STEP * names + 10.0)
        self.log_x = log_x and min(xs) > 0
        self._x0, self._x1 = _range([math.log10(x) for x in xs] if self.log_x else xs)
        self._y0, self._y1 = _range(ys)

    def x(self, value: float) -> float:
        placed = math.log10(value) if self.log_x else value
        share = (placed - self._x0) / (self._x1 - self._x0)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self._y0) / (self._y1 - self._y0)
        return self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM)

    def axes(self, x_label: str, y_label: str) -> list[str]:
        right, bottom = WIDTH - _RIGHT, self.height - _BOTTOM
        parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>']
        for tick in _ticks(self._y0, self._y1):
            at = self.y(tick)
            parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{right}"/>')
            parts.append(_text(_LEFT - 6, at + 4, _short(tick), "end"))
        for tick in _ticks(self._x0, self._x1):
            value = 10**tick if self.log_x else tick
            parts.append(_text(self.x(value), bottom + 16, _short(value), "middle"))
        middle = (_LEFT + right) / 2
        parts.append(_text(middle, self.height - 6, x_label, "middle"))
        parts.append(
            f'<text transform="translate(14 {(_TOP + bottom) / 2:.1f}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_label)}</text>'
        )
        return parts


def line_chart(lines: Sequence[Line], *, x_label: str, y_label: str) -> str:
    """Return a chart of lines; nothing but a note when there is nothing to draw."""
    drawn = [line for line in lines if line.points]
    if not drawn:
        return _nothing()
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    ys += [edge for line in drawn for band in line.band for edge in band]
    frame = _Frame(xs, ys, names=len(drawn))
    parts = frame.axes(x_label, y_label)
    for number, line in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        dashes = ' stroke-dasharray="6 3"' if _is_second(number) else ""
        places = [(frame.x(x), frame.y(y)) for x, y in line.points]
        if line.band:
            upper = [
                (frame.x(p[0]), frame.y(b[1])) for p, b in zip(line.points, line.band, strict=True)
            ]
            lower = [
                (frame.x(p[0]), frame.y(b[0])) for p, b in zip(line.points, line.band, strict=True)
            ]
            outline = _path([*upper, *reversed(lower)])
            parts.append(f'<path d="{outline}Z" fill="{colour}" opacity="0.15"/>')
        parts.append(
            f'<path d="{_path(places)}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        )
        parts.append(_legend(number, line.name))
    return _svg(parts, f"{y_label} against {x_label}", height=frame.height)


def dot_chart(
    dots: Sequence[Dot],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    frontier: Literal["", "highest", "lowest"] = "",
) -> str:
    """Return a chart of points with their intervals.

    With a `frontier` a line joins the points that no point further to the left betters.
    """
    drawn = [dot for dot in dots if all(map(math.isfinite, (dot.x, dot.y, dot.low, dot.high)))]
    if not drawn:
        return _nothing()
    edges = [edge for dot in drawn for edge in (dot.low, dot.high)]
    frame = _Frame([dot.x for dot in drawn], edges, names=len(drawn), log_x=log_x)
    parts = frame.axes(x_label, y_label)
    if frontier:
        best = frontier_of(drawn, lowest=frontier == "lowest")
        line = _path([(frame.x(dot.x), frame.y(dot.y)) for dot in best])
        parts.append(f'<path class="frontier" d="{line}"/>')
    for number, dot in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        hollow = f'fill="var(--paper)" stroke="{colour}" stroke-width="2"'
        look = hollow if _is_second(number) else f'fill="{colour}"'
        x = frame.x(dot.x)
        parts.append(
            f'<path d="M{x:.1f} {frame.y(dot.low):.1f}V{frame.y(dot.high):.1f}" '
            f'stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(
            f'<circle cx="{x:.1f}" cy="{frame.y(dot.y):.1f}" r="5" {look}>'
            f"<title>{escape(dot.name)}: {_short(dot.y)} at {_short(dot.x)}</title></circle>"
        )
        parts.append(_legend(number, dot.name))
    return _svg(parts, f"{y_label} against {x_label}", height=frame.height)


def frontier_of(dots: Sequence[Dot], *, lowest: bool) -> list[Dot]:
    """Return the points, from left to right, that none at most as far to the right betters."""
    sign = -1.0 if lowest else 1.0
    found: list[Dot] = []
    for dot in sorted(dots, key=lambda each: (each.x, -sign * each.y)):
        if not found or sign * dot.y > sign * found[-1].y:
            found.append(dot)
    return found


def timeline(rows: Sequence[str], bars: Sequence[Bar], *, x_label: str, end: float) -> str:
    """Return a timeline: a row of bars for each name, from 0 to `end`."""
    if not rows or not bars:
        return _nothing()
    step = 14.0
    height = _TOP + step * len(rows) + _BOTTOM
    scale = (WIDTH - _LEFT - 20) / max(end, 1.0)
    parts = []
    for number, name in enumerate(rows):
        parts.append(_text(_LEFT - 6, _TOP + step * number + 10, name, "end"))
    for bar in bars:
        left, width = _LEFT + bar.start * scale, max(2.0, (bar.end - bar.start) * scale)
        parts.append(
            f'<rect x="{left:.1f}" y="{_TOP + step * bar.row:.1f}" width="{width:.1f}" '
            f'height="{step - 3}" rx="2" fill="{bar.colour}" opacity="0.8">'
            f"<title>{escape(bar.text)}</title></rect>"
        )
    for tick in _ticks(0.0, end):
        parts.append(_text(_LEFT + tick * scale, height - 26, _short(tick), "middle"))
    parts.append(_text(WIDTH / 2, height - 8, x_label, "middle"))
    return _svg(parts, "seeds over time", height=height)


def _svg(parts: Sequence[str], title: str, *, height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _nothing() -> str:
    return '<p class="none">Nothing was measured that could be drawn here.</p>'


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _is_second(number: int) -> bool:
    """Whether a colour is used for the second time, and so drawn in another manner."""
    return number // len(COLOURS) % 2 == 1


def _legend(number: int, name: str) -> str:
    colour = COLOURS[number % len(COLOURS)]
    top = _TOP + _LEGEND_STEP * number
    left = WIDTH - _RIGHT + 14
    fill = f'fill="none" stroke="{colour}" stroke-width="2"'
    look = fill if _is_second(number) else f'fill="{colour}"'
    box = f'<rect x="{left}" y="{top}" width="12" height="12" {look}/>'
    return box + _text(left + 18, top + 10, name, "start")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or max(abs(high) * 0.05, 0.5)
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Return three to seven round values between two."""
    rough = (high - low) / 5
    if rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough)
    first = math.ceil(low / step) * step
    count = int((high - first) / step + 1e-9)
    return [first + step * number for number in range(count + 1)]


def _short(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            divisor = 1e3 if letter == "k" else size
            return f"{value / divisor:.3g}{letter}"
    return f"{value:.4g}"
