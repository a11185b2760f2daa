"""What a process answers over HTTP, for probes and for Prometheus. Only GET; nothing can be changed by it, and no row is in it.

    /healthz   200 while it is alive, else 503; a JSON object with what it bases that on. For a liveness probe: restart what fails it
    /readyz    200 while it does its work, else 503, with what it waits for. For a readiness probe, and for `concord up` to be there
    /metrics   Prometheus' text format

A part answers for itself (`schemas.health`). `concord up --http` answers for all its parts: alive while the supervisor's loop turns, ready
when every part is.
"""

from __future__ import annotations

import http.client
import logging
import socket
import socketserver
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from threading import Thread
from typing import Any, cast
from urllib.error import HTTPError, URLError
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import orjson
from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app

from console.ports import Address
from schemas.health import Health

logger = logging.getLogger(__name__)

Answer = tuple[bool, Mapping[str, Any]]  # as it should be, and what is told


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 16


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds for a request to arrive: a client that says nothing holds no thread

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def serve(address: Address | int, alive: Callable[[], Answer], ready: Callable[[], Answer], registry: CollectorRegistry = REGISTRY) -> str:
    """Starts answering, in a thread; returns the address of `/metrics` as this machine reaches it.

    `address` 0: a free port of this machine's own interface. A port that is taken is said, and a free one used: no part ends for it.
    """
    host, port = ("127.0.0.1", 0) if address == 0 else ("0.0.0.0", address) if isinstance(address, int) else address
    try:
        server = _listening(host, port, alive, ready, registry)
    except OSError as error:
        logger.warning("port %s of %s cannot be used for HTTP (%s), taking a free one", port, host, error.strerror)
        host = "127.0.0.1"
        server = _listening(host, 0, alive, ready, registry)
    Thread(target=server.serve_forever, name="http", daemon=True).start()
    reached = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{server.server_port}/metrics"


def _listening(host: str, port: int, alive: Callable[[], Answer], ready: Callable[[], Answer], registry: CollectorRegistry) -> _Server:
    server = (_Server6 if ":" in host else _Server)((host, port), _Quiet)
    metrics = make_wsgi_app(registry)
    questions = {"/healthz": alive, "/readyz": ready}

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path in questions:
            well, told = questions[path]()
            status, body = "200 OK" if well else "503 Service Unavailable", orjson.dumps(told) + b"\n"
        elif path == "/metrics":
            return cast("Iterable[bytes]", metrics(environ, start))
        else:
            status, body = "404 Not Found", b'{"there are": ["/healthz", "/readyz", "/metrics"]}\n'
        start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    server.set_app(app)
    return server


def of_part(part: str, health: Health) -> tuple[Callable[[], Answer], Callable[[], Answer]]:
    """What one part answers to `/healthz` and `/readyz`."""

    def alive() -> Answer:
        return health.alive, {"part": part, "alive": health.alive, "loop_turned_seconds_ago": round(health.idle_seconds, 3)}

    def ready() -> Answer:
        waits_for = health.waits_for if health.alive else "its loop does not turn"
        return waits_for is None, {"part": part, "ready": waits_for is None, "waits_for": waits_for}

    return alive, ready


ASK_SECONDS = 2.0


def waits_for(metrics: str) -> str | None:
    """What the part at this address of `/metrics` waits for; None when it is ready."""
    try:
        with urllib.request.urlopen(metrics.removesuffix("/metrics") + "/readyz", timeout=ASK_SECONDS):
            return None
    except HTTPError as error:
        with error:
            told = orjson.loads(error.read() or b"{}")
        return str(told.get("waits_for") or error.reason)
    except (URLError, OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
        return f"it does not answer: {error}"
