"""What came of the runs: a table for the terminal, the same figures as JSON, and a page. No I/O."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from tests.chaos.faults import Kind
from tests.chaos.run import Outcome

BAD = ("lost", "doubled", "looped", "diverged")


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "runs": [
            {
                "seed": outcome.options.seed,
                "seconds": outcome.options.seconds,
                "rate": outcome.options.rate,
                "faults": sum(not struck.error for struck in outcome.struck),
                "struck_nothing": sum(bool(struck.error) for struck in outcome.struck),
                "changes": dict(outcome.verdict.changes),
                "writes": dict(outcome.verdict.writes),
                "settled_after_seconds": round(outcome.settled_after, 1),
                **{what: getattr(outcome.verdict, what) for what in BAD},
                "broken": outcome.broken,
                "left": outcome.unseen,
            }
            for outcome in outcomes
        ],
        "kinds": {
            str(kind): {"faults": count, "struck_nothing": failed, "until_over_p50": p50, "until_over_p99": p99}
            for kind, count, failed, p50, p99 in _kinds(outcomes)
        },
        "total": {
            "faults": sum(not struck.error for outcome in outcomes for struck in outcome.struck),
            "changes": sum(outcome.verdict.changes.total() for outcome in outcomes),
            **{what: sum(len(getattr(outcome.verdict, what)) for outcome in outcomes) for what in BAD},
        },
    }


def _kinds(outcomes: Sequence[Outcome]) -> list[tuple[Kind, int, int, float, float]]:
    """Kind, how many took effect, how many more struck nothing, seconds until over: p50, p99. Only what took effect is a fault."""
    durations: dict[Kind, list[float]] = defaultdict(list)
    failed: dict[Kind, int] = defaultdict(int)
    for outcome in outcomes:
        for struck in outcome.struck:
            if struck.error:
                failed[struck.fault.kind] += 1
            elif struck.over is not None:
                durations[struck.fault.kind].append(struck.over - struck.at)
    told = [
        (kind, len(found := durations[kind]), failed[kind], round(statistics.median(found), 2) if found else 0.0, round(_high(found), 2))
        for kind in durations.keys() | failed.keys()
    ]
    return sorted(told, key=lambda each: (-each[1], each[0]))


def _high(values: Sequence[float]) -> float:
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def table(outcomes: Sequence[Outcome]) -> Table:
    total = as_json(outcomes)["total"]
    title = (
        f"{total['faults']} faults, {total['changes']:,} changes made: lost {total['lost']}, doubled {total['doubled']},"
        f" looped {total['looped']}, diverged {total['diverged']}"
    )
    shown = Table(title=title, title_justify="left")
    for name in ("fault", "took effect", "struck nothing", "until over p50", "p99"):
        shown.add_column(name, justify="left" if name == "fault" else "right")
    for kind, count, failed, p50, p99 in _kinds(outcomes):
        shown.add_row(str(kind), str(count), str(failed or ""), f"{p50:.2f} s", f"{p99:.2f} s")
    return shown


def page(outcomes: Sequence[Outcome]) -> str:
    """Markdown."""
    told = as_json(outcomes)
    total = told["total"]
    lines = [
        "# What it survives",
        "",
        "The whole pipeline on the reference applications, under load on both sides, with faults drawn from a seed, several at once.",
        "Written by `make chaos REPORT=docs/chaos.md`; anyone can repeat it. How it is judged: `tests/chaos/truth.py`.",
        "",
        f"**{total['faults']} faults, {total['changes']:,} changes made: lost {total['lost']}, doubled {total['doubled']}, looped"
        f" {total['looped']}, diverged {total['diverged']}.**",
        "",
        "Until over: from the fault until a change that was made after it had arrived on the other side, in both directions; with several",
        "faults at once the longest counts for all of them.",
        "",
        "| fault | took effect | struck nothing besides | until over p50 | p99 |",
        "|---|---|---|---|---|",
        *(f"| {kind} | {count} | {failed} | {p50:.2f} s | {p99:.2f} s |" for kind, count, failed, p50, p99 in _kinds(outcomes)),
        "",
        "| seed | people worked | faults | changes CRM / ERP | our writes CRM / ERP | settled after | lost | doubled | looped | diverged |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in told["runs"]:
        changes, writes = run["changes"], run["writes"]
        bad = " | ".join(str(len(run[what])) for what in BAD)
        lines.append(
            f"| {run['seed']} | {run['seconds']:.0f} s | {run['faults']} | {changes.get('crm', 0):,} / {changes.get('erp', 0):,} |"
            f" {writes.get('crm', 0):,} / {writes.get('erp', 0):,} | {run['settled_after_seconds']} s | {bad} |"
        )
    lines += [
        "",
        "A fault counts when it was seen to happen: the process ended, a session waited, the server's log says so. *Struck nothing*:",
        "another one was in the way, or nobody met it. A full disk is a tmpfs that shrinks to what is in it (for Kafka's data, and for the",
        "folder where our parts say that they live; the streams' tables are in memory and in Kafka); clocks step through a library in",
        "front of PostgreSQL's `gettimeofday`. Not among the faults: several brokers.",
        "",
    ]
    return "\n".join(lines)
