"""Keys of likeness: equal whenever the cleaned texts are. Here by going through every character, in SQL in tests/sink."""

from __future__ import annotations

import itertools
import sys
import unicodedata
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.mapping.kinds import normal_uuid
from schemas.mapping.likeness import UUID_IN_TEXT, of_cleaning
from schemas.mapping.transforms import cleaned

STEPS = ("strip", "squeeze", "upper", "lower", "casefold", "digits", "alnum", "nfc", "nfkc", "empty_is_null")
TRICKY = "ßẞſıİKÅŉǰẖẗẘẙẚﬀﬁﬂﬃﬄﬅﬆ①½㎏Ａａ１٣ÀàéÇ\u0300\u0301\u0307\u0327\u00a0\u3000\u2028\t\n -./@aAiIsSkKzZ059株Σςσ"
texts = st.text(st.one_of(st.sampled_from(TRICKY), st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), max_size=12)
chains = st.lists(st.sampled_from(STEPS), min_size=1, max_size=4)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_leaves_the_key_of_every_character_findable(step: str) -> None:
    likeness, clean = of_cleaning([step]), cleaned([step]).read
    assert clean is not None
    for character in map(chr, itertools.chain(range(1, 0xD800), range(0xE000, sys.maxunicode + 1))):
        if unicodedata.category(character) in ("Cn", "Co"):
            continue  # not assigned: no step does anything to it
        result = clean(character)
        if result is not None:
            assert likeness.key(character) in likeness.keys(str(result)), (step, ascii(character))


def test_what_composes_with_an_accent_is_no_digit() -> None:
    for number in range(0xA0, sys.maxunicode + 1):
        for character in unicodedata.normalize("NFD", chr(number)) if not 0xD800 <= number < 0xE000 else "":
            assert character not in "0123456789"


@given(texts, chains)
@example("e\u0301", ["nfc"])
@example("Straße", ["upper"])
@example("ＤＥ１", ["nfkc", "strip"])
@example("\u0130I", ["lower", "nfc", "upper"])
def test_what_is_cleaned_is_found_by_the_keys_of_the_clean(text: str, chain: list[str]) -> None:
    clean = cleaned(chain).read
    assert clean is not None
    result = clean(text)
    if result is not None:
        assert of_cleaning(chain).key(text) in of_cleaning(chain).keys(str(result))


@given(st.uuids(), st.sampled_from(["{}", "{{{}}}", "urn:uuid:{}", " {} ", "\u3000{}"]), st.booleans(), st.booleans())
def test_uuids_in_any_spelling(value: uuid.UUID, form: str, upper: bool, bare: bool) -> None:
    text = form.format((value.hex if bare else str(value)).upper() if upper else (value.hex if bare else str(value)))
    assert normal_uuid(text) == str(value)
    assert UUID_IN_TEXT.key(text) in UUID_IN_TEXT.keys(str(value))
