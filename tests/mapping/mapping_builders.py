"""Tables and mappings in a line each, for tests that look at one thing."""

from __future__ import annotations

import re
from typing import Any

from schemas.catalog import Column, Table
from schemas.config import parse
from schemas.mapping import Binding, Pipeline, compile_config

_CATEGORY = {"text": "S", "boolean": "B", "date": "D", "uuid": "U", "json": "U", "jsonb": "U", "bytea": "U"}


def a_column(name: str, described: str) -> Column:
    """`numeric(12,2)`, `text!` (NOT NULL), `integer!=` (NOT NULL with a default), `enum(a|b)`, `timestamp without time zone(3)`,
    `numeric(12,2)[]`."""
    match = re.fullmatch(r"([a-z\" ]+?)(?:\(([^)]*)\))?(\[\])?(!)?(=)?", described)
    assert match is not None, described
    base, inner, not_null, has_default = match[1] + (match[3] or ""), match[2], bool(match[4]), bool(match[5])
    labels: tuple[str, ...] = ()
    length = precision = scale = None
    if base.startswith("enum"):
        labels = tuple((inner or "").split("|"))
    elif inner and base.startswith("numeric"):
        precision, scale = (int(part) for part in inner.split(","))
    elif inner and base.startswith("time"):
        precision = int(inner)
    elif inner:
        length = int(inner)
    category = "A" if match[3] else ("E" if labels else _CATEGORY.get(base, "N" if scale else "S"))
    kind = {"character": "bpchar"}.get(base, base)
    return Column(name, kind, base, category, not_null, has_default, False, "", length, precision, scale, labels)


def a_table(table: str, /, key: str = "id", **columns: str) -> Table:
    columns = columns if key.split(",")[0] in columns else {"id": "integer!=", **columns}
    return Table("public", table, tuple(a_column(column, kind) for column, kind in columns.items()), tuple(key.split(",")))


def a_config(entities: dict[str, Any], *systems: str) -> dict[str, Any]:
    return {
        "kafka": {"bootstrap": "localhost:9092"},
        "systems": {name: {"dsn": f"postgresql://{name}", "rank": rank} for rank, name in enumerate(systems or ("crm", "erp"), 1)},
        "entities": entities,
    }


def compiled(entities: dict[str, Any], **tables: list[Table]) -> Pipeline:
    """`crm=[table, …], erp=[table, …]`"""
    catalogs = {system: {str(table): table for table in found} for system, found in tables.items()}
    return compile_config(parse(a_config(entities, *tables)), catalogs)


def a_mapping(crm: str, erp: str, crm_side: Any = "a", erp_side: Any = "b", **field: Any) -> tuple[Binding, Binding]:
    """One field `f` of one entity: column `a` of type `crm` here, `b` of type `erp` there."""
    entities = {"e": {"crm": {"table": "here"}, "erp": {"table": "there"}, "fields": {"f": {"crm": crm_side, "erp": erp_side, **field}}}}
    pipeline = compiled(entities, crm=[a_table("here", a=crm)], erp=[a_table("there", b=erp)])
    return pipeline.entities["e"].bindings["crm"], pipeline.entities["e"].bindings["erp"]
