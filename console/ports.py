"""Where to listen, as an option of a command."""

from __future__ import annotations

import re
from typing import Any

import click

Address = tuple[str, int]

_ADDRESS = re.compile(r"((\[(?P<v6>[0-9A-Fa-f:.]+(%\w+)?)\]|(?P<host>[^:\[\]]*)):)?(?P<port>[0-9]{1,5})", re.ASCII)


class HttpAddress(click.ParamType):
    """`9100`, `127.0.0.1:9100` or `[::1]:9100`."""

    name = "[HOST:]PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, tuple):
            return value
        match = _ADDRESS.fullmatch(str(value))
        if match is None or not 0 < int(match["port"]) < 65536:
            self.fail(f"{value!r} is no port, expected something like 9100, 127.0.0.1:9100 or [::1]:9100", param, ctx)
        return match["v6"] or match["host"] or "0.0.0.0", int(match["port"])


HTTP = click.option(
    "--http", type=HttpAddress(), help="Serve /healthz, /readyz and /metrics on this port; without a host on all interfaces."
)
