"""What an event from Debezium does not tell truly: reasons, by column, for which a mapped value is refused instead of passed on.

    of_settings      the connector was told to represent a type so that values are lost: a schema shows it
    of_type          Debezium cannot carry the type, whatever it is told
    of_unchanged     an array that an update left as it was, out of line, comes as null: it looks like one that became null
    DEFAULTED        the converter puts a column's default where the row holds null

Each is a sentence that goes on after the column's name. Seen with Debezium 3.6 (docs/debezium.md).
"""

from __future__ import annotations

from schemas.catalog import Column, Table

DEFAULTED = "may be null although its default stands there: set the converter's replace.null.with.default to false"
UNCHANGED = "is null, or was left as it was: of such an array Debezium does not tell which; give its table REPLICA IDENTITY FULL"
NO_KEY = "with REPLICA IDENTITY USING INDEX Debezium does not tell which row was deleted: use DEFAULT or FULL"

_LOST = {
    "name": "is of type name, which Debezium streams as null",
    "bit[]": "is an array of bits, which Debezium gives as null",
    "interval[]": "is an array of intervals, which Debezium leaves out",
    "money[]": "is an array of money, which Debezium leaves out",
    "name[]": "is an array of names, which Debezium leaves out",
    "time without time zone[]": "is an array of times, which Debezium cuts to milliseconds",
    "time with time zone[]": "is an array of times with time zone, which Debezium cuts to seconds",
}
# elements of arrays for whose unchanged value Debezium has a placeholder
_TOLD_APART = {
    *("text", "character varying", "character", "citext", "bytea", "json", "jsonb", "integer", "bigint", "uuid", "date"),
}


def of_settings(column: Column | None, kind: str, name: str) -> str | None:
    """`kind` and `name`: a value's Connect or Avro type, its semantic name."""
    if name.startswith("io.debezium.time.Iso"):
        return "comes as ISO text, which loses the years before Christ and what is infinite: set time.precision.mode to adaptive"
    if column is None:
        return None
    base = column.base.removesuffix("[]")
    if base == "numeric" and kind in ("double", "float", "float64", "float32"):
        return "comes as a number of floating point, which loses digits: set decimal.handling.mode to precise or string"
    if base == "bytea" and kind == "string":
        return "comes as a text that may be base64 or hexadecimal: set binary.handling.mode to bytes"
    cut = name in ("org.apache.kafka.connect.data.Timestamp", "org.apache.kafka.connect.data.Time")
    if cut and (column.precision is None or column.precision > 3):
        return "comes in milliseconds and has more digits: set time.precision.mode to adaptive"
    return None


def of_type(column: Column) -> str | None:
    return _LOST.get(column.base)


def of_unchanged(table: Table) -> frozenset[str]:
    """Columns whose null, in an update without the row before, may be an unchanged value."""
    arrays = (column for column in table.columns if column.base.endswith("[]"))
    return frozenset(column.name for column in arrays if column.base.removesuffix("[]") not in _TOLD_APART)
