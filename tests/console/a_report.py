"""A report of `concord status` with every figure in it."""

from __future__ import annotations

from typing import Any

REPORT: dict[str, Any] = {  # every figure that a report can have
    "settled": True,
    "systems": {
        "erp": {
            "error": None,
            "slot": "streaming",
            "retained_wal_bytes": 1,
            "wal_keep_limit_bytes": 2,
            "snapshot": {"public.partner": {"done": True, "rows": 3}},
            "source_lag_bytes": 4,
            "source_lag_seconds": 5.0,
            "sink_lag_events": 6,
            "sink_lag_seconds": 7.0,
            "parked": 8,
            "parked_oldest_seconds": 9.0,
            "dead": 10,
            "dead_and_more": False,
            "events": {"applied": 11},
            "commit_to_commit": {"crm": {"count": 12, "p50_ms": 13.0, "p99_ms": 14.0}},
        }
    },
    "parts": {
        "sink-erp-0": {
            "alive": True,
            "pid": 15,
            "since": "2026-11-27T08:00:00Z",
            "state": "running",
            "restarts": 16,
            "last_exit": {"code": -9, "reason": "killed by SIGKILL", "at": "2026-11-27T07:00:00Z"},
            "metrics": "http://127.0.0.1:1/metrics",
        }
    },
    "entities": {
        "customer": {
            "events": {"applied": 17},
            "conflicts": 18,
            "lag_events": 19,
            "parked": 20,
            "dead": 21,
            "verified": {"at": "2026-11-27T06:00:00+00:00", "things": 22, "differences": 23},
        }
    },
}
