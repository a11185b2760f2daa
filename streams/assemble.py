"""The join's reducer: rows of several tables → entity rows, from change events alone. Pure: (states, message) → (states, messages).

    variant ◀─child── barcode          a *node* for every row of every table that takes part, named `<part>/<key>`, the root's `/<key>`;
       │                               each has one state, in the partition of its name, and messages go from node to node:
       └─parent─▶ template
                     ▲─child── price

    captured row ──▶ barcode/77 ── child ────▶ /4711 ──▶ entity row of variant 4711      (farewell: to the node that it has left)
    captured row ──▶ /4711 ────── subscribe ─▶ template/12                               (cancel: to the one it pointed at)
                     /4711 ◀───── document ─── template/12                               to all subscribers when it changes, and as answer
    /4711 ── look ──▶ /4711

A *document* is a node's row and what hangs below it, with its version. What a node knows of a part that hangs at it is a *slot*: `shown`
is what its document says of the part. States (JSON):

    node      {"at": position of its row, "row": columns | null, "slots": {part: slot}, …}
              a child's:  "to": the key of the node that holds its document, "from": where its row's event was read
                          "kept": instead of the row, of a child that nothing hangs at: texts that an event may leave out
              the root's: "in": whether its last entity row counted, "birth": [look, cause, was] until its first is told, "ours": [position,
              what our sink had written] where it was read after a lost slot
    slot      {"shown": {"v", "row", "below"}, "wait": [look, cause]}
              child:      "first": the chosen member, "sum": of all members' positions, "gone": members that left, "past": see `_is_past`
              parent:     "to": the key it points at, "since": position at which it does, "v": version of the document, "pending", "next"
    member    {"v", "row", "below", "via"}     a child's document: an entry of its own, `<node>␀<part>␀<key>`, as a group may be large
    subscriber {"at"}                          the same, under no part's name

The rules, named where they are kept; the first five are those of DESIGN §4.2:

  position   what is read of a part has a position that only grows: (position at which it is pointed at, position of its row) along a parent
             edge, the sum of the positions of all rows of the group, gone ones too, along a child edge. A position is text, its pieces have
             fixed widths, and a version is the list of all pieces below a node: so texts compare like what they stand for
  farewell   a row that leaves a group, deleted, moved or not counting any more, stays in it as its position, for a while; see `_is_past`
  own        a document is taken only from the node that is pointed at
  outputs    every event sends its own entity row: each has one cause, whose commit time and origin it carries
  answer     an event read again is answered like a new one
  look       an absence is believed only after a second look: before a node tells that a row is not there, or not there any more, it sends
             itself a message, and what was on its way meanwhile comes first. So a form that deletes and inserts a child, or a root that
             comes with its parts in one transaction, or a cascade, tells nothing that was never true. Aggregates are drawn together then
  shown      while a new parent's answer is on its way, the old one is shown
  found      after a lost slot the root's row brings what our sink had written to it and to its parts, so a part's row waits for it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import orjson

from schemas.change import Op
from schemas.errors import MappingError, SchemaError
from schemas.mapping.binding import Binding
from schemas.mapping.parts import ROOT, Part
from schemas.metrics import State

Columns = Mapping[str, str | None]
Node = dict[str, Any]
Slot = dict[str, Any]
Message = dict[str, Any]

KEPT_GONE = 8  # members that left a group and are remembered one by one
SUM_DIGITS = 40  # 128 bits of a position, and 2^32 rows
SHORT = 20  # bytes: PostgreSQL moves no shorter text out of its row, so no event leaves one out

_COMMIT_DIGITS = 16  # of a position: the transaction that it is in
_NOTHING: dict[str, Any] = {}


class Cause(NamedTuple):
    """The captured event that a message comes from. On the wire a JSON array."""

    part: str  # whose row it was about: a part's name, or ROOT
    op: str  # schemas.change.Op's value
    at: str  # its position in the log
    ts_us: int
    origin_hlc: int | None
    xid: int | None
    found: bool = False  # read after a lost slot: its root's row and those of all its parts are read there, at one position

    def wire(self) -> list[Any]:
        return [*self] if self.found else [*self[:6]]

    def same_transaction(self, other: Cause) -> bool:
        """Two rows of a snapshot count as read at once."""
        if self.op == other.op == Op.READ.value:
            return True
        return self.at[:_COMMIT_DIGITS] == other.at[:_COMMIT_DIGITS] and self.xid == other.xid


@dataclass(frozen=True, slots=True)
class EntityRow:
    """What the root's node tells."""

    key: str
    op: Op
    cause: Cause
    row: Columns | None  # flat; None: the root's row is gone
    position: str  # of the root's row, and of the parts that decide whether it counts
    version: str  # grows with everything that is told of this key
    positions: Mapping[str, str] = field(default_factory=dict)  # of each part
    was: str | None = None  # the key that the row had until now
    moved_on: bool = False  # the row lives on under another key
    ours: Mapping[str, Any] = field(default_factory=dict)  # see `schemas.change.Change.ours`


@dataclass(slots=True)
class Outcome:
    """What follows from one message."""

    puts: dict[str, bytes | None] = field(default_factory=dict)  # states by name; None: nothing to remember
    sends: list[tuple[Iterable[str], Message]] = field(default_factory=list)  # (node names, one message for all of them), in order
    told: list[EntityRow] = field(default_factory=list)
    end: State | None = None  # of an event that ends here


class States(Protocol):
    """What is known before the message."""

    def get(self, name: str) -> bytes | None: ...
    def members(self, group: str) -> Mapping[str, bytes]:
        """Entries named `group␀member`, by member."""


def node_name(part: str, key: str) -> str:
    return f"{part}/{key}"


def group_name(node: str, part: str) -> str:
    """No text in PostgreSQL has a NUL, so this is no other node's name."""
    return f"{node}\0{part}"


def row_message(
    cause: Cause,
    row: Columns | None,
    partition: int,
    offset: int,
    was: str | None = None,
    moved_on: bool = False,
    ours: Mapping[str, Any] | None = None,
) -> Message:
    """A captured row, as its table's agent sends it to a node. `was`: the root's key until now. `moved_on`: it has another from now on.
    `ours`: of a root found after a lost slot, what our sink wrote last to it and to its parts."""
    more: Message = {} if was is None else {"was": was}
    if moved_on:
        more["moved"] = True
    if ours:
        more["ours"] = ours
    return {"kind": "row", "cause": cause.wire(), "row": row, "from": [partition, offset], **more}


class Tree:
    """The join of one binding."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.parts = binding.part
        self.below: dict[str, tuple[Part, ...]] = {
            name: tuple(part for part in binding.parts if part.of == name) for name in (ROOT, *self.parts)
        }
        self.columns = {ROOT: binding.root_columns, **{part.name: part.columns for part in binding.parts}}
        self.shown = {part.name: self._shown(part) for part in binding.parts}
        self._needed = {part.name: _needed(part) for part in binding.parts}
        self._left_out = {part.name: tuple(_left_out(part)) for part in binding.parts}
        self._width: dict[str, int] = {}  # pieces of a node's version
        for part in reversed(binding.parts):
            self._width[part.name] = 1 + sum(map(self.slot_width, self.below[part.name]))
        self.rounds = {name: self._rounds(name) for name in self.below}
        self._pieces = dict(self._places(ROOT, 1))  # of the root's version, what is the position of each part
        self._scope = tuple(dict.fromkeys(name for column in binding.scope if (name := binding.split(column)[0]) != ROOT))

    def _shown(self, part: Part) -> tuple[str, ...]:
        """Columns of the part in a flat row."""
        if part.aggregates:
            return tuple(part.aggregates)
        counted = (column for name, column in map(self.binding.split, self.binding.scope) if name == part.name)
        return tuple(dict.fromkeys((*part.fields, *counted)))

    def _rounds(self, node: str) -> int:
        """How many messages it may take, one after the other, until a node knows all that one transaction did below it: a child's document
        is one, a parent's takes a subscription and an answer."""
        return max(((1 if part.kind == "child" else 2) + self._rounds(part.name) for part in self.below[node]), default=0)

    def slot_width(self, part: Part) -> int:
        if part.aggregates:
            return 1
        return self._width[part.name] + (part.kind == "parent")  # a child's own position is in the sum

    def _places(self, node: str, start: int) -> Iterable[tuple[str, list[int]]]:
        """Each part below `node` → the places of its position's pieces. `start`: where the node's slots begin."""
        for part in self.below[node]:
            own = [start, start + 1] if part.kind == "parent" else [start]
            yield part.name, own
            for name, places in self._places(part.name, start + len(own)):
                yield name, [*own, *places]
            start += self.slot_width(part)

    def is_leaf(self, part: str) -> bool:
        """A child that nothing hangs at: nobody asks it again, so it need not remember its row."""
        return part != ROOT and self.parts[part].kind == "child" and not self.below[part]

    def step(self, name: str, message: Message, states: States, lane: int) -> Outcome:
        """One message to the node `name`. `lane`: the partition that it is in. Raises SchemaError on what is no message, MappingError on a
        row that cannot be placed: then nothing has happened."""
        try:
            part, _, key = name.partition("/")
            at_node = _AtNode(self, part, key, name, states, lane)
            at_node.take(message)
            return at_node.outcome()
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise SchemaError(f"not a message to {name!r}: {error!r}") from error

    # what a node says ------------------------------------------------------------------------------------------------------------------

    def version(self, part: str, node: Node) -> str:
        """position: all pieces below the node."""
        if not self.below[part]:
            return str(node["at"])
        pieces = [node["at"]]
        for hanging in self.below[part]:
            shown = node["slots"].get(hanging.name, _NOTHING).get("shown")
            pieces.append(shown["v"] if shown is not None else "," * (self.slot_width(hanging) - 1))
        return ",".join(pieces)

    def content(self, part: str, node: Node) -> tuple[Columns | None, dict[str, Columns | None]]:
        """(row, rows of the parts below) of the node's document. Nothing hangs at a row that does not count."""
        row = node["row"]
        if row is None or (part != ROOT and not self.parts[part].in_scope(row)):
            return None, {}
        below: dict[str, Columns | None] = {}
        for hanging in self.below[part]:
            shown = node["slots"].get(hanging.name, _NOTHING).get("shown")
            if shown is not None:
                below[hanging.name] = shown["row"]
                below.update(shown["below"])
        return row, below

    def flat(self, row: Columns, below: Mapping[str, Columns | None]) -> dict[str, str | None]:
        """The entity's row as the mapping reads it. A column that is not known is absent."""
        flat = dict(row)
        for name, columns in self.shown.items():
            known = below.get(name)
            if known is not None:
                for column in columns:
                    if column in known:
                        flat[f"{name}.{column}"] = known[column]
            else:
                aggregates = self.parts[name].aggregates
                for column in columns:
                    flat[f"{name}.{column}"] = aggregates[column].of(()) if aggregates else None
        return flat

    def positions(self, version: str) -> dict[str, str]:
        """Of each part, out of the root's version."""
        pieces = version.split(",")
        return {name: "".join([pieces[place] for place in places]) for name, places in self._pieces.items()}

    def row_position(self, at: str, positions: Mapping[str, str]) -> str:
        """The root's position, and those of the parts that decide whether it counts."""
        return ",".join([at, *(positions[name] for name in self._scope)]) if self._scope else at

    # what a slot shows -----------------------------------------------------------------------------------------------------------------

    def absent(self, part: Part, first: str) -> Slot:
        """`first`: the first piece of the position."""
        return {"v": first + "," * (self.slot_width(part) - 1), "row": None, "below": {}}

    def of_child(self, part: Part, total: str, document: Mapping[str, Any]) -> Slot:
        _, comma, rest = document["v"].partition(",")
        return {"v": f"{total}{comma}{rest}", "row": self._cut(part, document["row"]), "below": document["below"]}

    def of_parent(self, part: Part, since: str, document: Mapping[str, Any]) -> Slot:
        return {"v": f"{since},{document['v']}", "row": self._cut(part, document["row"]), "below": document["below"]}

    def _cut(self, part: Part, row: Columns) -> Columns:
        return {column: row[column] for column in self.shown[part.name] if column in row}

    def kept(self, part: Part, row: Columns) -> dict[str, str]:
        """Of a row, the texts that a later event may leave out (unchanged TOAST)."""
        return {
            column: text
            for column, short in self._left_out[part.name]
            if (text := row.get(column)) is not None and not (short and len(text.encode()) <= SHORT)
        }

    def check(self, part: Part, row: Columns) -> None:
        """Raises MappingError if a column is not known that says where the row belongs."""
        missing = [column for column in self._needed[part.name] if column not in row]
        if missing:
            raise MappingError(f"a row of {part} without {', '.join(missing)}, which says where it belongs")


def _needed(part: Part) -> tuple[str, ...]:
    """Columns without which a row cannot be placed; what is only read may be missing for a while."""
    sorted_by = [sorting.column for sorting in part.sorting]
    for aggregate in part.aggregates.values():
        sorted_by += [sorting.column for sorting in aggregate.sorting]
        sorted_by += [aggregate.column] if aggregate.column is not None else []
    return tuple(dict.fromkeys([*(part.link if part.kind == "child" else ()), *part.scope, *sorted_by]))


def _left_out(part: Part) -> Iterable[tuple[str, bool]]:
    """The columns that PostgreSQL may store out of their row; whether it never does so with a short one."""
    for name in part.columns:
        column = part.table.column(name)
        if column is None or column.base == "numeric" or column.category == "S":
            yield name, True
        elif column.category not in "NBDE" and column.base != "uuid":
            yield name, False


class _AtNode:
    """One message at one node."""

    def __init__(self, tree: Tree, part: str, key: str, name: str, states: States, lane: int) -> None:
        self.tree, self.part, self.key, self.name, self.states, self.lane = tree, part, key, name, states, lane
        self.own = None if part == ROOT else tree.parts[part]
        self.leaf = tree.is_leaf(part)
        raw = states.get(name)
        self.was_known = raw is not None
        self.node: Node = orjson.loads(raw) if raw is not None else {"at": "", "row": None, "slots": {}}
        self.done = Outcome()
        self.changed = False

    def take(self, message: Message) -> None:
        match message["kind"]:
            case "row":
                row = message["row"]
                cause = Cause(*message["cause"])
                if self.own is None and "ours" in message and cause.at >= self.node["at"]:
                    self.node["ours"] = [cause.at, message["ours"]]
                self.on_row(cause, row, message["from"], message.get("was"), message.get("moved", False))
            case "child":
                self.on_child(Cause(*message["cause"]), message)
            case "document":
                self.on_document(Cause(*message["cause"]), message)
            case "subscribe":
                self.on_subscribe(Cause(*message["cause"]), message["node"], message["since"])
            case "cancel":
                self.on_cancel(Cause(*message["cause"]), message["node"])
            case "look":
                self.on_look(message["n"])
            case kind:
                raise SchemaError(f"not a message to a node: kind {kind!r}")

    def outcome(self) -> Outcome:
        if self.changed:
            if not self._is_worth_keeping():
                if self.was_known:
                    self.done.puts[self.name] = None
            else:
                self.done.puts[self.name] = orjson.dumps(self.node)
        return self.done

    def _is_worth_keeping(self) -> bool:
        """A child that is in no group, at which nothing ever hung, and that has no text that an event may leave out, is as if it had never
        been: the group that it left knows better (farewell)."""
        node = self.node
        if self.own is None or self.own.kind == "parent" or node.get("to") is not None or node.get("kept"):
            return True
        return node["row"] is not None or any("sum" in slot for slot in node["slots"].values())

    # a captured row ---------------------------------------------------------------------------------------------------------------------

    def on_row(self, cause: Cause, row: Columns | None, source: list[int], was: str | None, moved_on: bool) -> None:
        node = self.node
        if cause.at < node["at"]:
            self.done.end = State.SUPERSEDED
            return
        again = cause.at == node["at"] or cause.op == Op.READ.value  # answer
        self.changed = True
        if row is not None:
            known = node.get("kept") if self.leaf else node["row"]
            if known:
                row = {**{column: known[column] for column in self.tree.columns[self.part] if column in known}, **row}
        if self.own is None:
            self._root_row(cause, row, again, was, moved_on)
        elif self.own.kind == "parent":
            self._parent_row(cause, row, again)
        else:
            self._child_row(cause, row, source, again)

    def _child_row(self, cause: Cause, row: Columns | None, source: list[int], again: bool) -> None:
        node, part = self.node, self.own
        assert part is not None
        to = None
        if row is not None:
            self.tree.check(part, row)
            to = part.target(row) if part.in_scope(row) else None
        held_at = node.get("to")
        before = None if self.leaf else self.tree.content(self.part, node)
        node["at"], node["to"], node["from"] = cause.at, to, [*source, cause.op == Op.READ.value]
        if self.leaf:
            node.pop("kept", None)
            if row is not None and (kept := self.tree.kept(part, row)):
                node["kept"] = kept
        else:
            node["row"] = row
            self._point(cause, row, again)
        if held_at is not None and held_at != to:
            self._send_up(held_at, cause, None)  # farewell
        if to is not None and not self._is_asking():
            content = (row, {}) if self.leaf else self.tree.content(self.part, node)
            if again or held_at != to or content != before:
                self._send_up(to, cause, content)
            else:
                self.done.end = State.UNCHANGED
        elif held_at is None:
            self.done.end = State.UNCHANGED if again else State.OUT_OF_SCOPE

    def _send_up(self, to: str, cause: Cause, content: tuple[Columns | None, Mapping[str, Columns | None]] | None) -> None:
        """The child's document, or its farewell."""
        assert self.own is not None
        partition, offset, read = self.node["from"]
        version = self.tree.version(self.part, self.node) if content is not None else self.node["at"]
        row, below = content or (None, {})
        message: Message = {
            "kind": "child",
            "cause": cause.wire(),
            "part": self.part,
            "key": self.key,
            "v": version,
            "row": row,
            "below": below,
        }
        message["via"] = [f"{partition}.{self.lane}", offset, read]
        self.done.sends.append(((node_name(self.own.of, to),), message))

    def _parent_row(self, cause: Cause, row: Columns | None, again: bool) -> None:
        node, part = self.node, self.own
        assert part is not None
        if row is not None:
            self.tree.check(part, row)
        before = self.tree.content(self.part, node)
        node["at"], node["row"] = cause.at, row
        self._point(cause, row, again)
        if self.tree.content(self.part, node) != before:
            self._publish(cause)
        else:
            self.done.end = State.UNCHANGED

    def _publish(self, cause: Cause) -> None:
        """The document, to all subscribers."""
        subscribers = self.states.members(group_name(self.name, ""))
        if subscribers:
            self.done.sends.append((subscribers.keys(), self._document(cause)))
        else:
            self.done.end = State.UNCHANGED  # nobody's part

    def _document(self, cause: Cause) -> Message:
        row, below = self.tree.content(self.part, self.node)
        version = self.tree.version(self.part, self.node)
        return {"kind": "document", "cause": cause.wire(), "part": self.part, "key": self.key, "v": version, "row": row, "below": below}

    def _root_row(self, cause: Cause, row: Columns | None, again: bool, was: str | None, moved_on: bool) -> None:
        node = self.node
        self._release_for(cause)
        born = row is not None and node["row"] is None
        node["at"], node["row"] = cause.at, row
        self._point(cause, row, again)
        if row is None:
            node.pop("birth", None)
            self._emit(cause, moved_on=moved_on)
        elif born:
            node["birth"] = [0, cause.wire(), was]
            if not self._release():
                node["birth"][0] = self._look()
        elif "birth" not in node:
            self._emit(cause)
        else:  # the first entity row will have it: it is of the same transaction
            self._release()

    def _is_asking(self) -> bool:
        """shown: a child is not told without what its row points at."""
        return any("pending" in slot and "shown" not in slot for slot in self.node["slots"].values())

    def _point(self, cause: Cause, row: Columns | None, again: bool) -> None:
        """Subscribes at the rows that this one points at."""
        slots = self.node["slots"]
        for part in self.tree.below[self.part]:
            if part.kind != "parent":
                continue
            slot = slots.get(part.name)
            old, to = slot and slot["to"], None if row is None else part.target(row)
            if old is not None and old != to:
                self._ask("cancel", part, old, cause)
            if row is None:
                slots.pop(part.name, None)
            elif slot is None or old != to:
                slot = slots[part.name] = {"to": to, "since": cause.at, **({"shown": slot["shown"]} if slot and "shown" in slot else {})}
                if to is None:
                    slot["shown"] = self.tree.absent(part, cause.at)
                else:
                    slot["pending"] = True  # shown
                    self._ask("subscribe", part, to, cause, slot["since"])
            elif again and to is not None:
                self._ask("subscribe", part, to, cause, slot["since"])

    def _ask(self, kind: str, part: Part, key: str, cause: Cause, since: str | None = None) -> None:
        message = {"kind": kind, "cause": cause.wire(), "node": self.name, "since": since}
        self.done.sends.append(((node_name(part.name, key),), message))

    # what others tell -------------------------------------------------------------------------------------------------------------------

    def on_subscribe(self, cause: Cause, node: str, since: str) -> None:
        raw = self.states.members(group_name(self.name, "")).get(node)
        if raw is None or orjson.loads(raw)["at"] < cause.at:
            self.done.puts[f"{group_name(self.name, '')}\0{node}"] = orjson.dumps({"at": cause.at})
        self.done.sends.append(((node,), {**self._document(cause), "since": since}))

    def on_cancel(self, cause: Cause, node: str) -> None:
        """Of an older row image than the one that subscribed: it comes late."""
        raw = self.states.members(group_name(self.name, "")).get(node)
        if raw is not None and orjson.loads(raw)["at"] <= cause.at:
            self.done.puts[f"{group_name(self.name, '')}\0{node}"] = None

    def on_document(self, cause: Cause, message: Message) -> None:
        slot = self.node["slots"].get(message["part"])
        if slot is None or slot["to"] != message["key"]:
            return  # own
        if slot.get("pending"):
            if message.get("since") != slot["since"]:
                return  # sent before this node pointed there; the answer is on its way
        elif message["v"] <= slot["v"]:
            return  # position
        self.changed = True
        self._release_for(cause)
        part = self.tree.parts[message["part"]]
        slot["v"] = message["v"]
        answered = slot.pop("pending", False)
        if message["row"] is None:
            changed = self._show(slot, {**self.tree.absent(part, slot["since"]), "v": f"{slot['since']},{message['v']}"}, cause)
        else:
            changed = self._show(slot, self.tree.of_parent(part, slot["since"], message), cause)
        self._tell(changed or answered, cause)

    def on_child(self, cause: Cause, message: Message) -> None:
        part, member, at = self.tree.parts[message["part"]], message["key"], message["v"].partition(",")[0]
        slot = self.node["slots"].get(part.name) or {}
        members = self.states.members(group_name(self.name, part.name))
        gone = slot.get("gone", {})
        raw, here = members.get(member), message["row"] is not None
        if raw is not None:
            held_v = orjson.loads(raw)["v"]
            if message["v"] <= held_v:
                if message["v"] == held_v:
                    self._tell(True, cause)  # answer
                return  # position
            held_at = held_v.partition(",")[0]
        elif member in gone:
            held_at = gone[member][0]
            if at <= held_at:
                return  # position
        elif _is_past(slot, at, message["via"]):
            return  # it was here before, and has left
        else:
            held_at = ""
        self.changed = True
        self._release_for(cause)
        self.node["slots"][part.name] = slot
        changed = False
        slot["sum"] = f"{int(slot.get('sum') or '0', 16) + int(at, 16) - int(held_at or '0', 16):0{SUM_DIGITS}X}"
        entry = f"{group_name(self.name, part.name)}\0{member}"
        if here:
            document = {"v": message["v"], "row": message["row"], "below": message["below"], "via": message["via"]}
            self.done.puts[entry] = orjson.dumps(document)
            gone.pop(member, None)
        else:
            document = None
            self.done.puts[entry] = None
            slot["gone"] = _with_gone(slot, {**gone, member: [at, *message["via"]]})
        if part.aggregates:
            slot["wait"] = [slot["wait"][0] if "wait" in slot else self._look(), cause.wire()]
        else:
            chosen = self._first(part, slot.get("first"), members, member, document)
            slot["first"] = chosen
            if chosen is None:
                changed = self._show(slot, self.tree.absent(part, slot["sum"]), cause)
            else:
                first = document if chosen == member else orjson.loads(members[chosen])
                assert first is not None
                changed = self._show(slot, self.tree.of_child(part, slot["sum"], first), cause)
        self._tell(changed, cause)

    def _first(
        self, part: Part, first: str | None, members: Mapping[str, bytes], changed: str, document: Mapping[str, Any] | None
    ) -> str | None:
        """The chosen member. `members`: before the change."""
        if document is not None and first == changed and len(members) == 1:
            return changed
        if document is not None and first is None:
            return changed
        if document is None and first != changed:
            return first
        if document is not None and first != changed:
            held = orjson.loads(members[str(first)])
            return changed if part.order(document["row"]) < part.order(held["row"]) else first
        if document is not None and not part.order(orjson.loads(members[changed])["row"]) < part.order(document["row"]):
            return changed  # it has not gone back
        rows = {member: orjson.loads(raw)["row"] for member, raw in members.items() if member != changed}
        if document is not None:
            rows[changed] = document["row"]
        return min(rows, key=lambda member: part.order(rows[member]), default=None)

    # looking again ----------------------------------------------------------------------------------------------------------------------

    def _look(self) -> int:
        """The number of a look that comes after all that is on its way now."""
        sent, seen = int(self.node.get("sent", 0)), self.node.get("seen", 0)
        if sent <= seen:
            self._send_look(sent + 1)  # else one is under way, and sends the next when it is back
        return sent + self.tree.rounds[self.part]

    def _send_look(self, number: int) -> None:
        self.node["sent"] = number
        self.done.sends.append(((self.name,), {"kind": "look", "n": number}))

    def on_look(self, number: int) -> None:
        node = self.node
        if not self.was_known or number <= node.get("seen", 0):
            return
        self.changed = True
        node["seen"], node["sent"] = number, max(number, node.get("sent", 0))
        for part in self.tree.below[self.part]:
            slot = node["slots"].get(part.name, _NOTHING)
            if "wait" in slot and slot["wait"][0] <= number:
                cause = Cause(*slot["wait"][1])
                changed = self._believe(part, slot)
                if "birth" not in node:
                    self._tell(changed, cause)
        self._release()
        waited_for = [slot["wait"][0] for slot in node["slots"].values() if "wait" in slot]
        waited_for += [node["birth"][0]] if "birth" in node else []
        if node["sent"] <= number and any(look > number for look in waited_for):
            self._send_look(number + 1)

    def _believe(self, part: Part, slot: Slot) -> bool:
        """Shows what was waited with. Whether that is something else."""
        del slot["wait"]
        before = slot.get("shown")
        if part.aggregates:
            rows = [orjson.loads(raw)["row"] for raw in self.states.members(group_name(self.name, part.name)).values()]
            made = {name: aggregate.of(rows) for name, aggregate in part.aggregates.items()}
            slot["shown"] = {"v": slot["sum"], "row": made, "below": {}}
        else:
            slot["shown"] = slot.pop("next")
        return _differ(before, slot["shown"])

    def _show(self, slot: Slot, content: Slot, cause: Cause) -> bool:
        """Whether the slot shows something else now."""
        shown = slot.get("shown")
        if content["row"] is None and shown is not None and shown["row"] is not None:
            slot["wait"], slot["next"] = [slot["wait"][0] if "wait" in slot else self._look(), cause.wire()], content
            return False
        slot["shown"] = content
        slot.pop("wait", None)
        slot.pop("next", None)
        return _differ(shown, content)

    # telling ----------------------------------------------------------------------------------------------------------------------------

    def _tell(self, changed: bool, cause: Cause) -> None:
        """Says what has changed below this node's row."""
        row = self.node["row"]
        if self.own is None and self._release():
            return
        if not changed or row is None or (self.own is not None and not self.own.in_scope(row)):
            self.done.end = self.done.end or State.UNCHANGED
        elif self.own is None:
            if cause.found and self.node["at"] < cause.at:
                self.done.end = State.UNCHANGED  # found
            elif "birth" not in self.node:
                self._emit(cause)
        elif self.own.kind == "parent":
            self._publish(cause)
        elif self.node.get("to") is not None and not self._is_asking():
            self._send_up(self.node["to"], cause, self.tree.content(self.part, self.node))

    def _release_for(self, cause: Cause) -> None:
        """outputs: what another transaction did comes after the row's first telling, not into it."""
        birth = self.node.get("birth")
        if birth is not None and not Cause(*birth[1]).same_transaction(cause):
            self._tell_birth()

    def _release(self) -> bool:
        """Tells the root's first entity row, when all its parts are there, or have been looked for."""
        birth = self.node.get("birth")
        if birth is None:
            return False
        slots = self.node["slots"]
        if any(slot.get("pending") for slot in slots.values()):
            return False
        waited = 0 < birth[0] <= self.node.get("seen", 0)
        if not waited and not self._is_complete():
            return False
        self._tell_birth()
        return True

    def _is_complete(self) -> bool:
        _, below = self.tree.content(self.part, self.node)
        waiting = any("wait" in slot for slot in self.node["slots"].values())
        return not waiting and all(part.aggregates or below.get(part.name) is not None for part in self.tree.parts.values())

    def _tell_birth(self) -> None:
        _, cause, was = self.node.pop("birth")
        self._emit(Cause(*cause), was=was)

    def _emit(self, cause: Cause, was: str | None = None, moved_on: bool = False) -> None:
        node, tree = self.node, self.tree
        found_at, ours = node.get("ours", ("", {}))
        row, below = tree.content(ROOT, node)
        version = tree.version(ROOT, node)
        positions = tree.positions(version)
        flat = None if row is None else tree.flat(row, below)
        counted, counts = node.get("in"), flat is not None and self._counts(flat)
        if flat is not None and cause.part != ROOT and counted is False and counts is False:
            self.done.end = State.OUT_OF_SCOPE
            return
        if counts != counted:
            node["in"] = counts
        self.done.told.append(
            EntityRow(
                key=self.key,
                op=_op(cause, flat is not None, was, entered=counted is False and counts is True),
                cause=cause,
                row=flat,
                position=tree.row_position(node["at"], positions),
                version=version,
                positions=positions,
                was=was,
                moved_on=moved_on,
                ours=ours if cause.found and cause.at == found_at and flat is not None else {},
            )
        )

    def _counts(self, flat: Columns) -> bool | None:
        """None: it cannot be said, and whoever reads the entity row will find out why."""
        try:
            return self.tree.binding.in_scope(flat)
        except MappingError:
            return None


def _differ(one: Slot | None, other: Slot) -> bool:
    if one is None:
        return other["row"] is not None
    return bool(one["row"] != other["row"] or one["below"] != other["below"])


def _op(cause: Cause, here: bool, was: str | None, entered: bool) -> Op:
    """What happened to the entity, when this happened to one of its rows."""
    op = Op(cause.op)
    if not here:
        return Op.DELETE
    if was is not None:
        return Op.UPDATE
    if op is Op.READ or (cause.part == ROOT and op is Op.CREATE):
        return op
    return Op.CREATE if entered else Op.UPDATE


def _is_past(slot: Slot, at: str, via: list[Any]) -> bool:
    """farewell: whether a document of a member that the group does not know was here before, and was forgotten after it had left.

    Of the members that left, KEPT_GONE are remembered one by one. Of those before them only the latest position is kept, for each way that
    they came by: a partition of the captured topic and one of this topic, which are each read in order. A document that comes by the same
    way and is not later has been here before. A row read by a snapshot is as old as the snapshot, and comes after events that are younger:
    of those the place in the captured topic tells.
    """
    past = slot.get("past", _NOTHING).get(via[0])
    return past is not None and at <= past[0] and (not via[2] or via[1] <= past[1])


def _with_gone(slot: Slot, gone: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The latest KEPT_GONE of these members; the others go into the slot's past."""
    if len(gone) <= KEPT_GONE:
        return gone
    latest = sorted(gone.items(), key=lambda item: item[1][0], reverse=True)
    past = slot.setdefault("past", {})
    for _, (at, way, offset, _) in latest[KEPT_GONE:]:
        known = past.get(way, ["", -1])
        past[way] = [max(at, known[0]), max(offset, known[1])]
    return dict(latest[:KEPT_GONE])
