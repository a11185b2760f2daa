"""The alerting rules that come with the package: each fires on what it is for and not before, and asks only for what is really served."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from connectors.source import metrics as source_metrics
from console import exporter
from console.cli import cli
from console.exporter import METRICS
from tests.console.promql import Labels, Samples, duration, firing, parse, selectors

RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in yaml.safe_load(exporter.rules())["groups"][0]["rules"]}
GB = 1e9


@dataclass(frozen=True)
class Case:
    """A value per minute (None: no sample), and the first minute at which the alert fires; None: never."""

    alert: str
    told: str
    series: dict[str, Sequence[float | None]]
    first: int | None
    labels: str = ""


def steady(value: float, minutes: int = 30) -> list[float]:
    return [value] * minutes


CASES = (
    Case("ConcordNotObserved", "looked every minute", {"concord_status_observed_timestamp_seconds": [60.0 * n for n in range(30)]}, None),
    Case(
        "ConcordNotObserved",
        "stands still from minute 5",
        {"concord_status_observed_timestamp_seconds": [60.0 * min(n, 5) for n in range(30)]},
        11,
    ),
    Case("ConcordNotObserved", "nothing at all", {'up{job="concord"}': steady(0)}, 3),
    Case("ConcordSystemUnreachable", "a short outage", {'concord_status_answers{system="erp"}': [1] * 5 + [0] * 4 + [1] * 10}, None),
    Case(
        "ConcordSystemUnreachable", "does not come back", {'concord_status_answers{system="erp"}': [1] * 5 + [0] * 20}, 10, 'system="erp"'
    ),
    Case("ConcordSlotLost", "streaming", {'concord_status_slot{system="erp",state="lost"}': steady(0)}, None),
    Case("ConcordSlotLost", "lost", {'concord_status_slot{system="erp",state="lost"}': [0] * 3 + [1] * 9}, 4, 'system="erp"'),
    Case("ConcordSlotLost", "dropped", {'concord_status_slot{system="crm",state="missing"}': [0] * 3 + [1] * 9}, 4, 'system="crm"'),
    Case("ConcordSlotWasLost", "never", {'concord_source_slot_lost_timestamp_seconds{system="erp"}': steady(0)}, None),
    Case(
        "ConcordSlotWasLost",
        "in minute 4",
        {'concord_source_slot_lost_timestamp_seconds{system="erp",process="source-erp"}': [0] * 5 + [240] * 5},
        5,
        'system="erp"',
    ),
    Case("ConcordSlotNotStreaming", "a restart", {'concord_status_slot{system="erp",state="inactive"}': [0, 1, 1, 0, 0, 1, 0]}, None),
    Case("ConcordSlotNotStreaming", "no source", {'concord_status_slot{system="erp",state="inactive"}': [0] + [1] * 9}, 6, 'system="erp"'),
    Case(
        "ConcordRetainedWalNearLimit",
        "a third",
        {
            'concord_status_retained_wal_bytes{system="erp"}': steady(3 * GB),
            'concord_status_wal_keep_limit_bytes{system="erp"}': steady(9 * GB),
        },
        None,
    ),
    Case("ConcordRetainedWalNearLimit", "no limit", {'concord_status_retained_wal_bytes{system="erp"}': steady(30 * GB)}, None),
    Case(
        "ConcordRetainedWalNearLimit",
        "over half of it from minute 5",
        {
            'concord_status_retained_wal_bytes{system="erp"}': [n * GB for n in range(10)],
            'concord_status_wal_keep_limit_bytes{system="erp"}': steady(9 * GB),
        },
        7,
        'system="erp"',
    ),
    Case("ConcordRetainedWalGrows", "much and steady", {'concord_status_retained_wal_bytes{system="erp"}': steady(50 * GB)}, None),
    Case(
        "ConcordRetainedWalGrows",
        "grows and is little",
        {'concord_status_retained_wal_bytes{system="erp"}': [n * 1e7 for n in range(40)]},
        None,
    ),
    Case(
        "ConcordRetainedWalGrows", "shrinks", {'concord_status_retained_wal_bytes{system="erp"}': [(60 - n) * GB for n in range(40)]}, None
    ),
    Case(
        "ConcordRetainedWalGrows",
        "0.1 GB a minute",
        {'concord_status_retained_wal_bytes{system="erp"}': [n * 1e8 for n in range(40)]},
        21,
        'system="erp"',
    ),
    Case("ConcordLag", "a peak", {'concord_status_lag_seconds{step="sink",system="erp"}': [0, 90, 70, 61, 0, 0, 80, 0, 0]}, None),
    Case(
        "ConcordLag",
        "stands from minute 1",
        {'concord_status_lag_seconds{step="sink",system="erp"}': [60.0 * n for n in range(15)]},
        7,
        'step="sink",system="erp"',
    ),
    Case("ConcordPartDown", "started again", {'concord_status_part_alive{part="sink-erp-0"}': [1, 0, 0, 1, 1, 1]}, None),
    Case("ConcordPartDown", "stays away", {'concord_status_part_alive{part="sink-erp-0"}': [1, 0, 0, 0, 0, 0]}, 3, 'part="sink-erp-0"'),
    Case("ConcordPartFlapping", "twice", {'concord_status_part_restarts_total{part="sink-erp-0"}': [0, 0, 1, 1, 1, 2, 2, 2]}, None),
    Case(
        "ConcordPartFlapping",
        "every minute",
        {'concord_status_part_restarts_total{part="sink-erp-0"}': [0, 0, 0, 0, *range(1, 20)]},
        7,
        'part="sink-erp-0"',
    ),
    Case("ConcordDeadLettersGrowing", "three old ones", {'concord_status_dead_letters{system="erp"}': steady(3)}, None),
    Case("ConcordDeadLettersGrowing", "fewer", {'concord_status_dead_letters{system="erp"}': [9, 9, 8, 7, 6, 5, 4]}, None),
    Case("ConcordDeadLettersGrowing", "one more", {'concord_status_dead_letters{system="erp"}': [0] * 5 + [1] * 5}, 5, 'system="erp"'),
    Case(
        "ConcordDeadLetters",
        "mended within the day",
        {'concord_status_dead_letters{system="erp"}': [*steady(2, 900), *steady(0, 900)]},
        None,
    ),
    Case(
        "ConcordDeadLetters", "left for a day", {'concord_status_dead_letters{system="erp"}': [0, *steady(2, 1500)]}, 1441, 'system="erp"'
    ),
    Case(
        "ConcordParkedBacklog",
        "a child waits for its parent",
        {'concord_status_parked_oldest_seconds{system="erp"}': [0, 60, 120, 0, 0]},
        None,
    ),
    Case(
        "ConcordParkedBacklog",
        "for over an hour",
        {'concord_status_parked_oldest_seconds{system="erp"}': [3300.0 + 60 * n for n in range(15)]},
        11,
        'system="erp"',
    ),
    Case("ConcordDivergence", "equal", {'concord_status_verify_differences{entity="customer"}': steady(0)}, None),
    Case("ConcordDivergence", "found", {'concord_status_verify_differences{entity="customer"}': [0, 0, 0, 4, 4]}, 3, 'entity="customer"'),
    Case("ConcordNotVerified", "this night", {'concord_status_verify_timestamp_seconds{entity="customer"}': steady(-6 * 86400)}, None),
    Case(
        "ConcordNotVerified",
        "a week ago",
        {'concord_status_verify_timestamp_seconds{entity="customer"}': steady(600 - 7 * 86400)},
        11,
        'entity="customer"',
    ),
)


def labelled(text: str) -> Labels:
    return frozenset(re.findall(r'(\w+)="([^"]*)"', text))


def samples_of(case: Case) -> Samples:
    told: dict[str, dict[Labels, Sequence[float | None]]] = {}
    for series, values in case.series.items():
        name, _, labels = series.partition("{")
        told.setdefault(name, {})[labelled(labels)] = values
    return told


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.told}")
def test_an_alert_fires_on_what_it_is_for_and_not_before(case: Case) -> None:
    rule = RULES[case.alert]
    minutes = max(map(len, case.series.values()))
    fires = firing(rule["expr"], duration(rule.get("for", "0m")), samples_of(case), minutes)
    assert next((minute for minute, found in enumerate(fires) if found), None) == case.first
    if case.first is not None:
        assert fires[case.first] == {labelled(case.labels)}


def test_each_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    assert {case.alert for case in CASES if case.first is not None} == set(RULES)
    assert {case.alert for case in CASES if case.first is None} == set(RULES)


def _notation(values: Sequence[float | None]) -> str:
    return " ".join("_" if value is None else repr(float(value)) for value in values)


PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool in PATH (Debian: apt-get install prometheus), or name one with PROMTOOL=")
def test_promtool_says_the_same(tmp_path: Path) -> None:
    rules = tmp_path / "concord.rules.yml"
    rules.write_text(exporter.rules())
    tests = []
    for case in CASES:
        last = max(map(len, case.series.values())) - 1
        severity = RULES[case.alert]["labels"]["severity"]

        def at(minute: int, fires: bool, case: Case = case, severity: str = severity) -> dict[str, Any]:
            labels = ",".join(filter(None, [f'alertname="{case.alert}"', 'alertstate="firing"', f'severity="{severity}"', case.labels]))
            expr = f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}'
            return {
                "expr": expr,
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": f"ALERTS{{{labels}}}", "value": 1}] if fires else [],
            }

        asked = [at(last, False)] if case.first is None else [at(case.first, True), *([at(case.first - 1, False)] if case.first else [])]
        series = [{"series": name, "values": _notation(values)} for name, values in case.series.items()]
        tests.append({"name": f"{case.alert}: {case.told}", "interval": "1m", "input_series": series, "promql_expr_test": asked})
    file = tmp_path / "cases.yml"
    file.write_text(yaml.safe_dump({"rule_files": [rules.name], "evaluation_interval": "1m", "tests": tests}))
    assert PROMTOOL is not None
    ran = subprocess.run([PROMTOOL, "test", "rules", file.name], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_rules_ask_only_for_metrics_and_labels_that_are_served() -> None:
    served = {f"concord_status_{name}{'_total' if 'Counter' in kind.__name__ else ''}": set(labels) for kind, name, _, labels, _ in METRICS}
    served["concord_status_observed_timestamp_seconds"] = set()
    served["concord_status_lag_seconds"] = {"step", "system"}
    served["concord_source_slot_lost_timestamp_seconds"] = {*source_metrics.SLOT_LOST._labelnames, "process"}
    for alert, rule in RULES.items():
        asked = selectors(parse(rule["expr"]))
        assert asked, alert
        for selector in asked:
            assert selector.name in served, alert
            assert {name for name, _, _ in selector.matchers} <= served[selector.name], alert
        named = {
            label for text in rule["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", text)
        }  # what a text shows must be a label that the expression leaves
        assert named <= set().union(*(served[one.name] for one in asked)), alert
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_command_prints_the_rules() -> None:
    told = CliRunner().invoke(cli, ["alerts"])
    assert told.exit_code == 0
    assert yaml.safe_load(told.output)["groups"][0]["name"] == "concord"
