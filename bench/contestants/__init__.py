"""Who is measured: what keeps one database like the other (`Pipeline`), or reads a database's log into Kafka (`Reader`)."""

from __future__ import annotations

from typing import Protocol

from bench.usage import Parts
from bench.world import World


class Contestant(Protocol):
    """Started and stopped as its users would; what it remembers is in its folder, in Kafka or in the database."""

    name: str

    def start(self, world: World) -> None:
        """Returns when it is at work. Raises BenchError, or whatever went wrong."""

    def stop(self) -> None:
        """Tidily; may be called at any time, and again."""

    def parts(self) -> Parts:
        """Its own processes, by what they do. Those of Kafka and PostgreSQL are the world's."""


class Pipeline(Contestant, Protocol):
    """Keeps public.item of `erp` like that of `crm`."""

    two_way: bool  # and that of `crm` like that of `erp`

    def hurry(self) -> None:
        """Bursts come next: what it does only so that its latency can be read may go."""

    def settle(self) -> None:
        """Returns when nothing is in flight: echoes of what has arrived are work too, and must not fall into the next measurement."""


class Reader(Contestant, Protocol):
    """Reads the tables of `crm` into Kafka: first the rows that are there, then the log. Goes on where it was when it is started again."""

    def check(self) -> None:
        """Raises BenchError when it is not alive, or has given up."""

    def topic(self, table: str) -> str:
        """Where a table's events go."""

    def read_all(self) -> bool:
        """Whether the rows that were there at the start are in Kafka, and it has noted so."""
