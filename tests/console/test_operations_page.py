"""docs/operations.md is held to the program: commands, options, alerts, states."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from console import exporter
from console.cli import cli

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
COMMANDS = sorted(set(re.findall(r"`(concord [a-z][^`]*)`|^(concord [a-z].*)$", TEXT, re.MULTILINE)))
NAMES = {"concord sink erp 0"}  # an application's name


def commands() -> list[str]:
    found = {one or other for one, other in COMMANDS}
    return sorted(text for text in found if text not in NAMES)


def described(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that these words name, and what is left of them. Raises KeyError when there is none."""
    at: click.Command = cli
    while isinstance(at, click.Group):
        at, words = at.commands[words[0]], words[1:]
    return at, words


@pytest.mark.parametrize("text", commands())
def test_every_command_on_the_page_exists_with_its_options(text: str) -> None:
    words = shlex.split(text.partition(">")[0])[1:]
    command, rest = described(words)
    with command.make_context(command.name, rest) as context:  # parses; runs nothing
        assert context.command is command


def test_the_page_names_commands() -> None:
    assert len(commands()) > 10


def test_the_page_has_a_section_for_each_alert_and_each_alert_points_to_it() -> None:
    rules = yaml.safe_load(exporter.rules())["groups"][0]["rules"]
    assert re.findall(r"^### (Concord\w+)$", TEXT, re.MULTILINE) == [rule["alert"] for rule in rules]
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_links_within_the_page_lead_somewhere() -> None:
    headings = {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= headings


def test_every_state_of_a_slot_and_of_an_event_is_on_the_page() -> None:
    from schemas.metrics import State

    for state in (*exporter.SLOT_STATES, *(one.value.replace("_", " ") for one in State)):
        assert re.search(rf"^\| [^|]*\b{state}\b", TEXT, re.MULTILINE), state
