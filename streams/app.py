"""The streams as one Faust app: all agents of a pipeline, wired. Any number of workers share the partitions.

    intake (per captured table) ⇄ identify (per entity with a match value) ; intake ──▶ merge (per entity)
              └──▶ join (per binding with parts) ⇄ identify                  ; join   ──▶ merge
    replays: an operator's wish to read captured topics again

Importing this starts nothing; `create_app` gives each caller an app of its own.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

import faust

from schemas import topics
from schemas.errors import ConfigError, Problem
from schemas.health import Health
from schemas.mapping import Pipeline
from schemas.metrics import LAG_EVENTS, LAG_SECONDS
from schemas.registry import Registry
from schemas.serde import Codec
from streams.crosswalk import Crosswalk
from streams.identify import Identify
from streams.intake import Intake
from streams.join import Join
from streams.letters import DeadLetters
from streams.merge import Merge
from streams.metrics import PART
from streams.replays import Replays
from streams.transport import ChunkApp, run_worker

logger = logging.getLogger(__name__)

LAG_SECONDS_APART = 1.0


class StreamsApp(ChunkApp):
    """A ChunkApp that closes the crosswalk's connections with itself."""

    crosswalk: Crosswalk

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        await self.crosswalk.close()


def create_app(pipeline: Pipeline, registry: Registry, *, worker: int = 0, **settings: Any) -> StreamsApp:
    """All agents of `pipeline`. `worker`: number of this process among those that share the work.

    Registers the schemas that it writes: blocks, raises Retriable when the registry or Kafka does not answer. `settings` are ChunkApp's.
    """
    config = pipeline.config
    app = StreamsApp(
        f"{config.name}-streams",
        **{
            "bootstrap": config.kafka.bootstrap,
            "datadir": str(config.state_dir / f"streams-{worker}"),
            "consumer_group_instance_id": topics.member(f"{config.name}-streams-{worker}", _reads(pipeline)),
            "topic_replication_factor": config.kafka.replication,
            "client_config": dict(config.kafka.settings),
            "warm": _written(pipeline),
            **_credentials(config.kafka.settings),
            **settings,
        },
    )
    app.crosswalk = Crosswalk(pipeline)
    intakes = add_agents(app, pipeline, Codec(registry), app.crosswalk)
    Replays(app, pipeline)
    _report_lag(app, intakes)
    return app


def _reads(pipeline: Pipeline) -> list[str]:
    """What decides which topics a worker reads."""
    return [
        f"{name} {bool(entity.match_on)} {system} {binding.table} {' '.join(sorted(str(part.table) for part in binding.parts))}"
        for name, entity in pipeline.entities.items()
        for system, binding in entity.bindings.items()
    ]


def add_agents(app: ChunkApp, pipeline: Pipeline, codec: Codec, crosswalk: Crosswalk) -> list[Intake]:
    """The agents that changes go through. `app` may be a rehearsal's (`streams.rehearsal`)."""
    letters = DeadLetters(app, pipeline, codec)
    app.on_poison = letters.poison
    intakes = [
        Intake(app, pipeline, system, table, codec, crosswalk, letters)
        for system in pipeline.systems
        for table in pipeline.captured(system)
    ]
    for system in pipeline.systems:
        for binding in pipeline.tables(system):
            if binding.parts:
                Join(app, pipeline, binding, crosswalk, letters)
    for entity in pipeline.entities.values():
        if entity.match_on:
            Identify(app, pipeline, entity, codec, letters)
        Merge(app, pipeline, entity, codec, crosswalk, letters)
    return intakes


def run_streams(
    pipeline: Pipeline,
    registry_factory: Callable[[], Registry],
    worker: int = 0,
    on_ready: Callable[[], None] | None = None,
    health: Health | None = None,
    **settings: Any,
) -> None:
    """Runs a worker until SIGTERM or SIGINT: then what is in work is finished and committed."""
    registry = registry_factory()
    try:
        run_worker(create_app(pipeline, registry, worker=worker, **settings), on_ready=on_ready, health=health)
    finally:
        registry.close()


def _written(pipeline: Pipeline) -> list[str]:
    """Output topics that no agent of ours reads."""
    written = [topics.dead(system) for system in pipeline.systems]
    for entity in pipeline.entities:
        written += [topics.golden(entity), topics.conflicts(entity)]
    return written


def _report_lag(app: StreamsApp, intakes: list[Intake]) -> None:
    """Events that are captured and not finished, per system; what is further on in the streams stands under no system."""

    async def report() -> None:
        lag = app.health().lag
        left = sum(lag.values())
        for system in {intake.system for intake in intakes}:
            own = [intake for intake in intakes if intake.system == system]
            events = sum(lag.get(intake.captured, 0) for intake in own)
            last_ts_us = max(intake.last_ts_us for intake in own)
            left -= events
            LAG_EVENTS.labels(PART, system).set(events)
            LAG_SECONDS.labels(PART, system).set(max(0.0, time.time() - last_ts_us / 1e6) if events and last_ts_us else 0.0)
        LAG_EVENTS.labels(PART, "").set(left)

    app.timer(LAG_SECONDS_APART)(report)


def _credentials(settings: Mapping[str, str]) -> dict[str, Any]:
    """librdkafka's security settings as Faust's, whose own client joins the group; raises ConfigError for what aiokafka has no equal of."""
    protocol = settings.get("security.protocol", "plaintext").lower()
    if protocol == "plaintext":
        return {}
    context = _tls(settings) if protocol in ("ssl", "sasl_ssl") else None
    if protocol == "ssl":
        return {"broker_credentials": faust.SSLCredentials(context)}
    mechanism = settings.get("sasl.mechanism", settings.get("sasl.mechanisms", "PLAIN")).upper()
    if protocol not in ("sasl_plaintext", "sasl_ssl") or mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        problem = f"the streams cannot use {protocol} with {mechanism}"
        raise ConfigError([Problem("kafka.settings", problem, "use PLAIN or SCRAM over SASL_PLAINTEXT or SASL_SSL")])
    return {
        "broker_credentials": faust.SASLCredentials(
            username=settings.get("sasl.username"),
            password=settings.get("sasl.password"),
            ssl_context=context,
            mechanism=mechanism,
        )
    }


_PASSED_ON = {  # of librdkafka's ssl.*, those that have an equal here
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
}


def _tls(settings: Mapping[str, str]) -> ssl.SSLContext:
    """Raises ConfigError when a file is not there or not what it should be, and for a setting that would hold for librdkafka only."""
    unknown = sorted(name for name in settings if name.startswith("ssl.") and name not in _PASSED_ON)
    if unknown:
        known = ", ".join(sorted(_PASSED_ON))
        raise ConfigError([Problem(f"kafka.settings.{name}", "the streams have no equal of it", f"use {known}") for name in unknown])
    at = "ssl.ca.location" if "ssl.ca.location" in settings else "ssl.ca.pem"
    try:
        context = ssl.create_default_context(cafile=settings.get("ssl.ca.location"), cadata=settings.get("ssl.ca.pem"))
        if settings.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
            context.check_hostname = False
        if (at := "ssl.certificate.location") in settings:
            context.load_cert_chain(settings[at], settings.get("ssl.key.location"), settings.get("ssl.key.password", ""))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        said = getattr(error, "strerror", None) or type(error).__name__
        what, mend = (said, "certificates in PEM") if at == "ssl.ca.pem" else (f"{settings[at]!r}: {said}", "a file in PEM, readable here")
        raise ConfigError([Problem(f"kafka.settings.{at}", what, mend)]) from error
    if settings.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
