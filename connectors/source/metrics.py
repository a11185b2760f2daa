"""What the source reports beside the metrics that all parts have (`schemas.metrics`)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

SENT = Counter("concord_source_records", "Records handed to Kafka's client, tombstones included", ("system",))
ACKNOWLEDGED = Counter("concord_source_records_acknowledged", "Records that Kafka has acknowledged", ("system",))
UNACKNOWLEDGED = Gauge("concord_source_unacknowledged", "Records on their way to Kafka", ("system",))
CONFIRMED_LSN = Gauge("concord_source_confirmed_lsn", "Log position confirmed to the database: Kafka has everything up to it", ("system",))
STREAMING = Gauge("concord_source_streaming", "1 while the replication stream is open", ("system",))
RECONNECTS = Counter("concord_source_reconnects", "Times the stream was opened again after an error", ("system",))
SNAPSHOT_ROWS = Counter("concord_source_snapshot_rows", "Rows sent by snapshots", ("system", "table"))
SNAPSHOT_PENDING = Gauge("concord_source_snapshot_pending", "Tables whose snapshot is not finished", ("system",))
MISSING_COLUMNS = Gauge("concord_source_missing_columns", "Mapped columns that the table does not have any more", ("system", "table"))
SLOT_HEALTH = Gauge("concord_source_slot_health", "1 if the slot is well, 0 if it is about to be lost (wal_status unreserved)", ("system",))
SLOT_LOST = Gauge("concord_source_slot_lost_timestamp_seconds", "When the slot was found lost last; 0: not since the start", ("system",))
