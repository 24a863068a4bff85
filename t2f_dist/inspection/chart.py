"""Small charts as SVG that stands in a page: no scripts, and colours by the page's style."""

from __future__ import annotations

from collections.abc import Sequence

from t2f_dist.inspection.markup import Markup, element, joined
from t2f_dist.inspection.spread import Spread
from t2f_dist.inspection.table import figure

WIDTH, HEIGHT = 320, 112
LEFT, RIGHT, TOP, BOTTOM = 2, 2, 16, 18
BAR_MAX = 48  # a few bars stand in the middle
LABELS = 5


def histogram(spread: Spread, unit: str, factor: float = 1) -> Markup:
    """Bars, with the median marked. `factor`: from the spread's values to those shown."""
    edges, counts = spread.histogram()
    highest = max(counts)
    step = min(BAR_MAX, (WIDTH - LEFT - RIGHT) / len(counts))
    left = (WIDTH - step * len(counts)) / 2
    right = WIDTH - left
    low = HEIGHT - BOTTOM
    lines = [{"class": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y} for y in (TOP, low)]
    parts = [element("line", line) for line in lines]
    for number, count in enumerate(counts):
        if not count:
            continue
        height = max(1.0, (low - TOP) * count / highest)
        place = {"x": _at(left + number * step + 0.5), "width": _at(max(1.0, step - 1)), "y": _at(low - height)}
        from_, to = (figure(edge * factor) for edge in edges[number : number + 2])
        title = f"{from_} {unit}" if _whole(edges, number, spread) else f"{from_} to {to} {unit}"
        shape = {"class": "bar", "height": _at(height), "rx": 1}
        parts.append(element("rect", place | shape, element("title", {}, f"{title}: {count:,}")))
    median = left + _place(edges, spread.median + (spread.step / 2 if spread.step == 1 else 0)) * step
    parts.append(element("line", {"class": "median", "x1": _at(median), "x2": _at(median), "y1": TOP, "y2": low}))
    shown = sorted({round(number * len(counts) / (LABELS - 1)) for number in range(LABELS)} - {len(counts)})
    shown = range(len(counts)) if len(counts) <= LABELS else shown
    for number in shown:
        middle = len(counts) <= LABELS and _whole(edges, number, spread)
        x = left + (number + (0.5 if middle else 0)) * step
        anchor = "middle" if middle or number else "start"
        label = {"x": _at(x), "y": HEIGHT - 5, "text-anchor": anchor}
        parts.append(element("text", label, figure(edges[number] * factor)))
    if len(counts) > LABELS:
        end = {"x": _at(right), "y": HEIGHT - 5, "text-anchor": "end"}
        parts.append(element("text", end, figure(edges[-1] * factor)))
    parts.append(element("text", {"x": WIDTH - RIGHT, "y": TOP - 4, "text-anchor": "end"}, f"{highest:,}"))
    values = {"role": "img", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "aria-label": f"histogram in {unit}"}
    return element("svg", values, joined(parts))


def stack(parts: Sequence[tuple[str, float]], height: int = 22) -> Markup:
    """One bar, cut in proportion to the values; the first part has the colour s1 of the style, and so on."""
    total = sum(value for _, value in parts) or 1
    start, drawn = 0.0, []
    for number, (name, value) in enumerate(parts, start=1):
        width = 1000 * value / total
        shape = {"class": f"s{number}", "x": _at(start), "y": 0, "width": _at(width), "height": height}
        drawn.append(element("rect", shape, element("title", {}, f"{name}: {100 * value / total:.1f} %")))
        start += width
    label = ", ".join(f"{name} {100 * value / total:.1f} %" for name, value in parts)
    values = {"role": "img", "viewBox": f"0 0 1000 {height}", "preserveAspectRatio": "none", "aria-label": label}
    return element("svg", values | {"class": "stack", "height": height}, joined(drawn))


def share(value: float) -> Markup:
    """A bar of a share, 0 to 1."""
    back = element("rect", {"class": "back", "x": 0, "y": 0, "width": 160, "height": 8, "rx": 4})
    front = {"class": "bar", "x": 0, "y": 0, "width": _at(max(2.0, 160 * value)), "height": 8, "rx": 4}
    return element("svg", {"viewBox": "0 0 160 8", "aria-hidden": "true"}, joined([back, element("rect", front)]))


def swatch(number: int) -> Markup:
    """The colour of a part of a stack, the first is 1."""
    square = element("rect", {"class": f"s{number}", "width": 10, "height": 10, "rx": 2})
    return element("svg", {"viewBox": "0 0 10 10", "aria-hidden": "true"}, square)


def _whole(edges: Sequence[float], number: int, spread: Spread) -> bool:
    """Whether a bar stands for one whole number."""
    return spread.step == 1 and edges[number + 1] - edges[number] == 1


def _place(edges: Sequence[float], value: float) -> float:
    """Where a value stands, in bars from the left."""
    for number in range(len(edges) - 1):
        if value < edges[number + 1]:
            return number + (value - edges[number]) / (edges[number + 1] - edges[number])
    return len(edges) - 1


def _at(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
