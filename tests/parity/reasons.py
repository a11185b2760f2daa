"""Where our source differs from Debezium on purpose, or Debezium loses something: each with its reason. What is not here is unexplained."""

# ruff: noqa: E501 - sentences of a table, whole
from __future__ import annotations

import re

# Parts of every event that differ everywhere.
EVERYWHERE = {
    "source.version": "who captured it; our streams tell our source from Debezium by it",
    "source.sequence": "ours is [end of the event's own transaction, LSN], which grows from event to event (decision 0004); Debezium's first is "
    "where that transaction began, which does not (decision 0027)",
    "headers __debezium.context.*": "ours has none: they name a task of Debezium's",
}
STREAMED = {"source.snapshot": "ours says false, Debezium leaves out what is the field's default"}

# (occasion, part) as regular expressions → reason
EVENTS = (
    (
        "rows that were there before",
        r"source\.(ts_.*|snapshot|lsn|txId)",
        "ours are read beside the stream, between watermarks, as Debezium's incremental snapshot reads: without LSN and transaction, `incremental`",
    ),
    (
        "rows that were there before|a table without a primary key",
        "the event",
        "rows without a key cannot be told apart: ours does not read those that were there before, and sends no tombstone for them",
    ),
    (
        "REPLICA IDENTITY USING INDEX.*",
        ".*",
        "Debezium takes the index' columns for the key: it gives key 0, and a delete and a new row where the index' value changes. Ours takes the key from "
        "the row; a delete, whose row the log does not tell, has no key and is a dead letter. `concord check` refuses such tables for Debezium",
    ),
    (
        "names with .*",
        r"after\..*",
        "ours writes a column's name as Avro allows it and tells the true one in the schema; Debezium's JSON has it as it is",
    ),
    (
        "logical messages",
        r"source\.ts_.*",
        "a message outside a transaction has no commit time: each says when it read it",
    ),
)

# column → how its representation differs
REPRESENTED = {
    "c_num_neg": "numeric(5,-2): ours has scale 0, Debezium takes -2 for 2046",
    "c_name": "Debezium streams null",
    "c_date": "in a snapshot Debezium has other numbers for infinity than in the stream, and takes years before Christ for years after",
    "c_gen": "generated columns are not in the log; Debezium has them in its snapshot",
    "m_float8a": "lower bounds: ours sends none of it, and the text beside; Debezium drops the bounds",
    "m_numfree": "NaN in an array: ours sends none of it, and the text beside; Debezium null",
    "m_varchara": "two dimensions: ours sends nulls, and the text beside; Debezium Java's names of the inner arrays",
    "m_namea": "Debezium leaves it out",
    "m_intervala": "Debezium leaves it out",
    "m_moneya": "Debezium leaves it out",
    "m_varbita": "Debezium leaves it out",
    "m_timea": "Debezium cuts to milliseconds, 24:00 is 00:00",
    "m_timetza": "Debezium cuts to seconds",
    "m_enuma": "a null in an array of enums: ours sends none of it, and the text beside; Debezium null",
    "m_bit1a": "Debezium gives null",
    "m_bit3a": "Debezium gives null",
}

# column → what our streams read wrong of Debezium's events, without a sign of it
LOST = {
    "c_date": "years before Christ, in a snapshot",
    "c_timetz": "24:00 comes as 00:00",
    "c_inta2": "two dimensions come as nulls",
    "m_int2a": "two dimensions come as nulls",
    "m_numfree": "NaN in an array makes it null; two dimensions come as nulls",
    "m_varchara": "two dimensions come as Java's names of arrays",
    "m_float8a": "lower bounds are dropped",
    "c_varbit": "leading zeros are those of the declared length",
    "m_varbitfree": "an empty one comes as 0",
    "m_enuma": "a null among enums makes the whole array null",
}


def of_event(occasion: str, part: str) -> str | None:
    """Why `part` differs in this occasion; None: nobody knows."""
    if (reason := EVERYWHERE.get(part)) is not None:
        return reason
    if (reason := STREAMED.get(part)) is not None and occasion != "rows that were there before":
        return reason
    return next((why for name, which, why in EVENTS if re.fullmatch(name, occasion) and re.fullmatch(which, part)), None)
