"""Where a change stands in a PostgreSQL log.

An LSN is a byte position in the write-ahead log. Logical decoding hands out transactions in the order of their *commit*
records, so the LSNs of the changes in the stream are not in order: a long transaction's changes carry old LSNs. What is in order is the
pair (commit LSN of the transaction, LSN of the change), which our source's events carry as `source.sequence`. That pair is a `Position`: of
two events of one system, the later one in the log has the greater position. Of Debezium's events the LSN of the change is all that is
known: they are in order row by row (decision 0027).

As text an LSN is PostgreSQL's `16/B374D848`; a position is 32 hexadecimal digits, so that text compares like the pair.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from schemas.errors import SchemaError

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class Lsn(int):
    """An unsigned 64-bit log position that prints as `16/B374D848`."""

    __slots__ = ()

    def __new__(cls, value: int) -> Lsn:
        if not 0 <= value < 1 << 64:
            raise SchemaError(f"not an LSN: {value!r}, expected 64 bits without sign")
        return super().__new__(cls, value)

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({str(self)!r})"


def parse_lsn(text: str) -> Lsn:
    """`16/B374D848` → Lsn. Raises SchemaError on anything else."""
    match = _LSN.fullmatch(text)
    if match is None:
        raise SchemaError(f"not an LSN: {text!r}, expected something like '16/B374D848'")
    return Lsn(int(match[1], 16) << 32 | int(match[2], 16))


class Position(NamedTuple):
    """A place in one system's log that grows in the order in which the log is read."""

    after_commit: int  # where the transaction's commit ends; of Debezium's events: the LSN of the change once more
    lsn: int  # LSN of the change itself

    def __str__(self) -> str:
        return f"{self.after_commit:016X}{self.lsn:016X}"


ORIGIN = Position(0, 0)  # before everything


def parse_position(text: str) -> Position:
    """32 hexadecimal digits → Position. Raises SchemaError on anything else."""
    try:
        if len(text) == 32:
            return Position(int(text[:16], 16), int(text[16:], 16))
    except ValueError:
        pass
    raise SchemaError(f"not a position: {text!r}, expected 32 hexadecimal digits")
