"""Avro bodies read and written by functions that are made for their schema: straight-line Python, faster than fastavro (`bench.avro`).

    reader(schema)    body → datum, as fastavro reads it
    writer(schema)    datum → body

Both know records, unions, enums, fixed and primitive types, named types and logical ones: what rows, envelopes and golden records are made
of. For a schema with anything else in it (arrays, maps, a record within itself) there is none, and fastavro does it. fastavro is the oracle
of the tests.

    {"name": "city", "type": ["null", "string"]}     b = d[p]; p += 1
                                                     if b == 0: v7 = None
                                                     elif b == 2: …length…; v7 = d[p:p + n].decode(); p += n
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, cast

from fastavro.read import LOGICAL_READERS

Reader = Callable[[bytes, int], Any]
Writer = Callable[[Mapping[str, Any]], list[bytes]]

LARGEST = 2000  # values: the function grows with the schema, and so does the time that making it takes, 40 µs each
DEEPEST = 8  # blocks within blocks; Python allows twenty

_FLOATS = {"float": struct.Struct("<f"), "double": struct.Struct("<d")}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class _Unsupported(Exception):
    """fastavro's affair."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """(the whole number that begins at `at`, where it ends). Raises IndexError when it has no end, ValueError beyond 64 bits."""
    shift = number = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if number >> 64:
        raise ValueError("a number of more than 64 bits")
    return (number >> 1) ^ -(number & 1), at


def length(data: bytes, at: int) -> tuple[int, int]:
    """The same of a length. Raises ValueError for one below zero, or that goes beyond the end."""
    number, at = varint(data, at)
    if not 0 <= number <= len(data) - at:
        raise ValueError(f"a length of {number}")
    return number, at


def _varint_bytes(number: int) -> bytes:
    number = number << 1 if number >= 0 else ~(number << 1)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


VARINTS = tuple(_varint_bytes(number) for number in range(8192))  # lengths and small numbers


def varint_bytes(number: int) -> bytes:
    """The inverse of `varint`, for 64 bits: Avro's int and long, zigzag, seven bits a byte, the lowest first."""
    return VARINTS[number] if 0 <= number < 8192 else _varint_bytes(number)


def reader(schema: Any) -> Reader | None:
    """(message, where its body begins) → datum. It raises IndexError, ValueError or what a logical type's reader raises for bytes that make
    no sense, and when bytes are left over. None: a schema that is not known here. `schema`: as fastavro has parsed it."""
    code = _ReaderCode()
    try:
        result = code.value(schema, 1, ())
    except _Unsupported:
        return None
    lines = [
        "def read(d, p):",
        *code.lines,
        " if p != len(d):",
        "  raise ValueError(f'{len(d) - p} bytes are left over')",
        f" return {result}",
    ]
    return cast(Reader, code.compiled("\n".join(lines), "read"))


def writer(schema: Any) -> Writer | None:
    """datum → the pieces of its body, of a flat record. It raises ValueError or TypeError for a datum that does not fit. None: a schema
    that is not known here."""
    code = _WriterCode()
    try:
        code.record(schema)
    except _Unsupported:
        return None
    return cast(
        Writer,
        code.compiled(
            "\n".join(["def write(datum):", " out = []", " add, get = out.append, datum.get", *code.lines, " return out"]), "write"
        ),
    )


class _Code:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"varint": varint, "length": length, "varint_bytes": varint_bytes}
        self._count = 0

    def add(self, depth: int, *lines: str) -> None:
        self.lines += [" " * depth + line for line in lines]

    def fresh(self, prefix: str = "v") -> str:
        self._count += 1
        if self._count > LARGEST:
            raise _Unsupported
        return f"{prefix}{self._count}"

    def known(self, value: Any) -> str:
        """A name for an object that the code uses."""
        name = self.fresh("k")
        self.names[name] = value
        return name

    def compiled(self, text: str, name: str) -> Any:
        exec(compile(text, "<avro>", "exec"), self.names)  # made of nothing but numbers, our own names, and texts by repr
        return self.names[name]


class _ReaderCode(_Code):
    def __init__(self) -> None:
        super().__init__()
        self._named: dict[str, Any] = {}

    def value(self, schema: Any, depth: int, within: tuple[str, ...]) -> str:
        """Adds what reads a value; returns the expression of it."""
        if depth > DEEPEST:
            raise _Unsupported
        if isinstance(schema, list):
            return self._union(schema, depth, within)
        if isinstance(schema, str):
            if schema in self._named:
                return self.value(self._named[schema], depth, within)
            schema = {"type": schema}
        kind = schema["type"]
        if isinstance(kind, list | dict):
            return self.value(kind, depth, within)
        if not isinstance(kind, str) or ("name" in schema and kind not in ("record", "enum", "fixed", "error")):
            raise _Unsupported
        if kind in self._named:
            return self.value(self._named[kind], depth, within)
        if kind == "record":
            return self._record(schema, depth, within)
        if kind in ("enum", "fixed"):
            self._named[schema["name"]] = schema
        found = self._plain(kind, schema, depth)
        logical = LOGICAL_READERS.get(f"{kind}-{schema.get('logicalType')}")
        if logical is None:
            return found
        read = self.fresh()
        self.add(depth, f"{read} = {self.known(logical)}({found}, {self.known(schema)}, None)")
        return read

    def _record(self, schema: Mapping[str, Any], depth: int, within: tuple[str, ...]) -> str:
        name = schema["name"]
        if name in within:
            raise _Unsupported
        self._named[name] = schema
        fields = [(field["name"], self.value(field["type"], depth, (*within, name))) for field in schema["fields"]]
        return "{" + ", ".join(f"{field!r}: {value}" for field, value in fields) + "}"

    def _union(self, branches: list[Any], depth: int, within: tuple[str, ...]) -> str:
        if not branches or len(branches) > 32:
            raise _Unsupported
        found = self.fresh()
        self.add(depth, "b = d[p]", "p += 1")
        for number, branch in enumerate(branches):
            self.add(depth, f"{'el' if number else ''}if b == {2 * number}:")
            value = self.value(branch, depth + 1, within)
            self.add(depth + 1, f"{found} = {value}")
        self.add(depth, "else:", " raise ValueError(f'branch {b} of a union')")
        return found

    def _plain(self, kind: str, schema: Mapping[str, Any], depth: int) -> str:
        if kind == "null":
            return "None"
        found = self.fresh()
        if kind in ("string", "bytes"):
            decoded = ".decode()" if kind == "string" else ""
            self.add(
                depth,
                "n = d[p]",
                "if n & 129:",  # more than one byte, or below zero
                " n, p = length(d, p)",
                " q = p + n",
                "else:",
                " p += 1",
                " q = p + (n >> 1)",
                f"{found} = d[p:q]{decoded}",
                "p = q",
            )
        elif kind in ("int", "long"):
            self.add(
                depth,
                "n = d[p]",
                "p += 1",
                "if n > 127:",
                f" {found}, p = varint(d, p - 1)",
                "else:",
                f" {found} = (n >> 1) ^ -(n & 1)",
            )
        elif kind == "boolean":
            self.add(depth, f"{found} = (False, True)[d[p]]", "p += 1")  # any other byte is refused
        elif kind in _FLOATS:
            unpack = self.known(_FLOATS[kind].unpack_from)
            self.add(depth, f"{found} = {unpack}(d, p)[0]", f"p += {_FLOATS[kind].size}")
        elif kind == "fixed":
            self.add(depth, f"{found} = d[p:p + {int(schema['size'])}]", f"p += {int(schema['size'])}")
        elif kind == "enum":
            symbols = self.known(tuple(schema["symbols"]))
            self.add(depth, "n, p = varint(d, p)", "if n < 0:", " raise IndexError('symbol of an enum')", f"{found} = {symbols}[n]")
        else:
            raise _Unsupported
        return found


class _WriterCode(_Code):
    _TYPES = frozenset({"string", "boolean", "long"})

    def record(self, schema: Mapping[str, Any]) -> None:
        if schema.get("type") != "record":
            raise _Unsupported
        for field in schema["fields"]:
            if not _NAME.fullmatch(field["name"]):
                raise _Unsupported
            kind, prefix, null = self._kind(field)
            depth = 1
            self.add(depth, f"v = get({field['name']!r})")
            if null is not None:
                self.add(depth, "if v is None:", f" add({null!r})", "else:")
                depth += 1
            said = f"raise ValueError({field['name']!r} + f': {{type(v).__name__}}, expected {kind}')"
            if kind == "string":
                self.add(depth, "if type(v) is not str:", f" {said}", "e = v.encode()")
                self.add(depth, *([f"add({prefix!r})"] if prefix else []), "add(varint_bytes(len(e)))", "add(e)")
            elif kind == "boolean":
                yes, no = prefix + bytes([1]), prefix + bytes([0])
                self.add(depth, "if v is True:", f" add({yes!r})", "elif v is False:", f" add({no!r})", "else:", f" {said}")
            else:
                self.add(depth, f"if type(v) is not int or not {-(1 << 63)} <= v < {1 << 63}:", f" {said}")
                self.add(depth, *([f"add({prefix!r})"] if prefix else []), "add(varint_bytes(v))")

    def _kind(self, field: Mapping[str, Any]) -> tuple[str, bytes, bytes | None]:
        """(type, what says that it is one, what says that it is null or None)"""
        kind, null, prefix = field["type"], None, b""
        if isinstance(kind, list):
            if len(kind) != 2 or "null" not in kind or field.get("default") is not None:
                raise _Unsupported
            at = kind.index("null")
            null, prefix, kind = varint_bytes(at), varint_bytes(1 - at), kind[1 - at]
        elif "default" in field:
            raise _Unsupported
        if isinstance(kind, dict) and not kind.keys() & {"logicalType", "name"}:
            kind = kind["type"]
        if not isinstance(kind, str) or kind not in self._TYPES:
            raise _Unsupported
        return kind, prefix, null
