"""Lists as text: PostgreSQL's arrays, one text with a separator between, and our normal form.

    PostgreSQL      {a,"b c",NULL}                   [0:1]={x,y} is read as {x,y}
    normal form     ["a","b c",null]                 compact JSON; elements are texts (or true, false) in their own kind's normal form
    one text        a, b c                           blank elements and nulls are left out

All functions raise ValueError on what is no such text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import orjson

from schemas.change import Canonical

Read = Callable[[str], Canonical]
Write = Callable[[Canonical], str | None]

_SPACE = " \t\n\r\v\f"  # what array_in takes for white space
_TOKEN = re.compile(rf'[{_SPACE}]*(?:([{{}},])|"((?:[^"\\]|\\.)*)"|((?:[^{{}},"\\]|\\.)+))[{_SPACE}]*', re.DOTALL)
_BOUNDS = re.compile(r"(?:\[[+-]?[0-9]+:[+-]?[0-9]+\])+=")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def read_array(text: str, element: Read | None) -> str:
    """PostgreSQL's text → normal form."""
    bounds = _BOUNDS.match(text)
    tokens = _tokens(text[bounds.end() :] if bounds else text)
    if next(tokens, None) != ("{", False):
        raise ValueError("is not an array")
    found = _elements(tokens, element)
    if next(tokens, None) is not None:
        raise ValueError("is not an array")
    return _dumped(found)


def write_array(value: Canonical, element: Write | None) -> str:
    """Inverse of `read_array`: as PostgreSQL prints it."""
    return _array_text(_loaded(value), element)


def normal_list(text: str, element: Read) -> str:
    """A JSON array that a person or another system may have written → normal form."""
    return _dumped(_normal(_loaded(text), element))


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """(text, whether it is an element)."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError("is not an array")
        at = match.end()
        if match[1] is not None:
            yield match[1], False
        elif match[2] is not None:
            yield '"' + _ESCAPED.sub(r"\1", match[2]), True
        else:
            yield _ESCAPED.sub(r"\1", match[3].rstrip(_SPACE)), True


def _elements(tokens: Iterator[tuple[str, bool]], element: Read | None) -> list[Any]:
    """What stands between a brace and its end."""
    found: list[Any] = []
    expected = True  # an element, or an end right after the beginning
    for token, is_element in tokens:
        if is_element or token == "{":
            if not expected:
                break
            if not is_element:
                found.append(_elements(tokens, element))
            elif token.upper() == "NULL":
                found.append(None)
            else:
                text = token.removeprefix('"')
                found.append(text if element is None else element(text))
            expected = False
        elif token == "," and not expected:
            expected = True
        elif token == "}" and (not expected or not found):
            return found
        else:
            break
    raise ValueError("is not an array")


def _array_text(values: list[Any], element: Write | None) -> str:
    texts = []
    for value in values:
        if value is None:
            texts.append("NULL")
        elif isinstance(value, list):
            texts.append(_array_text(value, element))
        else:
            written = value if element is None else element(value)
            texts.append(quoted(cast(str, written)))
    return "{" + ",".join(texts) + "}"


def quoted(text: str) -> str:
    """An array's element as array_out prints it."""
    if text and text.upper() != "NULL" and not any(mark in text for mark in '{}",\\ \t\n\r\v\f'):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _loaded(value: Canonical) -> list[Any]:
    try:
        found = orjson.loads(cast(str, value))
    except (orjson.JSONDecodeError, TypeError):
        found = None
    if not isinstance(found, list):
        raise ValueError('is not a list, like ["a","b"]')
    return found


def _dumped(values: list[Any]) -> str:
    return orjson.dumps(values).decode()


def _normal(values: list[Any], element: Read) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value is None or isinstance(value, list):
            found.append(value if value is None else _normal(value, element))
        elif isinstance(value, dict):
            raise ValueError("has an object in it, which is no element of a list")
        else:
            text = ("true" if value else "false") if isinstance(value, bool) else str(value)
            found.append(element(text))
    return found


# ── one text ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def split_text(text: str, separator: str) -> str:
    """`a, b c` → ["a","b c"]. The white space around the separator is of no meaning."""
    mark = separator.strip() or separator
    return _dumped([stripped for part in text.split(mark) if (stripped := part.strip())])


def joined_text(value: Canonical, separator: str) -> str:
    """Inverse of `split_text`."""
    mark = separator.strip() or separator
    texts = []
    for element in _loaded(value):
        if isinstance(element, list):
            raise ValueError("is a list of lists, which one text cannot hold")
        if element is None or not (text := _plain(element).strip()):
            continue
        if mark in text:
            raise ValueError(f"has {text!r} in it, which would be read back as several: {mark!r} stands between elements")
        texts.append(text)
    return separator.join(texts)


def _plain(element: str | bool) -> str:
    return element if isinstance(element, str) else ("true" if element else "false")


def each(value: Canonical, function: Callable[[Canonical], Canonical]) -> str:
    """The list of what `function` makes of its elements; those that become null are left out."""
    return _dumped([made for element in _loaded(value) if (made := function(element)) is not None])
