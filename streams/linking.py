"""Which thing is this row? What intake and join do with the rows of a place once they are rows of an entity.

    row changes ─▶ which thing? ──▶ changes.<entity>   keyed by link
                     │    ▲
           claims.<entity> │ links.<system>.…
                     ▼    │
                   identify

The table keeps, per row key, what `streams.rows` knows of the row for each entity. Answers come in the partition in which the rows are, so
one lane handles both, and an event and an answer never cross.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import orjson

from schemas import topics
from schemas.change import row_name
from schemas.errors import Refused, SchemaError
from schemas.mapping import Binding, Pipeline
from schemas.metrics import State
from streams.crosswalk import Crosswalk, RowId
from streams.letters import DeadLetters
from streams.metrics import Ends, count
from streams.rows import Known, Place, RowChange, Step, first_link, name_again, on_answer, on_event, on_moved, takes
from streams.transport import Chunk, ChunkApp, ChunkTable, Output, Record


class EntityChange(NamedTuple):
    """A row change, as one entity sees it."""

    entity: str
    change: RowChange
    record: Record  # that told of it
    moved_on: bool = False  # the row lives on under another key


class _Answered(NamedTuple):
    """Identify's answer to a claim."""

    entity: str
    key: str
    link: str | None
    value: str  # match value
    at: str  # position


_Taking = tuple[RowId, str | None]  # a row and a link that it is to get


class Linking:
    """Finds the things of the rows of one place. `bindings` of one root table, one of each entity."""

    def __init__(
        self, app: ChunkApp, pipeline: Pipeline, bindings: Sequence[Binding], name: str, crosswalk: Crosswalk, letters: DeadLetters
    ) -> None:
        self._app, self._crosswalk, self._letters = app, crosswalk, letters
        self._bindings = {binding.entity: binding for binding in bindings}
        self._entities = {entity: pipeline.entities[entity] for entity in self._bindings}
        self.system, table = bindings[0].system, bindings[0].table
        self._place = f"{table.schema}.{table.name}"
        self._table = cast("ChunkTable[dict[str, Known]]", app.Table(name, partitions=pipeline.config.kafka.partitions))

    # events -------------------------------------------------------------------------------------------------------------------------------

    async def take(self, changes: Sequence[EntityChange], partition: int, outputs: list[Output], ends: Ends) -> None:
        """What follows from these. Raises Retriable."""
        place = Place(self.system, self._place, partition)
        found = await self._found(changes)
        links, refused = await self._first_links(changes, found, place)
        found |= links
        for entity, change, record, moved_on in changes:
            row, known = (entity, change.key), self._known(entity, change.key)
            if moved_on:
                self._put(entity, change.key, known, on_moved(known, change, place), outputs)
                ends[self.system, entity, State.SUPERSEDED] += 1
                continue
            link = found.get(row) or (found.get((entity, change.was)) if change.was else None)
            if row in refused and first_link(known, change, place, self._births(entity), link) is not None:
                # neither name is in force, so neither may be used (docs/decisions/0028); its next event asks for another
                error = Refused(
                    f"{entity} {row_name(self.system, change.key)}: {refused[row]} is the name of another row, too", "name_taken"
                )
                self._letters.bury(record, error, self.system, entity, outputs, ends)
                continue
            step = on_event(known, change, place, self._births(entity), link)
            self._put(entity, change.key, known, step, outputs)
            if step.out_of_scope:
                ends[self.system, entity, State.OUT_OF_SCOPE] += 1

    def _known(self, entity: str, key: str) -> Known | None:
        return (self._table.get(key) or {}).get(entity)

    async def _found(self, changes: Sequence[EntityChange]) -> dict[tuple[str, str], str]:
        """(entity, key) → link, of rows whose link the table does not have and the crosswalk does. Raises Retriable.

        The sink links a row in the transaction that makes it, so an echo's link is there; but its event may be read before the transaction
        is visible. Only once it is, no link means that there is none: a trigger's row (docs/decisions/0008).
        """
        unknown = self._unknown(changes)
        found = await self._crosswalk.links_of(self.system, unknown)
        missed = [
            (entity, change.key, change.xid)
            for entity, change, _, _ in changes
            if change.origin_hlc is not None and change.values is not None and change.xid is not None
            if (entity, change.key) in unknown and (entity, change.key) not in found
        ]
        if missed:
            await self._crosswalk.await_visible(self.system, {xid for _, _, xid in missed})
            found |= await self._crosswalk.links_of(self.system, {(entity, key) for entity, key, _ in missed})
        return found

    async def _first_links(
        self, changes: Sequence[EntityChange], found: Mapping[RowId, str], place: Place
    ) -> tuple[dict[RowId, str], dict[RowId, str]]:
        """(entity, key) → link in force, of rows that these changes give their first; and → the last name that it was refused, of rows
        whose names are all other rows'. Raises Retriable."""
        after: dict[RowId, Known | None] = {}
        wanted: dict[RowId, str] = {}
        again: dict[RowId, str] = {}  # what the row is called if that name is another thing's
        xids: dict[RowId, set[int]] = {}
        for entity, change, _, moved_on in changes:
            row = entity, change.key
            known = after[row] if row in after else self._known(*row)
            link = found.get(row) or (found.get((entity, change.was)) if change.was else None)
            if moved_on or link is not None or row in wanted or (known is not None and known["link"] is not None):
                continue
            first = first_link(known, change, place, self._births(entity), None)
            if first is not None:
                wanted[row], again[row] = first, name_again(self.system, change.key, change.version)
                xids[row] = set() if change.xid is None else {change.xid}  # in which the row that has the name may have gone
            else:
                after[row] = on_event(known, change, place, self._births(entity), None).known
        in_force = await self._crosswalk.take(self.system, wanted, self._bindings, xids)
        refused = {row: again[row] for row, link in in_force.items() if link is None}
        in_force |= await self._crosswalk.take(self.system, refused, self._bindings, xids)
        links = {row: link for row, link in in_force.items() if link is not None}
        return links, {row: name for row, name in refused.items() if row not in links}

    def _births(self, entity: str) -> bool:
        return self.system in self._entities[entity].born_in

    def _unknown(self, changes: Iterable[EntityChange]) -> set[tuple[str, str]]:
        """(entity, key) of rows whose link the table does not have."""
        unknown = set()
        for entity, change, _, _ in changes:
            known = self._known(entity, change.key)
            if known is None or known["link"] is None:
                unknown.add((entity, change.key))
                if change.was is not None:
                    unknown.add((entity, change.was))
        return unknown

    # what identify answers ----------------------------------------------------------------------------------------------------------------

    async def on_answers(self, chunk: Chunk) -> None:
        ends, outputs = Ends(), list[Output]()
        answers: list[_Answered] = []
        for record in chunk:
            try:
                answers.append(_answer(record, self._bindings))
            except SchemaError as error:
                self._letters.bury(record, error, self.system, None, outputs, ends)
        in_force = await self._taken(answers, {})
        for answer in answers:
            entity, key, link, value, at = answer
            if ((entity, key), link) not in in_force:  # what came before it in this chunk lets it take effect
                in_force |= await self._taken([answer], in_force)
            known, place = self._known(entity, key), Place(self.system, self._place, chunk.partition)
            step = on_answer(known, link, value, at, place, key, self._births(entity), in_force.get(((entity, key), link)))
            self._put(entity, key, known, step, outputs)
        await self._app.deliver(outputs)  # I9
        count(ends)

    async def _taken(self, answers: Iterable[_Answered], done: Mapping[_Taking, str | None]) -> dict[_Taking, str | None]:
        """(row, link answered) → the link in force, of rows that these answers give their first; one answer of a row. Raises Retriable."""
        wanted: dict[RowId, str] = {}
        xids: dict[RowId, set[int]] = {}
        for entity, key, link, value, _ in answers:
            row, known = (entity, key), self._known(entity, key)
            if known is None or link is None or row in wanted or (row, link) in done or not takes(known, link, value):
                continue
            wanted[row], xids[row] = link, {doc["xid"] for doc in known["pending"] if "xid" in doc}
        in_force = await self._crosswalk.take(self.system, wanted, self._bindings, xids)
        return {(row, wanted[row]): link for row, link in in_force.items()}

    # both ---------------------------------------------------------------------------------------------------------------------------------

    def _put(self, entity: str, key: str, known: Known | None, step: Step, outputs: list[Output]) -> None:
        outputs.extend(Output(topics.changes(entity), link.encode(), change.encode()) for link, change in step.changes)
        outputs.extend(Output(topics.claims(entity), value.encode(), orjson.dumps(claim)) for value, claim in step.claims)
        if not _tells_more(known, step.known):
            return
        told = dict(self._table.get(key) or {})
        if step.known is None:
            told.pop(entity, None)
        else:
            told[entity] = step.known
        if told:
            self._table[key] = told
        else:
            self._table.pop(key, None)


def _tells_more(known: Known | None, after: Known | None) -> bool:
    """Whether the table must be written. The newest position alone is not worth it: an event that is taken for new once more then says
    nothing about the row's link, match value or presence that the table does not hold."""
    if known is None or after is None:
        return known is not after
    return known is not after and any(known.get(name) != after.get(name) for name in ("link", "match", "there", "pending", "outside"))


def _answer(record: Record, bindings: Mapping[str, Any]) -> _Answered:
    """Raises SchemaError."""
    try:
        told = orjson.loads(record.value or b"")
        entity, key, link, value, at = told["entity"], told["key"], told["link"], told["value"], told["at"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise SchemaError(f"not an answer to a claim: {error!r}") from error
    if entity not in bindings or not all(isinstance(text, str) for text in (key, value, at)) or not isinstance(link, str | None):
        raise SchemaError(f"not an answer to a claim of this table: {told!r}")
    return _Answered(entity, key, link, value, at)
