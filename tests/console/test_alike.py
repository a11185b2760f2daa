"""Rows that are alike: what ordinary dirt is, that slips of the finger meet, and how right the proposals are where the truth is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.dirty import FIELDS, dirty, pairs_of
from console.match.alike import Candidate, alike
from console.match.evidence import DIFFERENT, EQUAL, compared, weights
from console.match.text import Shape, keys_of, normal, shape_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Müller Bau GmbH", "MUELLER BAU"),
        ("Müller Bau GmbH & Co. KG", "Muller, Bau G.m.b.H. u. Co KG"),
        ("Société Générale S.A.", "SOCIETE GENERALE SA"),
        ("Smith & Sons Ltd.", "Smith and Sons Limited"),
        ("O'Brien Inc.", "OBrien"),
        ("トヨタ自動車株式会社", "トヨタ自動車"),
        ("Groß", "GROSS"),
        ("Østergård", "Ostergard"),
        ("Haupt-Straße 12", "Haupt Str. 12"),
        ("https://www.acme.example/", "acme.example"),
    ],
)
def test_ordinary_dirt_makes_no_difference_to_words(one: str, other: str) -> None:
    assert normal(Shape.WORDS, one) == normal(Shape.WORDS, other)


@pytest.mark.parametrize(("one", "other"), [("Meyer Bau", "Meyer Druck"), ("GmbH", "AG"), ("Hauptstr. 12", "Hauptstr. 21")])
def test_what_tells_rows_apart_stays(one: str, other: str) -> None:
    assert normal(Shape.WORDS, one) != normal(Shape.WORDS, other)


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        (Shape.EMAIL, ["a@b.example", " C@d.example ", "none"]),
        (Shape.PHONE, ["+49 30 1234567", "030/1234567", "(040) 77 66 55"]),
        (Shape.CODE, ["DE123456789", "24103", "K-17/4"]),
        (Shape.WORDS, ["Acme GmbH", "Anna Müller", "Hauptstr. 12"]),
        (Shape.WORDS, []),
    ],
)
def test_what_a_field_holds_is_told_by_its_values(shape: Shape, values: list[str]) -> None:
    assert shape_of("text", values) is shape
    assert shape_of("date", values) is Shape.WHOLE


def test_a_phone_is_its_last_digits_however_it_is_written() -> None:
    forms = {normal(Shape.PHONE, text) for text in ("+49 30 1234567", "0049301234567", "(030) 1234-567", "030/1234567")}
    assert len(forms) == 1


@given(st.text("abcdefgh", min_size=5, max_size=12), st.data())
def test_words_with_one_slip_between_them_share_a_key(word: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(word) - 2))
    letter = data.draw(st.sampled_from("xyz"))
    slips = [
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + letter + word[at + 1 :],
        word[:at] + letter + word[at:],
    ]
    keys = {key for key, _ in keys_of(Shape.WORDS, word)}
    for slip in slips:
        assert keys & {key for key, _ in keys_of(Shape.WORDS, slip)}, slip


def test_a_field_that_always_differs_in_known_pairs_says_nothing_when_it_differs() -> None:
    values = [f"2020-01-{day:02}" for day in range(1, 29)] * 40
    field = compared("since", Shape.WHOLE, values, values)
    known = [(f"a{number}", f"b{number}") for number in range(2_000)]
    learnt, usual = (weights(field, pairs, np.random.default_rng(1)) for pairs in (known, None))
    assert usual.bits[DIFFERENT] < -1
    assert abs(learnt.bits[DIFFERENT]) < 0.1
    assert learnt.bits[EQUAL] < usual.bits[EQUAL]


def found(rows: int, least: int = 50, fields: tuple[str, ...] = FIELDS) -> tuple[list[Candidate], set[tuple[int, int]]]:
    made = dirty(rows, seed=7)
    crm, erp = ({name: [row.values[name] for row in side] for name in fields} for side in (made.crm, made.erp))
    return alike(dict.fromkeys(fields, "text"), crm, erp, {}, least), pairs_of(made.crm, made.erp)


def test_proposals_are_nearly_all_right_and_nearly_all_of_them_are_found() -> None:
    candidates, truth = found(2_000)
    proposed = {(one.one, one.other) for one in candidates if one.proposed}
    assert len(proposed & truth) > 0.97 * len(proposed)
    assert len(proposed & truth) > 0.9 * len(truth)
    sure = {(one.one, one.other) for one in candidates if one.proposed and one.score == 99}
    assert len(sure & truth) > 0.99 * len(sure)
    assert len(sure) > 0.7 * len(truth)


def test_without_tax_ids_they_are_found_by_the_rest() -> None:
    candidates, truth = found(2_000, fields=tuple(name for name in FIELDS if name != "tax_id"))
    proposed = {(one.one, one.other) for one in candidates if one.proposed}
    assert len(proposed & truth) > 0.96 * len(proposed)
    assert len(proposed & truth) > 0.88 * len(truth)


def test_a_row_is_proposed_once_and_in_one_group_and_the_answer_is_always_the_same() -> None:
    candidates, _ = found(600, least=20)
    proposed = [one for one in candidates if one.proposed]
    assert max(Counter(one.one for one in proposed).values()) == max(Counter(one.other for one in proposed).values()) == 1
    groups: dict[tuple[str, int], set[int]] = {}
    for one in candidates:
        groups.setdefault(("crm", one.one), set()).add(one.group)
        groups.setdefault(("erp", one.other), set()).add(one.group)
    assert all(len(of) == 1 for of in groups.values())
    assert [one.group for one in candidates] == sorted(one.group for one in candidates)
    assert candidates == found(600, least=20)[0]


def test_two_rows_that_are_like_one_are_a_group_with_one_proposal() -> None:
    others = [f"{letter * 4}{number} AG" for letter in "abcdefgh" for number in range(10)]
    crm = {"name": ["Bolt & Sohn GmbH"], "city": ["Kiel"]}
    erp = {"name": ["Bolt und Sohn", "Bolt & Sohn", *others], "city": ["Kiel", "Kiel", *("Wismar" for _ in others)]}
    candidates = alike({"name": "text", "city": "text"}, crm, erp, {}, 20)
    assert [(one.other, one.proposed, one.group) for one in candidates] == [(0, True, 1), (1, False, 1)]
    assert candidates[0].reason == "name equal, city equal"
    assert candidates[1].score <= 50


def test_nothing_to_compare_finds_nothing() -> None:
    assert alike({"name": "text"}, {"name": []}, {"name": ["Acme"]}, {}, 1) == []
    assert alike({}, {}, {}, {}, 1) == []
    assert alike({"name": "text"}, {"name": [None]}, {"name": [None]}, {}, 50) == []
