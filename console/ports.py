"""Where to listen, as an option of a command."""

from __future__ import annotations

from typing import Any

import click

Address = tuple[str, int]


class HttpAddress(click.ParamType):
    """`9100` or `127.0.0.1:9100`."""

    name = "[HOST:]PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            self.fail(f"{value!r} is no port, expected something like 9100 or 127.0.0.1:9100", param, ctx)
        return host.strip("[]") or "0.0.0.0", int(port)


HTTP = click.option(
    "--http", type=HttpAddress(), help="Serve /healthz, /readyz and /metrics on this port; without a host on all interfaces."
)
