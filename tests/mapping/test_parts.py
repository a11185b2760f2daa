"""Bindings with parts, compiled: flat rows, which row is the first, aggregates, and what is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.config import parse
from schemas.errors import ConfigError, MappingError
from schemas.mapping import Binding, Part, compile_config, table_names
from schemas.mapping.numbers import normal_number
from schemas.mapping.parts import number_order, stamp_order
from tests.mapping.mapping_builders import a_config, a_table

ACCOUNT = a_table("account", name="text", street="text", email="text", turnover="numeric", orders="integer")
PARTY = a_table("party", key="id", name="text", group="integer")
ADDRESS = a_table("address", party="integer!", street="text", sequence="integer", active="boolean!=", company="integer!")
CONTACT = a_table("contact", party="integer!", type="text!", value="text", value_compact="text")
GROUP = a_table("party_group", name="text!")
RATE = a_table("rate", of="text", amount="numeric", day="date")

PARTS: dict[str, Any] = {
    "address": {"table": "address", "child": "party", "first_by": ["sequence"], "where": {"active": True}, "insert": {"company": "1"}},
    "email": {"table": "contact", "child": "party", "where": {"type": "email"}, "empty": "delete"},
    "group": {"table": "party_group", "parent": "group"},
    "rate": {"table": "rate", "child": {"column": "of", "prefix": "group,"}, "of": "group", "first_by": ["day desc"]},
    "rates": {"table": "rate", "child": {"column": "of", "prefix": "group,"}, "of": "group", "aggregate": {"total": {"sum": "amount"}}},
}
FIELDS: dict[str, Any] = {
    "name": {"crm": "name", "erp": "name"},
    "street": {"crm": "street", "erp": "address.street"},
    "email": {"crm": "email", "erp": ["email.value", "email.value_compact"]},
    "turnover": {"crm": "turnover", "erp": "rates.total", "owner": "erp"},
}


def a_binding(parts: dict[str, Any], fields: dict[str, Any] | None = None, **binding: Any) -> Binding:
    used = {part for rules in (fields or FIELDS).values() for at in _columns(rules["erp"]) if (part := at.partition(".")[0]) != at}
    kept = {name: part for name, part in parts.items() if name in used or any(parts[other].get("of") == name for other in used)}
    entities = {"customer": {"crm": {"table": "account"}, "erp": {"table": "party", "parts": kept, **binding}, "fields": fields or FIELDS}}
    catalogs = {
        "crm": {str(ACCOUNT): ACCOUNT},
        "erp": {str(table): table for table in (PARTY, ADDRESS, CONTACT, GROUP, RATE)},
    }
    return compile_config(parse(a_config(entities)), catalogs).entities["customer"].bindings["erp"]


def _columns(side: Any) -> list[str]:
    return [side] if isinstance(side, str) else list(side)


def problems(parts: dict[str, Any], fields: dict[str, Any] | None = None, **binding: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        a_binding(parts, fields, **binding)
    return [str(problem).removeprefix("entities.customer.erp.") for problem in caught.value.problems]


# ── flat rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_flat_row_is_read_as_one_row() -> None:
    binding = a_binding(PARTS)
    row = {
        "id": "1",
        "name": "Acme",
        "address.street": "Main 1",
        "email.value": "a@b.c",
        "email.value_compact": None,
        "rates.total": "3.50",
    }
    assert binding.to_canonical(row) == {"name": "Acme", "street": "Main 1", "email": "a@b.c", "turnover": "3.5"}
    assert binding.to_canonical({**row, "address.street": None})["street"] is None


def test_a_value_is_written_to_its_parts_columns() -> None:
    binding = a_binding(PARTS)
    assert binding.to_columns({"street": "New 2", "email": "x@y.z"}) == {
        "address.street": "New 2",
        "email.value": "x@y.z",
        "email.value_compact": "x@y.z",
    }
    assert binding.split("address.street") == ("address", "street")
    assert binding.split("name") == ("", "name")


def test_what_is_drawn_together_is_never_written() -> None:
    binding = a_binding(PARTS)
    assert "turnover" not in binding.writable
    assert binding.to_columns({"turnover": "9"}) == {}


def test_scope_may_ask_a_part() -> None:
    binding = a_binding(PARTS, where={"address.active": True})
    row = {"id": "1", "address.active": "t"}
    assert binding.in_scope(row)
    assert not binding.in_scope({**row, "address.active": None})


def test_each_part_comes_after_what_it_hangs_at_and_carries_what_others_need() -> None:
    binding = a_binding(dict(reversed(PARTS.items())), {**FIELDS, "rate": {"crm": "orders", "erp": "rate.amount"}})
    names = [part.name for part in binding.parts]
    assert names.index("group") < names.index("rate")
    assert binding.root_columns == ("id", "name", "group")
    assert binding.part["address"].columns == ("id", "party", "street", "sequence", "active")
    assert binding.part["rate"].columns == ("id", "of", "amount", "day")
    assert sorted(table.name for table in binding.tables) == ["address", "contact", "party", "party_group", "rate"]


def test_all_tables_of_a_system_are_named() -> None:
    config = parse(a_config({"customer": {"erp": {"table": "party", "parts": PARTS}, "fields": {"name": {"erp": "name"}}}}))
    assert table_names(config, "erp") == [("public", name) for name in ("address", "contact", "party", "party_group", "rate")]


# ── where it hangs ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_link_says_which_row_a_part_hangs_at() -> None:
    address, rate = (
        a_binding(PARTS, {**FIELDS, "rate": {"crm": "orders", "erp": "rate.amount"}}).part[name] for name in ("address", "rate")
    )
    assert address.target({"party": "7"}) == "7"
    assert address.target({"party": None}) is None
    assert address.link_texts(["7"]) == {"party": "7"}
    assert rate.target({"of": "group,7"}) == "7"
    assert rate.target({"of": "company,7"}) is None
    assert rate.target({"of": "group,"}) is None
    assert rate.link_texts(["7"]) == {"of": "group,7"}
    with pytest.raises(MappingError, match="says where address hangs"):
        address.target({})


def test_what_a_part_inserts_counts() -> None:
    binding = a_binding(PARTS)
    assert binding.part["address"].insert["active"].params == ("t",)
    assert binding.part["email"].insert["type"].params == ("email",)
    assert binding.part["address"].made
    assert not binding.part["rates"].made


def test_a_part_without_which_the_root_would_not_count_is_made_though_no_field_is_in_it() -> None:
    parts = {**PARTS, "email": {**PARTS["email"], "insert": {"value": "x"}}}
    fields = {name: rules for name, rules in FIELDS.items() if name != "email"}
    kept = {name: part for name, part in parts.items() if name in ("address", "email", "rates", "group")}

    def email(where: dict[str, Any], **rules: Any) -> Part:
        customer = {"crm": {"table": "account"}, "erp": {"table": "party", "parts": kept, "where": where}, "fields": fields, **rules}
        entities = {"customer": customer}
        tables = {str(table): table for table in (PARTY, ADDRESS, CONTACT, GROUP, RATE)}
        return (
            compile_config(parse(a_config(entities)), {"crm": {str(ACCOUNT): ACCOUNT}, "erp": tables})
            .entities["customer"]
            .bindings["erp"]
            .part["email"]
        )

    assert not email({}).made
    counting = email({"email.type": "email"})
    assert counting.made
    assert counting.required
    assert not email({"email.type": "email"}, born_in=["erp"]).made  # nothing is ever inserted there
    assert not email({"email.value": [None, "x"]}).required  # the root counts without it too


def test_a_parent_that_somebody_else_points_at_is_not_made() -> None:
    fields = {**FIELDS, "group": {"crm": "orders", "erp": "group"}, "group_name": {"crm": "email", "erp": "group.name"}}
    del fields["email"]
    assert not a_binding(PARTS, fields).part["group"].made
    del fields["group"]
    assert a_binding(PARTS, fields).part["group"].made


# ── order and aggregates, as PostgreSQL has them ──────────────────────────────────────────────────────────────────────────────────

VALUES = {
    "numeric": ["1", "10", "2.5", "-3", "NaN", "Infinity", "-Infinity", "0.00", "12345678901234567890123456789.5"],
    "date": ["2026-11-27", "infinity", "-infinity", "0044-03-15 BC", "0001-01-01", "12026-01-01", "0045-03-15 BC"],
    "timestamp with time zone": ["2026-11-27 10:00:00+00", "2026-11-27 10:00:00.5+00", "infinity", "0001-01-01 00:00:00+00 BC"],
    "timestamp without time zone": ["2026-11-27 10:00:00", "2026-11-27 10:00:00.25", "-infinity"],
    "time without time zone": ["10:00:00", "10:00:00.5", "24:00:00"],
    "boolean": ["true", "false"],
    "text": ["", "a", "B", "b", "é", "日本", "z", "_", "𝄞"],
    "uuid": ["a81bc81b-dead-4e5d-abff-90865d1e13b1", "00000000-0000-0000-0000-000000000001"],
    "bytea": [r"\x", r"\x00", r"\x00ff", r"\xff"],
}


@pytest.mark.parametrize("way", ["", " desc", " nulls first", " desc nulls first"])
@pytest.mark.parametrize("kind", VALUES)
def test_rows_are_put_in_postgresqls_order(postgres: str, kind: str, way: str) -> None:
    part = _ordered(kind, way)
    assert isinstance(part, Part)
    (sorting, _) = part.sorting
    with psycopg.connect(postgres) as conn:
        conn.execute("SET timezone TO 'UTC'")
        query = f"SELECT n::text, v::text FROM unnest(%s::{kind}[]) WITH ORDINALITY AS u(v, n) ORDER BY {sorting.sql('u.v')}, n"
        found = conn.execute(query.encode(), [[*VALUES[kind], None]]).fetchall()
    rows = [{"id": n, "of": None, "v": v} for n, v in found]
    rows_otherwise = [*rows[1::2], *rows[::2]]
    assert sorted(rows_otherwise, key=part.order) == rows


def _ordered(kind: str, way: str) -> Part:
    table = a_table("rate", of="integer", v=kind)
    fields = {"name": {"crm": "name", "erp": "name"}, "x": {"crm": "email", "erp": "rate.of", "kind": "text"}}
    parts = {"rate": {"table": "rate", "child": "of", "first_by": [f"v{way}"]}}
    entities = {"customer": {"crm": {"table": "account"}, "erp": {"table": "party", "parts": parts}, "fields": fields}}
    catalogs = {"crm": {str(ACCOUNT): ACCOUNT}, "erp": {str(one): one for one in (PARTY, table)}}
    return compile_config(parse(a_config(entities)), catalogs).entities["customer"].bindings["erp"].part["rate"]


@pytest.mark.parametrize("texts", [[], [None], ["1", None, "2.50"], ["NaN", "1"], ["Infinity", "-Infinity"], ["1e0"], ["-0.5", "0.5"]])
def test_aggregates_are_postgresqls(postgres: str, texts: list[str | None]) -> None:
    aggregate: dict[str, Any] = {
        "n": "count",
        "known": {"count": "amount"},
        "total": {"sum": "amount"},
        "most": {"max": "amount"},
        "least": {"min": "amount"},
        "all": {"list": "amount", "by": ["amount desc", "id"]},
        "text": {"list": "amount", "separator": "; "},
    }
    fields = {**FIELDS, "turnover": {"crm": "turnover", "erp": "rates.total", "owner": "erp"}}
    parts = {**PARTS, "rates": {**PARTS["rates"], "aggregate": aggregate}}
    drawn = a_binding(parts, fields).part["rates"].aggregates
    with psycopg.connect(postgres) as conn:
        conn.execute("CREATE TEMP TABLE r AS SELECT n AS id, v::numeric AS amount FROM unnest(%s::text[]) WITH ORDINALITY u(v, n)", [texts])
        rows = [{"id": n, "amount": v} for n, v in conn.execute("SELECT id::text, amount::text FROM r").fetchall()]
        wanted = conn.execute(
            "SELECT count(*)::text, count(amount)::text, sum(amount)::text, max(amount)::text, min(amount)::text,"
            " jsonb_agg(amount::text ORDER BY amount DESC NULLS LAST, id) FILTER (WHERE amount IS NOT NULL),"
            " string_agg(amount::text, '; ' ORDER BY id) FROM r"
        ).fetchone()
    assert wanted is not None
    found = {name: one.of(rows) for name, one in drawn.items()}
    n, known, total, most, least, every, text = wanted
    assert (found["n"], found["known"]) == (n, known)
    assert found["text"] == (None if text is None else "; ".join(map(normal_number, text.split("; "))))
    assert [_number(found[name]) for name in ("total", "most", "least")] == [_number(one) for one in (total, most, least)]
    assert found["all"] == (None if every is None else _json([normal_number(one) for one in every]))


def _number(text: str | None) -> str | None:
    return None if text is None else str(Decimal(text).normalize())


def _json(value: list[str]) -> str:
    import orjson

    return orjson.dumps(value).decode()


@given(st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=3), min_size=2, max_size=2))
def test_numbers_are_compared_as_numbers(pair: list[Decimal]) -> None:
    one, other = (format(number, "f") for number in pair)
    assert (number_order(one) < number_order(other)) == (pair[0] < pair[1])


@given(st.dates(), st.dates())
def test_dates_are_compared_as_dates(one: Any, other: Any) -> None:
    assert (stamp_order(one.isoformat()) < stamp_order(other.isoformat())) == (one < other)


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("part", "change", "expected"),
    [
        ("address", {"table": "nowhere"}, "parts.address.table: there is no table public.nowhere in erp"),
        ("address", {"child": "partty"}, "parts.address.child: public.address has no column 'partty' (did you mean party?)"),
        ("address", {"child": "street"}, "parts.address.child: street of public.address is a text, the key id of public.party a integer"),
        ("address", {"child": ["party", "id"]}, "parts.address.child: has 2 columns, but the key of public.party is (id)"),
        (
            "address",
            {"child": {"column": "party", "prefix": "p,"}},
            "parts.address.child: party of public.address is a integer, which cannot",
        ),
        ("address", {"first_by": ["sequense"]}, "parts.address.first_by: public.address has no column 'sequense'"),
        ("address", {"where": {"aktive": True}}, "parts.address.where.aktive: public.address has no column 'aktive'"),
        ("address", {"insert": {}}, "parts.address.insert: company of public.address is NOT NULL and has no default"),
        (
            "address",
            {"insert": {"company": "1", "active": False}},
            "parts.address.insert.active: False would leave the row outside `where`",
        ),
        ("rates", {"aggregate": {"total": {"sum": "day"}}}, "parts.rates.aggregate.total: day of public.rate is a date, which has no sum"),
        ("rates", {"aggregate": {"total": {"sum": "x"}}}, "parts.rates.aggregate.total: public.rate has no column 'x'"),
    ],
)
def test_what_cannot_be_a_part_is_refused(part: str, change: dict[str, Any], expected: str) -> None:
    found = problems({**PARTS, part: {**PARTS[part], **change}})
    assert any(problem.startswith(expected) for problem in found), found


def test_a_field_of_a_part_that_is_not_there_says_so() -> None:
    (told,) = problems({}, {"street": {"crm": "street", "erp": "adress.street"}})
    assert told.endswith("there is no part 'adress' for adress.street (add `parts: {adress: {table: …, child: …}}` to the binding)")
