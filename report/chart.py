"""Line charts as inline SVG, drawn with the page's own colours (CSS classes), readable at the width of a phone."""

import math
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 420, 280  # user units; the page scales the picture to its column
LEFT, RIGHT, TOP, BOTTOM = 50, 58, 14, 40
LETTER = 7.3  # of a curve's name, 12 px bold, on average
NEAR = 12  # curves that end so close to the last are named beside their ends


@dataclass
class Series:
    """One curve. `style` is a CSS class of the page (series-a, series-b, ...); `markers` draws a dot at each point."""

    name: str
    style: str
    points: list[tuple[float, float]]
    markers: bool = False
    spread: list[tuple[float, float]] = field(default_factory=list)  # (lowest, highest) at each point, drawn as a bar


@dataclass
class Axis:
    """A range of values mapped to a range of pixels, straight or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    ticks: list[float] = field(default_factory=list)

    def place(self, value):
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = math.log(value) if self.log else value
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def nice_ticks(low, high, wanted=5):
    """Round values inside [low, high], at most about `wanted` of them, steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(wanted - 1, 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low, high):
    """1, 2, 5 times powers of ten inside [low, high]; only the powers if that is more than eight, even steps if one."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    if len(ticks) < 2:  # a narrow range
        return nice_ticks(low, high, 4)
    return ticks if len(ticks) <= 8 else [t for t in ticks if math.isclose(math.log10(t) % 1, 0, abs_tol=1e-9)]


def short(value):
    """1200000 -> 1.2M, 4096 -> 4.1k, 0.25 -> 0.25; for tick labels."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    if 0 < abs(value) < 1e-2:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3g}"


def _axis(values, start, end, log=False, ticks=None, from_zero=False):
    low, high = min(values), max(values)
    if ticks:
        low, high = min(low, *ticks), max(high, *ticks)
    if log:
        low, high = low / 1.15, high * 1.15
        return Axis(low, high, start, end, True, ticks or log_ticks(low, high))
    if from_zero:
        low, high = min(low, 0), high * 1.08
    if high == low:
        low, high = low - 0.5, high + 0.5
    return Axis(low, high, start, end, False, ticks or nice_ticks(low, high))


def _grid(x, y, x_label, y_label, x_text, y_text):
    parts = []
    bottom, right = HEIGHT - BOTTOM, x.end
    for tick in y.ticks:
        at = y.place(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{y_text(tick)}</text>')
    for tick in x.ticks:
        at = x.place(tick)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{x_text(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right:.1f}" y1="{bottom}" y2="{bottom}"/>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text class="label" x="12" y="{(TOP + bottom) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {(TOP + bottom) / 2})">{escape(y_label)}</text>'
    )
    return parts


def _label_heights(ends, gap=13):
    """Moves labels beside the ends of curves apart so that none covers another or leaves the picture; one for each."""
    order = sorted(range(len(ends)), key=lambda i: ends[i])
    placed, previous = {}, -math.inf
    for index in order:
        placed[index] = previous = max(ends[index], previous + gap)
    following = HEIGHT - BOTTOM + gap
    for index in reversed(order):
        placed[index] = following = min(placed[index], following - gap)
    return [placed[i] for i in range(len(ends))]


def _names(series, curves):
    """Names of curves: right of their ends, or above them where a curve ends before the others do."""
    last = max(curve[-1][0] for curve in curves)
    beside = [i for i, curve in enumerate(curves) if curve[-1][0] >= last - NEAR]
    heights = dict(zip(beside, _label_heights([curves[i][-1][1] for i in beside]), strict=True))
    for i, (s, curve) in enumerate(zip(series, curves, strict=True)):
        x, y = curve[-1]
        place = (x + 6, heights[i] + 4, "start") if i in heights else (x, max(y - 9, 10), "middle")
        yield (
            f'<text class="name {s.style}" x="{place[0]:.1f}" y="{place[1]:.1f}" text-anchor="{place[2]}">'
            f"{escape(s.name)}</text>"
        )


def _right_edge(series):
    """Where the axes end: behind them is room for the longest name of a curve that reaches the end."""
    last = max(s.points[-1][0] for s in series)
    longest = max(len(s.name) for s in series if s.points[-1][0] >= last)
    return WIDTH - max(RIGHT, 8 + LETTER * longest)


def line_chart(
    series, x_label, y_label, *, log_x=False, log_y=False, from_zero=False, x_ticks=None, x_text=short, y_text=short
):
    """An SVG element, as text. Curves without a point are left out; all empty gives a line that says so."""
    series = [s for s in series if s.points]
    if not series:
        return '<p class="quiet">No points were recorded for this chart.</p>'
    right, bottom = _right_edge(series), HEIGHT - BOTTOM
    x = _axis([p[0] for s in series for p in s.points], LEFT, right, log_x, x_ticks)
    heights = [p[1] for s in series for p in s.points] + [h for s in series for pair in s.spread for h in pair]
    y = _axis(heights, bottom - (0 if from_zero else 10), TOP, log_y, None, from_zero)
    label = f"{y_label} by {x_label}: {', '.join(s.name for s in series)}"
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    parts += _grid(x, y, x_label, y_label, x_text, y_text)
    curves = [[(x.place(a), y.place(b)) for a, b in s.points] for s in series]
    for s, curve in zip(series, curves, strict=True):
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in curve)
        parts.append(f'<polyline class="curve {s.style}" points="{path}"/>')
        for (a, _), (low, high) in zip(curve, s.spread, strict=False):
            parts.append(
                f'<line class="spread {s.style}" x1="{a:.1f}" x2="{a:.1f}" '
                f'y1="{y.place(low):.1f}" y2="{y.place(high):.1f}"/>'
            )
        if s.markers:
            parts += [f'<circle class="{s.style}" cx="{a:.1f}" cy="{b:.1f}" r="2.8"/>' for a, b in curve]
    parts += _names(series, curves)
    return "\n".join([*parts, "</svg>"])
