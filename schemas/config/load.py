"""Reading a configuration: from a file, from text, from plain data. All mistakes at once, as one ConfigError."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.config.document import read_document
from schemas.config.model import AGGREGATES, Config
from schemas.config.problems import problems_of, problems_of_shape, without
from schemas.errors import ConfigError, Problem


def load(path: str | Path, environment: Mapping[str, str]) -> Config:
    """Raises ConfigError with every problem. `state_dir` comes back relative to the file's folder."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([Problem(str(path), "there is no such file", "name it with -c FILE")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), f"is not UTF-8 at byte {error.start}", "save it as UTF-8")]) from None
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    config = loads(text, environment, path.name)
    return config.model_copy(update={"state_dir": path.resolve().parent / config.state_dir})


def loads(text: str, environment: Mapping[str, str], name: str = "concord.yaml") -> Config:
    """The same from the file's text."""
    data, problems = read_document(text, environment, name)
    return parse(data, name, problems)


def parse(data: Any, name: str = "concord.yaml", found: list[Problem] | None = None) -> Config:
    """The same from plain data; `found` are problems that are known already."""
    problems = list(found or ())
    if not isinstance(data, Mapping):
        problems.append(Problem(name, "must be a mapping with kafka, systems and entities", "start from examples/reference/concord.yaml"))
        raise ConfigError(problems)
    config = None
    rest: Any = data
    known = {problem.where for problem in problems}  # where a variable is missing, what it leaves behind is not a second mistake
    for _ in range(3):  # what is wrong in shape is taken out, so that the rest can still be judged
        try:
            config = Config.model_validate(rest)
            break
        except ValidationError as error:
            if rest is data:
                problems += [problem for problem in problems_of_shape(error, data) if problem.where not in known]
            smaller = without(rest, error)
            if smaller is None:
                break
            rest = smaller
    if config is not None:
        said = {(problem.where, problem.what) for problem in problems}
        problems += [problem for problem in problems_of(config, data) if (problem.where, problem.what) not in said]
    if problems:
        raise ConfigError(problems)
    assert config is not None  # without a problem it was valid as it was
    return config


def json_schema() -> dict[str, Any]:
    """JSON Schema of `concord.yaml`, for editors: as people write it, with the shorthands."""
    schema = Config.model_json_schema()
    models = schema["$defs"]
    for model, inner in (("Entity", "bindings"), ("Field", "sides")):
        gathered = models[model]["properties"].pop(inner)
        models[model]["additionalProperties"] = gathered["additionalProperties"]
        models[model]["required"] = [key for key in models[model].get("required", ()) if key != inner]
    side = models["Side"]
    side["properties"]["column"] = side["properties"]["columns"]
    side.pop("required", None)
    models["Side"] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}, side]}
    models["Function"] = {"anyOf": [{"type": "string"}, models["Function"]]}
    names = models["Link"]["properties"]["columns"]
    models["Link"]["properties"]["column"] = names
    models["Link"].pop("required", None)
    models["Link"] = {"anyOf": [*names["anyOf"], models["Link"]]}
    models["Order"] = {"anyOf": [{"type": "string"}, models["Order"]]}
    functions = {function: {"type": "string"} for function in AGGREGATES}
    rest = {key: models["Aggregate"]["properties"][key] for key in ("by", "separator")}
    models["Aggregate"] = {
        "anyOf": [{"const": "count"}, {"type": "object", "additionalProperties": False, "properties": {**functions, **rest}}]
    }
    single = [{"type": ["string", "number", "boolean", "null"]}]
    models["Expression"] = {"anyOf": [*single, models["Expression"]]}
    models["Deletion"] = {
        "anyOf": [
            {"enum": ["propagate", "ignore"]},
            {
                "type": "object",
                "required": ["soft"],
                "additionalProperties": False,
                "properties": {"soft": models["Deletion"]["properties"]["soft"]},
            },
        ]
    }
    models["System"]["required"] = ["dsn", "rank"]
    for model, key in (("Side", "clean"), ("Field", "clean"), ("Entity", "match_on"), ("Entity", "born_in")):
        properties = models[model]["anyOf"][2]["properties"] if model == "Side" else models[model]["properties"]
        shape = properties[key]
        items = next((s for s in (shape, *shape.get("anyOf", ())) if s.get("type") == "array"), None)
        if items is not None:
            properties[key] = {"anyOf": [items["items"], {"type": "array", "items": items["items"]}], "default": shape.get("default")}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "concord.yaml"}
