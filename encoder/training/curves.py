"""The curves of a run: one JSON object a line, and the same as a picture.

A line of training has `step`, `tokens`, `loss`, `rebuilt`, `rate_share`, `mask_rate`,
`row_tokens` and `tokens_per_s`; a line of evaluation has `step`, `tokens` and `held_out`, an
object of losses by language.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from xml.sax.saxutils import escape

from encoder.training.atomic import write_atomically
from encoder.training.schedule import Step

Line: TypeAlias = Mapping[str, Any]
Points: TypeAlias = Sequence[tuple[float, float]]

WIDTH, HEIGHT, MARGIN = 760, 420, 56  # of the picture, in pixels
POINTS_MAX = 400  # of a curve; more than there are pixels to see
COLOURS = ("#9aa5b1", "#0b6e99", "#d1495b", "#3a7d44", "#8e5ea2", "#e08e0b")


class Curves:
    """The file of a run's curves. After a resume it holds no step twice."""

    def __init__(self, path: Path, *, steps_done: int) -> None:
        """Open the file and drop what a killed run wrote after its last checkpoint."""
        self._path = path
        kept = [line for line in read_curves(path) if line["step"] <= steps_done]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def add(self, line: Line) -> None:
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Window:
    """What happened since the last line of the curve, as means."""

    def __init__(self) -> None:
        self.clear()
        self._speed = 0.0  # tokens/s, a running mean over the last tens of steps

    def clear(self) -> None:
        """Begin anew: a line was written."""
        self._steps, self._tokens, self._seconds, self._masked, self._rebuilt = 0, 0, 0.0, 0.0, 0.0

    def add(self, tokens: int, seconds: float, masked: float, rebuilt: float) -> None:
        """Count one step with its losses."""
        self._steps += 1
        self._tokens += tokens
        self._seconds += seconds
        self._masked += masked
        self._rebuilt += rebuilt
        now = tokens / max(seconds, 1e-9)
        self._speed = now if not self._speed else 0.95 * self._speed + 0.05 * now
        self._last = masked

    def note(self, done: int) -> str:
        """For the progress bar."""
        loss = self._masked / self._steps if self._steps else self._last
        return f"{done / 1e6:,.1f}M tokens, {self._speed:,.0f} tokens/s, loss {loss:.3f}"

    def line(self, step: Step) -> dict[str, float]:
        """For the curve."""
        return {
            "loss": round(self._masked / self._steps, 4),
            "rebuilt": round(self._rebuilt / self._steps, 4),
            "rate_share": round(step.rate_share, 4),
            "mask_rate": round(step.mask_rate, 4),
            "row_tokens": step.stage.row_tokens,
            "tokens_per_s": round(self._tokens / self._seconds),
        }


def read_curves(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, without a last one that a kill cut in two; none if it is missing."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def draw(lines: Iterable[Line], title: str) -> str:
    """An SVG of the losses over the tokens trained on."""
    listed = list(lines)
    curves: dict[str, list[tuple[float, float]]] = {
        "training": [(line["tokens"], line["loss"]) for line in listed if "loss" in line]
    }
    for line in listed:
        for language, loss in line.get("held_out", {}).items():
            curves.setdefault(f"held out, {language}", []).append((line["tokens"], loss))
    in_millions = {
        name: [(tokens / 1e6, loss) for tokens, loss in points] for name, points in curves.items()
    }
    return plot(in_millions, title, across="million tokens")


def plot(
    curves: Mapping[str, Points], title: str, *, across: str, up: str = "nats per guessed token"
) -> str:
    """An SVG of named curves, each of (amount of training, loss), whose names are given."""
    curves = {name: points for name, points in curves.items() if points}
    every = [point for points in curves.values() for point in points] or [(1.0, 1.0)]
    right = max(x for x, _ in every)
    low, high = min(y for _, y in every), max(y for _, y in every)
    bottom, top = int(low * 2) / 2, int(high * 2 + 1) / 2  # half nats

    def place(x: float, y: float) -> tuple[float, float]:
        beside = MARGIN + x / right * (WIDTH - 2 * MARGIN)
        down = MARGIN + (top - y) / (top - bottom) * (HEIGHT - 2 * MARGIN)
        return round(beside, 1), round(down, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{MARGIN}" y="24" font-size="15">{escape(title)}</text>',
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 12}" text-anchor="end">{escape(across)}</text>',
        f'<text x="8" y="{MARGIN - 12}">{up}</text>',
    ]
    for tick in range(round((top - bottom) * 2) + 1):
        value = bottom + tick / 2
        left, y = place(0, value)
        parts.append(
            f'<path d="M{left} {y}H{WIDTH - MARGIN}" stroke="#e5e8eb"/>'
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{value:.1f}</text>'
        )
    for tick in range(6):
        x, y = place(right * tick / 5, bottom)
        parts.append(
            f'<text x="{x}" y="{y + 18}" text-anchor="middle">{right * tick / 5:,.4g}</text>'
        )
    for index, (name, points) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        thin = points[:: max(1, len(points) // POINTS_MAX)]
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in thin))
        y = MARGIN + 16 * index
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            f'<text x="{WIDTH - MARGIN}" y="{y}" fill="{colour}" text-anchor="end">'
            f"{name} {points[-1][1]:.2f}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])
