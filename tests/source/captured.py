"""What was captured from Debezium, in `debezium/` beside this file: the SQL that was run, and the events. Here is what runs that SQL again,
on a server that may lack an extension or libxml: `types_tables`, then `types_rows`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import psycopg

CAPTURED = Path(__file__).parent / "debezium"
EXTENSIONS = {"c_hstore": "hstore", "c_citext": "citext", "c_ltree": "ltree"}


def captured_file(name: str) -> Any:
    """One of the files with events."""
    return json.loads((CAPTURED / name).read_text())


def statements(text: str, **values: object) -> list[str]:
    """A file of SQL, one statement each, without comments; `:name` and `:name+2` are filled in."""
    text = re.sub(r"--.*", "", text)
    for name, value in values.items():
        text = re.sub(rf"(?<!:):{name}\b", str(value), text)
    return [part.strip() for part in re.split(r";[ \t]*\n|;\s*(?=CREATE|DROP|INSERT|ALTER)", text) if part.strip().rstrip(";")]


def types_tables(missing: Collection[str]) -> Iterator[str]:
    """Statements that make the tables of types, without these columns."""
    for statement in statements((CAPTURED / "01_types.sql").read_text()):
        extension = re.search(r"CREATE EXTENSION IF NOT EXISTS (\w+)", statement)
        if extension is None or not any(EXTENSIONS.get(column) == extension[1] for column in missing):
            yield _without(statement, missing)


def types_rows(id_: int, base: int, missing: Collection[str]) -> Iterator[str]:
    """Statements that insert their rows, from this id on."""
    for file in ("02_types_rows.sql", "03_types_edges.sql"):
        for statement in statements((CAPTURED / file).read_text(), id=id_, b=base):
            yield _without_values(statement, missing) if missing else statement


def missing_columns(dsn: str) -> dict[str, str]:
    """Columns of `types_all` that this server cannot have → why."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        there = {name for (name,) in conn.execute("SELECT name FROM pg_available_extensions")}
        missing = {column: f"extension {name} is not installed" for column, name in EXTENSIONS.items() if name not in there}
        try:
            conn.execute("SELECT '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:
            missing["c_xml"] = "this server was built without libxml"
    return missing


def _without(statement: str, columns: Collection[str]) -> str:
    """A CREATE TABLE without some of its columns: each of these has a type without arguments."""
    for column in columns:
        statement = re.sub(rf"\s{column} \w+,", "", statement)
    return statement


def _without_values(statement: str, gone: Collection[str]) -> str:
    """An INSERT without some of its columns and their values."""
    match = re.match(r"(INSERT INTO types_all \()([^)]*)\)\s*(SELECT|VALUES)\s*(.*)", statement, re.S)
    assert match is not None, statement
    head, names, keyword, body = match.groups()
    if keyword == "VALUES":
        body = body.strip().rstrip(";")[1:-1]
    values, depth, quoted, start = [], 0, False, 0
    for at, char in enumerate(body):
        if char == "'":
            quoted = not quoted
        elif not quoted:
            depth += (char in "([") - (char in ")]")
            if char == "," and depth == 0:
                values.append(body[start:at])
                start = at + 1
    values.append(body[start:])
    kept = [(name, value) for name, value in zip(names.split(","), values, strict=True) if name not in gone]
    return f"{head}{','.join(name for name, _ in kept)}) SELECT {','.join(value for _, value in kept)}"
