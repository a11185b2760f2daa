"""PostgreSQL's own logical replication: the floor. The same tables, no mapping, no Kafka, nothing in between.

Its subscriber does not wait for the disk unless it is told to, and who reads its log sees a change only then, up to a fifth of a second
later. All others wait, so it is told to for as long as latency is measured; bursts it takes as it ships.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from bench.usage import Parts
from bench.world import SYSTEMS, World, until

_OPTIONS = "copy_data = false, origin = none, synchronous_commit = on"


class Logical:
    """A publication on each side and a subscription on the other, `origin = none`: what came from there does not go back."""

    two_way = True

    def __init__(self, name: str = "logical replication") -> None:
        self.name = name
        self._dsns: dict[str, str] = {}

    def start(self, world: World) -> None:
        self._dsns = dict(world.dsns)
        for system in SYSTEMS:
            self._run(system, sql.SQL("CREATE PUBLICATION bench_all FOR TABLE public.item"))
        for system, other in zip(SYSTEMS, reversed(SYSTEMS), strict=True):
            self._run(
                system,
                sql.SQL("CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION bench_all WITH ({})").format(
                    sql.Identifier(f"bench_{system}"), sql.Literal(self._dsns[other]), sql.SQL(_OPTIONS)
                ),
            )
        for system in SYSTEMS:
            until(lambda system=system: self._works(system), f"the subscription of {system} does not start", 30)  # type: ignore[misc]

    def stop(self) -> None:
        for system in list(self._dsns):
            self._run(system, sql.SQL("DROP SUBSCRIPTION IF EXISTS {}").format(sql.Identifier(f"bench_{system}")))
            self._dsns.pop(system)

    def hurry(self) -> None:
        for system in self._dsns:
            self._run(system, sql.SQL("ALTER SUBSCRIPTION {} SET (synchronous_commit = off)").format(sql.Identifier(f"bench_{system}")))

    def settle(self) -> None:
        pass  # what has arrived is done

    def parts(self) -> Parts:
        return {}  # all of it is PostgreSQL

    def _run(self, system: str, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(self._dsns[system], autocommit=True) as connection:
            connection.execute(statement)

    def _works(self, system: str) -> bool:
        with psycopg.connect(self._dsns[system], autocommit=True) as connection:
            found = connection.execute("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").fetchone()
            return bool(found and found[0] and connection.execute("SELECT 1 FROM pg_subscription_rel WHERE srsubstate = 'r'").fetchone())
