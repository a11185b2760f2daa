"""YAML text to plain data: `${VAR}` from the environment, scalars as they are written, no key twice.

Scalars: `null`, `true`, `false` and plain integers are what they look like; everything else is text as it stands in the file. So a
country `NO` stays NO, a code `007` stays 007, `1.50` keeps its zero and a date is no object.

`${VAR}` and `${VAR:-default}` are put in after YAML has been read, so a password may hold any character and no YAML error can show it.
`$${` is a literal `${`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

import yaml

from schemas.errors import ConfigError, Problem

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}\n]*))?\}")
_TOKEN = re.compile("\ue000([0-9]+)\ue001")  # what stands for a variable while YAML is read: private use, so in no one's file


class _Loader(yaml.SafeLoader):
    """Safe, with the scalars described above, and duplicate keys collected in `duplicates`."""

    duplicates: list[tuple[str, int]]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    self.duplicates.append((key_node.value, key_node.start_mark.line + 1))
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:null|Null|NULL|~|)\Z"), ["n", "N", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"(?:0|-?[1-9][0-9]*)\Z"), list("-0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"(?:<<)\Z"), ["<"])


def read_document(text: str, environment: Mapping[str, str], name: str = "concord.yaml") -> tuple[Any, list[Problem]]:
    """The data, and the problems found on the way. Raises ConfigError when there is no reading it at all."""
    variables: list[tuple[str, str | None] | None] = []

    def keep(match: re.Match[str]) -> str:
        variables.append(None if match[1] is None else (match[1], match[3] if match[2] else None))
        return f"\ue000{len(variables) - 1}\ue001"

    loader = None
    try:
        loader = _Loader(_VARIABLE.sub(keep, text))
        loader.duplicates = []
        data = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(error, name)]) from None
    except RecursionError:
        raise ConfigError([Problem(name, "is nested too deeply to be read")]) from None
    finally:
        if loader is not None:
            loader.dispose()
    problems = [
        Problem(f"{name} line {line}", f"key {_shown(key, variables)!r} stands twice in one mapping", "keep one of them")
        for key, line in loader.duplicates
    ]
    try:
        return _substitute(data, variables, environment, (), problems), problems
    except RecursionError:
        raise ConfigError([Problem(name, "has an alias inside what it stands for, or is nested too deeply to be read")]) from None


def _shown(text: str, variables: list[tuple[str, str | None] | None]) -> str:
    def name(match: re.Match[str]) -> str:
        variable = variables[int(match[1])]
        return "${" if variable is None else f"${{{variable[0]}}}"

    return _TOKEN.sub(name, text)


def _syntax_problem(error: yaml.YAMLError, name: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        what = _TOKEN.sub("${…}", error.problem or "is not YAML")
        return Problem(
            f"{name} line {mark.line + 1}, column {mark.column + 1}", f"is not YAML: {what}", "values with : # { [ or , need quotes"
        )
    if isinstance(error, yaml.reader.ReaderError):
        return Problem(name, f"is not text: character {error.character!r} at {error.position} is not allowed", "save it as UTF-8")
    return Problem(name, "is not YAML")


def _substitute(
    data: Any,
    variables: list[tuple[str, str | None] | None],
    environment: Mapping[str, str],
    path: tuple[str, ...],
    problems: list[Problem],
) -> Any:
    if isinstance(data, dict):
        return {
            _substitute(key, variables, environment, path, problems): _substitute(
                value, variables, environment, (*path, str(key)), problems
            )
            for key, value in data.items()
        }
    if isinstance(data, list):
        return [_substitute(value, variables, environment, (*path, str(number)), problems) for number, value in enumerate(data)]
    if not isinstance(data, str) or "\ue000" not in data:
        return data

    def value_of(match: re.Match[str]) -> str:
        variable = variables[int(match[1])]
        if variable is None:
            return "${"
        name, default = variable
        value = environment.get(name) or default  # like a shell: `:-` also stands in for an empty one
        if value is None:
            value = environment.get(name)
        if value is None:
            where = ".".join(path)
            problems.append(
                Problem(where, f"the environment variable {name} is not set", f"export {name}=…, or write ${{{name}:-a default}}")
            )
            return f"${{{name}}}"
        return value

    return _TOKEN.sub(value_of, data)
