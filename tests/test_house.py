"""README, docs and code say the same, and imports go down."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
INVARIANTS = [f"I{n}" for n in range(1, 11)]


def test_every_file_that_readme_names_is_there() -> None:
    named = {path for path in re.findall(r"`([\w./-]+/[\w./*-]*)`", README) if not path.startswith((".concord", "http"))}
    assert named
    assert [path for path in named if not list(ROOT.glob(path.rstrip("/")))] == []


def test_every_file_of_the_walk_through_is_there() -> None:
    rows = re.findall(r"^\| \d \| (.+?) \|", README, re.MULTILINE)
    assert len(rows) >= 6
    for row in rows:
        folder = ""
        for name in re.findall(r"`([\w./]+)`", row):
            folder = str(Path(name).parent) if "/" in name else folder
            assert (ROOT / folder / Path(name).name).exists(), name


def test_every_command_that_readme_shows_exists() -> None:
    from console.cli import cli

    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    told = re.findall(r"`([^`]+)`", prose) + re.findall(r"^concord .*$", README, re.MULTILINE)
    shown = set(re.findall(r"\bconcord ([a-z]+)\b", "\n".join(told)))
    assert {"check", "up", "status", "verify", "dead", "stack", "source", "streams", "sink"} <= shown
    assert shown - set(cli.commands) == set()


def test_every_command_and_option_has_help() -> None:
    from console.cli import cli

    for name, command in cli.commands.items():
        assert command.help, name
        for option in command.params:
            assert getattr(option, "help", None) or option.param_type_name == "argument", f"{name} {option.name}"


def test_the_readme_configuration_is_one() -> None:
    from schemas.config.load import loads

    text = next(block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "systems:" in block)
    config = loads("kafka: {bootstrap: 'localhost:9092'}\n" + text, {"CRM_DSN": "postgresql://a/b", "ERP_DSN": "postgresql://a/c"})
    assert list(config.entities) == ["customer"]


@pytest.mark.parametrize("invariant", INVARIANTS)
def test_each_invariant_has_a_test_and_a_line_that_keeps_it(invariant: str) -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert re.search(rf"def test_{invariant.lower()}_", tests), f"no test named test_{invariant.lower()}_…"
    code = "\n".join(
        path.read_text() for folder in ("schemas", "connectors", "streams", "console") for path in (ROOT / folder).rglob("*.py")
    )
    assert re.search(rf"\b{invariant}\b", code), f"no line of code cites {invariant}"
    assert f"| {invariant} |" in README


def test_decisions_are_numbered_and_complete() -> None:
    decisions = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [path.name[:4] for path in decisions] == [f"{n:04}" for n in range(1, len(decisions) + 1)]
    for path in decisions:
        text = path.read_text()
        for heading in ("## Context", "## Decision", "## Alternatives"):
            assert heading in text, f"{path.name} lacks {heading}"


def test_imports_go_down() -> None:
    done = subprocess.run([str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = " ".join(
        [*project["dependencies"], *(entry for group in project["optional-dependencies"].values() for entry in group)]
    ).lower()
    for package in ("confluent-kafka", "faust-streaming", "fastavro", "psycopg", "pytest", "testcontainers"):
        assert package in declared
