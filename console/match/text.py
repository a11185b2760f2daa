"""How a value is compared: ordinary dirt taken off, and keys under which alike values meet. Pure.

What a field holds is told by its values, not by its name:

    words   names, streets, towns      letters alone, without accents or case; `ä`, `ae` and `a` are one; words that say only what law a
                                       company is under are left out, `Straße` is `Str.`; the order of the words counts little
    email   most values have an @
    phone   mostly digits and signs    the last DIALLED digits: prefixes are written in many ways
    code    one word with digits       letters and digits alone
    whole   everything that is no text: equal or not
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from zlib import crc32

DIALLED = 8
SHORTEST_MISTYPED = 5  # a slip in a shorter word makes another word too often
LONGEST_MISTYPED = 24
MOST = 0.6  # of the values are so: the field is
KEYED_WORDS = 12  # of one value: a long text is no name


class Shape(Enum):
    WORDS = "words"
    EMAIL = "email"
    PHONE = "phone"
    CODE = "code"
    WHOLE = "whole"


_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_PHONE = re.compile(r"\+?[\d\s()/.\-–]{6,}")
_CODE = re.compile(r"[\w.\-/]*\d[\w.\-/]*")
_WORD = re.compile(r"[^\W_]+")
_DOTTED = re.compile(r"\b(?:[^\W\d_]\.){2,}(?:[^\W\d_]\b)?")  # S.A., G.m.b.H. is done by name
_DIGRAPHS = re.compile(r"([aou])e")
_STREET = re.compile(r"str(?:asse|aat|eet)?\b|stra(?:ss|s)e\b")
_ADDRESS = re.compile(r"^https?://(?:www\.)?|^www\.")
_LETTERS = str.maketrans({"ø": "o", "œ": "o", "æ": "a", "đ": "d", "ł": "l", "ı": "i", "þ": "th", "ð": "d"})

# What a company is by law, and words between. Said, left out, or said otherwise, it is the same company.
_LEGAL_FORMS = """
    ag gmbh mbh ggmbh kg kgaa ohg gbr ug ek eg ev se sce co cie compagnie comp company corp corporation inc incorporated ltd limited llc
    llp lp plc pty pvt sa sas sarl sasu sl slu srl spa snc sapa bv nv vof cv oy oyj ab as asa aps hf ehf sro spol zoo spzoo sp kft zrt
    nyrt rt doo dd ad ood eood ooo oao zao pao tov sia uab ou gesellschaft aktiengesellschaft kommanditgesellschaft und u and et y e i the
    der die das haftungsbeschrankt mit beschrankter haftung
"""
_LEGAL = frozenset(_LEGAL_FORMS.split())
_LEGAL_SIGNS = re.compile("株式会社|有限会社|合同会社|股份有限公司|有限责任公司|有限公司|주식회사|유한회사|\\(株\\)|(株)")


def shape_of(kind: str, values: Iterable[str]) -> Shape:
    """`values`: a sample, without nulls."""
    if kind != "text":
        return Shape.WHOLE
    texts = [text.strip() for text in values if text.strip()]
    if not texts:
        return Shape.WORDS

    def most(pattern: re.Pattern[str]) -> bool:
        return sum(pattern.fullmatch(text) is not None for text in texts) >= MOST * len(texts)

    if most(_EMAIL):
        return Shape.EMAIL
    if most(_PHONE) and sum(not text.isdigit() for text in texts) > len(texts) / 20:
        return Shape.PHONE
    return Shape.CODE if most(_CODE) else Shape.WORDS


def normal(shape: Shape, value: str) -> str | None:
    """The form in which values are compared; None when nothing is left."""
    match shape:
        case Shape.WHOLE:
            return value
        case Shape.EMAIL:
            return "".join(value.casefold().split()) or None
        case Shape.PHONE:
            return "".join(character for character in value if character.isdigit())[-DIALLED:] or None
        case Shape.CODE:
            return "".join(_WORD.findall(_plain(value))) or None
    return " ".join(words(value)) or None


def _plain(value: str) -> str:
    """Without case, accents, width and umlauts' ways of being written."""
    if value.isascii():
        return value.lower()
    return "".join(each for each in unicodedata.normalize("NFKD", value.casefold()) if not unicodedata.combining(each)).translate(_LETTERS)


def words(value: str) -> list[str]:
    text = _LEGAL_SIGNS.sub(" ", value) if not value.isascii() else value
    text = _ADDRESS.sub("", _plain(text)).replace("'", "").replace("’", "")
    text = _DOTTED.sub(lambda dotted: dotted[0].replace(".", ""), text)
    text = _STREET.sub("str", _DIGRAPHS.sub(r"\1", text))
    found = _WORD.findall(text)
    telling = [word for word in found if word not in _LEGAL]
    return telling or found


def keys_of(shape: Shape, form: str) -> Iterator[tuple[int, bool]]:
    """Hashes under one of which a value meets those that are alike, also mistyped in one place; and whether it is one of a whole word."""
    match shape:
        case Shape.WORDS:
            words = form.split()
            if len(words) > 1:
                yield _hash(" ".join(sorted(words))), True
            for word in words[:KEYED_WORDS]:
                yield from zip(_mistyped(word), _WHOLE_FIRST, strict=False)
        case Shape.EMAIL:
            box, _, host = form.partition("@")
            yield from ((_hash(key), True) for key in (form, box + "@", "@" + host))
        case Shape.CODE:
            yield from zip(_mistyped(form), _WHOLE_FIRST, strict=False)
        case _:
            yield _hash(form), True


def _hash(key: str) -> int:
    """The same in every run, so that the same rows have the same candidates. Keys that fall together cost a comparison."""
    return crc32(key.encode())


_WHOLE_FIRST = (True, *(False for _ in range(LONGEST_MISTYPED)))


@lru_cache(maxsize=20_000)
def _mistyped(word: str) -> tuple[int, ...]:
    """Of the word, and of itself without each of its letters: two words that differ in one place, or in two that are swapped, share one."""
    if not SHORTEST_MISTYPED <= len(word) <= LONGEST_MISTYPED:
        return (_hash(word),)
    return (_hash(word), *{_hash(word[:at] + word[at + 1 :]) for at in range(len(word))})
