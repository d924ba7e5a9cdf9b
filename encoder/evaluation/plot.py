"""A line plot as SVG, written by hand: small, the same bytes each time, and no library."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

# Okabe and Ito's palette, which people with colour-blindness can tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_WIDTH, _HEIGHT = 800, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 320, 56, 48
_GRID_STEPS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. deviations: half the height of each point's error bar, 0 for none."""

    name: str
    values: Sequence[float]
    deviations: Sequence[float]


def plot(title: str, places: Sequence[str], lines: Sequence[Line], y_label: str) -> str:
    """An SVG of `lines` over evenly spaced `places`, with error bars and a legend.

    Raises ValueError if a line has another number of points than there are places.
    """
    for line in lines:
        if not len(line.values) == len(line.deviations) == len(places):
            raise ValueError(f"line {line.name!r} has not {len(places)} points")
    low, high = _range(lines)
    frame = _Frame(len(places), low, high)
    parts = [*_axes(frame, places, title, y_label)]
    for number, line in enumerate(lines):
        parts += _curve(frame, line, _COLOURS[number % len(_COLOURS)])
        parts += _legend(number, line.name, _COLOURS[number % len(_COLOURS)])
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="13" role="img" aria-label="{escape(title)}">'
    )
    background = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    return "\n".join([head, background, *parts, "</svg>"]) + "\n"


@dataclass(frozen=True, slots=True)
class _Frame:
    points: int
    low: float
    high: float

    def x(self, point: int) -> float:
        inner = _WIDTH - _LEFT - _RIGHT
        return _LEFT + inner * (point + 0.5) / self.points

    def y(self, value: float) -> float:
        inner = _HEIGHT - _TOP - _BOTTOM
        return _TOP + inner * (self.high - value) / (self.high - self.low)


def _range(lines: Sequence[Line]) -> tuple[float, float]:
    """Whole tens around every point and error bar."""
    pairs = [pair for line in lines for pair in zip(line.values, line.deviations, strict=True)]
    low = min((value - deviation for value, deviation in pairs), default=0.0)
    high = max((value + deviation for value, deviation in pairs), default=1.0)
    bottom, top = 10 * (low // 10), 10 * -(-high // 10)
    return bottom, max(top, bottom + 10)


def _axes(frame: _Frame, places: Sequence[str], title: str, y_label: str) -> list[str]:
    bottom = frame.y(frame.low)
    parts = [_text(_LEFT, 22, title, size=15), _text(8, _TOP - 8, y_label)]
    for step in range(_GRID_STEPS + 1):
        value = frame.low + (frame.high - frame.low) * step / _GRID_STEPS
        y = frame.y(value)
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "#dddddd"))
        parts.append(_text(_LEFT - 8, y + 4, f"{value:g}", anchor="end"))
    for point, place in enumerate(places):
        parts.append(_text(frame.x(point), bottom + 20, place, anchor="middle"))
    return parts


def _curve(frame: _Frame, line: Line, colour: str) -> list[str]:
    places = [(frame.x(i), frame.y(value)) for i, value in enumerate(line.values)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for (x, y), value, deviation in zip(places, line.values, line.deviations, strict=True):
        if deviation:
            high, low = frame.y(value + deviation), frame.y(value - deviation)
            parts.append(_line(x, high, x, low, colour))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
    return parts


def _legend(number: int, name: str, colour: str) -> list[str]:
    x, y = _WIDTH - _RIGHT + 14, _TOP + 10 + 22 * number
    return [_line(x, y, x + 22, y, colour), _text(x + 28, y + 4, name)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="1.5"/>'


def _text(x: float, y: float, content: str, *, anchor: str = "start", size: int = 13) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {place}>{escape(content)}</text>"
