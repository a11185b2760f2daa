"""`concord.yaml`: its shape, how it is read, and what can be wrong with it without looking at a database.

    load(path, environment) ─▶ document.py  YAML text, `${VAR}`        ─▶ plain data
                              model.py     pydantic, frozen           ─▶ Config
                              problems.py  every mistake as a Problem ─▶ ConfigError with all of them

What needs the databases' catalogs is `schemas.mapping.compile_config`'s.
"""

from schemas.config.load import json_schema, load, loads, parse
from schemas.config.model import (
    Aggregate,
    Binding,
    Config,
    Debezium,
    Deletion,
    Dsn,
    Entity,
    Expression,
    Field,
    Kafka,
    Link,
    Metrics,
    Order,
    Otherwise,
    Part,
    Registry,
    Side,
    System,
)
from schemas.config.problems import problems_of

__all__ = [
    "Aggregate",
    "Binding",
    "Config",
    "Debezium",
    "Deletion",
    "Dsn",
    "Entity",
    "Expression",
    "Field",
    "Kafka",
    "Link",
    "Metrics",
    "Order",
    "Otherwise",
    "Part",
    "Registry",
    "Side",
    "System",
    "json_schema",
    "load",
    "loads",
    "parse",
    "problems_of",
]
