"""What real Debezium is told, and what it may not be told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from connectors.debezium.connect import _cause
from connectors.debezium.settings import connector_settings, properties, traps, worker_settings
from console import debezium
from schemas.config import Config, parse
from schemas.errors import ConfigError

TABLES = [("public", "order-line"), ("public", "a.b,c"), ("sales", "account")]


def a_config(dsn: str = "postgresql://me:s3cret@db:6543/crm", kafka: dict[str, Any] | None = None, **told: Any) -> Config:
    system = {"dsn": dsn, "rank": 1, **told.pop("system", {})}
    return parse(
        {
            "name": "shop",
            "kafka": {"bootstrap": "kafka:9092", "replication": 3, **(kafka or {})},
            "systems": {"crm": system, "erp": {"dsn": "postgresql://erp/erp", "rank": 2}},
            "entities": {"thing": {"crm": {"table": "account"}, "erp": {"table": "account"}, "fields": {"name": {"crm": "n", "erp": "n"}}}},
            **told,
        }
    )


def test_names_are_those_of_our_own_source() -> None:
    settings = connector_settings(a_config(), "crm", TABLES)
    assert settings["topic.prefix"] == "crm"
    assert settings["slot.name"] == settings["publication.name"] == "shop_crm"
    assert connector_settings(a_config(), "crm", [(" a", "b\u3000 ")])["table.include.list"] == r"\x{20}a\.b\x{3000}\x{20}"
    assert settings["publication.autocreate.mode"] == "disabled"
    assert settings["table.include.list"] == r"public\.a\.b\,c,public\.order-line,sales\.account"
    assert [settings[f"database.{name}"] for name in ("hostname", "port", "user", "dbname", "password")] == [
        "db",
        "6543",
        "me",
        "crm",
        "s3cret",
    ]


def test_what_a_session_may_see_is_told_to_the_snapshot() -> None:
    config = a_config(system={"session": {"app.tenant": "4'2;"}, "role": "reader"})
    assert connector_settings(config, "crm", TABLES)["database.initial.statements"] == "SET app.tenant = '4''2;;';SET ROLE 'reader'"


@pytest.mark.parametrize(
    ("form", "converter", "setting", "value"),
    [
        ("json", "JsonConverter", "schemas.enable", "true"),
        ("json-plain", "JsonConverter", "schemas.enable", "false"),
        ("avro", "AvroConverter", "apicurio.registry.as-confluent", "true"),
    ],
)
def test_each_form_has_its_converter_and_null_stays_null(form: str, converter: str, setting: str, value: str) -> None:
    config = a_config(debezium={"format": form, "registry": "http://registry:8080/apis/registry/v2"})
    settings = connector_settings(config, "crm", TABLES)
    assert settings["value.converter"].endswith(converter)
    assert settings[f"value.converter.{setting}"] == settings[f"key.converter.{setting}"] == value
    null = "ignore.default.for.nullables" if form == "avro" else "replace.null.with.default"
    assert settings[f"value.converter.{null}"] == ("true" if form == "avro" else "false")


def test_what_a_person_adds_comes_last() -> None:
    told = {"connector": {"poll.interval.ms": 50, "max.batch.size": 9}, "systems": {"crm": {"max.batch.size": 10}}}
    config = a_config(debezium=told)
    settings = connector_settings(config, "crm", TABLES)
    assert (settings["poll.interval.ms"], settings["max.batch.size"]) == ("50", "10")
    assert connector_settings(config, "erp", TABLES)["max.batch.size"] == "9"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("value.converter.replace.null.with.default", "true"),
        ("decimal.handling.mode", "double"),
        ("interval.handling.mode", "numeric"),
        ("time.precision.mode", "connect"),
        ("time.precision.mode", "isostring"),
        ("binary.handling.mode", "hex"),
        ("transforms", "unwrap"),
        ("snapshot.mode", "no_data"),
        ("skipped.operations", "d,t"),
        ("plugin.name", "decoderbufs"),
        ("lsn.flush.mode", "manual"),
        ("column.exclude.list", "public.account.name"),
        ("message.key.columns", "public.account:name"),
        ("unavailable.value.placeholder", "?"),
    ],
)
def test_a_setting_that_loses_values_is_refused_by_name(setting: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        connector_settings(a_config(debezium={"connector": {setting: value}}), "crm", TABLES)
    (problem,) = refused.value.problems
    assert setting in problem.what
    assert problem.mend


def test_what_we_say_ourselves_is_no_trap() -> None:
    assert traps(connector_settings(a_config(), "crm", TABLES), "") == []
    assert [problem.what for problem in traps({"value.converter": "x.JsonConverter"}, "")] == [
        "value.converter.replace.null.with.default is not set: a column's default would stand where the row holds null"
    ]


@pytest.mark.parametrize("dsn", ["host=/var/run dbname=crm", "dbname=crm", "postgresql://a,b/crm"])
def test_an_address_that_debezium_cannot_use_is_refused(dsn: str) -> None:
    with pytest.raises(ConfigError) as refused:
        connector_settings(a_config(dsn), "crm", TABLES)
    assert refused.value.problems[0].where == "systems.crm.dsn"


def test_all_problems_come_at_once() -> None:
    config = a_config("dbname=crm", debezium={"connector": {"transforms": "x"}, "systems": {"hr": {"a": "b"}}})
    with pytest.raises(ConfigError) as refused:
        debezium.captured(config)
    assert {problem.where for problem in refused.value.problems} == {"systems.crm.dsn", "debezium (erp)", "debezium.systems.hr"}


def test_passwords_are_not_shown_and_not_in_the_worker_of_our_own() -> None:
    config = a_config()
    assert "s3cret" not in str(debezium.told(config).to_json())
    settings = debezium.captured(config, lambda system: "${env:P}")["crm"].settings
    assert settings["database.password"] == "${env:P}"
    assert "s3cret" not in str(settings)


def test_a_worker_reaches_the_brokers_as_our_own_clients_do() -> None:
    told = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": "u",
        "sasl.password": 'p"',
        "ssl.ca.location": "/ca.pem",
    }
    settings = worker_settings(a_config(kafka={"settings": told}), 1234, [Path("/plugins")])
    for prefix in ("", "producer.", "consumer.", "admin."):
        assert settings[f"{prefix}security.protocol"] == "SASL_SSL"
        assert settings[f"{prefix}sasl.mechanism"] == "SCRAM-SHA-512"
        assert settings[f"{prefix}ssl.truststore.location"] == "/ca.pem"
        assert 'ScramLoginModule required username="u" password="p\\"";' in settings[f"{prefix}sasl.jaas.config"]
    assert settings["offset.storage.replication.factor"] == "3"
    with pytest.raises(ConfigError, match=r"ssl\.key\.location"):
        worker_settings(a_config(kafka={"settings": {"ssl.key.location": "/k"}}), 1234, [])


def test_a_properties_file_says_what_it_was_given() -> None:
    told = {"a.b": "x=y:z", "pass word": 'q\\u"\n#!é€😀', "empty": "", "lead": "  two"}
    lines = [line.partition("=") for line in properties(told).splitlines()]
    read = {unescaped(name): unescaped(value) for name, _, value in lines}
    assert read == told


def unescaped(text: str) -> str:
    """As java.util.Properties reads it: UTF-16 units."""
    units = re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)
    return units.encode("utf-16", "surrogatepass").decode("utf-16")


def test_the_cause_of_a_failure_is_its_innermost() -> None:
    trace = "org.x.ConnectException: outer\n\tat a.b(C.java:1)\nCaused by: org.postgresql.PSQLException: no slot\n\tat d\n\t... 3 more"
    assert _cause(trace) == "org.postgresql.PSQLException: no slot"
    assert _cause("") == ""
