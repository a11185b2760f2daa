"""`concord check`: the configuration and the databases, before anything starts. Everything at once, each with its mend; nothing is changed.

    concord.yaml alone          schemas.config
    each database               server        version, wal_level, slots, origins, rights
                                publications  those that make the application's own writes fail; ours
    all catalogs together       schemas.mapping.compile_config: types, NOT NULL without a value, keys
    the sound entities          tables        rights as they are used, row-level security, triggers, rules
                                inserts       values that nobody gives, constants that are refused, sequences
                                keys          what rows are found by; uniqueness, references, deletes
                                values        what each side can hold of the other's values, and how many there are that it cannot
    Kafka                       answers, has enough brokers, its topics fit and are no other pipeline's

An entity that does not compile is left out of what is asked about the sound ones, with those that refer to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from connectors.catalog import read_tables
from connectors.postgres import translated
from console import ownership, wiring
from console.check.database import Database
from console.check.debezium import check_debezium, check_settings
from console.check.findings import About, Checked, show
from console.check.homes import homes
from console.check.inserts import check_inserts
from console.check.keys import check_cycles, check_keys
from console.check.publications import check_publications
from console.check.server import check_role, check_server, too_old
from console.check.tables import check_tables
from console.check.values import check_values
from console.kafka import Cluster
from console.logs import first_line
from schemas.catalog import Table
from schemas.config import Config
from schemas.errors import ConcordError, ConfigError, Retriable
from schemas.mapping import Pipeline, compile_config, table_names

__all__ = ["Checked", "check", "check_databases", "show"]


def check(file: Path, *, rows: bool = True, source: str | None = None) -> Checked:
    """`rows`: also ask the tables what is in them. `source`: who is to read the logs. Raises ConfigError only when there is no such file:
    then nothing could be asked."""
    found = Checked()
    try:
        config = wiring.open_config(file, source)
    except ConfigError as error:
        if not file.exists():
            raise
        found.take(About.FILE, error.problems)
        return found
    check_databases(config, found, rows=rows)
    if config.source == "debezium":
        check_settings(config, found)
    _kafka(config, found)
    return found


def check_databases(config: Config, found: Checked, *, rows: bool = True) -> None:
    """The configuration and all databases that answer."""
    with ExitStack() as stack:
        databases: dict[str, Database] = {}
        logins: dict[str, Database] = {}  # publications, slots and the schema concord are the login's affair, rows the role's
        for system, told in config.systems.items():
            try:
                connection = stack.enter_context(wiring.session(config, system, as_role=False))
                login = Database(config, system, connection, read_tables(connection, table_names(config, system)), found)
                if too_old(login):
                    continue
                logins[system] = login
                if told.role is not None:
                    connection = stack.enter_context(wiring.session(config, system))
                databases[system] = login if told.role is None else Database(config, system, connection, login.tables, found)
            except ConcordError as error:
                _unanswered(system, error, found)
        for login in logins.values():
            _asking(login, check_server)
            _asking(login, check_publications)
        for system, db in databases.items():
            if config.systems[system].role is not None:
                _asking(db, check_role)
        if len(databases) == len(config.systems):
            _together(config, databases, found, rows)


def _asking(db: Database, check: Callable[[Database], None]) -> None:
    """One group of checks: what keeps it from going on is found too, and the others go on."""
    try:
        with translated(f"system {db.system}"):
            check(db)
    except ConcordError as error:
        _unanswered(db.system, error, db.found)


def _unanswered(system: str, error: ConcordError, found: Checked) -> None:
    if isinstance(error, Retriable):
        found.could_not_ask(
            About.SERVER,
            system,
            first_line(error),
            f"is the server up, is systems.{system}.dsn right (also user, password, sslmode, sslrootcert)?",
        )
    else:
        found.problem(About.SERVER, system, first_line(error), f"see systems.{system}.dsn")


def _together(config: Config, databases: Mapping[str, Database], found: Checked, rows: bool) -> None:
    catalogs = {system: dict(db.tables) for system, db in databases.items()}
    pipeline = _sound(config, catalogs, found)
    for system, db in databases.items():
        at = homes(pipeline, system) if pipeline is not None else []
        _asking(db, partial(check_tables, homes=at))
        if config.source == "debezium":
            _asking(db, partial(check_debezium, bindings=pipeline.tables(system) if pipeline is not None else ()))
        _asking(db, partial(check_inserts, homes=at, rows=rows))
        _asking(db, partial(check_keys, homes=at))
    if pipeline is not None:
        check_cycles(pipeline, found)
        try:
            with translated("asking what values there are"):
                check_values(pipeline, databases, found, rows=rows)
        except ConcordError as error:
            found.could_not_ask(About.VALUES, "values", first_line(error), "try again; `--no-rows` asks the catalogs only")


def _sound(config: Config, catalogs: Mapping[str, Mapping[str, Table]], found: Checked) -> Pipeline | None:
    """The pipeline of those entities that compile; what is wrong with the others is found. None: none does."""
    while True:
        try:
            pipeline = compile_config(config, catalogs)
        except ConfigError as error:
            found.take(About.FILE, error.problems)
            named = {match[1] for problem in error.problems if (match := re.match(r"entities\.(\w+)", problem.where))}
            left = _without(config, named)
            if left is None:
                return None
            config = left
        else:
            for note in pipeline.notes:
                found.note(About.REFERENCES, "entities", note)
            return pipeline


def _without(config: Config, unsound: set[str]) -> Config | None:
    """The configuration without these entities and those that refer to them. None: nothing is left, or nothing would be taken out."""
    entities = config.entities
    gone = unsound & entities.keys()
    while referring := {
        name for name, entity in entities.items() if name not in gone and any(field.ref in gone for field in entity.fields.values())
    }:
        gone |= referring
    left = {name: entity for name, entity in entities.items() if name not in gone}
    return config.model_copy(update={"entities": left}) if left and gone else None


def _kafka(config: Config, found: Checked) -> None:
    cluster = Cluster(config.kafka)
    try:
        brokers = cluster.brokers()
        if brokers < config.kafka.replication:
            what = f"is {config.kafka.replication}, the cluster has {brokers}"
            found.problem(About.KAFKA, "kafka.replication", what, f"replication: {brokers}, or more brokers")
        found.take(About.KAFKA, ownership.compared(config, {}, cluster)[0])
        cluster.check(wiring.topics_of(config))
    except ConfigError as error:
        found.take(About.KAFKA, error.problems)
    except Retriable as error:
        found.could_not_ask(About.KAFKA, "kafka", first_line(error), "is it up, are kafka.bootstrap and kafka.settings right?")
    except ConcordError as error:
        found.problem(About.KAFKA, "kafka", first_line(error), "see kafka.settings")
