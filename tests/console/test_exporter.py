"""What is served over HTTP: probes and metrics; `concord status` as Prometheus reads it."""

from __future__ import annotations

import copy
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest

from console import endpoints, exporter, status
from console.exporter import Ages, families, of_parts
from console.ports import HttpAddress
from schemas.errors import Retriable
from schemas.health import STUCK_SECONDS, Health
from tests.console.a_report import REPORT

NO_FIGURES = {"pid", "metrics", "reason", "things", "dead_and_more"}  # where to ask further; what is said in words


def leaves(told: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(told, dict) and told:
        for key, inner in told.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path


def changed(path: Sequence[str]) -> dict[str, Any]:
    """The report with another value there."""
    report = copy.deepcopy(REPORT)
    at = report
    for key in path[:-1]:
        at = at[key]
    value = at[path[-1]]
    at[path[-1]] = (
        not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "lost" if path[-1] == "slot"
        else "stopping" if path[-1] == "state" else "2026-11-27T09:00:00+00:00" if value else "it does not answer"
    )  # fmt: skip
    return report


def exposed(report: dict[str, Any]) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    return {(one.name, frozenset(one.labels.items()), one.value) for family in families(report) for one in family.samples}


@pytest.mark.parametrize("path", [path for path in leaves(REPORT) if path[-1] not in NO_FIGURES], ids="/".join)
def test_each_figure_of_a_report_is_a_metric(path: tuple[str, ...]) -> None:
    assert exposed(changed(path)) != exposed(REPORT)


def test_names_follow_prometheus_conventions() -> None:
    for family in families(REPORT):
        assert re.fullmatch(r"concord_status_[a-z_]+", family.name)
        assert family.documentation
        assert not family.name.endswith(("_ms", "_minutes", "_kb", "_count")), "base units: seconds, bytes"
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
        if "timestamp" in family.name:
            assert family.name.endswith("_timestamp_seconds")


# --- how old what is not read is ------------------------------------------------------------------------------------------------------


def test_lag_in_seconds_is_how_long_ago_the_end_was_where_the_reader_is() -> None:
    ages, reader = Ages(), ("sink", "erp")
    looks = [
        (0, 5, 5, 0),
        (10, 5, 8, 0),
        (20, 5, 9, 10),
        (30, 7, 9, 20),
        (40, 8, 12, 20),
        (50, 12, 12, 0),
        (60, 12, 20, 0),
        (70, 12, 20, 10),
    ]
    assert [ages.look(reader, now, position, end) for now, position, end, _ in looks] == [seconds for *_, seconds in looks]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=60))
def test_a_reader_is_behind_exactly_while_something_is_not_read_and_never_by_more_than_since_then(steps: list[tuple[int, int]]) -> None:
    ages, position, end, behind_since = Ages(), 0, 0, None
    for now, (written, read) in enumerate(steps):
        end += written
        position = min(end, position + read)
        seconds = ages.look(("r",), float(now), position, end)
        behind_since = None if position == end else now if behind_since is None else behind_since
        assert 0 <= seconds <= (0 if behind_since is None else now - behind_since)
    stood = ages.look(("r",), 1000.0, position, end + 1)
    assert ages.look(("r",), 2000.0, position, end + 1) >= 1000.0 + stood


# --- probes -----------------------------------------------------------------------------------------------------------------------


def ask(address: str, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(address.removesuffix("/metrics") + path, timeout=5) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read()
    return status, text.decode() if path == "/metrics" else json.loads(text)


def test_a_part_is_alive_while_its_loop_turns_and_ready_while_it_does_its_work() -> None:
    now = [0.0]
    health = Health(lambda: now[0])
    address = endpoints.serve(0, *endpoints.of_part("sink-erp-0", health))
    assert ask(address, "/healthz")[0] == 200
    assert ask(address, "/readyz") == (503, {"part": "sink-erp-0", "ready": False, "waits_for": "starting"})
    health.ready()
    assert ask(address, "/readyz")[0] == 200
    assert endpoints.waits_for(address) is None
    health.waits("no partitions are assigned yet")
    assert endpoints.waits_for(address) == "no partitions are assigned yet"
    health.ready()
    now[0] = STUCK_SECONDS
    assert ask(address, "/healthz") == (503, {"part": "sink-erp-0", "alive": False, "loop_turned_seconds_ago": STUCK_SECONDS})
    assert ask(address, "/readyz")[1]["waits_for"] == "its loop does not turn"
    health.turned()
    assert ask(address, "/healthz")[0] == ask(address, "/readyz")[0] == 200
    assert "python_info" in ask(address, "/metrics")[1]
    assert ask(address, "/else")[0] == 404


def test_a_port_that_is_taken_ends_no_part() -> None:
    health = Health()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = endpoints.serve(("127.0.0.1", taken.getsockname()[1]), *endpoints.of_part("up", health))
        assert ask(address, "/healthz")[0] == 200
    assert "does not answer" in str(endpoints.waits_for("http://127.0.0.1:1/metrics"))


def test_an_ipv6_address_is_listened_on_and_told_as_it_is_reached() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
            port = free.getsockname()[1]
    except OSError:
        pytest.skip("this machine has no IPv6")
    health = Health()
    address = endpoints.serve(("::1", port), *endpoints.of_part("up", health))
    assert address == f"http://[::1]:{port}/metrics"
    assert ask(address, "/healthz")[0] == 200
    assert endpoints.waits_for(address) == "starting"


def test_a_port_is_given_with_or_without_a_host() -> None:
    read = HttpAddress()
    assert read.convert("9100", None, None) == ("0.0.0.0", 9100)
    assert read.convert("127.0.0.1:9100", None, None) == ("127.0.0.1", 9100)
    assert read.convert("[::1]:9100", None, None) == ("::1", 9100)
    assert read.convert("[::]:9100", None, None) == ("::", 9100)
    assert read.convert(":9100", None, None) == ("0.0.0.0", 9100)
    for wrong in ("", "http", "0", "70000", "a:b", ":", "::1", "::1:9100", "[::1]", "[::1]9100", "[host]:9100", "[]:9100", "9²"):
        with pytest.raises(click.BadParameter, match="is no port"):
            read.convert(wrong, None, None)


def test_the_metrics_of_parts_stand_together_under_their_names(tmp_path: Path) -> None:
    addresses = {}
    for part, count in (("sink-crm-0", 3), ("sink-erp-0", 4)):
        registry = CollectorRegistry()
        Counter("concord_events", "…", ("part",), registry=registry).labels("sink").inc(count)
        (tmp_path / part).write_bytes(generate_latest(registry))
        addresses[part] = (tmp_path / part).as_uri()
    addresses["sink-gone-0"] = "http://127.0.0.1:1/metrics"
    (events,) = [family for family in of_parts(addresses) if family.name == "concord_events"]
    totals = {(one.labels["process"], one.value) for one in events.samples if one.name == "concord_events_total"}
    assert totals == {("sink-crm-0", 3.0), ("sink-erp-0", 4.0)}


def test_the_rules_come_with_the_package() -> None:
    assert exporter.rules().count("- alert:") == exporter.rules().count("runbook:") > 10


def test_without_kafka_how_far_the_sources_are_is_seen_all_the_same() -> None:
    def away() -> Any:
        raise Retriable("Kafka does not answer")

    told = SimpleNamespace(error=None, slot="streaming", confirmed=7.0, current=9.0)
    observer = SimpleNamespace(databases=lambda: {"crm": told}, ends=away, committed=away)
    assert [*status.Observer.positions(cast("status.Observer", observer))] == [(("source", "crm"), 7.0, 9.0)]
