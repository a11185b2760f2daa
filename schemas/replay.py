"""An operator's wish that the streams read a captured topic again: a message of `<pipeline>.replays`, in the partition that is meant.

{"topic": "crm.public.account", "offset": 4711, "by": "alice@host", "ts": 1763910000123456}
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import orjson

from schemas.errors import SchemaError


@dataclass(frozen=True, slots=True)
class Replay:
    """From `offset` on, in the partition of the message."""

    topic: str
    offset: int
    by: str
    ts: int  # µs since 1970

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))


def decode_replay(data: bytes | None) -> Replay:
    """Raises SchemaError when `data` is not such a wish."""
    try:
        told = Replay(**orjson.loads(data or b""))
    except (orjson.JSONDecodeError, TypeError) as error:
        raise SchemaError(f"not a replay: {error!r}") from error
    fits = isinstance(told.topic, str) and isinstance(told.by, str) and type(told.offset) is int and told.offset >= 0
    if not fits:
        raise SchemaError(f"not a replay: {told!r}")
    return told
