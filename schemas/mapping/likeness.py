"""What a database can say about whether two texts are read as the same value: which rows may hold a value, found without reading them all.

Cleaning happens in Python, and no database function does just the same. So rows are looked for by a *key* that is equal whenever the
cleaned texts are, and more often; who looks reads what was found and compares. A key keeps some of the ASCII letters (in lower case) and
digits of a text, in order, and drops the rest:

    '=' + strong    of a text of printable ASCII. Every step leaves such a text one, and its strong characters alone
    '~' + weak      of any other. The weak characters are those that no step makes of others or takes away: 'ß' becomes 'SS', so no 's'

A row's text has one of the two, a value is looked for with both (`Likeness.keys`): 'DE1' is what a full-width 'ＤＥ１' may be read as.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

LETTERS, DIGITS = string.ascii_lowercase, string.digits

# ASCII letters that a step makes out of other characters: ſ → S, ß → SS, ﬁ → FI, İ → i̇, the Kelvin sign → k (upper, lower, casefold)
_MADE_BY_CASE = "afhijklnstwy"
_PLAIN = re.compile(r"[ -~]*\Z")


@dataclass(frozen=True, slots=True)
class Likeness:
    """Which characters a key keeps. `strong` includes `weak`."""

    strong: str = LETTERS + DIGITS
    weak: str = LETTERS + DIGITS

    def key(self, text: str) -> str:
        """The key of a row's text."""
        plain = _PLAIN.match(text) is not None
        return _key("=", text, self.strong) if plain else _key("~", text, self.weak)

    def keys(self, text: str) -> tuple[str, ...]:
        """The keys of all texts that may be read as what this one is."""
        weak = _key("~", text, self.weak)
        return (_key("=", text, self.strong), weak) if _PLAIN.match(text) else (weak,)


# "equal": values are equal just when the columns are, as PostgreSQL compares their type. "any": nothing can be said.
Alike = Likeness | Literal["equal", "any"]

# UUIDs in a text may be spelled with 'urn:uuid:', braces and in digits of other scripts; a leading '0x' becomes a zero.
UUID_IN_TEXT = Likeness("123456789", "")


def _key(mark: str, text: str, kept: str) -> str:
    return mark + "".join(character for character in _ascii_lower(text) if character in kept)


def _ascii_lower(text: str) -> str:
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in text)


def of_cleaning(steps: Iterable[str]) -> Likeness:
    """The likeness of texts that go through these steps of `clean`, in any order, any number of times."""
    names = set(steps)
    strong, weak = LETTERS + DIGITS, LETTERS + DIGITS
    if names & {"upper", "lower", "casefold"}:
        weak = _without(weak, _MADE_BY_CASE)
    if "nfc" in names:  # a letter and its accent become one character; digits have none
        weak = _without(weak, LETTERS)
    if names & {"nfkc", "digits"}:  # anything may become a letter or a digit: ①, ½, ㎏
        weak = ""
    if "digits" in names:
        strong = DIGITS
    return Likeness(strong, weak)


def both(one: Likeness, other: Likeness) -> Likeness:
    """Of texts that go through the one and the other."""
    return Likeness(
        "".join(c for c in one.strong if c in other.strong),
        "".join(c for c in one.weak if c in other.weak),
    )


def _without(kept: str, dropped: str) -> str:
    return "".join(character for character in kept if character not in dropped)
