"""Between one system's columns and an entity's fields, both ways.

column text  ── codec (kinds) ──▶ normal form ── steps (transforms) ──▶ canonical value of the field
             ◀─────────────────────── each with its inverse ───────────

compile.py    configuration + catalogs → Pipeline, or all problems
binding.py    the compiled values, what everybody asks
kinds.py, numbers.py, times.py    normal forms     transforms.py    named steps     debezium.py    events → column texts
"""

from schemas.mapping.binding import Binding, Delete, Entity, Expr, FieldBinding, Kind, Pipeline, Row
from schemas.mapping.compile import compile_config, table_name, table_names
from schemas.mapping.debezium import event_columns

__all__ = [
    "Binding",
    "Delete",
    "Entity",
    "Expr",
    "FieldBinding",
    "Kind",
    "Pipeline",
    "Row",
    "compile_config",
    "event_columns",
    "table_name",
    "table_names",
]
