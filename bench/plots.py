"""Plots of a report, as SVG: the distribution of latencies, throughput over time, memory over time.

Needs matplotlib: `pip install 'concord[bench]'`, which `make bench` does. Two reports that say the same give the same files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.report import AGAIN, Report

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "concord"  # ids in the file are the same each time
mpl.rcParams["font.size"] = 9

from matplotlib import pyplot as plt  # noqa: E402  # after the backend is chosen
from matplotlib import ticker  # noqa: E402

_HIGHEST = 99.9  # per cent; one cell has some thousand changes


def draw(report: Report, folder: Path) -> list[str]:
    """Writes what the figures are there for; their file names."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, plot in (("source.svg", _source), ("latency.svg", _latency), ("arrivals.svg", _arrivals), ("memory.svg", _memory)):
        figure = plot(report)
        if figure is not None:
            figure.savefig(folder / name, metadata={"Date": None}, bbox_inches="tight")
            plt.close(figure)
            drawn.append(name)
    return drawn


def _of(report: Report, section: str, series: str) -> dict[str, list[Mapping[str, Any]]]:
    """Cell → measurements that have this series; second arms left out."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in report["measured"]:
        if one["section"] == section and one["series"].get(series) and not one["contestant"].endswith(AGAIN):
            found.setdefault(one["cell"], []).append(one)
    return found


def _colours(names: Iterable[str]) -> dict[str, str]:
    return {name: f"C{number}" for number, name in enumerate(dict.fromkeys(names))}


def _grid(cells: int) -> tuple[Any, list[Any]]:
    columns = min(3, cells)
    lines = -(-cells // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.6 * columns, 2.8 * lines), squeeze=False, layout="constrained")
    all_axes = [axis for line in axes for axis in line]
    for axis in all_axes[cells:]:
        axis.set_visible(False)
    return figure, all_axes


def _lines(report: Report, section: str, series: str, scale: float = 1.0) -> tuple[Any, list[tuple[str, Any]]] | None:
    """A plot per cell, a line per round and contestant."""
    found = _of(report, section, series)
    if not found:
        return None
    figure, axes = _grid(len(found))
    colours = _colours(one["contestant"] for members in found.values() for one in members)
    used = []
    for axis, (cell, members) in zip(axes, found.items(), strict=False):
        told = set()
        for one in members:
            name = one["contestant"]
            x, y = zip(*one["series"][series], strict=True)
            axis.plot(x, [value / scale for value in y], color=colours[name], lw=0.9, alpha=0.8, label=None if name in told else name)
            told.add(name)
        axis.set_title(cell)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
        used.append((cell, axis))
    return figure, used


def _source(report: Report) -> Any:
    made = _lines(report, "source", "rate", 1000)
    if made is None:
        return None
    for _, axis in made[1]:
        axis.set_xlabel("s")
        axis.set_ylabel("1,000 events/s")
    return made[0]


def _arrivals(report: Report) -> Any:
    made = _lines(report, "path", "arrivals", 1000)
    if made is None:
        return None
    for _, axis in made[1]:
        axis.set_xlabel("s since the first arrival")
        axis.set_ylabel("1,000 arrivals/s")
    return made[0]


def _memory(report: Report) -> Any:
    made = _lines(report, "memory", "mb")
    if made is None:
        return None
    for _, axis in made[1]:
        axis.set_xlabel("s")
        axis.set_ylabel("MB")
    return made[0]


def _latency(report: Report) -> Any:
    found = _of(report, "path", "latency")
    if not found:
        return None
    figure, axes = _grid(len(found))
    colours = _colours(one["contestant"] for members in found.values() for one in members)
    for axis, (cell, members) in zip(axes, found.items(), strict=False):
        told = set()
        for one in members:
            name = one["contestant"]
            points = [(value, 100 - float(at)) for at, value in one["series"]["latency"].items() if float(at) <= _HIGHEST]
            axis.plot(*zip(*points, strict=True), color=colours[name], lw=0.9, alpha=0.8, label=None if name in told else name)
            told.add(name)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.set_title(cell)
        axis.set_xlabel("ms")
        axis.set_ylabel("% of changes later")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=7)
    return figure
