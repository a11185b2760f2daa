"""Databases with a table of every type, and the ways between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.roundtrip.carried import Road, Side
from tests.services import a_database


@contextlib.contextmanager
def roads(server: str, server_2: str) -> Iterator[list[Road]]:
    """Both ways between two servers of different versions; what only the first can have goes between two databases of it."""
    with contextlib.ExitStack() as stack:
        sides = [Side(stack.enter_context(a_database(dsn)), system) for dsn, system in ((server, "crm"), (server_2, "erp"))]
        common = [name for name in sides[0].types if name in sides[1].types]
        rest = [name for name in sides[0].types if name not in sides[1].types]
        for side in sides:
            stack.callback(side.conn.close)
            side.create(common)
        found = [Road(*sides), Road(*reversed(sides))]
        if rest:
            more = [Side(stack.enter_context(a_database(server)), system) for system in ("crm", "erp")]
            for side in more:
                stack.callback(side.conn.close)
                side.create(rest)
            found.append(Road(*more))
        yield found
