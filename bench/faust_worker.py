"""One Faust worker that counts what goes through it, as it ships or with our chunks: a child of bench.sections.faust.

    python -m bench.faust_worker {stock|chunks} {pass|forward|table|recovery} ID --bootstrap … --records N --seconds S --folder F

It reads the topic `ID`, four partitions, until it has seen so many records or so long, then says one line of JSON and ends at once:
{"records", "seconds", "cpu", "mb"}; `recovery`: the seconds from its assignment until the table `t` is there, and its number of keys.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

PARTITIONS = 4
MODES = ("pass", "forward", "table", "recovery")


@dataclass
class Meter:
    """Counts from the first records on, and ends the process when it has enough."""

    records: int
    longest: float
    seen: int = 0
    began: float = 0.0
    cpu: float = 0.0
    first: int = 0
    assigned: float = field(default_factory=time.monotonic)

    def count(self, records: int) -> None:
        if not self.seen:
            self.began, self.cpu, self.first = time.monotonic(), time.process_time(), records
        self.seen += records
        if self.seen >= self.records or time.monotonic() - self.began > self.longest:
            self.end(self.seen - self.first, time.monotonic() - self.began, time.process_time() - self.cpu)

    @staticmethod
    def end(records: int, seconds: float, cpu: float) -> None:
        told = {"records": records, "seconds": seconds, "cpu": cpu, "mb": peak_megabytes()}
        sys.stdout.write(f"\n{json.dumps(told)}\n")  # a line of its own: Faust turns a spinner there
        sys.stdout.flush()
        os._exit(0)  # what is in work is nobody's


def peak_megabytes() -> float:
    """Linux's ru_maxrss is also that of who started us, from before our program was loaded."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 1024


def stock(args: argparse.Namespace, meter: Meter) -> None:
    """Faust's own consumer, producer and table, at its own settings but these: no leader topic, no standby."""
    import faust

    app = faust.App(
        args.id,
        broker=f"kafka://{args.bootstrap}",
        datadir=args.folder,
        store="memory://",
        topic_disable_leader=True,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        web_enabled=False,
        autodiscover=False,
    )
    raw: dict[str, Any] = {"key_serializer": "raw", "value_serializer": "raw", "key_type": bytes, "value_type": bytes}
    out = app.topic(f"{args.id}-out", **raw)
    table: Any = app.Table("t", partitions=PARTITIONS) if args.mode in ("table", "recovery") else None

    @app.agent(app.topic(args.id, **raw))
    async def each(stream: Any) -> None:
        async for event in stream.events():
            if args.mode == "forward":
                await out.send(key=event.key, value=event.value)
            elif table is not None:
                key, number = event.key.decode(), orjson.loads(event.value)["id"]
                table[key] = max(table.get(key, 0), number)
            meter.count(1)

    _when_recovered(app, meter, table if args.mode == "recovery" else None)
    faust.Worker(app, loglevel="ERROR", quiet=True, redirect_stdouts=False).execute_from_commandline()


def chunks(args: argparse.Namespace, meter: Meter) -> None:
    """The same with streams.transport."""
    from streams.transport import ChunkApp, run_worker

    app = ChunkApp(args.id, bootstrap=args.bootstrap, datadir=args.folder)
    table: Any = app.Table("t", partitions=PARTITIONS) if args.mode in ("table", "recovery") else None

    @app.agent(app.chunk_topic(args.id))
    async def each(stream: Any) -> None:
        async for chunk in stream:
            if args.mode == "forward":
                await app.deliver((f"{args.id}-out", record.key, record.value) for record in chunk)
            elif table is not None:
                for record in chunk:
                    key, number = record.key.decode(), orjson.loads(record.value)["id"]
                    table[key] = max(table.get(key, 0), number)
            meter.count(len(chunk))

    _when_recovered(app, meter, table if args.mode == "recovery" else None)
    run_worker(app)


def _when_recovered(app: Any, meter: Meter, table: Any) -> None:
    if table is None:
        return

    @app.on_partitions_assigned.connect  # type: ignore[untyped-decorator]
    async def assigned(*_: Any, **__: Any) -> None:
        meter.assigned = time.monotonic()

    @app.timer(0.1)  # type: ignore[untyped-decorator]
    async def look() -> None:
        if app.tables.actives_ready and not app.rebalancing and len(table) > 0:
            meter.end(len(table), time.monotonic() - meter.assigned, time.process_time())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.faust_worker", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("driver", choices=("stock", "chunks"))
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("id")
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="no longer than this")
    parser.add_argument("--folder", required=True)
    args = parser.parse_args()
    meter = Meter(args.records, args.seconds)
    {"stock": stock, "chunks": chunks}[args.driver](args, meter)


if __name__ == "__main__":
    main()
