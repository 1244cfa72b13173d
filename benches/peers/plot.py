"""The report as a picture: images/s and CPU time an image of each loader, side by side.

Enters: what `peers` writes as JSON. Leaves: SVG text that stands on its own. It draws nothing
that is not in the report.

    PYTHONPATH=benches python -m peers.plot peers.json peers.svg
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

_WIDTH, _LEFT, _ROW = 960, 270, 24
#: Of a bar at its longest, and where the second panel begins.
_BAR, _SECOND = 250, 640
_OURS, _THEIRS, _CEILING, _GREY = "#3b6ea8", "#d9822b", "#bbbbbb", "#777777"


def draw(report: dict[str, Any]) -> str:
    body: list[str] = []
    y = 30.0
    for name, found in report["sets"].items():
        y = panel(body, y, name, found, report)
    page = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y:.0f}" '
        f'width="{_WIDTH}" height="{y:.0f}" '
        "font-family=\"system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif\">\n"
        f'<rect width="100%" height="100%" fill="white"/>\n{page}\n</svg>\n'
    )


def panel(body: list[str], y: float, name: str, found: dict[str, Any], report: Any) -> float:
    """One set of pictures; returns where the next begins."""
    measured = {key: one for key, one in found["contestants"].items() if one["why_not"] is None}
    order = sorted(measured, key=lambda key: -measured[key]["images_per_s"]["median"])
    cores = report["threads"]
    text(body, 20, y, f"{name}: {found['pictures']}", 14)
    text(body, 20, y + 18, f"{cores} threads; {report['machine']['cpu']}", 11, _GREY)
    text(body, _LEFT, y + 40, "images/s (more is better)", 11, _GREY)
    text(body, _SECOND, y + 40, "CPU ms an image (less is better)", 11, _GREY)
    y += 50
    tops = {
        unit: max((one[unit]["high"] for one in measured.values()), default=1)
        for unit in ("images_per_s", "cpu_ms_per_image")
    }
    for key in order:
        one = measured[key]
        fill = _CEILING if "dtype" not in one else _OURS if key.startswith("loaderd") else _THEIRS
        text(body, _LEFT - 8, y + 15, one["title"], 11, anchor="end")
        bar(body, _LEFT, y, one["images_per_s"], tops["images_per_s"], fill, ",.0f")
        bar(body, _SECOND, y, one["cpu_ms_per_image"], tops["cpu_ms_per_image"], fill, ".2f")
        y += _ROW
    for one in found["contestants"].values():
        if one["why_not"] is None and one.get("note"):
            y += 15
            text(body, 20, y, f"{one['title']}: {one['note']}", 10, _GREY)
    for one in found["contestants"].values():
        if one["why_not"] is not None:
            y += 15
            text(body, 20, y, f"{one['title']}: {one['why_not']}"[:150], 10, _GREY)
    return y + 45


def bar(
    body: list[str], x: float, y: float, value: dict[str, float], top: float, fill: str, digits: str
) -> None:
    """The median as a bar, least and most as a line, the figure behind them."""
    scale = _BAR / top
    body.append(
        f'<rect x="{x}" y="{y + 3:.1f}" width="{value["median"] * scale:.1f}" height="16" '
        f'fill="{fill}"/>'
    )
    low, high, middle = x + value["low"] * scale, x + value["high"] * scale, y + 11
    body.append(
        f'<line x1="{low:.1f}" y1="{middle:.1f}" x2="{high:.1f}" y2="{middle:.1f}" '
        'stroke="#111111" stroke-width="1.5"/>'
    )
    text(body, high + 5, y + 15, format(value["median"], digits), 11)


def text(
    body: list[str],
    x: float,
    y: float,
    words: str,
    size: int,
    fill: str = "#111111",
    anchor: str = "start",
) -> None:
    body.append(
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(json.loads(Path(sys.argv[1]).read_text())))
