"""Values of every type that can be mapped, as PostgreSQL takes them: the nasty ones first, then what a seed makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from uuid import UUID

Make = Callable[[Random], str]
ALPHABET = "aZ09 _-.,;:'\"\\{}()[]<>&%$#@!?*/|~^`=+\n\t\u00e9\u00df\u4e0a\U0001f600e\u0301\u202e"


@dataclass(frozen=True, slots=True)
class Case:
    """One type."""

    type: str  # as it is declared
    nasty: tuple[str, ...]
    make: Make
    same: str = "text"  # how two values of it are compared: text, or SQL over $1 (here) and $2 (there)
    note: str = ""  # what "exactly" means, where it is not the text


def _integer(low: int, high: int) -> Make:
    return lambda random: str(random.choice((random.randint(low, high), random.randint(max(low, -300), min(high, 300)))))


def _decimal(digits: int, scale: int) -> Make:
    def make(random: Random) -> str:
        number = random.randint(-(10 ** random.randint(1, digits)) + 1, 10 ** random.randint(1, digits) - 1)
        return format(Decimal(number).scaleb(-scale), "f")

    return make


def _text(longest: int, alphabet: str = ALPHABET) -> Make:
    return lambda random: "".join(random.choice(alphabet) for _ in range(random.randint(0, longest)))


def _stamp(zone: bool, digits: int = 6) -> Make:
    def make(random: Random) -> str:
        year, bc = random.choice(
            (
                (random.randint(1900, 2100), ""),
                (random.randint(1, 9999), ""),
                (random.randint(10000, 200000), ""),
                (random.randint(1, 4000), " BC"),
            )
        )
        seconds = f"{random.randint(0, 23):02d}:{random.randint(0, 59):02d}:{random.randint(0, 59):02d}"
        fraction = f".{random.randint(0, 10**digits - 1):0{digits}d}" if digits and random.random() < 0.8 else ""
        offset = random.choice(("+00", "+05:30", "-11", "+14")) if zone else ""
        return f"{year:04d}-{random.randint(1, 12):02d}-{random.randint(1, 28):02d} {seconds}{fraction}{offset}{bc}"

    return make


def _date(random: Random) -> str:
    stamp = _stamp(False, 0)(random)
    return stamp.split(" ")[0] + stamp[stamp.find(" BC") :] if stamp.endswith(" BC") else stamp.split(" ")[0]


def _time(random: Random) -> str:
    return _stamp(False)(random).split(" ")[1]


def _interval(random: Random) -> str:
    signs = [random.choice(("", "-")) for _ in range(3)]
    return (
        f"{signs[0]}{random.randint(0, 2000)} mons {signs[1]}{random.randint(0, 4000)} days "
        f"{signs[2]}{random.randint(0, 3000)}:{random.randint(0, 59)}:{random.randint(0, 59)}.{random.randint(0, 999999):06d}"
    )


def _json(random: Random, depth: int = 0) -> object:
    kind = random.randint(0, 6 if depth < 3 else 4)
    leaves: tuple[object, ...] = (
        None,
        random.random() < 0.5,
        random.randint(-(2**60), 2**60),
        random.randint(0, 9999) / 8,
        _text(8)(random),
    )
    if kind < 5:
        return leaves[kind]
    if kind == 5:
        return [_json(random, depth + 1) for _ in range(random.randint(0, 3))]
    return {_text(5)(random): _json(random, depth + 1) for _ in range(random.randint(0, 3))}


def _json_text(random: Random) -> str:
    return json.dumps(_json(random), ensure_ascii=random.random() < 0.5)


def _float(digits: int, exponent: int) -> Make:
    return lambda random: f"{random.choice(('', '-'))}{random.randint(0, 10**digits)}e{random.randint(-exponent, exponent)}"


def quoted(item: str) -> str:
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _array(make: Make) -> Make:
    return lambda random: (
        "{" + ",".join("NULL" if random.random() < 0.15 else quoted(make(random)) for _ in range(random.randint(0, 5))) + "}"
    )


def _bits(length: int) -> Make:
    return lambda random: "".join(random.choice("01") for _ in range(length))


def _uuid(random: Random) -> str:
    return str(UUID(int=random.getrandbits(128)))


def _inet(random: Random) -> str:
    if random.random() < 0.5:
        return (
            f"{random.randint(0, 255)}.{random.randint(0, 255)}.{random.randint(0, 255)}.{random.randint(0, 255)}/{random.randint(0, 32)}"
        )
    return ":".join(f"{random.randint(0, 65535):x}" for _ in range(8)) + f"/{random.randint(0, 128)}"


def _mac(count: int) -> Make:
    return lambda random: ":".join(f"{random.randint(0, 255):02x}" for _ in range(count))


def _range(make: Make, key: Callable[[str], object]) -> Make:
    def make_range(random: Random) -> str:
        low, high = sorted((make(random), make(random)), key=key)  # type: ignore[type-var, arg-type]
        return f"{random.choice('[(')}{random.choice((low, ''))},{random.choice((high, ''))}{random.choice('])')}"

    return make_range


def _hstore(random: Random) -> str:
    pairs = {_text(6)(random): _text(6)(random) if random.random() < 0.8 else None for _ in range(random.randint(0, 3))}
    return ",".join(f"{quoted(key)}=>{'NULL' if value is None else quoted(value)}" for key, value in pairs.items())


def _stamp_near(random: Random) -> str:
    return (
        f"20{random.randint(10, 99)}-0{random.randint(1, 9)}-1{random.randint(0, 9)} 1{random.randint(0, 9)}:00:00.{random.randint(1, 999)}"
    )


_EDGES = (
    "infinity",
    "-infinity",
    "0001-01-01 00:00:00",
    "0044-03-15 12:00:00 BC",
    "20000-01-01 00:00:00.000001",
    "1500-02-28 23:59:59.999999",
    "1969-12-31 23:59:59.999999",
)
_EQUAL = "$1 IS NOT DISTINCT FROM $2"
_NUMBER = "as numbers: 1.50 arrives as 1.5 where the column leaves the scale open"

CASES: dict[str, Case] = {
    case.type: case
    for case in (
        Case("boolean", ("t", "f"), lambda random: random.choice("tf")),
        Case("smallint", ("-32768", "32767", "0"), _integer(-(2**15), 2**15 - 1)),
        Case("integer", ("-2147483648", "2147483647", "0"), _integer(-(2**31), 2**31 - 1)),
        Case("bigint", ("-9223372036854775808", "9223372036854775807", "9007199254740993"), _integer(-(2**63), 2**63 - 1)),
        Case("oid", ("0", "4294967295"), _integer(0, 2**32 - 1)),
        Case("numeric", ("NaN", "0", "1e40", "-0.00000000000000000001", "1.50", "12", "1234"), _decimal(60, 17), _EQUAL, _NUMBER),
        Case("numeric(12,2)", ("NaN", "-9999999999.99", "0.00", "12.34", "10"), _decimal(11, 2)),
        Case("numeric(5,0)", ("99999", "-1", "NaN"), _decimal(5, 0)),
        Case("numeric(38,10)", ("0.0000000001", "NaN"), _decimal(37, 10)),
        Case("real", ("NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38", "1.1", "-0"), _float(6, 30), _EQUAL),
        Case(
            "double precision", ("NaN", "Infinity", "-Infinity", "5e-324", "1.7976931348623157e308", "0.1", "-0"), _float(15, 280), _EQUAL
        ),
        Case("text", ("", " ", "\u4e0a\u6d77", "\U0001f600", "\\", "'; --", "NULL", "{}", "x" * 9000, "__debezium", "MTIz"), _text(40)),
        Case("character varying(40)", ("", " x ", "\u00e9" * 40), _text(40)),
        Case("character(5)", ("", "ab", "  x"), _text(5), note="without its padding"),
        Case("citext", ("CiText", ""), _text(20)),
        Case("name", ("", "nm"), _text(15, "abcXYZ 0-_")),
        Case('"char"', ("q", ""), lambda random: random.choice("abcXYZ09 ")),
        Case("mood", ("sad", "o k", "it's"), lambda random: random.choice(("sad", "o k", "it's"))),
        Case("posint", ("1",), _integer(1, 2**31 - 1)),
        Case("shortname", ("",), _text(9)),
        Case(
            "bytea",
            ("\\x", "\\x00", "\\xdeadbeef", "\\x" + "ab" * 5000),
            lambda random: "\\x" + random.randbytes(random.randint(0, 60)).hex(),
        ),
        Case("date", ("infinity", "-infinity", "0001-01-01", "0044-03-15 BC", "20000-01-01", "1500-02-28", "5874897-12-31"), _date),
        Case("time", ("00:00", "24:00", "23:59:59.999999", "12:00:00.1"), _time),
        Case("time(3)", ("23:59:59.999", "24:00"), _time),
        Case(
            "time with time zone",
            ("00:00+00", "24:00+00", "13:14:15.123456+05:30", "01:00+15:59"),
            lambda random: _time(random) + random.choice(("+00", "-08", "+05:45")),
            "$1 AT TIME ZONE 'UTC' IS NOT DISTINCT FROM $2 AT TIME ZONE 'UTC'",
            "the same moment of the day, in UTC",
        ),
        Case("timestamp", _EDGES, _stamp(False)),
        Case("timestamp(3)", _EDGES, _stamp(False, 3)),
        Case("timestamp(0)", _EDGES, _stamp(False, 0)),
        Case("timestamp with time zone", _EDGES, _stamp(True)),
        Case("timestamp(3) with time zone", _EDGES, _stamp(True, 3)),
        Case(
            "interval",
            (
                "0",
                "1 year 2 mons 3 days 04:05:06.789",
                "-1 mons +2 days -03:04:05.678",
                "178000000 years",
                "00:00:00.000001",
                "-00:00:00.5",
            ),
            _interval,
        ),
        Case("uuid", ("00000000-0000-0000-0000-000000000000",), _uuid),
        Case(
            "json",
            ('{"b": 1,  "a":[1,2.50]}', "null", '"\\u00e9"', "1e400", "[]"),
            _json_text,
            "$1::jsonb IS NOT DISTINCT FROM $2::jsonb",
            "as values: spacing and the order of keys are not kept",
        ),
        Case("jsonb", ('{"b": 1, "a": [1, 2.50]}', "null", "1e400", "{}"), _json_text, _EQUAL, "as values"),
        Case("hstore", ("", '"k1"=>"v1","k2"=>NULL'), _hstore, _EQUAL),
        Case("xml", ("<a>x</a>", ""), lambda random: f'<a b="{random.randint(0, 99)}">{random.randint(0, 99)}</a>'),
        Case("ltree", ("top.a.b",), lambda random: ".".join(random.choice("abc") for _ in range(3))),
        Case("inet", ("192.168.0.1/24", "::1", "10.0.0.1"), _inet),
        Case("cidr", ("10.1.0.0/16", "::/0"), lambda random: f"{random.randint(0, 255)}.{random.randint(0, 255)}.0.0/16"),
        Case("macaddr", ("08:00:2b:01:02:03",), _mac(6)),
        Case("macaddr8", ("08:00:2b:01:02:03:04:05",), _mac(8)),
        Case("bit(1)", ("0", "1"), _bits(1)),
        Case("bit(5)", ("00000", "10110"), _bits(5)),
        Case("bit(64)", ("1" * 64, "0" * 64), _bits(64)),
        Case("int4range", ("empty", "[1,10)", "(,)"), _range(_integer(-1000, 1000), int)),
        Case("int8range", ("empty", "[1,9007199254740993)"), _range(_integer(-(2**60), 2**60), int)),
        Case("numrange", ("empty", "[1.50,2.5]"), _range(_decimal(9, 3), Decimal)),
        Case("daterange", ("[2024-01-01,2024-02-01)", "(,infinity)"), _range(lambda random: _stamp_near(random)[:10], str)),
        Case("tsrange", ('["2024-01-01 00:00","2024-02-01 00:00")',), _range(_stamp_near, str)),
        Case("tstzrange", ('["2024-01-01 00:00+00","2024-02-01 00:00+02")',), _range(_stamp_near, str)),
        Case("tsvector", ("the quick fox", "'a':1 'b':2"), lambda random: " ".join(random.choice("abcdef") for _ in range(4))),
        Case("integer[]", ("{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={1,2}"), _array(_integer(-(2**31), 2**31 - 1))),
        Case("smallint[]", ("{}", "{1,-32768}"), _array(_integer(-(2**15), 2**15 - 1))),
        Case("bigint[]", ("{9007199254740993}",), _array(_integer(-(2**63), 2**63 - 1))),
        Case("text[]", ("{}", '{a,NULL,"NULL","x,y","",\\\\}', "{{a,b},{c,NULL}}"), _array(_text(8))),
        Case("character varying(9)[]", ("{}",), _array(_text(9))),
        Case("numeric(10,2)[]", ("{1.50,2.25,NULL}", "{NaN}"), _array(_decimal(9, 2)), _EQUAL, "as numbers"),
        Case("numeric[]", ("{1.5,0.00000000000000000001}", "{NaN}"), _array(_decimal(30, 9)), _EQUAL, "as numbers"),
        Case("boolean[]", ("{t,f,NULL}",), _array(lambda random: random.choice("tf"))),
        Case("uuid[]", ("{}",), _array(_uuid)),
        Case("date[]", ("{2024-02-29,NULL}", "{infinity}"), _array(_date)),
        Case("timestamp[]", ('{"2024-02-29 13:14:15.123456"}',), _array(_stamp(False))),
        Case("timestamp with time zone[]", ('{"2024-02-29 13:14:15.123456+02"}',), _array(_stamp(True))),
        Case("time[]", ("{13:14:15.123456}",), _array(_time)),
        Case("double precision[]", ("{0.1,NaN,Infinity}",), _array(_float(15, 280)), _EQUAL, "as numbers"),
        Case("real[]", ("{1.1,NaN}",), _array(_float(6, 30)), _EQUAL, "as numbers"),
        Case("mood[]", ('{sad,"o k"}', "{sad,NULL}"), lambda random: random.choice(("{}", "{sad}", '{"o k",sad}', '{"it\'s","o k"}'))),
        Case("bytea[]", ('{"\\\\xdead"}',), _array(lambda random: "\\x" + random.randbytes(3).hex())),
        Case("jsonb[]", ('{"{\\"a\\": 1}"}',), _array(_json_text), _EQUAL, "as values"),
        Case("interval[]", ('{"1 mon"}',), _array(_interval)),
        Case("inet[]", ("{::1}",), _array(_inet)),
    )
}


def rows(seed: int | None, count: int) -> list[dict[str, str]]:
    """`count` rows with a value of every type. Without a seed: the nasty values, as many rows as there are."""
    if seed is None:
        most = max(len(case.nasty) for case in CASES.values())
        return [{case.type: case.nasty[n % len(case.nasty)] for case in CASES.values()} for n in range(most)]
    random = Random(seed)
    return [{case.type: case.make(random) for case in CASES.values()} for _ in range(count)]
