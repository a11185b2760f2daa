"""The parts without I/O: messages of the log, and the generated encoders, whose oracle is fastavro."""

from __future__ import annotations

import datetime
import struct
from decimal import Context, Decimal
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.source.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    Insert,
    Message,
    Relation,
    RelationColumn,
    Truncate,
    decode,
    end_of_tuple,
    tuple_bytes,
)
from connectors.source.relations import ColumnFacts, TableFacts, captured_table
from connectors.source.types import TypeFacts, column_type, datum, default_text
from schemas.compiled_avro import varint_bytes
from schemas.errors import SchemaError
from schemas.lsn import Lsn
from schemas.serde import read_body

columns = st.lists(st.none() | st.just(UNCHANGED) | st.binary(max_size=40), max_size=20).map(tuple)


@given(columns)
def test_a_tuple_survives_write_and_read(values: Any) -> None:
    data = b"I" + struct.pack("!I", 7) + b"N" + tuple_bytes(values)
    assert decode(data) == Insert(7, values)
    assert end_of_tuple(data, 6) == len(data)


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_read_to_its_end(data: bytes) -> None:
    try:
        decode(data)
    except SchemaError:
        return


@given(st.binary(min_size=1, max_size=60), st.sampled_from(b"BCORYIUDTM"))
def test_garbage_of_a_known_kind_is_refused_or_read(data: bytes, kind: int) -> None:
    try:
        decode(bytes([kind]) + data)
    except SchemaError:
        return


def test_messages_are_read() -> None:
    u64, text = struct.Struct("!Q").pack, b"x\0"
    assert decode(b"B" + u64(5) + struct.pack("!qI", 0, 9)) == Begin(Lsn(5), 946_684_800_000_000, 9)
    assert decode(b"C\0" + u64(5) + u64(6) + struct.pack("!q", 1)) == Commit(Lsn(5), Lsn(6), 946_684_800_000_001)
    relation = b"R" + struct.pack("!I", 3) + b"\0" + text + b"d" + struct.pack("!H", 1) + b"\1" + text + struct.pack("!Ii", 23, -1)
    assert decode(relation) == Relation(3, "pg_catalog", "x", "d", (RelationColumn("x", 23, -1, True),))
    assert decode(b"T" + struct.pack("!IBI", 1, 3, 4)) == Truncate((4,), True, True)
    assert decode(b"M\1" + u64(8) + text + struct.pack("!I", 2) + b"hi") == Message(True, Lsn(8), "x", b"hi")


NAMES = [
    "bool",
    "int4",
    "int8",
    "text",
    "numeric",
    "numeric(10,2)",
    "float8",
    "date",
    "timestamp",
    "timestamptz",
    "uuid",
    "bytea",
    "text[]",
    "int4[]",
]
OIDS = {name: number for number, name in enumerate(NAMES, 1)}
TYPES = {
    **{OIDS[name]: TypeFacts(OIDS[name], name.partition("(")[0]) for name in NAMES if not name.endswith("[]")},
    OIDS["text[]"]: TypeFacts(OIDS["text[]"], "_text", element=OIDS["text"]),
    OIDS["int4[]"]: TypeFacts(OIDS["int4[]"], "_int4", element=OIDS["int4"]),
}
MODIFIERS = {"numeric(10,2)": (10 << 16 | 2) + 4}
plain_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


def quoted(items: list[str | None]) -> str:
    told = ("NULL" if item is None else '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items)
    return "{" + ",".join(told) + "}"


def plain(number: Decimal) -> str:
    return format(number, "f")


UTC = datetime.UTC
EXACT = Context(prec=100)  # the default one rounds what has more than 28 digits
VALUES: dict[str, st.SearchStrategy[tuple[str, Any]]] = {  # text as PostgreSQL prints it, what a reader must find
    "bool": st.booleans().map(lambda b: ("t" if b else "f", b)),
    "int4": st.integers(-(2**31), 2**31 - 1).map(lambda n: (str(n), n)),
    "int8": st.integers(-(2**63), 2**63 - 1).map(lambda n: (str(n), n)),
    "text": plain_text.map(lambda text: (text, text)),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, places=6).map(
        lambda d: (plain(d), {"scale": 6, "value": d.scaleb(6, EXACT)})
    ),
    "numeric(10,2)": st.decimals(-(10**8) + 1, 10**8 - 1, places=2).map(lambda d: (plain(d), d)),
    "float8": st.floats(allow_nan=False).map(lambda f: (repr(f).replace("inf", "Infinity"), f)),
    "date": st.dates().map(lambda d: (d.isoformat(), (d - datetime.date(1970, 1, 1)).days)),
    "timestamp": st.datetimes().map(lambda t: (t.isoformat(" "), round_us(t.replace(tzinfo=UTC)))),
    "timestamptz": st.datetimes().map(lambda t: (t.isoformat(" ") + "+00", t.isoformat(timespec="microseconds") + "Z")),
    "uuid": st.uuids().map(lambda u: (str(u), str(u))),
    "bytea": st.binary(max_size=30).map(lambda b: ("\\x" + b.hex(), b)),
    "text[]": st.lists(st.none() | plain_text, max_size=5).map(lambda items: (quoted(items), items)),
    "int4[]": st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=5).map(
        lambda items: ("{" + ",".join("NULL" if item is None else str(item) for item in items) + "}", items)
    ),
}


def round_us(instant: datetime.datetime) -> int:
    return (instant - datetime.datetime(1970, 1, 1, tzinfo=UTC)) // datetime.timedelta(microseconds=1)


def a_table(required: bool, default: str | None = None) -> Any:
    facts = tuple(ColumnFacts(f"c {name}", OIDS[name], MODIFIERS.get(name, -1), required, default) for name in NAMES)
    relation = Relation(1, "s", "t", "d", tuple(RelationColumn(f.name, f.type_oid, f.type_modifier, i == 2) for i, f in enumerate(facts)))
    return captured_table("crm", relation, TableFacts(1, "s", "t", facts, ("c int8",), "d", TYPES))


TABLES = {required: a_table(required) for required in (True, False)}
ROWS = {
    required: fastavro.parse_schema(next(p for p in TABLES[required].value_schema["fields"][0]["type"] if isinstance(p, dict)))
    for required in TABLES
}
KEY = fastavro.parse_schema(TABLES[True].key_schema)


@given(st.fixed_dictionaries(VALUES), st.sets(st.sampled_from(NAMES)))
def test_fastavro_reads_what_the_generated_code_writes(values: dict[str, tuple[str, Any]], nulls: set[str]) -> None:
    required = not nulls - {"int8"}
    told = [None if name in nulls and name != "int8" else values[name][0].encode() for name in NAMES]
    out: list[bytes] = []
    beside: dict[str, str] = {}
    data = tuple_bytes(tuple(told))
    end, key = TABLES[required].walk(data, 0, out.append, beside, [])
    assert (end, beside) == (len(data), {})
    row = read_body(ROWS[required], b"\0\0\0\0\0" + b"".join(out))
    for name, field in zip(NAMES, row.values(), strict=True):
        want = None if name in nulls and name != "int8" else values[name][1]
        if name == "numeric" and want is not None:
            field = {**field, "value": Decimal(int.from_bytes(field["value"], "big", signed=True))}
        assert field == want or (name == "float8" and str(field) == str(want)), name
    assert key is not None
    assert read_body(KEY, b"\0\0\0\0\0" + key) == {"c_int8": values["int8"][1]}


@given(st.sampled_from(NAMES), st.binary(max_size=30))
def test_a_text_that_makes_no_sense_goes_beside_and_stops_nothing(name: str, text: bytes) -> None:
    told: list[bytes | None] = [None] * len(NAMES)
    told[2] = b"1"
    told[NAMES.index(name)] = text
    out: list[bytes] = []
    beside: dict[str, str] = {}
    TABLES[False].walk(tuple_bytes(tuple(told)), 0, out.append, beside, [])
    if name != "text" or not beside:
        return
    raise AssertionError("a text always makes sense")


@pytest.mark.parametrize(
    ("name", "modifier", "text"),
    [
        ("numeric", -1, "NaN"),
        ("numeric", -1, "Infinity"),
        ("numeric", (10 << 16 | 2) + 4, "NaN"),
        ("interval", -1, "infinity"),
        ("timestamp", -1, "294276-12-31 23:59:59"),
    ],
)
def test_what_avro_cannot_hold_is_refused_by_the_type(name: str, modifier: int, text: str) -> None:
    kind = column_type({1: TypeFacts(1, name)}, 1, modifier)
    assert kind is not None
    with pytest.raises(ValueError, match=r".*"):
        kind.encode(text.encode())


def test_numeric_with_a_negative_scale_holds_its_value() -> None:
    kind = column_type({1: TypeFacts(1, "numeric")}, 1, ((5 << 16) | (-2 & 0x7FF)) + 4)
    assert kind is not None
    assert kind.connect["parameters"] == {"scale": "0", "connect.decimal.precision": "7"}
    assert datum(kind, kind.encode(b"12300")) == (12300).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("'dflt'::text", "dflt"),
        ("'it''s'::character varying", "it's"),
        ("7", "7"),
        ("'-5'::integer", "-5"),
        ("(-5)", "-5"),
        ("1.50", "1.50"),
        ("(9.99)::text", "9.99"),
        ("true", "t"),
        ("now()", None),
        ("nextval('s'::regclass)", None),
        ("('a'::text || 'b'::text)", None),
    ],
)
def test_a_default_is_told_if_it_is_a_constant(expression: str, text: str | None) -> None:
    assert default_text(expression) == text


@given(st.integers(-(2**63), 2**63 - 1))
def test_varint_is_avros_long(n: int) -> None:
    import io

    assert fastavro.schemaless_reader(io.BytesIO(varint_bytes(n)), fastavro.parse_schema("long"), None) == n
