"""Rounds: everybody is measured next to the others, a failure stays its own, and a run that is cut keeps its figures."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.rounds import Book, attempt, interleaved


@pytest.mark.parametrize("rounds", [1, 2, 3, 8])
@pytest.mark.parametrize("names", ["A", "AB", "ABCD"])
def test_everybody_is_measured_once_a_round(names: str, rounds: int) -> None:
    order = list(interleaved(names, rounds))
    assert Counter(order) == Counter((number, name) for number in range(rounds) for name in names)
    assert [number for number, _ in order] == sorted(number for number, _ in order)


def test_nobody_is_always_first_and_pairs_of_rounds_mirror_each_other() -> None:
    order = ["".join(name for number, name in interleaved("ABCD", 8) if number == one) for one in range(8)]
    assert order[:3] == ["ABCD", "DCBA", "BCDA"]
    assert all(order[number] == order[number + 1][::-1] for number in (0, 2, 4, 6))
    assert Counter(one[0] for one in order) == Counter("AABBCCDD")
    assert list(interleaved([], 3)) == []


def test_one_that_fails_is_noted_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    book, said = Book(tmp_path / "bench.json"), list[str]()

    def fails() -> None:
        raise RuntimeError("no such slot")

    assert not attempt(book, "path", "B", 1, said.append, fails)
    assert attempt(book, "path", "A", 1, said.append, lambda: book.add("path", "A", "idle", 1, {"p50": 7.123456}))
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written == book.report
    assert written["failed"] == [{"section": "path", "contestant": "B", "round": 1, "why": "RuntimeError: no such slot"}]
    assert written["measured"][0]["values"] == {"p50": 7.1235}
    assert "B failed: RuntimeError: no such slot" in said[0]


def test_ctrl_c_is_nobodys_failure(tmp_path: Path) -> None:
    book = Book(tmp_path / "bench.json")
    book.add("path", "A", "idle", 0, {"p50": 7.0})

    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(book, "path", "B", 0, lambda _: None, stopped)
    assert book.report["failed"] == []
    assert len(json.loads((tmp_path / "bench.json").read_text())["measured"]) == 1


def test_a_section_that_is_measured_anew_forgets_its_own_figures_only() -> None:
    book = Book(None)
    book.add("path", "A", "idle", 0, {"p50": 7.0})
    book.add("source", "A", "snapshot", 0, {"rate": 7.0})
    book.fail("path", "B", 0, "x")
    book.forget("path")
    assert [one["section"] for one in book.report["measured"]] == ["source"]
    assert book.report["failed"] == []
