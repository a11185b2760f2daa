"""Between one system's columns and an entity's fields, both ways.

column text  ── codec (kinds) ──▶ normal form ── steps (transforms) ──▶ canonical value of the field
             ◀─────────────────────── each with its inverse ───────────

compile.py    configuration + catalogs → Pipeline, or all problems
binding.py    the compiled values, what everybody asks        parts.py, part_compiler.py    rows of further tables
kinds.py, numbers.py, times.py    normal forms     transforms.py    named steps     debezium.py    events → column texts
"""

from schemas.mapping.binding import Binding, Delete, Entity, FieldBinding, Kind, Pipeline, Row
from schemas.mapping.compile import compile_config, table_name, table_names
from schemas.mapping.debezium import event_columns
from schemas.mapping.expressions import Expr
from schemas.mapping.parts import ROOT, Part

__all__ = [
    "ROOT",
    "Binding",
    "Delete",
    "Entity",
    "Expr",
    "FieldBinding",
    "Kind",
    "Part",
    "Pipeline",
    "Row",
    "compile_config",
    "event_columns",
    "table_name",
    "table_names",
]
