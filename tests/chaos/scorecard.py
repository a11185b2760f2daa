"""What came of the runs: a table for the terminal, the same figures as JSON, and a page. No I/O.

The figures of a run are a JSON object of their own (`figures`), with every fault in it: those of runs made at different times, of
different commits, or on different machines, go on one page. In the file each run is a line, and a fault says no more than it has to say.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from tests.chaos.run import Outcome, Struck

BAD = ("lost", "doubled", "looped", "diverged")
Figures = Mapping[str, Any]


def figures(outcome: Outcome, commit: str, date: str) -> dict[str, Any]:
    """Of one run. `commit`: what ran, in short; `date`: of its start, UTC, `2026-01-31`."""
    struck = outcome.struck
    return {
        "commit": commit,
        "date": date,
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
        "each": [_fault(one) for one in struck],
    }


def _fault(struck: Struck) -> dict[str, Any]:
    """What struck nothing has no more to tell than why."""
    told: dict[str, Any] = {"kind": str(struck.fault.kind), "target": struck.fault.target}
    if struck.error:
        return told | {"error": struck.error}
    over = {} if struck.over is None else {"until_over": round(struck.over - struck.at, 1)}
    return told | over | {"visible": round(struck.visible, 1)}


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
        (failed if one.get("error") else took)[one["kind"]] += 1
        if not one.get("error"):
            visible[one["kind"]].append(one["visible"])
            if one.get("until_over") is not None:
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


def as_text(runs: Sequence[Figures]) -> str:
    """The same as JSON text: a run's own figures in a line, its faults by kind in a line each."""
    told = as_json(runs)
    head = json.dumps({name: told[name] for name in ("total", "kinds")}, indent=1)
    return f'{head[:-2]},\n "runs": [\n' + ",\n".join(map(_run_as_text, runs)) + "\n ]\n}\n"


def _run_as_text(run: Figures) -> str:
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in run["each"]:
        by_kind[one["kind"]].append({name: value for name, value in one.items() if name != "kind" and value not in ("", None)})
    lines = [f"   {json.dumps(kind)}: {json.dumps(faults, separators=(',', ':'))}" for kind, faults in sorted(by_kind.items())]
    own = json.dumps({name: value for name, value in run.items() if name != "each"}, default=str)
    return f'  {own[:-1]}, "each": {{\n' + ",\n".join(lines) + "\n  }}"


def read(text: str) -> list[Figures]:
    """The runs of such a file, the first ones' as well, which had their faults in a list and no commit."""
    runs = json.loads(text)["runs"]
    for run in runs:
        run.setdefault("commit", "unknown")
        run.setdefault("date", "unknown")
        if isinstance(run["each"], dict):
            run["each"] = [{"kind": kind, **one} for kind, faults in run["each"].items() for one in faults]
    return list(runs)


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
        "Written by `make chaos REPORT=docs/chaos.md`, and gathered over several calls with `EARLIER=docs/chaos.json` beside it;",
        "anyone can repeat it. How it is judged: `tests/chaos/truth.py`.",
        "",
        f"**{_headline(runs)}.**",
        "",
        f"What ran: {_what_ran(runs)}.",
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
        "| seed | commit | date | people worked | faults | changes CRM / ERP | our writes CRM / ERP | settled after"
        " | lost | doubled | looped | diverged |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        changes, writes = run["changes"], run["writes"]
        bad = " | ".join(str(len(run[what])) for what in BAD)
        settled = "not" if run["stuck"] else f"{run['settled_after_seconds']} s"
        lines.append(
            f"| {run['seed']} | {run['commit']} | {run['date']} | {run['seconds']:.0f} s | {run['faults']} |"
            f" {changes.get('crm', 0):,} / {changes.get('erp', 0):,} |"
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


def _what_ran(runs: Sequence[Figures]) -> str:
    """Commits in the order of the runs, with the date of the first run of each."""
    dates = {run["commit"]: run["date"] for run in reversed(runs)}
    return ", ".join(f"{commit} ({dates[commit]})" for commit in dict.fromkeys(run["commit"] for run in runs)) or "nothing"


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
