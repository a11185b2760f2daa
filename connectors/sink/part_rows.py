"""What the write of one entity comes to, row by row: its root, and the rows of its parts. Pure.

    parent part   inserted before what points at it, its key goes into the link columns there; an existing one, shared or not, is updated
    root          inserted or updated; also when only a part changes, if it has `always` columns: an application's optimistic lock is there
    child part    the chosen row is updated; where there is none, one is inserted, with the key of the row above in its link columns; all
                  others are left alone. One whose fields have all become null is blanked, or deleted (`empty: delete`)

Nothing is inserted for a part whose fields are all null, unless something hangs at it that is, or the root only counts with it.

A row whose link columns get the key of another one that is inserted in the same write has a later *step*: a step is one round trip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from schemas.change import Canonical
from schemas.errors import MappingError
from schemas.mapping import ROOT, Binding, Part, Row


class Op(StrEnum):
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    CLEAR = "clear"  # delete all rows of a child part that hang at a row, directly or further down, and count


@dataclass(slots=True, eq=False)
class RowWrite:
    """One row to write, in one table."""

    part: str  # or ROOT
    op: Op
    key: tuple[str, ...]  # its key columns' texts; of CLEAR: those of the row above; (): made by an insert
    columns: dict[str, str | None]
    above: str = ROOT  # of CLEAR: the part whose row `key` names
    points: list[tuple[Part, RowWrite]] = field(default_factory=list)  # whose key goes into the part's link columns, here

    @property
    def step(self) -> int:
        return max((other.step + 1 for _, other in self.points), default=0)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it will have."""
        links = [column for part, _ in self.points for column in part.link if column not in self.columns]
        return (*self.columns, *links) if links else tuple(self.columns)

    def point(self) -> None:
        """Takes in the keys of the rows that were inserted before."""
        for part, other in self.points:
            self.columns.update(part.link_texts(other.key))


def is_there(part: Part, row: Row) -> bool:
    """Whether a flat row has a row of the part."""
    return all(row.get(part.flat(column)) is not None for column in part.key_columns)


def part_key(part: Part, row: Row) -> tuple[str, ...]:
    """Of a row that is there: its key columns' texts."""
    return tuple(str(row[part.flat(column)]) for column in part.key_columns)


class Rows:
    """The shape of one binding, and its writes by rows."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.parts = [part for part in binding.parts if not part.aggregates]
        self.fields = {part.name: self._fields(part.name) for part in self.parts}
        self._empty = {name: _empty(binding, name) for name in binding.writable}
        self.below = {name: [part for part in self.parts if part.of == name] for name in (ROOT, *self.fields)}
        self.place = {
            name: number for number, name in enumerate(self._in_order(ROOT))
        }  # parent parts first, then the row, then its children
        self._shared = {part.name: self._shared_by(part) for part in self.parts}

    def _fields(self, part: str) -> tuple[str, ...]:
        binding = self.binding
        return tuple(
            name
            for name in binding.columns
            if name in binding.writable and any(binding.split(column)[0] == part for column in binding.columns[name])
        )

    def _in_order(self, name: str) -> Iterator[str]:
        for part in self.below[name]:
            if part.kind == "parent":
                yield from self._in_order(part.name)
        yield name
        for part in self.below[name]:
            if part.kind == "child":
                yield from self._in_order(part.name)

    def _shared_by(self, part: Part) -> Part | None:
        """The part through which many roots may have a row of this one."""
        while part.kind != "parent":
            if part.of == ROOT:
                return None
            part = self.binding.part[part.of]
        return part

    # what is there

    def held(self, row: Row) -> Row:
        """The flat row without the columns of rows that are not there."""
        absent = {part.name for part in self.parts if not is_there(part, row)}
        return {column: text for column, text in row.items() if self.binding.split(column)[0] not in absent} if absent else row

    def shared_rows(self, writes: Iterable[RowWrite], row: Row) -> set[tuple[str, tuple[str, ...]]]:
        """(table, key) of the rows that other roots may have as well, and in or below which something is written."""
        found: set[tuple[str, tuple[str, ...]]] = set()
        for write in writes:
            part = None if write.part == ROOT else self._shared[write.part]
            if part is not None and is_there(part, row):
                found.add((str(part.table), part_key(part, row)))
        return found

    def all_shared(self, row: Row) -> set[tuple[str, tuple[str, ...]]]:
        """(table, key) of all its rows that other roots may have as well."""
        return {(str(part.table), part_key(part, row)) for part in self.parts if part.kind == "parent" and is_there(part, row)}

    def moving(self, columns: Mapping[str, str | None], insert: bool) -> set[str]:
        """Fields in, or below, a part at which the write makes the row above point otherwise than by our inserting it: what is there is
        not known yet."""
        binding = self.binding
        moved: set[str] = set()
        fields: set[str] = set()
        for part in self.parts:
            expressed = binding.insert if part.of == ROOT else binding.part[part.of].insert
            links = [column if part.of == ROOT else f"{part.of}.{column}" for column in part.link]
            if insert:
                pointed = any(columns.get(link) is not None for link in links) or any(column in expressed for column in part.link)
            else:
                pointed = any(link in columns for link in links)
            if part.of in moved or (part.kind == "parent" and not part.made and pointed):
                moved.add(part.name)
                fields.update(self.fields[part.name])
        return fields

    # what is to be

    def removal(self, key: tuple[str, ...]) -> list[RowWrite]:
        """The entity's end: its root, and before it the rows of child parts that are ours to make. Parents stay, others have them too."""
        return [*self._clearing(ROOT, key), RowWrite(ROOT, Op.DELETE, key, {})]

    def _clearing(self, above: str, key: tuple[str, ...]) -> list[RowWrite]:
        return [RowWrite(part.name, Op.CLEAR, key, {}, above) for part in reversed(self._ours_below(above))]

    def _ours_below(self, above: str) -> list[Part]:
        """Child parts that a sink inserts, each before what hangs at it."""
        found = []
        for part in self.below[above]:
            if part.kind == "child" and part.made:
                found += [part, *self._ours_below(part.name)]
        return found

    def writes(
        self,
        key: tuple[str, ...],
        held: Row | None,
        columns: Mapping[str, str | None],
        after: Mapping[str, Canonical],
        made: frozenset[str],
    ) -> list[RowWrite]:
        """`key`: of the root, () of one to be inserted. `held`: the flat row; None: there is none. `columns`: of the flat row, as they are
        to be, those that differ. `after`: the fields as they are to be. `made`: fields that insert expressions give their value.

        Raises MappingError where a row would be needed that nobody can make.
        """
        if not self.parts:
            return [RowWrite(ROOT, Op.INSERT if held is None else Op.UPDATE, key, dict(columns))]
        return _Draft(self, key, held, columns, after, made).rows()

    def is_filled(self, part: str, after: Mapping[str, Canonical], made: frozenset[str]) -> bool:
        return any(after.get(name) is not None and after[name] != self._empty[name] for name in self.fields[part] if name not in made)


class _Draft:
    """One write in the making."""

    def __init__(
        self,
        shape: Rows,
        key: tuple[str, ...],
        held: Row | None,
        columns: Mapping[str, str | None],
        after: Mapping[str, Canonical],
        made: frozenset[str],
    ) -> None:
        self._shape = shape
        self._binding = shape.binding
        self._held: Row = {} if held is None else held
        self._after = after
        self._made = made
        self._columns: dict[str, dict[str, str | None]] = {}
        for column, text in columns.items():
            part, own = self._binding.split(column)
            self._columns.setdefault(part, {})[own] = text
        self._insert = held is None
        self._fresh: dict[str, str | None] | None = None
        self._rows: dict[str, RowWrite] = {}
        self._clear: list[RowWrite] = []
        own_columns = self._columns.get(ROOT, {})
        if self._insert or own_columns:
            self._rows[ROOT] = RowWrite(ROOT, Op.INSERT if self._insert else Op.UPDATE, key, own_columns)
        self._key = tuple(own_columns.get(column) or text for column, text in zip(self._binding.key_columns, key, strict=False))
        self._old_key = key

    def rows(self) -> list[RowWrite]:
        for part in self._shape.parts:
            if is_there(part, self._held):
                self._existing(part)
            elif self._needed(part):
                self._missing(part)
        written = bool(self._rows)
        if written and ROOT not in self._rows and self._binding.always:
            self._row(ROOT)
        return [*self._clear, *self._rows.values()]

    def _needed(self, part: Part) -> bool:
        if self._shape.is_filled(part.name, self._after, self._made) or (part.required and self._insert):
            return True
        return any(self._needed(below) for below in self._shape.below[part.name])

    def _existing(self, part: Part) -> None:
        changed = self._columns.get(part.name)
        if not changed:
            return
        key = part_key(part, self._held)
        if part.kind == "child" and part.empty == "delete" and not part.required and not self._needed(part):
            self._clear += self._shape._clearing(part.name, key)
            self._rows[part.name] = RowWrite(part.name, Op.DELETE, key, {})
        else:
            self._row(part.name).columns.update(changed)

    def _missing(self, part: Part) -> None:
        above = part.of
        there = above == ROOT or above in self._rows or is_there(self._binding.part[above], self._held)
        if not part.made or not there:
            needed = ", ".join(name for name in self._shape.fields[part.name] if self._after.get(name) is not None) or "what hangs at it"
            why = "nothing says how to make one" if there else f"nor is there one of {above}, at which it would hang"
            raise MappingError(f"{self._binding.entity} in {self._binding}: there is no row of {part} for {needed}, and {why}")
        row = RowWrite(part.name, Op.INSERT, (), self._fresh_columns(part))
        if part.kind == "parent":
            self._check_dangling(part)
            self._row(above).points.append((part, row))
        elif above in self._rows and self._rows[above].op is Op.INSERT:
            row.points.append((part, self._rows[above]))
        else:
            row.columns.update(part.link_texts(self._key if above == ROOT else part_key(self._binding.part[above], self._held)))
        self._rows[part.name] = row

    def _check_dangling(self, part: Part) -> None:
        """A link that points somewhere is somebody's: never turned elsewhere."""
        names = [column if part.of == ROOT else f"{part.of}.{column}" for column in part.link]
        texts = [self._held.get(name) for name in names]
        if all(text is not None for text in texts):
            told = ", ".join(f"{name} is {text!r}" for name, text in zip(names, texts, strict=True))
            raise MappingError(f"{self._binding.entity} in {self._binding}: {told}, but there is no such row of {part} that counts")

    def _row(self, name: str) -> RowWrite:
        """The write of a row that is there, or is being inserted."""
        if name not in self._rows:
            key = self._old_key if name == ROOT else part_key(self._binding.part[name], self._held)
            self._rows[name] = RowWrite(name, Op.UPDATE, key, {})
        return self._rows[name]

    def _fresh_columns(self, part: Part) -> dict[str, str | None]:
        """All that is mapped of a row to be inserted: a field that is null says so, since the column's default would be another value."""
        binding = self._binding
        if self._fresh is None:
            inserted = {one.name for one in self._shape.parts if not is_there(one, self._held)}
            names = [name for one in inserted for name in self._shape.fields[one] if name not in self._made]
            self._fresh = binding.to_columns({name: self._after.get(name) for name in names}, self._shape.held(self._held))
        fresh = {}
        for column, text in self._fresh.items():
            of, own = binding.split(column)
            if of == part.name and (text is not None or not database_fills(binding, column)):
                fresh[own] = text
        return fresh


def database_fills(binding: Binding, column: str) -> bool:
    """Whether a null is better left to the column's default: the database would refuse it."""
    described = binding.shape.column(column)
    return described is not None and described.not_null and described.has_default


def _empty(binding: Binding, name: str) -> Canonical:
    """What a field is read as where its part's row is not there."""
    try:
        return binding.sides[name].value_of([None] * len(binding.sides[name].columns)) if binding.columns[name] else None
    except (ValueError, ArithmeticError):
        return None
