"""Paths into JSON columns: read, and written without touching anything beside them.

    custom_fields->>erp_code            a text, number or boolean of the document
    custom_fields->address->>city       deeper; objects on the way are made when they are not there
    phones->0->>number                  an element of an array
    custom_fields->options              JSON as it is
    attributes->colour                  hstore: texts

As in PostgreSQL a path that leads nowhere is null. Null is written by taking the key out. A value is written as the JSON type that stands
there, if it can be one of that type, else as its field's kind wants it: numbers as numbers, booleans as booleans, all else as text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from schemas.mapping import kinds, numbers

_STEP = re.compile(r"""\s*(->>?)\s*(?:'((?:[^']|'')*)'|"((?:[^"]|"")*)"|(?!>)((?:(?!->)[^'"])+?))\s*(?=->|\Z)""", re.DOTALL)
_INDEX = re.compile(r"[0-9]+\Z")

Step = str | int  # a key of an object, a place in an array


class _Number(str):
    """A JSON number as it is spelled."""

    __slots__ = ()


def _no_constant(text: str) -> Any:
    raise ValueError(f"has {text}, which is not JSON")


_DECODER = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=_no_constant)


@lru_cache(maxsize=32)  # the fields of one row read one document after the other
def _parsed(text: str) -> Any:
    """Never to be changed: it is shared."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _spelled(value: Any) -> str:
    """JSON text, keys in their order, numbers as they were."""
    if isinstance(value, _Number):
        return str.__str__(value)
    if isinstance(value, str):
        return kinds.json_string(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{kinds.json_string(key)}: {_spelled(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_spelled, value)) + "]"
    return {None: "null", True: "true", False: "false"}[value]


def split_reference(reference: str) -> tuple[str, tuple[Step, ...], bool] | None:
    """`column->key->>key` → (column, path, whether it ends in a text). None: no path in it. Raises ValueError where it makes no sense."""
    arrow = reference.find("->")
    if arrow < 0:
        return None
    at, steps, as_text = arrow, list[Step](), False
    while at < len(reference):
        if as_text:
            raise ValueError("->> gives a text, nothing can be inside it: use -> on the way")
        match = _STEP.match(reference, at)
        if match is None:
            raise ValueError("is no path: expected column->key->>key")
        as_text = match[1] == "->>"
        if match[2] is not None:
            steps.append(match[2].replace("''", "'"))
        elif match[3] is not None:
            steps.append(match[3].replace('""', '"'))
        else:
            steps.append(int(match[4]) if _INDEX.match(match[4]) else match[4])
        at = match.end()
    return reference[:arrow].rstrip(), tuple(steps), as_text


@dataclass(frozen=True, slots=True)
class Path:
    """A place inside the documents of one column."""

    steps: tuple[Step, ...]
    as_text: bool  # ->>
    hstore: bool = False
    wanted: Literal["text", "number", "boolean"] = "text"  # the JSON type of what is written where nothing stands

    def read(self, document: str) -> str | None:
        """What stands there, as a text or as JSON in normal form. Raises ValueError if the document is none."""
        value = self._found(self._document(document))
        if value is None:
            return None
        if not self.as_text and not self.hstore:
            return kinds.normal_json(_spelled(value))
        return self._text(value)

    __call__ = read

    def written(self, document: str | None, text: str | None) -> str | None:
        """The document with `text` there. The same one if it stands there already, None if there is neither. Raises ValueError where the
        document has something else on the way."""
        if document is None and text is None:
            return None
        if document is not None and self.read(document) == text:
            return document
        whole = {} if document is None else self._document(document)
        held = self._found(whole)
        new = self._with(whole, self.steps, None if text is None else self._typed(text, held))
        if self.hstore:
            return kinds.write_hstore(_spelled(new))
        return _spelled(new)

    # reading

    def _document(self, text: str) -> Any:
        return _parsed(kinds.read_hstore(text) if self.hstore else text)

    def _found(self, value: Any) -> Any:
        for step in self.steps:
            if isinstance(step, str):
                value = value.get(step) if isinstance(value, dict) else None
            else:
                value = value[step] if isinstance(value, list) and step < len(value) else None
            if value is None:
                return None
        return value

    @staticmethod
    def _text(value: Any) -> str:
        if isinstance(value, _Number):
            return numbers.normal_number(str.__str__(value))
        if isinstance(value, str):
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        return kinds.normal_json(_spelled(value))

    # writing

    def _typed(self, text: str, held: Any) -> Any:
        if self.hstore:
            return text
        if not self.as_text:
            return _parsed(text)
        if isinstance(held, _Number):
            wanted = "number"
        elif isinstance(held, bool):
            wanted = "boolean"
        elif isinstance(held, str):
            return text
        else:
            wanted = self.wanted
        if wanted == "boolean" and text in ("true", "false"):
            return text == "true"
        if wanted == "number" and _is_number(text):
            return _Number(text)
        return text

    def _with(self, whole: Any, steps: tuple[Step, ...], value: Any) -> Any:
        """`whole`, which may be null, with `value` at a path; null takes a key out. What is not on the way is taken over as it is."""
        step, rest = steps[0], steps[1:]
        if isinstance(step, str):
            if whole is not None and not isinstance(whole, dict):
                raise ValueError(f"cannot be written: {step!r} is to be a key, but the document has {_described(whole)} there")
            held = whole or {}
            if value is None and step not in held:
                return whole
            inner = self._with(held.get(step), rest, value) if rest else value
            if not rest and value is None:
                return {key: old for key, old in held.items() if key != step}
            return {**held, step: inner}
        if whole is not None and not isinstance(whole, list):
            raise ValueError(f"cannot be written: element {step} is wanted, but the document has {_described(whole)} there")
        elements = whole or []
        if value is None and step >= len(elements):
            return whole
        if step > len(elements):
            raise ValueError(f"cannot be written: element {step} is wanted, but the array has {len(elements)}")
        inner = self._with(elements[step] if step < len(elements) else None, rest, value) if rest else value
        return [*elements[:step], inner, *elements[step + 1 :]]


def _is_number(text: str) -> bool:
    """Whether a text is a number just as its normal form, so that it reads back the same."""
    try:
        return text not in numbers.SPECIAL and numbers.normal_number(text) == text
    except ValueError:
        return False


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return "a number" if isinstance(value, _Number) else ("a boolean" if isinstance(value, bool) else "a text")
