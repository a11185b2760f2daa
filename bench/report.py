"""The page that the figures make, and the table for the terminal. No I/O: `docs/bench.md` is `page` of `docs/bench.json`.

A figure is the median over the rounds, with its lowest and highest in brackets. In the columns of an A/A run stands how far its two arms
are apart: what differs by no more than that does not differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.figures import Spread, noise, spreads

Report = Mapping[str, Any]
AGAIN = " (again)"  # the second arm of an A/A run is named like the first, with this behind it
PLOTS = {"source": ("source.svg",), "path": ("latency.svg", "arrivals.svg"), "memory": ("memory.svg",)}


@dataclass(frozen=True)
class Column:
    """A metric as it is shown."""

    metric: str
    heading: str
    shown: Callable[[float], str] = lambda value: f"{value:,.0f}"


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


_RATE = Column("rate", "a second")
_SOURCE = (
    Column("rate", "events/s"),
    Column("late_rate", "second half"),
    Column("us", "CPU s per million", lambda value: f"{value:.1f}"),
    Column("us PostgreSQL", "of PostgreSQL", lambda value: f"{value:.1f}"),
    Column("us Kafka", "of Kafka", lambda value: f"{value:.1f}"),
    Column("mb", "peak memory, MB"),
)
_LATENCY = (
    Column("p50", "p50 ms", _ms),
    Column("p99", "p99 ms", _ms),
    Column("max", "max ms", _ms),
    Column("rate", "changes/s"),
)
_PARTS = ("sources", "streams", "sinks", "Kafka Connect", "PostgreSQL", "Kafka")
_BURST = (
    Column("rate", "changes/s"),
    *(Column(f"us {part}", f"{part}, CPU µs") for part in _PARTS),
    Column("cores machine", "cores busy", lambda value: f"{value:.1f}"),
)
TITLES = {
    "source": "From the log to Kafka",
    "path": "From commit to commit",
    "growth": "What grows with what",
    "recovery": "After the local state is lost",
    "memory": "Memory over a run",
    "faust": "Faust as it ships, and the chunks in its place",
}
_SAYS = {
    "source": """Rows that are there (snapshot), then a backlog that all read from the same log, each from a slot of its own. Time runs from
the first event in Kafka to the last; the second half of the events is told apart, since a Java machine is warm by then. CPU and memory
are the contestant's own process; PostgreSQL's and Kafka's CPU stands beside it. Concord writes Avro,
Debezium JSON: with schemas by default, without when tuned.""",
    "path": """Latency: from the commit as the source's own log notes it to the change read from the target's log, by a reader that
is the same for all; changes come at random moments and do not wait for each other, after some thousands of changes that warm
everybody up. Burst: as many changes as the log takes; the rate is that between the first tenth of the arrivals and the last; the
columns say what CPU each change costs where (PostgreSQL's with the load's own statements). Debezium and its JDBC sink go one way and
copy; logical replication has no Kafka and no mapping, and waits for the disk after each transaction while latency is measured, not in
bursts; Concord matches, merges and writes back what is agreed, both ways at once.""",
    "growth": """Concord alone, bursts both ways: with more workers of streams and sinks (four partitions each time), on larger tables, with
an entity that is one row on one side and six rows of six tables on the other.""",
    "recovery": """The streams' tables are in memory; a worker that starts has them again from their changelog. Time from its start until it
works.""",
    "memory": """Concord under a steady load in both directions, each part's processes together; *at first* is after a third of the run.
MB an hour is told of runs of a quarter of an hour and more (`--hours`).""",
    "faust": """One topic, one agent, one worker. Pass: nothing is done; forward: each record is sent on and its delivery awaited; table: a
table is read and written for each; recovery: a table of so many keys has to be had again from its changelog.""",
}


def columns_of(section: str, cell: str) -> tuple[Column, ...]:
    """How a cell's measurements are shown."""
    if section == "source":
        return _SOURCE
    if section == "path" and not cell.startswith("burst"):
        return _LATENCY
    if section == "path":
        return _BURST
    if section == "growth":
        return (
            *_BURST,
            Column("p50", "p50 ms at 100/s", _ms),
            Column("p99", "p99 ms", _ms),
            Column("first_load", "first load, rows/s"),
        )
    if section == "recovery":
        return (Column("seconds", "seconds", lambda value: f"{value:.1f}"), Column("links", "links"), Column("mb", "streams, MB"))
    if section == "memory":
        return (
            Column("first", "MB at first"),
            Column("last", "MB at the end"),
            Column("highest", "highest"),
            Column("slope", "MB an hour", lambda value: f"{value:+.1f}"),
        )
    return (
        Column("rate", "events/s"),
        Column("us", "CPU µs per event", lambda value: f"{value:.1f}"),
        Column("seconds", "seconds", lambda value: f"{value:.1f}"),
        Column("mb", "peak memory, MB"),
    )


@dataclass(frozen=True)
class Row:
    """One line: a contestant in a cell."""

    cell: str
    contestant: str
    spreads: Mapping[str, Spread]


def rows(report: Report, section: str) -> list[Row]:
    """By cell, in the order in which they were measured first; a second arm is not among them."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in report["measured"]:
        if one["section"] == section:
            found.setdefault((one["cell"], one["contestant"]), []).append(one)
    cells = list(dict.fromkeys(cell for cell, _ in found))
    order = sorted(found, key=lambda key: cells.index(key[0]))
    return [Row(cell, name, spreads(found[cell, name])) for cell, name in order]


def noises(all_rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """(cell, metric) → how far the two arms of the A/A run are apart, as a part."""
    by = {(row.cell, row.contestant): row for row in all_rows}
    return {
        (cell, metric): noise(first.spreads[metric], second)
        for (cell, name), row in by.items()
        if name.endswith(AGAIN) and (first := by.get((cell, name.removesuffix(AGAIN)))) is not None
        for metric, second in row.spreads.items()
        if metric in first.spreads
    }


def cell_text(column: Column, found: Mapping[str, Spread]) -> str:
    """`1,234 (1,200–1,300)`; empty when it was not measured."""
    one = found.get(column.metric)
    if one is None:
        return ""
    low, high = column.shown(one.low), column.shown(one.high)
    return column.shown(one.median) + (f" ({low}–{high})" if one.rounds > 1 and low != high else "")


def groups(report: Report, section: str) -> list[tuple[tuple[Column, ...], list[Row]]]:
    """The section's rows, those with the same columns together; columns that nobody has are left out."""
    found: dict[tuple[str, ...], tuple[tuple[Column, ...], list[Row]]] = {}
    for row in rows(report, section):
        columns = columns_of(section, row.cell)
        found.setdefault(tuple(column.metric for column in columns), (columns, []))[1].append(row)
    return [
        (tuple(column for column in columns if any(column.metric in row.spreads for row in members)), members)
        for columns, members in found.values()
    ]


def table_lines(report: Report, section: str) -> list[list[list[str]]]:
    """Tables of the section as text: heading, then rows."""
    tables = []
    for columns, members in groups(report, section):
        apart = noises(members)
        lines = [["", "", *(column.heading for column in columns)]]
        before = ""
        for row in members:
            if row.contestant.endswith(AGAIN):
                continue
            shown = [cell_text(column, row.spreads) for column in columns]
            lines.append([row.cell if row.cell != before else "", row.contestant, *shown])
            before = row.cell
        for cell in dict.fromkeys(cell for cell, _ in apart):
            lines.append(
                [cell, "A/A: two arms apart by", *(f"{apart[cell, c.metric]:.0%}" if (cell, c.metric) in apart else "" for c in columns)]
            )
        tables.append(lines)
    return tables


def sections_of(report: Report) -> list[str]:
    return [name for name in TITLES if any(one["section"] == name for kind in ("measured", "failed") for one in report[kind])]


def page(report: Report) -> str:
    """Markdown."""
    about = report.get("about", {})
    lines = [
        "# Measured, side by side",
        "",
        "Concord and its peers on the same databases, rows and load, in one run: `make bench` makes this page, its figures (`bench.json`)",
        "and its plots anew. Each figure is the median of the rounds, lowest and highest in brackets; contestants take turns within a",
        "round. *A/A* is Concord twice in each round: how far its two arms are apart says what the machine itself makes of a difference.",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
        "",
    ]
    lines += in_short(report)
    for section in sections_of(report):
        lines += [f"## {TITLES[section]}", "", _SAYS[section], ""]
        if made := report.get("made", {}).get(section):
            lines += [f"Made {made}.", ""]
        for table in table_lines(report, section):
            heading, *body = table
            lines += ["| " + " | ".join(heading) + " |", "|---|---|" + "---:|" * (len(heading) - 2)]
            lines += ["| " + " | ".join(line) + " |" for line in body] + [""]
        lines += [f"![{plot.partition('.')[0]}](bench/{plot})" for plot in PLOTS.get(section, ()) if plot in report.get("plots", ())]
        lines += [""] if any(plot in report.get("plots", ()) for plot in PLOTS.get(section, ())) else []
        lines += limits(report) if section == "path" else []
        lines += failures(report, section)
    return "\n".join(lines).rstrip() + "\n"


OURS = "Concord"
_SHORT = {"source": {"": ("rate", "events/s")}, "path": {"burst": ("rate", "changes/s"), "": ("p50", "ms p50")}}  # how a cell begins → what


def in_short(report: Report) -> list[str]:
    """A line per cell that Concord shares with a peer: its figure, and the peers' as multiples of it. Where the two are no further apart
    than the arms of the A/A run, that is said instead."""
    told = []
    for section, metrics in _SHORT.items():
        found = rows(report, section)
        apart = noises(found)
        for cell in dict.fromkeys(row.cell for row in found):
            metric, unit = next(what for beginning, what in metrics.items() if cell.startswith(beginning))
            here = {row.contestant: row.spreads[metric].median for row in found if row.cell == cell and metric in row.spreads}
            ours, noisy = here.pop(OURS, 0.0), apart.get((cell, metric))
            peers = {name: value for name, value in here.items() if not name.endswith(AGAIN) and value}
            if not ours or not peers:
                continue
            shown = next(column.shown for column in columns_of(section, cell) if column.metric == metric)
            others = ", ".join(f"{name} {shown(value)} ({_times(value / ours, noisy)})" for name, value in peers.items())
            told.append(f"- {cell}: {shown(ours)} {unit}; {others}" + (f"; A/A {noisy:.0%}" if noisy is not None else ""))
    return ["In short, Concord and in brackets the peer as a multiple of it:", "", *told, ""] if told else []


def _times(ratio: float, noisy: float | None) -> str:
    return "no difference" if noisy is not None and abs(ratio - 1) <= noisy else f"× {ratio:.2g}"


def limits(report: Report) -> list[str]:
    """What each contestant is limited by in its last burst: who has how much of the cores."""
    found = {row.contestant: row for row in rows(report, "path") if row.cell.startswith("burst") and not row.contestant.endswith(AGAIN)}
    told = []
    for name, row in found.items():
        cores = {part: row.spreads[f"cores {part}"].median for part in (*_PARTS, "machine") if f"cores {part}" in row.spreads}
        busy = cores.pop("machine", 0.0)
        shares = ", ".join(f"{part} {used:.2f}" for part, used in sorted(cores.items(), key=lambda item: -item[1]))
        if shares:
            told.append(f"- {name}, {row.cell}: {shares}; all that was busy, load and readers too: {busy:.2f} cores")
    return ["What limits it, in cores:", "", *told, ""] if told else []


def failures(report: Report, section: str) -> list[str]:
    """What went wrong, each in its words."""
    told = [one for one in report["failed"] if one["section"] == section]
    shown = [f"- {one['contestant']}, round {one['round'] + 1}: {' '.join(one['why'].split())[:400]}" for one in told]
    return ["Failed:", "", *shown, ""] if shown else []
