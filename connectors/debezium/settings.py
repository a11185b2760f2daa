"""What Debezium's PostgreSQL connector must be told so that its events are our source's, and which other words lose values.

Slot, publication and topics have the names that our source gives them. What a person adds under `debezium:` in concord.yaml comes last and
wins, unless `traps` finds that values would be lost or the streams would not find them. Seen with Debezium 3.6.3 on Kafka Connect 4.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from schemas.config import Config
from schemas.errors import ConfigError, Problem

Settings = dict[str, str]
TableName = tuple[str, str]  # schema, table

ROW_BYTES: Final = 64 << 20  # the largest record that is sent, as our source's; what the broker takes may be less
_JSON = "org.apache.kafka.connect.json.JsonConverter"
_AVRO = "io.apicurio.registry.utils.converter.AvroConverter"


# ── a connector ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def connector_settings(config: Config, system: str, tables: Iterable[TableName], password: str | None = None) -> Settings:
    """The settings of a system's connector. `password`: what stands for it, a Connect variable; None: the DSN's own.

    Raises ConfigError when Debezium could not connect to it or would be told what loses values.
    """
    told = config.systems[system]
    settings = {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        **_database(config, system, password),
        # names: as our source's, so that one can take the other's place
        "topic.prefix": system,
        "slot.name": told.slot,
        "publication.name": told.publication,
        "publication.autocreate.mode": "disabled",  # ours, made before: via the partition root
        "table.include.list": ",".join(sorted(f"{_literally(schema)}\\.{_literally(table)}" for schema, table in tables)),
        # values: none is lost on the way
        "decimal.handling.mode": "string",  # NaN and infinity too
        "interval.handling.mode": "string",  # months and days too
        "time.precision.mode": "adaptive",
        "binary.handling.mode": "bytes",
        "hstore.handling.mode": "json",
        "skipped.operations": "none",  # a TRUNCATE is told
        "tombstones.on.delete": "true",
        "provide.transaction.metadata": "false",
        # places: Debezium makes the slot itself, with the snapshot that it reads first; a lost one is read again, not skipped
        "snapshot.mode": "when_needed",
        "lsn.flush.mode": "connector_and_driver",  # an idle database keeps no log back
        "status.update.interval.ms": "1000",
        "heartbeat.interval.ms": str(round(told.heartbeat_seconds * 1000)),
        # speed: 5 ms from commit to Kafka, 40,000 events/s
        "poll.interval.ms": "5",
        "max.batch.size": "8192",
        "max.queue.size": "32768",
        "producer.override.linger.ms": "0",
        "producer.override.batch.size": "262144",
        "producer.override.compression.type": "lz4",
        "producer.override.max.request.size": str(ROW_BYTES),
        # topics that are nobody's table: heartbeats, logical messages
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": str(config.kafka.replication),
        **_converters(config),
        **config.debezium.connector,
        **config.debezium.systems.get(system, {}),
    }
    given = {**config.debezium.connector, **config.debezium.systems.get(system, {})}
    problems = [
        Problem(f"debezium ({system})", f"{name} is Concord's to say: the streams would not find the events", "take it out")
        for name in _OURS
        if name in given
    ]
    problems += traps(settings, f"debezium ({system})", config.debezium.format == "avro")
    if problems:
        raise ConfigError(problems)
    return settings


def _literally(name: str) -> str:
    """A name as the regular expression that fits nothing else; a comma would end it, and blanks at its ends would be taken away."""
    escaped = re.sub(r"([\\.\[\]{}()*+?^$|,])", r"\\\1", name)
    return re.sub(r"^\s+|\s+$", lambda blanks: "".join(f"\\x{{{ord(blank):x}}}" for blank in blanks[0]), escaped)


_OURS: Final = (
    "topic.prefix",
    "topic.delimiter",
    "topic.naming.strategy",
    "slot.name",
    "publication.name",
    "table.include.list",
    "table.exclude.list",
    "schema.include.list",
    "schema.exclude.list",
)
_SSL = {"sslmode": "database.sslmode", "sslcert": "database.sslcert", "sslkey": "database.sslkey", "sslrootcert": "database.sslrootcert"}


def _database(config: Config, system: str, password: str | None) -> Settings:
    told, where = config.systems[system], f"systems.{system}.dsn"
    try:
        address = conninfo_to_dict(told.dsn)
    except ProgrammingError:  # its text quotes what it could not read, the password perhaps
        raise ConfigError([Problem(where, "is no address that PostgreSQL's client can read", "special characters as %XX")]) from None
    host = str(address.get("host") or address.get("hostaddr") or "")
    if not host or host.startswith("/"):
        raise ConfigError([Problem(where, "names no host, and Debezium does not use a socket in the file system", "host=127.0.0.1")])
    if "," in host:
        raise ConfigError([Problem(where, f"names several hosts ({host}), Debezium takes one", "the primary's address, or a proxy's")])
    found = {
        "plugin.name": "pgoutput",
        "database.hostname": host,
        "database.port": str(address.get("port") or 5432),
        "database.user": str(address.get("user") or ""),
        "database.dbname": str(address.get("dbname") or address.get("user") or ""),
    }
    if address.get("password"):
        found["database.password"] = password or str(address["password"])
    found |= {theirs: str(address[ours]) for ours, theirs in _SSL.items() if address.get(ours)}
    # what the snapshot may see; the log shows every row whatever they say
    statements = [f"SET {name} = '{_quoted(value)}'" for name, value in told.session.items()]
    if told.role is not None:
        statements.append(f"SET ROLE '{_quoted(told.role)}'")
    if statements:
        found["database.initial.statements"] = ";".join(statement.replace(";", ";;") for statement in statements)
    return found


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _converters(config: Config) -> Settings:
    told = config.debezium
    if told.format == "avro":
        if told.registry is None:
            raise ConfigError(
                [Problem("debezium.registry", "is missing, and format is avro", "http://registry:8080/apis/registry/v2, or format: json")]
            )
        each = {
            "": _AVRO,
            ".apicurio.registry.url": str(told.registry),
            ".apicurio.registry.auto-register": "true",
            ".apicurio.registry.find-latest": "true",
            ".apicurio.registry.as-confluent": "true",  # a zero, four bytes of the schema's id: Confluent's wire format
            ".apicurio.registry.use-id": "contentId",
            ".apicurio.registry.headers.enabled": "false",
            ".ignore.default.for.nullables": "true",
        }
        names = {"schema.name.adjustment.mode": "avro", "field.name.adjustment.mode": "avro"}
    else:
        with_schemas = "true" if told.format == "json" else "false"
        each = {"": _JSON, ".schemas.enable": with_schemas, ".replace.null.with.default": "false"}
        names = {}
    return {f"{side}.converter{name}": value for side in ("key", "value") for name, value in each.items()} | names


# ── what loses values ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Trap:
    """A setting, what it may say, what happens otherwise."""

    setting: str
    allowed: Callable[[str], bool]
    otherwise: str
    mend: str


def _one_of(*values: str) -> Callable[[str], bool]:
    return lambda value: value.strip().lower() in values


_DEFAULTS = "a column's default would stand where the row holds null"
_TRAPS: Final = (
    _Trap("plugin.name", _one_of("pgoutput"), "our slot is pgoutput's", "pgoutput"),
    _Trap("decimal.handling.mode", _one_of("string", "precise"), "numbers would lose digits", "string"),
    _Trap("interval.handling.mode", _one_of("string"), "months and days would become hours", "string"),
    _Trap("time.precision.mode", _one_of("adaptive", "adaptive_time_microseconds"), "times would lose digits", "adaptive"),
    _Trap("binary.handling.mode", _one_of("bytes"), "bytes could not be told from text", "bytes"),
    _Trap("publish.via.partition.root", _one_of("true"), "each partition would have a topic of its own", "leave it out"),
    _Trap("transforms", _one_of(""), "a transformation may rename, unwrap or reroute events, and the streams would not know them", "none"),
    _Trap(
        "skipped.operations", lambda value: not set(re.split(r"[,\s]+", value.lower())) & set("cud"), "changes would be left out", "none"
    ),
    _Trap("slot.drop.on.stop", _one_of("false"), "what is committed while it is down would be missing", "false"),
    _Trap("lsn.flush.mode", lambda value: value.strip().lower() != "manual", "the database would keep its log for ever", "leave it out"),
    _Trap(
        "snapshot.mode",
        _one_of("when_needed", "initial", "always"),
        "rows that were there before would be missing, or a lost slot would be a gap",
        "when_needed",
    ),
    _Trap("unavailable.value.placeholder", _one_of("__debezium_unavailable_value"), "it would be taken for a value", "leave it out"),
    *(
        _Trap(f"{side}.converter.{name}", _one_of(good), _DEFAULTS, good)
        for side in ("key", "value")
        for name, good in (("replace.null.with.default", "false"), ("ignore.default.for.nullables", "true"))
    ),
    *(
        _Trap(f"{side}.converter.decimal.format", _one_of("base64"), "numbers would lose digits", "leave it out")
        for side in ("key", "value")
    ),
)
_FORBIDDEN: Final = {
    "column.exclude.list": "mapped columns may be missing",
    "column.include.list": "mapped columns may be missing",
    "message.key.columns": "the key would not be the row's",
    "snapshot.select.statement.overrides": "rows that were there before may be missing; `where` in concord.yaml says which count",
}


def traps(settings: Mapping[str, str], where: str, avro: bool = False) -> list[Problem]:
    """What of these settings would lose values, or events. Empty: nothing that is known."""
    found = [
        Problem(where, f"{trap.setting} is {settings[trap.setting]!r}: {trap.otherwise}", f"{trap.setting}: {trap.mend}")
        for trap in _TRAPS
        if trap.setting in settings and not trap.allowed(settings[trap.setting])
    ]
    found += [Problem(where, f"{name} is set: {otherwise}", "leave it out") for name, otherwise in _FORBIDDEN.items() if settings.get(name)]
    for side in ("key", "value"):
        kind = settings.get(f"{side}.converter", "")
        needed = "ignore.default.for.nullables" if avro or "Avro" in kind else "replace.null.with.default"
        if side == "value" and kind and f"{side}.converter.{needed}" not in settings:
            value = "true" if needed.startswith("ignore") else "false"
            found.append(Problem(where, f"{side}.converter.{needed} is not set: {_DEFAULTS}", f"{side}.converter.{needed}: {value}"))
    return found


# ── a worker ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

_SAME: Final = ("security.protocol", "sasl.mechanism")  # librdkafka's names that are Java's too
_KNOWN: Final = {*_SAME, "sasl.mechanisms", "sasl.username", "sasl.password", "ssl.ca.location", "bootstrap.servers"}


def worker_settings(config: Config, port: int, plugins: Iterable[Path]) -> Settings:
    """The properties of the Kafka Connect worker that `concord up` starts. What it must remember is in Kafka. Raises ConfigError."""
    security = _security(config)
    settings = {
        "bootstrap.servers": config.kafka.bootstrap,
        "group.id": f"{config.name}-debezium",
        "listeners": f"http://127.0.0.1:{port}",
        "rest.advertised.host.name": "127.0.0.1",
        "key.converter": _JSON,
        "value.converter": _JSON,
        "plugin.path": ",".join(map(str, plugins)),
        # Apicurio's converter does not say that it is one
        "plugin.discovery": "hybrid_warn" if config.debezium.format == "avro" else "service_load",
        "connector.client.config.override.policy": "All",
        "config.providers": "env",  # passwords come from the environment, and are in no topic
        "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
        "offset.storage.partitions": "1",
        "status.storage.partitions": "1",
        "offset.flush.interval.ms": "500",  # after this the slot is told what Kafka has
        # one worker that is started again: nobody else to wait for
        "scheduled.rebalance.max.delay.ms": "0",
        "session.timeout.ms": "6000",
        "heartbeat.interval.ms": "1000",
    }
    for kind, topic in (("config", "configs"), ("offset", "offsets"), ("status", "statuses")):
        settings[f"{kind}.storage.topic"] = f"{config.name}.debezium.{topic}"
        settings[f"{kind}.storage.replication.factor"] = str(config.kafka.replication)
    for prefix in ("", "producer.", "consumer.", "admin."):
        settings |= {f"{prefix}{name}": value for name, value in security.items()}
    return {**settings, **config.debezium.worker}


def _security(config: Config) -> Settings:
    """librdkafka's words for how to reach the brokers, in Java's."""
    told = config.kafka.settings
    about = ("security.", "sasl.", "ssl.")
    said = {name.partition(".")[2].partition(".")[0] for name in config.debezium.worker if name.startswith("producer.")}  # in Java's words
    strange = [name for name in told if name.startswith(about) and name not in _KNOWN and name.partition(".")[0] not in said]
    if strange:
        raise ConfigError(
            [
                Problem(
                    f"kafka.settings.{name}",
                    "is librdkafka's, and it is not known what a Java client calls it",
                    "say it in Java's words under debezium.worker, for '', producer., consumer. and admin.",
                )
                for name in strange
            ]
        )
    found: Settings = {name: told[name] for name in _SAME if name in told}
    if "sasl.mechanisms" in told:
        found["sasl.mechanism"] = told["sasl.mechanisms"]
    if "ssl.ca.location" in told:
        found |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": told["ssl.ca.location"]}
    if "sasl.username" in told:
        scram = found.get("sasl.mechanism", "PLAIN").startswith("SCRAM")
        module = f"org.apache.kafka.common.security.{'scram.Scram' if scram else 'plain.Plain'}LoginModule"
        user, password = (told.get(f"sasl.{part}", "").replace("\\", "\\\\").replace('"', '\\"') for part in ("username", "password"))
        found["sasl.jaas.config"] = f'{module} required username="{user}" password="{password}";'
    return found


def properties(settings: Mapping[str, str]) -> str:
    """The text of a Java properties file: what is not plain ASCII, or means something there, as its UTF-16 escapes."""

    def escaped(text: str) -> str:
        units = text.encode("utf-16-be")
        codes = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
        return "".join(chr(code) if 0x20 < code < 0x7F and chr(code) not in "\\=:#!" else f"\\u{code:04x}" for code in codes)

    return "".join(f"{escaped(name)}={escaped(value)}\n" for name, value in settings.items())
