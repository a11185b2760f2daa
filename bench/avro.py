"""Avro bodies by the functions made for their schema (`schemas.compiled_avro`) and by fastavro, side by side, on a golden record.

    python -m bench.avro --rounds 7

Prints µs a record, the median of the rounds with the lowest and the highest, and the ratio of the medians. The two take turns.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import fastavro
from rich.console import Console
from rich.table import Table

from schemas import compiled_avro
from schemas.golden import Cause, GoldenRecord, Version, golden_schema

RECORDS = 5_000  # a round, of each


def a_record(fields: Sequence[str]) -> GoldenRecord:
    version = Version(1_763_910_000_123_456, 1, 0, 1_763_910_000_123_456, 1, 3)
    values = {name: f"the value of {name}" for name in fields}
    cause = Cause("crm", 1_763_910_000_123_456, "u", "4711", "0" * 32)
    seen = {"crm": values, "erp": values}
    keys = {"crm": "4711", "erp": "12"}
    return GoldenRecord("customer", "crm:4711", values, True, version, dict.fromkeys(fields, version), ("erp",), keys, seen, cause)


def microseconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    for _ in range(RECORDS):
        call()
    return 1e6 * (time.perf_counter() - began) / RECORDS


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.avro", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--fields", type=int, default=12, help="of the golden record")
    args = parser.parse_args(argv)
    names = [f"field_{number}" for number in range(args.fields)]
    schema: Any = fastavro.parse_schema(golden_schema("customer", dict.fromkeys(names, "text")))
    datum = a_record(names).to_avro()
    read, write = compiled_avro.reader(schema), compiled_avro.writer(schema)
    assert read is not None
    assert write is not None

    def fastavro_writes() -> bytes:
        body = io.BytesIO()
        fastavro.schemaless_writer(body, schema, datum)
        return body.getvalue()

    body = fastavro_writes()
    assert b"".join(write(datum)) == body
    assert read(body, 0) == fastavro.schemaless_reader(io.BytesIO(body), schema, None)
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "read": (lambda: read(body, 0), lambda: fastavro.schemaless_reader(io.BytesIO(body), schema, None)),
        "written": (lambda: b"".join(write(datum)), fastavro_writes),
    }
    table = Table("", "ours, µs", "fastavro, µs", "ratio", title=f"a golden record of {args.fields} fields, {len(body):,} bytes")
    for name, (ours, theirs) in pairs.items():
        rounds = [(microseconds(ours), microseconds(theirs)) for _ in range(args.rounds)]
        told = [(statistics.median(each), min(each), max(each)) for each in zip(*rounds, strict=True)]
        cells = [f"{median:.1f} ({least:.1f}-{most:.1f})" for median, least, most in told]
        table.add_row(name, *cells, f"{told[1][0] / told[0][0]:.1f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
