"""The report for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from console.verify.report import Report


def table(report: Report) -> Grid:
    """Entities with their figures."""
    counts = report.entities.values()
    optional = {
        "in flight": [count.in_flight for count in counts],
        "deleted": [count.deleted for count in counts],
        "adjusted": [count.adjusted for count in counts],
        "duplicates": [count.duplicates for count in counts],
        "repaired": [count.repaired for count in counts],
        "out of scope": [sum(count.out_of_scope.values()) for count in counts],
    }
    shown = {heading: figures for heading, figures in optional.items() if any(figures)}
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    grid.add_column("entity")
    for heading in ("things", "equal", "differing", "missing", *shown, "conflicts decided", "parked", "dead"):
        grid.add_column(heading, justify="right")
    for number, (name, count) in enumerate(report.entities.items()):
        missing = ", ".join(f"{figure:,} in {system}" for system, figure in count.missing.items() if figure) or "0"
        grid.add_row(
            name,
            f"{count.things:,}",
            f"{count.equal:,}",
            _red(f"{count.differing:,}", count.differing),
            _red(missing, count.absent),
            *(f"{figures[number]:,}" for figures in shown.values()),
            "?" if count.conflicts is None else f"{count.conflicts:,}",
            _red(f"{count.parked:,}", count.parked),
            _red(f"{count.dead:,}", count.dead),
        )
    return grid


def _red(text: str, bad: int) -> str:
    return f"[red]{text}[/]" if bad else text


def show(report: Report, console: Console) -> None:
    console.print(table(report))
    for one in report.differences:
        console.print(escape(sentence(one)))
    if (more := report.differences_total - len(report.differences)) > 0:
        console.print(f"… and {more:,} more (--limit)")
    things = sum(count.things for count in report.entities.values())
    console.print(f"{things:,} things in {report.seconds:,.1f} s, {things / max(report.seconds, 0.001):,.0f}/s", style="dim")
    console.print("[green]all equal[/]" if report.equal else "[red]not equal[/]")


def sentence(one: Mapping[str, Any]) -> str:
    """One difference in words."""
    rows = " ".join(f"{system}:{key}" for system, key in one["keys"].items())
    text = f"{one['entity']} {rows}: "
    if "field" in one:
        text += f"{one['field']} {one['what']}: " + ", ".join(f"{system} has {value!r}" for system, value in one["values"].items())
        if "golden" in one:
            text += f", agreed on is {one['golden']!r}"
        if "decided" in one:
            text += f" ({_decided(one['decided'])})"
    elif "missing_in" in one:
        text += f"{'repaired: was ' if one['what'] == 'repaired' else ''}missing in {', '.join(one['missing_in'])}"
    elif one["what"] == "duplicate":
        text += f"has the match value of {one['of']}, waits for a person to decide"
    else:
        text += one["what"]
    for more in ("note", "why", "repair"):
        if more in one:
            text += f"; {one[more]}"
    return text


def _decided(told: Mapping[str, Any]) -> str:
    when = "before anybody looked" if told["at"] is None else f"at {told['at'][:23]}"
    return f"{told['system'] or '?'} decided{', its owner' if told['owner'] else ''}, {when}"
