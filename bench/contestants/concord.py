"""Concord: the whole pipeline as `concord up` runs it, and its source alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import yaml

from bench.usage import Parts
from bench.world import SYSTEMS, BenchError, World, until
from connectors.source.slot import slot_state
from console.parts import read_json
from examples.drive import Concord as Driven
from examples.drive import start, stop, tail
from schemas.config import load

_COLUMNS = {"key": "id", "number": "n"}  # field → column, where it has another name
_FIELDS = ("key", "number", "seq", "name", "email", "city", "amount", "active", "changed")


def an_entity(table: str, name: str, systems: tuple[str, str] = SYSTEMS) -> dict[str, Any]:
    """The entity of a table that is the same on both sides, as in concord.yaml."""
    return {
        name: {
            "match_on": ["number"],
            **{system: {"table": f"public.{table}"} for system in systems},
            "fields": {field: {system: _COLUMNS.get(field, field) for system in systems} for field in _FIELDS},
        }
    }


def a_config(
    world: World, folder: Path, entities: Mapping[str, Any], partitions: int = 1, name: str = "bench", systems: tuple[str, str] = SYSTEMS
) -> Path:
    """The file of a pipeline in `folder`, between the world's two databases, whatever it calls them."""
    file = folder / "concord.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": name,
                "state_dir": str(folder),
                "kafka": {"bootstrap": world.bootstrap, "partitions": partitions},
                "systems": {
                    ours: {"dsn": world.dsns[own], "rank": rank} for rank, (ours, own) in enumerate(zip(systems, SYSTEMS, strict=True))
                },
                "entities": dict(entities),
            }
        )
    )
    return file


SETTLE_SECONDS = 1200.0


class Concord:
    """`concord up`. Both sides' rows are the same before it starts; it links them by their number."""

    two_way = True

    def __init__(self, name: str = "Concord", workers: int = 1, partitions: int = 1, entities: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self._workers, self._partitions, self._entities = workers, partitions, entities or an_entity("item", "item")
        self._up: Driven | None = None

    def start(self, world: World) -> None:
        folder = world.new_folder("concord")
        file = a_config(world, folder, self._entities, self._partitions)
        self._up = Driven(file, {}, folder / "up.log", folder / "bench")
        self.go_on()
        self._up.settle(SETTLE_SECONDS)

    def go_on(self) -> None:
        """Starts it again where it was."""
        assert self._up is not None
        self._up.up("--workers", str(self._workers), "--sink-workers", str(self._workers))

    def local_state(self) -> list[Path]:
        """Folders in which the streams keep what they have on this machine."""
        return [] if self._up is None else sorted(self._up.config.parent.glob("streams-*"))

    def streams_work(self) -> None:
        """Returns when every streams worker has its tables and its partitions."""

        def work() -> bool:
            assert self._up is not None
            self._up.check_alive()
            told = [read_json(self._up.run_dir / "parts" / f"streams-{number}.json") for number in range(self._workers)]
            pids = self.parts().get("streams", [])
            return len(pids) == self._workers and all(one.get("pid") in pids and one.get("state") == "running" for one in told)

        until(work, "the streams do not get to work", SETTLE_SECONDS, every=0.02)

    def hurry(self) -> None:
        pass

    def settle(self) -> None:
        assert self._up is not None
        self._up.settle(SETTLE_SECONDS)

    def stop(self) -> None:
        if self._up is not None:
            self._up.down()

    def parts(self) -> Parts:
        if self._up is None or self._up.process is None:
            return {}
        found: dict[str, list[int]] = {}
        for name, told in read_json(self._up.run_dir / "up.json").get("parts", {}).items():
            kind = {"source": "sources", "sink": "sinks"}.get(name.partition("-")[0], name.partition("-")[0])
            if told["pid"]:
                found.setdefault(kind, []).append(told["pid"])
        return found


class ConcordSource:
    """`concord source crm`: the log into Kafka, in Avro."""

    def __init__(self, name: str, tables: tuple[str, ...], system: str = "crm") -> None:
        self.name = name
        self._tables, self._system = tables, system
        self._folder: Path | None = None
        self._dsn = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self, world: World) -> None:
        if self._folder is None:
            self._folder = world.new_folder(f"source-{self._system}")
            # two pipelines on one Kafka have no name in common
            systems, entities = (self._system, f"{self._system}_erp"), dict[str, Any]()
            for table in self._tables:
                entities |= an_entity(table, f"{self._system}_{table}", systems)
            a_config(world, self._folder, entities, 1, f"bench_{self._system}", systems)
        self._dsn = world.dsns["crm"]
        command = [sys.executable, "-m", "console", "source", self._system, "-c", str(self._folder / "concord.yaml")]
        self._process = start(command, {}, self._folder / "source.log")

    def check(self) -> None:
        """Raises BenchError when it has ended."""
        if self._process is not None and self._process.poll() is not None and self._folder is not None:
            raise BenchError(f"concord source ended with status {self._process.returncode}: {tail(self._folder / 'source.log', 5)}")

    def stop(self) -> None:
        if self._process is not None:
            stop(self._process)

    def parts(self) -> Parts:
        return {"source": [self._process.pid]} if self._process is not None else {}

    def topic(self, table: str) -> str:
        return f"{self._system}.public.{table}"

    def read_all(self) -> bool:
        self.check()
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            found = connection.execute("SELECT to_regclass('concord.snapshot')").fetchone()
            if not found or found[0] is None:
                return False
            slot = self._slot
            row = connection.execute("SELECT count(*), bool_and(done) FROM concord.snapshot WHERE pipeline = %s", [slot]).fetchone()
            state = slot_state(connection, slot)
            return bool(row and row[0] >= len(self._tables) and row[1] and state is not None and state.active)

    @property
    def _slot(self) -> str:
        assert self._folder is not None
        return str(load(self._folder / "concord.yaml", {}).systems[self._system].slot)
