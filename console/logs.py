"""How Concord's processes write their logs: lines for people on a terminal, JSON elsewhere. To stderr: stdout is for what was asked.

    12:00:01.123 WARNING sink-erp-0   the database does not answer, trying again in 2 s
    {"ts": "2026-11-23T12:00:01.123456Z", "level": "WARNING", "part": "sink-erp-0", "logger": "connectors.sink.connector", "message": "…"}

A line about an event carries the event's name: in the message, or as `extra={"event": "crm.public.account/42@0/16B3748"}`.
Passwords never come through: those of the configuration (`hide`) and what looks like one are struck out here, whatever library wrote it.
Rows do not either: of an error, a log has only what cannot quote one (`words_of`). Names of events hold the keys of their rows.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from types import TracebackType
from urllib.parse import quote

import psycopg

from connectors.postgres import concord_error, state_of
from schemas.errors import ConcordError, MappingError, SchemaError

FORMAT_VARIABLE = "CONCORD_LOGS"  # "json" or "lines": what `concord up` tells its parts, whose stderr is its own

# Libraries that log their normal work. aiokafka at DEBUG under Faust costs a twentieth of the CPU.
QUIET = {
    "aiokafka": logging.WARNING,
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "kafka": logging.WARNING,
    "asyncio": logging.WARNING,
}
QUIET_WHEN_DEBUGGING = {"aiokafka": logging.INFO, "faust": logging.INFO, "mode": logging.INFO, "asyncio": logging.INFO}

REPEAT_SECONDS = 10.0  # a library that says the same thing over and over, with other numbers in it, is heard once in so long
KEPT_REPEATS = 500
LIBRARIES = (*QUIET, "confluent_kafka")
LIBRDKAFKA = "%s [%s] %s"  # how confluent-kafka passes on librdkafka's lines, through whatever logger it was given

_SECRETS = (
    (re.compile(r"(password['\"]?\s*[=:]\s*)('(?:[^'\\]|\\.)*'|\"[^\"]*\"|[^\s,&'\"}]+)", re.IGNORECASE), r"\1***"),
    (re.compile(r"(\w://[^\s:/@]*):\S+@"), r"\1:***@"),
)
SHORTEST_SECRET = 4  # characters; what is shorter stands in ordinary words


_hidden: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """From now on these are struck out wherever they stand; also as a URL has them."""
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            _hidden.update((secret, quote(secret), quote(secret, safe="")))


def without_secrets(text: str) -> str:
    """`text` with the passwords of the configuration struck out, and what looks like one: `password=…`, and the one in a URL."""
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, "***")
    for pattern, kept in _SECRETS:
        text = pattern.sub(kept, text)
    return text


def first_line(error: BaseException) -> str:
    """What an error says in one line, without passwords; a database error's DETAIL, which may quote a row, is not in it."""
    said = str(error).strip().splitlines()
    return without_secrets(said[0] if said else type(error).__name__)


_QUOTE_ROWS = (MappingError, SchemaError)
_QUOTE_NOTHING = (ConcordError, OSError, AttributeError, TypeError, NameError, ImportError, RuntimeError, MemoryError)


def words_of(error: BaseException) -> str:
    """An error for a log. What may quote a value is told by its kind only: Python's ValueError and KeyError, PostgreSQL's sentences about
    data, the mapping's."""
    kind = type(error).__name__
    if isinstance(error, psycopg.Error):
        state = state_of(error)
        return without_secrets(str(concord_error(error, kind)) if state or isinstance(error, psycopg.OperationalError) else kind)
    kafka = sys.modules.get("confluent_kafka")  # not imported for this: `concord --help` need not wait for it
    quotes_nothing = isinstance(error, _QUOTE_NOTHING) or (kafka is not None and isinstance(error, kafka.KafkaException))
    if isinstance(error, _QUOTE_ROWS) or not quotes_nothing:
        return kind
    return without_secrets(str(error).strip()) or kind


def _without_rows(error: BaseException) -> str:
    """The traceback, the frames of it all, each error with its words."""
    lines: list[str] = []
    seen: BaseException | None = error
    chain: list[BaseException] = []
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    for one in reversed(chain):
        lines += traceback.format_tb(one.__traceback__)
        lines.append(f"{type(one).__module__}.{type(one).__qualname__}: {words_of(one)}\n")
    return without_secrets("".join(lines).rstrip())


def of_thread(ended: threading.ExceptHookArgs) -> None:
    """`threading.excepthook`: Python's own would write the error to stderr as it is, past everything here."""
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        name = ended.thread.name if ended.thread is not None else "?"
        info = (ended.exc_type, ended.exc_value, ended.exc_traceback)
        logging.getLogger(__name__).error("thread %s was ended by an error nobody expected", name, exc_info=info)


class Repeats(logging.Filter):
    """Lets a line of a library through once in REPEAT_SECONDS; the next one of its kind then says how many were held back.

    Without Kafka, aiokafka and librdkafka say so some hundred times a second, in one process. Our own lines always come through.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, int, str], tuple[float, int]] = {}  # → (when one came through, how many were held back since)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in LIBRARIES and record.msg != LIBRDKAFKA:
            return True
        kind = (record.name, record.levelno, re.sub(r"\d+", "#", record.getMessage()))
        now = self._clock()
        since, held = self._kinds.get(kind, (None, 0))
        if since is not None and now - since < REPEAT_SECONDS:
            self._kinds[kind] = (since, held + 1)
            return False
        if len(self._kinds) >= KEPT_REPEATS:
            self._kinds.clear()
        self._kinds[kind] = (now, 0)
        if held and since is not None:
            more = (
                f" ({held} more like it in {now - since:.0f} s)"  # the arguments stay: what they may hold is kept out where it is printed
            )
            record.msg = f"{record.msg}{more}"
        return True


class _Formatter(logging.Formatter):
    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part

    def formatException(self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]) -> str:
        return _without_rows(ei[1]) if ei[1] is not None else ""

    def message_of(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            args = tuple(words_of(one) if isinstance(one, BaseException) else one for one in record.args)
            return without_secrets(str(record.msg) % args if args else str(record.msg))
        return without_secrets(record.getMessage())


class Lines(_Formatter):
    """For people."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {self.part:<12} {self.message_of(record)}"
        event = getattr(record, "event", None)
        if event and str(event) not in line:
            line += f" [{event}]"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class Json(_Formatter):
    """For machines, one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "part": self.part,
            "logger": record.name,
            "message": self.message_of(record),
        }
        if event := getattr(record, "event", None):
            told["event"] = str(event)
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def set_up(part: str = "concord", *, debug: bool = False, quiet: bool = False) -> None:
    """Sends everything logged in this process to stderr; `quiet` for commands whose answer is what matters: warnings and worse only."""
    wanted = os.environ.get(FORMAT_VARIABLE) or ("lines" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Repeats())
    handler.setFormatter(Lines(part) if wanted == "lines" else Json(part))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    for name, level in (QUIET_WHEN_DEBUGGING if debug else QUIET).items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
