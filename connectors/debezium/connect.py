"""Kafka Connect over its REST interface: which connectors there are, how they do, what they are told."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from schemas.errors import Refused, Retriable

ANSWER_SECONDS = 10.0
_NOT_NOW = (404, 409, 429, 500, 502, 503, 504)  # 404 and 409: it rebalances, or has not read its own topics yet


@dataclass(frozen=True, slots=True)
class ConnectorState:
    """How a connector and its one task do."""

    connector: str  # RUNNING, FAILED, PAUSED, UNASSIGNED, RESTARTING, STOPPED; "" when there is none
    task: str
    trace: str  # what failed, first line; ''

    @property
    def runs(self) -> bool:
        return self.connector == self.task == "RUNNING"

    @property
    def failed(self) -> bool:
        return "FAILED" in (self.connector, self.task)


class _Missing(Retriable):
    """404: it is not there, or not yet."""


class Connect:
    """One worker of a Connect cluster, which answers for all of it. Raises Retriable when it does not answer, Refused when it says no."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def version(self) -> str:
        return str(self._ask("GET", "/")["version"])

    def has_debezium(self) -> str | None:
        """The version of Debezium's PostgreSQL connector there; None: there is none."""
        plugins = self._ask("GET", "/connector-plugins")
        found = (one["version"] for one in plugins if one["class"].endswith(".PostgresConnector") and "debezium" in one["class"])
        return next(map(str, found), None)

    def put(self, name: str, settings: Mapping[str, str]) -> None:
        """Makes the connector, or tells it anew; nothing happens when it is told the same."""
        self._ask("PUT", f"/connectors/{quote(name)}/config", settings)

    def state(self, name: str) -> ConnectorState:
        try:
            told = self._ask("GET", f"/connectors/{quote(name)}/status")
        except _Missing:
            return ConnectorState("", "", "")
        tasks = told.get("tasks") or [{}]
        trace = str(tasks[0].get("trace") or told["connector"].get("trace") or "")
        return ConnectorState(told["connector"]["state"], str(tasks[0].get("state", "")), _cause(trace))

    def restart(self, name: str) -> None:
        """Starts again what of it has failed."""
        self._ask("POST", f"/connectors/{quote(name)}/restart?includeTasks=true&onlyFailed=true")

    def _ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Any:
        data = None if body is None else json.dumps(dict(body)).encode()
        asking = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(asking, timeout=ANSWER_SECONDS) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                said = f"Kafka Connect at {self.url}, {method} {path}: {error.code} {_message(error.read())}"
            if error.code == 404:
                raise _Missing(said) from error
            if error.code in _NOT_NOW:
                raise Retriable(said) from error
            raise Refused(said, str(error.code)) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise Retriable(f"Kafka Connect at {self.url} does not answer: {error}") from error
        except ValueError as error:
            raise Refused(f"what answers at {self.url} is not Kafka Connect: {error}") from error


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def _cause(trace: str) -> str:
    """The innermost cause of a Java stack trace, in one line."""
    lines = [line for line in trace.splitlines() if line and not line.startswith(("\t", " "))]
    return lines[-1].removeprefix("Caused by: ") if lines else ""
