"""The page says what its figures say: a made-up report, and the one in docs/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import OF, SECTIONS, main
from bench.report import TITLES, noises, page, rows, sections_of, table_lines
from bench.rounds import Book

DOCS = Path(__file__).resolve().parents[2] / "docs"


def a_report(**more: Any) -> dict[str, Any]:
    book = Book(None)
    for round_, (ours, again, theirs) in enumerate([(8.0, 9.0, 10.0), (10.0, 9.5, 12.0), (9.0, 10.0, 11.0)]):
        for name, p50 in (("Concord", ours), ("Concord (again)", again), ("Debezium + JDBC sink", theirs)):
            book.add("path", name, "idle, one way", round_, {"p50": p50, "p99": 2 * p50, "max": 300.0, "rate": 20.0})
    book.add("path", "Concord", "burst, both ways", 0, {"rate": 5000.0, "us streams": 120.0})
    book.fail("path", "logical replication", 1, "BenchError: 7 of 9 changes\n did not arrive")
    return book.report | more


def test_a_figure_is_the_median_with_its_lowest_and_highest() -> None:
    latency, burst = table_lines(a_report(), "path")
    assert latency[0] == ["", "", "p50 ms", "p99 ms", "max ms", "changes/s"]
    assert latency[1] == ["idle, one way", "Concord", "9.0 (8.0–10.0)", "18.0 (16.0–20.0)", "300", "20"]
    assert latency[2][:3] == ["", "Debezium + JDBC sink", "11.0 (10.0–12.0)"]
    assert burst == [["", "", "changes/s", "streams, CPU µs"], ["burst, both ways", "Concord", "5,000", "120"]]


def test_the_arms_of_an_a_a_run_make_one_line_of_noise() -> None:
    found = noises(rows(a_report(), "path"))
    assert found["idle, one way", "p50"] == pytest.approx(0.5 / 9.25)
    latency = table_lines(a_report(), "path")[0]
    assert latency[-1] == ["idle, one way", "A/A: two arms apart by", "5%", "5%", "0%", "0%"]
    assert not any("again" in cell for line in latency for cell in line)


def test_peers_are_told_as_multiples_unless_the_machine_alone_makes_such_a_difference() -> None:
    assert "- idle, one way: 9.0 ms p50; Debezium + JDBC sink 11.0 (× 1.2); A/A 5%" in page(a_report())
    noisy = a_report()
    for one in noisy["measured"]:
        if one["contestant"] == "Concord (again)":
            one["values"]["p50"] *= 1.5
    assert "Debezium + JDBC sink 11.0 (no difference); A/A 45%" in page(noisy)


def test_what_limits_a_burst_is_told_by_part_the_largest_first() -> None:
    book = Book(None)
    values = {"rate": 5000.0, "cores sinks": 0.2, "cores streams": 0.75, "cores machine": 1.98}
    book.add("path", "Concord", "burst, both ways", 0, values)
    told = "- Concord, burst, both ways: streams 0.75, sinks 0.20; all that was busy, load and readers too: 1.98 cores"
    assert told in page(book.report)
    assert "What limits it" not in page(a_report())


def test_what_failed_is_on_the_page_with_its_reason() -> None:
    text = page(a_report(about={"Machine": "2 cores"}, made={"path": "today"}, plots=["latency.svg"]))
    assert "- logical replication, round 2: BenchError: 7 of 9 changes did not arrive" in text
    assert "- Machine: 2 cores" in text
    assert "Made today." in text
    assert "![latency](bench/latency.svg)" in text
    assert "arrivals.svg" not in text


def test_every_section_that_can_be_chosen_has_its_place_on_the_page() -> None:
    assert {kind for name in SECTIONS for kind in OF.get(name, (name,))} == set(TITLES)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(name in told for name in (*SECTIONS, "--quick", "--hours", "Exit status"))


def test_a_section_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "speed"])
    assert "no section speed: there are source, path" in capsys.readouterr().err


@pytest.mark.skipif(not (DOCS / "bench.json").exists(), reason="not measured yet")
def test_the_page_in_docs_is_what_its_figures_make() -> None:
    report = json.loads((DOCS / "bench.json").read_text())
    assert (DOCS / "bench.md").read_text() == page(report)
    assert sections_of(report)
    assert all((DOCS / "bench" / plot).exists() for plot in report["plots"])
