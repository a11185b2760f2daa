"""What one column can hold of another's values. Pure: from the types alone, with a SQL condition that counts the values that do not fit.

text        longer than varchar(n) or char(n)                               refused
number      beyond the digits of numeric(p, s), the range of an integer     refused
            more digits after the point than numeric(p, s)                  rounded
            a fraction in an integer column                                 refused (scale: 0 rounds it)
            more significant digits than floating point has                 rounded
time        finer than timestamp(n), time(n)                                rounded
codes       no label of an enum, no number, no date, …                      refused
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from schemas.catalog import Column
from schemas.mapping.kinds import codec_for

_RANGES = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1, "oid": 2**32 - 1}
_FLOATS = {"real": 6, "double precision": 15}  # significant digits that survive
_ANY_TEXT = {"text", "character varying", "character", "name", "citext", '"char"'}
_LENGTHS = {"uuid": 36, "smallint": 6, "integer": 11, "bigint": 20, "oid": 10, "boolean": 5, '"char"': 1, "name": 63}


@dataclass(frozen=True, slots=True)
class Way:
    """What is done to a value between the two columns, as far as it changes what fits."""

    source: str = "t.x"  # SQL: the source column
    ratio: Decimal = Decimal(1)  # target number = source number × this
    scale: int | None = None  # digits after the point that the mapping rounds to anyhow
    added: int = 0  # characters that a prefix adds, or takes away
    length: int | None = None  # characters that the mapping cuts to anyhow


@dataclass(frozen=True, slots=True)
class Misfit:
    """One way in which a value may not fit."""

    what: str  # "longer than 20 characters"
    refused: bool  # else it is rounded
    mend: str
    test: str | None  # SQL: true for a value that does not fit. None: only the values can tell


def shown(column: Column) -> str:
    """`numeric(12,2)`, `varchar(20)`, `timestamp(0) with time zone`."""
    base = {"character varying": "varchar", "character": "char", "timestamp without time zone": "timestamp"}.get(column.base, column.base)
    if column.length is not None:
        return f"{base}({column.length})"
    if column.scale is not None:
        return f"{base}({column.precision},{column.scale})"
    if column.precision is not None and "time" in base:
        first, _, rest = base.partition(" ")
        return f"{first}({column.precision}){f' {rest}' if rest else ''}"
    return base


def misfits(source: Column, target: Column, way: Way) -> Iterator[Misfit]:
    """Every way in which a value of one column may not fit the other. Nothing where there is none."""
    here, there = codec_for(source), codec_for(target)
    if here is None or there is None:
        return
    if target.labels and target.category != "A":
        yield from _labels(source, target, way)
    elif there.kind == "text" and target.base in ("character varying", "character", "text", "name"):
        yield from _length(source, target, way)
    elif here.kind == there.kind == "number":
        yield from _number(source, target, way)
    elif any({here.kind, there.kind} <= kinds for kinds in ({"timestamp", "datetime"}, {"time"}, {"timetz"})):
        yield from _seconds(source, target, way)
    elif here.kind != there.kind or (here.kind == "text" and target.base not in {source.base, *_ANY_TEXT}):
        yield Misfit(f"that {_article(shown(target))} cannot be", True, "`values` or a python function, or mend them where they are", None)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _labels(source: Column, target: Column, way: Way) -> Iterator[Misfit]:
    extra = [label for label in source.labels if label not in target.labels]
    if source.labels and not extra:
        return
    labels = ", ".join("'" + label.replace("'", "''") + "'" for label in target.labels)
    which = f"other than {', '.join(target.labels[:6])}{', …' * (len(target.labels) > 6)}"
    yield Misfit(which, True, "`values`: its codes and theirs", f"({way.source})::text NOT IN ({labels})")


def _length(source: Column, target: Column, way: Way) -> Iterator[Misfit]:
    limit = target.length
    if limit is None or (way.length is not None and way.length <= limit):
        return
    limit -= way.added
    longest = source.length if source.base in ("character varying", "character") else _LENGTHS.get(source.base)
    if longest is not None and longest <= limit:
        return
    yield Misfit(
        f"longer than {limit} characters",
        True,
        f"`shorten: {target.length}` there if they may be cut, or widen {target.name}",
        f"length(rtrim(({way.source})::text, ' ')) > {limit}",
    )


def _number(source: Column, target: Column, way: Way) -> Iterator[Misfit]:
    places = _places(source, way)
    most = _magnitude(source)
    most = None if most is None else most * abs(way.ratio)
    value = f"({way.source})::numeric" + (f" * {way.ratio}" if way.ratio != 1 else "")
    if way.scale is not None:
        value = f"round({value}, {way.scale})"
    finite = f"({way.source})::text NOT IN ('NaN', 'Infinity', '-Infinity')"
    if target.base in _RANGES:
        if places is None or places > 0:
            mend = "`scale: 0` if they may be rounded, or a numeric column"
            yield Misfit("with a fraction", True, mend, f"{finite} AND {value} <> trunc({value})")
        if most is None or most > _RANGES[target.base]:
            mend = f"a wider column than {target.name}"
            yield Misfit(f"beyond {_RANGES[target.base]:,}", True, mend, f"{finite} AND abs({value}) > {_RANGES[target.base]}")
    elif target.base == "numeric" and target.scale is not None and target.precision is not None:
        scale, limit = target.scale, Decimal(10) ** (target.precision - target.scale)
        if places is None or places > scale:
            yield Misfit(
                f"with more than {scale} digits after the point",
                False,
                f"`scale: {scale}` for the field, if it is meant so",
                f"{finite} AND {value} <> round({value}, {scale})",
            )
        if most is None or most >= limit:
            yield Misfit(
                f"of {limit:,.0f} and more" if limit >= 1 else f"of {limit} and more",
                True,
                f"widen {target.name}",
                f"{finite} AND abs(round({value}, {scale})) >= {limit:f}",
            )
    elif target.base in _FLOATS and source.base not in _FLOATS:
        digits = _digits(source)
        if digits is None or digits > _FLOATS[target.base]:
            yield Misfit(
                f"with more than {_FLOATS[target.base]} significant digits",
                False,
                f"a numeric column in place of {target.name}, if they are exact amounts",
                f"{finite} AND {value} <> (({value})::{target.base})::numeric",
            )


def _places(source: Column, way: Way) -> int | None:
    """Digits after the point that a value may have. None: any number."""
    if source.base in _RANGES:
        places: int | None = 0
    else:
        places = max(source.scale, 0) if source.scale is not None else None
    if places is not None and way.ratio != 1:
        exponent = way.ratio.normalize().as_tuple().exponent
        assert isinstance(exponent, int)
        places = max(places - exponent, 0)
    if way.scale is not None:
        places = max(way.scale, 0) if places is None else min(places, max(way.scale, 0))
    return places


def _magnitude(source: Column) -> Decimal | None:
    if source.base in _RANGES:
        return Decimal(_RANGES[source.base])
    if source.precision is not None and source.scale is not None:
        return Decimal(10) ** (source.precision - source.scale) - Decimal(10) ** -source.scale
    return None


def _digits(source: Column) -> int | None:
    if source.base in _RANGES:
        return len(str(_RANGES[source.base]))
    return source.precision


def _seconds(source: Column, target: Column, way: Way) -> Iterator[Misfit]:
    here, there = (6 if column.precision is None else column.precision for column in (source, target))
    if here > there:
        kind, _, zone = source.base.partition(" ")
        yield Misfit(
            f"finer than {'whole seconds' if there == 0 else f'{there} digits of a second'}",
            False,
            f"widen {target.name} to {kind}(6), if the rest matters",
            f"({way.source})::{kind}({there}) {zone} <> ({way.source})",
        )
