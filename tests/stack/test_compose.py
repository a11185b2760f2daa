"""docker-compose.yml, as far as it can be held against something without a Docker daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from connectors.debezium.settings import worker_settings
from console import debezium
from console.stack.debezium import VERSION
from schemas.config import load

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
SYSTEMS = ("crm", "erp")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text()))


def compose_is_here() -> bool:
    return (
        bool(shutil.which("docker")) and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not compose_is_here(), reason="docker has no compose plug-in here")
@pytest.mark.parametrize("profile", ["", "work", "debezium", "tools"])
def test_docker_compose_accepts_it(profile: str) -> None:
    command = ["docker", "compose", "-f", str(COMPOSE), *(["--profile", profile] if profile else []), "config", "--quiet"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_every_part_has_a_service(compose: dict[str, Any]) -> None:
    commands = {
        tuple(service["command"]) for service in compose["services"].values() if service.get("image") == "concord" and "command" in service
    }
    assert {("source", system) for system in SYSTEMS} | {("streams",)} | {("sink", system) for system in SYSTEMS} <= commands


def test_debezium_is_told_what_to_capture_by_our_own_command(compose: dict[str, Any]) -> None:
    teller, connect = compose["services"]["debezium-connectors"], compose["services"]["debezium"]
    assert teller["image"] == "concord"
    assert teller["command"] == ["debezium", "--connect", "http://debezium:8083"]
    assert teller["environment"]["CONCORD_SOURCE"] == "${CONCORD_SOURCE:-concord}"
    assert teller["profiles"] == connect["profiles"] == ["debezium"]
    assert ".".join(VERSION.split(".")[:2]) == connect["image"].rpartition(":")[2]


@pytest.mark.parametrize("system", SYSTEMS)
def test_debezium_captures_the_tables_that_our_source_would(compose: dict[str, Any], system: str) -> None:
    environment = compose["services"]["debezium-connectors"]["environment"]
    config = load(ROOT / "examples" / "reference" / "concord.yaml", environment)
    connector = debezium.captured(config)[system].settings
    file = yaml.safe_load((ROOT / "examples" / "reference" / "concord.yaml").read_text())
    tables = {entity[system]["table"] for entity in file["entities"].values() if system in entity}
    assert {name.replace("\\.", ".") for name in connector["table.include.list"].split(",")} == tables
    assert connector["topic.prefix"] == connector["database.hostname"] == connector["database.dbname"] == system
    assert connector["slot.name"] == connector["publication.name"] == f"reference_{system}"


def test_the_worker_of_compose_is_told_what_our_own_is(compose: dict[str, Any]) -> None:
    environment = compose["services"]["debezium"]["environment"]
    config = load(ROOT / "examples" / "reference" / "concord.yaml", compose["services"]["streams"]["environment"])
    own = worker_settings(config, 8083, [])
    for variable, value in environment.items():
        setting = variable.removeprefix("CONNECT_").replace("_", ".").lower()
        if setting != "topic.creation.enable":
            assert own[setting] == str(value), variable


def test_every_variable_of_the_configuration_is_set(compose: dict[str, Any]) -> None:
    text = (ROOT / "examples" / "reference" / "concord.yaml").read_text()
    environment = compose["services"]["streams"]["environment"]
    wanted = {part.partition("}")[0].partition(":-")[0] for part in text.split("${")[1:]}
    assert wanted <= set(environment), f"not in docker-compose.yml: {wanted - set(environment)}"


def test_the_script_of_ci_is_the_readmes_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()
    assert "make test" in (ROOT / "README.md").read_text()
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "test.yml").read_text()
