"""Every error that Concord raises on purpose, as one tree.

ConcordError
├── ConfigError        the configuration cannot be used; carries every problem found, not only the first
├── SchemaError        bytes or text that are not what they should be: refused where they enter
│   ├── NotAnEvent     a value that is no change event (no Avro, no envelope, no key)
│   └── UnknownSchema  Avro under a schema id that the registry does not know
├── MappingError       a column value that the mapping cannot turn into a field, or back
├── UnfitDatabase      a database that cannot be captured from or written to as it is; says what to do
│   └── SlotLost       the replication slot is gone or invalidated: changes are missing, re-snapshot
├── Retriable          a foreign system did not answer, or asked to try again: the same call may go through later
└── Refused            a foreign system answered no, and will again: dead-letter what was sent
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ConcordError(Exception):
    """Base of all errors raised on purpose. Its text may stand in a log, but for MappingError's and SchemaError's, which quote values."""

    said = ""  # the foreign system's own words, which may quote a row: for a dead letter, never for a log

    @property
    def whole(self) -> str:
        """All that is known, for who may see the row."""
        return f"{self}: {self.said}" if self.said else str(self)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where, and its mend."""

    where: str  # path in the file (`entities.customer.fields.name`), or `crm: public.account`
    what: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.mend})" if self.mend else "")


class ConfigError(ConcordError):
    """All problems of a configuration at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class SchemaError(ConcordError):
    """Bytes or text that are not what they should be."""


class NotAnEvent(SchemaError):
    """A value that is no change event."""


class UnknownSchema(SchemaError):
    """Avro under a schema id that the registry does not know."""


class MappingError(ConcordError):
    """A column value that the mapping cannot turn into a field, or a field it cannot turn into a column value."""


class UnfitDatabase(ConcordError):
    """A database that cannot be captured from or written to as it is."""


class SlotLost(UnfitDatabase):
    """The replication slot is gone or invalidated: changes are missing from here on."""


class Retriable(ConcordError):
    """The same call may go through later."""


class Refused(ConcordError):
    """A foreign system refused what was sent, and will again.

    `code` is what it decided by: a SQLSTATE, or a Kafka error name. `said`: its own words.
    """

    def __init__(self, message: str, code: str = "", said: str = "") -> None:
        self.code = code
        self.said = said
        super().__init__(message)
