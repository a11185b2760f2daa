"""What came of the runs: a table for the terminal, the same figures as JSON, and a page. No I/O.

The figures of a run are a JSON object of their own (`figures`), with every fault in it: those of runs made at different times, or on
different machines, go on one page.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from tests.chaos.run import Outcome

BAD = ("lost", "doubled", "looped", "diverged")
Figures = Mapping[str, Any]


def figures(outcome: Outcome) -> dict[str, Any]:
    """Of one run."""
    struck = outcome.struck
    return {
        "seed": outcome.options.seed,
        "seconds": outcome.options.seconds,
        "rate": outcome.options.rate,
        "only": [str(kind) for kind in outcome.options.only],
        "faults": sum(not one.error for one in struck),
        "struck_nothing": sum(bool(one.error) for one in struck),
        "changes": dict(outcome.verdict.changes),
        "writes": dict(outcome.verdict.writes),
        "settled_after_seconds": round(outcome.settled_after, 1),
        **{what: getattr(outcome.verdict, what) for what in BAD},
        "stuck": outcome.stuck.partition("\n")[0],
        "broken": outcome.broken,
        "left": outcome.unseen,
        "each": [
            {
                "kind": str(one.fault.kind),
                "target": one.fault.target,
                "error": one.error,
                "until_over": None if one.over is None else round(one.over - one.at, 2),
                "visible": round(one.visible, 2),
            }
            for one in struck
        ],
    }


class KindFigures(NamedTuple):
    """Of all faults of one kind: seconds. Only what took effect is a fault."""

    kind: str
    faults: int
    struck_nothing: int
    until_over_p50: float
    until_over_p99: float
    visible_p50: float
    visible_p99: float


def kinds(runs: Sequence[Figures]) -> list[KindFigures]:
    over: dict[str, list[float]] = defaultdict(list)
    visible: dict[str, list[float]] = defaultdict(list)
    took: dict[str, int] = defaultdict(int)
    failed: dict[str, int] = defaultdict(int)
    for one in (each for run in runs for each in run["each"]):
        (failed if one["error"] else took)[one["kind"]] += 1
        if not one["error"]:
            visible[one["kind"]].append(one["visible"])
            if one["until_over"] is not None:
                over[one["kind"]].append(one["until_over"])
    told = [
        KindFigures(kind, took[kind], failed[kind], *_middle_and_high(over[kind]), *_middle_and_high(visible[kind]))
        for kind in {*took, *failed}
    ]
    return sorted(told, key=lambda each: (-each.faults, each.kind))


def _middle_and_high(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values) or [0.0]
    return round(statistics.median(ordered), 1), round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 1)


def as_json(runs: Sequence[Figures]) -> dict[str, Any]:
    return {
        "total": {
            "runs": len(runs),
            "faults": sum(run["faults"] for run in runs),
            "changes": sum(sum(run["changes"].values()) for run in runs),
            **{what: sum(len(run[what]) for run in runs) for what in BAD},
            "stuck": sum(bool(run["stuck"]) for run in runs),
            **{what: sum(len(run[what]) for run in runs) for what in ("broken", "left")},  # type: ignore[literal-required]
        },
        "kinds": {each.kind: {name: value for name, value in each._asdict().items() if name != "kind"} for each in kinds(runs)},
        "runs": list(runs),
    }


def _headline(runs: Sequence[Figures]) -> str:
    total = as_json(runs)["total"]
    stuck = f", {total['stuck']} runs did not come to their end" if total["stuck"] else ""
    bad = ", ".join(f"{what} {total[what]}" for what in (*BAD, "broken", "left"))
    return f"{total['runs']} runs, {total['faults']:,} faults, {total['changes']:,} changes made: {bad}{stuck}"


def table(runs: Sequence[Figures]) -> Table:
    shown = Table(title=_headline(runs), title_justify="left")
    for name in ("fault", "took effect", "struck nothing", "until over p50", "p99", "seen in status p50", "p99"):
        shown.add_column(name, justify="left" if name == "fault" else "right")
    for each in kinds(runs):
        seconds = (f"{value:.1f} s" for value in each[3:])
        shown.add_row(each.kind, str(each.faults), str(each.struck_nothing or ""), *seconds)
    return shown


def page(runs: Sequence[Figures]) -> str:
    """Markdown."""
    lines = [
        "# What it survives",
        "",
        "The whole pipeline on the reference applications, under load on both sides, with faults drawn from a seed, several at once.",
        "Written by `make chaos REPORT=docs/chaos.md`; anyone can repeat it. How it is judged: `tests/chaos/truth.py`.",
        "",
        f"**{_headline(runs)}.**",
        "",
        *_wrong(runs),
        "*Until over*: from the fault until a change that was made after it had arrived on the other side, in both directions.",
        "*Seen in status*: how much of that time `concord status`, looked at each second, showed that something was not as it should be.",
        "With several faults at once the longest counts for all of them, and what is seen of one is seen of all.",
        "",
        "| fault | took effect | struck nothing besides | until over p50 | p99 | seen in status p50 | p99 |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {each.kind} | {each.faults} | {each.struck_nothing} | {' | '.join(f'{value:.1f} s' for value in each[3:])} |"
            for each in kinds(runs)
        ),
        "",
        "| seed | people worked | faults | changes CRM / ERP | our writes CRM / ERP | settled after | lost | doubled | looped | diverged |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        changes, writes = run["changes"], run["writes"]
        bad = " | ".join(str(len(run[what])) for what in BAD)
        settled = "not" if run["stuck"] else f"{run['settled_after_seconds']} s"
        lines.append(
            f"| {run['seed']} | {run['seconds']:.0f} s | {run['faults']} | {changes.get('crm', 0):,} / {changes.get('erp', 0):,} |"
            f" {writes.get('crm', 0):,} / {writes.get('erp', 0):,} | {settled} | {bad} |"
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


def _wrong(runs: Sequence[Figures]) -> list[str]:
    """What went wrong, each in its words."""
    told = [
        f"- seed {run['seed']}, {what}: {sentence}"
        for run in runs
        for what in (*BAD, "stuck", "broken", "left")
        for sentence in ([run[what]] if isinstance(run[what], str) else run[what])
        if sentence
    ]
    return ["What went wrong:", "", *told, ""] if told else []
