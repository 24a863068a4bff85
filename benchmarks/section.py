"""A command's own part of benchmarks/README.md, and how its figures are written."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "benchmarks" / "README.md"


def write(name: str, lines: Sequence[str]) -> None:
    """Put `lines` between the markers of a section. Raises ValueError where README.md lacks them."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    content = README.read_text(encoding="utf-8")
    if content.count(start) != 1 or content.count(end) != 1:
        raise ValueError(f"{README} needs one {start} and one {end}")
    before, rest = content.split(start)
    README.write_text("\n".join([before + start, *lines, end]) + rest.split(end)[1], encoding="utf-8")


def machine() -> str:
    """The hardware and the day."""
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {_processor()}, {cores} cores, no GPU; {time.strftime('%F')}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def spread(values: Sequence[float]) -> str:
    """The median, and the lowest and highest where there are several: 812 (790-820)."""
    if not values:
        return "-"
    middle = statistics.median(values)
    if len(values) == 1:
        return figure(middle)
    return f"{figure(middle)} ({figure(min(values))}-{figure(max(values))})"


def medians(count: int, noun: str = "round") -> str:
    """What `spread` gives of so many."""
    several = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"one {noun}" if count == 1 else f"median of {count} {several} (lowest-highest)"


def figure(value: float) -> str:
    """Three digits that say something, thousands set apart."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """Markdown; the first `texts` columns are words, the others numbers."""
    lines = ["| " + " | ".join(header) + " |"]
    lines.append("|" + " --- |" * texts + " ---: |" * (len(header) - texts))
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
