"""Comparing without fetching: each database hashes a chunk's rows through the mapping, and only sums of hashes are compared.

    leading system                                       another one
    the next rows in the order of the key                the rows of those things
    ├─ links ──────────── as one text, unread ──────────▶├─ joined by `concord.key`
    └─ count, sum of hashes ─────────── equal? ──────────┴─ count, sum of hashes

A hash is of the thing's link and of the fields that the two systems have to agree on, as `in_sql` says them; the sum does not depend on the
order. A chunk that is not plainly equal (a row without a link, one that differs, a value that SQL cannot say) is gone through by single
hashes, and the rows that remain are fetched and looked at as ever: so nothing is judged here but "equal".
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from connectors.rows import FlatRows, cast_type, literal, quoted
from console.verify.compare import Look
from console.verify.in_sql import said
from schemas.mapping import Entity, Pipeline

logger = logging.getLogger(__name__)

CHUNK = 5_000  # rows hashed at once: the links of so many are a few hundred kilobytes

Key = Sequence[str]  # the key columns' texts


@dataclass(frozen=True, slots=True)
class Chunk:
    """What hashes say of the next rows of a table."""

    rows: int  # read, those out of scope among them
    equal: int  # things that are the same everywhere
    odd: Sequence[str]  # keys of rows to look at
    last: Key | None  # after which to go on; None: this is the end


@dataclass(frozen=True, slots=True)
class _Sums:
    rows: int
    last: Key | None
    counted: int
    linked: int
    things: int
    links: str
    hashes: Mapping[str, tuple[int, int | None]]  # other system → (how many, their sum)


class Hashed:
    """The hashes of an entity in its databases."""

    def __init__(self, look: Look, texts: Mapping[tuple[str, str], _Texts]) -> None:
        self.entity, self.connections = look.entity, look.connections
        self._texts = texts

    @classmethod
    def of(cls, pipeline: Pipeline, look: Look) -> Hashed | None:
        """None where a field cannot be said in SQL, or two systems have nothing to agree on."""
        texts = {}
        for pair, fields in look.comparable.items():
            made = _texts(pipeline, look.entity, *pair, fields)
            if made is None:
                return None
            texts[pair] = made
        return cls(look, texts) if texts else None

    def chunks(self, leading: str) -> Iterator[Chunk]:
        """The whole table. While one chunk is compared the next one is hashed."""
        others = [system for system in self.entity.systems if system != leading]
        earlier = self.entity.systems[: self.entity.systems.index(leading)]
        with ThreadPoolExecutor(1, "hashes") as ahead:
            after: Key | None = None
            asked = others[:1] if earlier else others
            coming = ahead.submit(self._sums, leading, asked, after, not earlier)
            while True:
                sums = coming.result()
                end = sums.last is None or sums.rows < CHUNK
                if not end:
                    coming = ahead.submit(self._sums, leading, asked, sums.last, not earlier)
                yield self._compared(leading, others, earlier, after, sums, end)
                if end:
                    return
                after = sums.last

    def _compared(self, leading: str, others: Sequence[str], earlier: Sequence[str], after: Key | None, sums: _Sums, end: bool) -> Chunk:
        last = None if end else sums.last
        if sums.counted == 0:
            return Chunk(sums.rows, 0, (), last)
        plain = sums.counted == sums.linked == sums.things
        if plain and not earlier:
            told = {other: self._one(other, self._texts[other, leading].sum, [sums.links]) for other in others}
            if all(
                (sums.counted, *sums.hashes[other]) == (told[other][0], told[other][1], told[other][2])
                and sums.counted == sums.hashes[other][0]
                for other in others
            ):
                return Chunk(sums.rows, sums.things, (), last)
        if plain and earlier:  # led from there
            there = self._one(earlier[0], self._texts[earlier[0], leading].there, [sums.links])
            if there[0] == sums.things:
                return Chunk(sums.rows, 0, (), last)
        return self._singly(leading, others, earlier, after, sums, last)

    def _singly(
        self, leading: str, others: Sequence[str], earlier: Sequence[str], after: Key | None, sums: _Sums, last: Key | None
    ) -> Chunk:
        """By single hashes: which rows there are to look at."""
        mine = self._all(leading, self._texts[leading, others[0]].single(after), (*(after or ()), *(sums.last or ())))
        times = Counter(link for _, link, _ in mine)
        odd = {key for key, link, _ in mine if link is None or times[link] > 1}
        if earlier:
            known = {link for (link,) in self._all(earlier[0], self._texts[earlier[0], leading].known, [sums.links])}
            odd |= {key for key, link, _ in mine if link not in known}
            return Chunk(sums.rows, 0, sorted(odd), last)
        for other in others:
            if other != others[0]:
                mine = self._all(leading, self._texts[leading, other].single(after), (*(after or ()), *(sums.last or ())))
            theirs = self._all(other, self._texts[other, leading].singles, [sums.links])
            often = Counter(link for link, _ in theirs)
            hashes = {link: hashed for link, hashed in theirs if often[link] == 1}
            odd |= {key for key, link, hashed in mine if hashed is None or hashes.get(link) != hashed}
        return Chunk(sums.rows, len({key for key, _, _ in mine} - odd), sorted(odd), last)

    def _sums(self, leading: str, others: Sequence[str], after: Key | None, with_hashes: bool) -> _Sums:
        hashes = {}
        for other in others:
            row = self._one(leading, self._texts[leading, other].chunk(after, with_hashes), after or ())
            rows, last, counted, linked, things, links, hashed, total = row
            hashes[other] = (hashed, total)
        return _Sums(rows, last, counted, linked, things, links or "{}", hashes)

    def _one(self, system: str, statement: str, parameters: Sequence[str]) -> tuple[Any, ...]:
        return next(iter(self._all(system, statement, parameters)))

    def _all(self, system: str, statement: str, parameters: Sequence[str]) -> list[tuple[Any, ...]]:
        with closing(self.connections[system].execute(statement.encode(), list(parameters))) as cursor:
            return cursor.fetchall()


@dataclass(frozen=True, slots=True)
class _Texts:
    """Statements of one system, to be compared with another."""

    first: str
    further: str
    first_links: str  # the same without hashes
    further_links: str
    first_single: str
    further_single: str
    sum: str  # of the things with these links
    singles: str
    there: str  # how many things with these links have a row that counts
    known: str

    def chunk(self, after: Key | None, hashes: bool) -> str:
        if not hashes:
            return self.first_links if after is None else self.further_links
        return self.first if after is None else self.further

    def single(self, after: Key | None) -> str:
        return self.first_single if after is None else self.further_single


def _texts(pipeline: Pipeline, entity: Entity, system: str, other: str, fields: Sequence[str]) -> _Texts | None:
    binding = entity.bindings[system]
    flat = FlatRows(binding)
    scope = flat.in_scope()
    values = [said(pipeline, entity, system, name, flat) for name in fields]
    if scope is None or any(value is None for value in values):
        return None
    told = [value for value in values if value is not None]
    fits = " AND ".join(condition for value in told for condition in value.fits) or "true"
    image = f"ARRAY[{', '.join(['k.link', *(value.text for value in told)])}]::text[]::text"
    # 64 bits. Should two servers' versions or encodings hash otherwise, rows are odd, not wrong
    hashed = f'CASE WHEN {fits} THEN hashtextextended({image} COLLATE "C", 0) END'
    counts = f"WHERE {' AND '.join(scope)}" if scope else ""
    columns = ", ".join(f"r.{quoted(column)}" for column in binding.root_columns)
    order = ", ".join(f"r.{quoted(column)}" for column in binding.key_columns)
    casts = ", ".join(f"%s::{cast_type(binding.table, column)}" for column in binding.key_columns)
    here = f"k.entity = {literal(entity.name)} AND k.system = {literal(system)}"

    # OFFSET 0: one look into the index for each; as a plain join, a table that nobody has analysed is read from end to end
    link = f"LEFT JOIN LATERAL (SELECT k.link FROM concord.key k WHERE {here} AND k.key = {flat.key_text()} OFFSET 0) k ON true"

    def chunk(where: str, limit: str = f" LIMIT {CHUNK}") -> str:
        return f"WITH chunk AS MATERIALIZED (SELECT {columns} FROM {flat.root} r {where}ORDER BY {order}{limit})"

    last = ", ".join(f"r.{quoted(column)}::text" for column in binding.key_columns)
    down = ", ".join(f"r.{quoted(column)} DESC" for column in binding.key_columns)
    summed = (
        f" SELECT (SELECT count(*) FROM chunk), (SELECT ARRAY[{last}] FROM chunk r ORDER BY {down} LIMIT 1),"
        " count(*), count(link), count(DISTINCT link), array_agg(link) FILTER (WHERE link IS NOT NULL)::text, count(h), sum(h) FROM hashed"
    )
    with_hashes = f", hashed AS (SELECT k.link, {hashed} AS h FROM chunk t {link} {flat.joins} {counts})" + summed
    without = f", hashed AS (SELECT k.link, NULL::bigint AS h FROM chunk t {link} {flat.joins} {counts})" + summed
    single = f" SELECT {flat.key_text()}, k.link, {hashed} FROM chunk t {link} {flat.joins} {counts}"
    further = f"WHERE ({order}) > ({casts}) "
    until = f"({order}) <= ({casts}) "  # rows may have come or gone meanwhile: the same stretch of keys, not as many rows
    found = (
        f"FROM (SELECT DISTINCT unnest(%s::text[]) AS link) u"
        f" JOIN LATERAL (SELECT k.link, k.key FROM concord.key k WHERE {here} AND k.link = u.link OFFSET 0) k ON true"
        f" JOIN LATERAL (SELECT {columns} FROM {flat.root} r WHERE {flat.has_key('r', 'k.key')} OFFSET 0) t ON true {flat.joins} {counts}"
    )
    return _Texts(
        first=chunk("") + with_hashes,
        further=chunk(further) + with_hashes,
        first_links=chunk("") + without,
        further_links=chunk(further) + without,
        first_single=chunk(f"WHERE {until}", "") + single,
        further_single=chunk(f"{further}AND {until}", "") + single,
        sum=f"SELECT count(*), count(h), sum(h) FROM (SELECT {hashed} AS h {found}) h",
        singles=f"SELECT k.link, {hashed} {found}",
        there=f"SELECT count(DISTINCT k.link) {found}",
        known=f"SELECT DISTINCT k.link {found}",
    )
