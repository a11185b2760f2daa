"""Fields that are not just a column: constants, templates, functions over several columns, shortened texts, references of all shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalog import Table
from schemas.change import Canonical
from schemas.errors import ConfigError, MappingError
from schemas.mapping import Binding
from tests.mapping.mapping_builders import a_mapping, a_table, compiled

ACCOUNT = a_table(
    "account", name="text", kind="text", street="text", cents="bigint", at="timestamp with time zone", parent="integer", other="integer"
)
PARTY = a_table(
    "party",
    name="character varying(10)",
    street="text",
    number="integer",
    zip="text!",
    amount="numeric(12,2)",
    day="date",
    clock="time without time zone",
    origin="text",
    type_id="integer",
    object_id="integer",
    model="text!",
    parent="integer",
)


def bindings(fields: dict[str, Any], party: Table = PARTY, **entity: Any) -> tuple[Binding, Binding]:
    entities = {
        "e": {"crm": {"table": "account"}, "erp": {"table": "party", "insert": {"zip": "", "model": ""}}, "fields": fields, **entity}
    }
    found = compiled(entities, crm=[ACCOUNT], erp=[party]).entities["e"].bindings
    return found["crm"], found["erp"]


def erp_side(side: Any, **rules: Any) -> Binding:
    return bindings({"f": {"crm": rules.pop("crm", "name"), "erp": side, **rules}})[1]


def reason(side: Any, crm: Any = "name", entity: dict[str, Any] | None = None, **rules: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        bindings({"f": {"crm": crm, "erp": side, **rules}}, **(entity or {}))
    return str(caught.value)


# ── constants ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_constant_is_read_of_every_row_and_never_written() -> None:
    erp = erp_side({"constant": "customer"}, crm="kind")
    assert erp.to_canonical({"name": "x"}) == erp.to_canonical({}) == {"f": "customer"}
    assert erp.to_columns({"f": "supplier"}) == {}
    assert erp.same("f", "supplier", "customer"), "as this system sees it"
    assert (erp.writable, erp.columns, erp.generated) == (frozenset(), {"f": ()}, frozenset())


def test_a_constant_has_its_fields_kind() -> None:
    assert erp_side({"constant": 1500}, crm="cents").to_canonical({}) == {"f": "1500"}
    assert erp_side({"constant": "2024-01-01 12:00+02"}, crm="at").to_canonical({}) == {"f": "2024-01-01T10:00:00.000000Z"}
    assert "entities.e.fields.f.erp.constant: 'soon' is not a date and time" in reason({"constant": "soon"}, crm="at")
    assert erp_side({"constant": 7}, crm="parent", ref="e").to_canonical({}) == {"f": "erp:7"}
    assert "'x' is not a number" in reason({"constant": "x"}, crm="parent", ref="e")


def test_a_constant_decides_only_as_the_owner() -> None:
    assert bindings({"f": {"crm": "kind", "erp": {"constant": "customer"}, "owner": "erp"}})[1].writable == frozenset()
    assert "constant in erp, so it tells no row from another" in reason({"constant": "x"}, entity={"match_on": "f"})
    assert "is never written in erp, so a delete elsewhere" in reason({"constant": "x"}, entity={"delete": {"soft": {"f": "y"}}})
    assert "erp.write: a constant is only read" in reason({"constant": "x", "write": True})
    assert "erp.prefix: does not go with constant" in reason({"constant": "x", "prefix": "p"})
    assert "names no column" in reason({"constant": None})


# ── templates ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_template_is_a_text_of_columns_of_any_kind_only_read() -> None:
    erp = erp_side({"template": "{street} {number}, {zip} ({amount}) {{x}}"}, owner="erp", crm="street")
    row = {"street": "Main", "number": "5", "zip": "10115", "amount": "1.50"}
    assert erp.to_canonical(row) == {"f": "Main 5, 10115 (1.5) {x}"}
    assert erp.to_canonical({**row, "number": None, "zip": None}) == {"f": "Main ,  (1.5) {x}"}
    assert erp.to_canonical(dict.fromkeys(row)) == {"f": None}
    assert erp.to_canonical({"street": "Main"}) == {}
    assert erp.to_columns({"f": "x"}) == {}
    erp = erp_side({"template": "{street} {number}", "clean": ["squeeze", "upper"]}, owner="erp")
    assert erp.to_canonical({"street": "Main  St", "number": None}) == {"f": "MAIN ST"}
    erp = erp_side({"template": "{number}", "values": {"one": "1"}}, owner="erp")
    assert erp.to_canonical({"number": "1"}) == {"f": "one"}


def test_a_template_needs_somebody_who_decides() -> None:
    assert "say who decides: owner: erp" in reason({"template": "{street} {number}"})
    assert "has a single '}'" in reason({"template": "{street}}"}, owner="erp")
    assert "template names no column" in reason({"template": "x"}, owner="erp")
    assert "public.party has no column 'city'" in reason({"template": "{city}"}, owner="erp")
    assert "erp.shorten: does not go with template" in reason({"template": "{street}", "shorten": 5}, owner="erp")
    assert "erp.write: a template is only read" in reason({"template": "{street}", "write": True}, owner="erp")


def test_sql_is_for_the_database_not_for_events() -> None:
    assert "entities.e.fields.f.erp: sql cannot be asked about an event" in reason({"sql": "lower(name)"})


# ── functions over several columns ────────────────────────────────────────────────────────────────────────────────────────────────


def moment(day: Canonical, clock: Canonical) -> str:
    if day is None:
        raise ValueError("has a time and no day")
    return f"{day}T{clock or '00:00:00'}Z"


def day_and_clock(value: Canonical) -> tuple[str, str]:
    text = str(value)
    return text[:10], text[11:-1]


def by_name(value: Canonical) -> dict[str, str]:
    day, clock = day_and_clock(value)
    return {"clock": clock, "day": day}


def too_few(value: Canonical) -> tuple[str]:
    return (str(value),)


def other_names(value: Canonical) -> dict[str, str]:
    return {"tag": "x", "zeit": "y"}


def test_a_python_function_over_several_columns() -> None:
    here = __name__
    for write in ("day_and_clock", "by_name"):
        erp = erp_side({"columns": ["day", "clock"], "python": {"read": f"{here}:moment", "write": f"{here}:{write}"}}, crm="at")
        assert erp.to_canonical({"day": "2024-02-29", "clock": "12:30:00.5"}) == {"f": "2024-02-29T12:30:00.500000Z"}
        assert erp.to_canonical({"day": "2024-02-29", "clock": None}) == {"f": "2024-02-29T00:00:00.000000Z"}
        assert erp.to_canonical({"day": None, "clock": None}) == {"f": None}, "it is not asked about nothing"
        assert erp.to_canonical({"day": "2024-02-29"}) == {}
        assert erp.to_columns({"f": "2024-02-29T12:30:00.500000Z"}) == {"day": "2024-02-29", "clock": "12:30:00.5"}
        assert erp.to_columns({"f": None}) == {"day": None, "clock": None}
        assert erp.represent("f", "2024-02-29T12:30:00.500000Z") == "2024-02-29T12:30:00.500000Z"
        with pytest.raises(MappingError, match=r"e\.f in erp\.public\.party: .* has a time and no day"):
            erp.to_canonical({"day": None, "clock": "12:00:00"})
    for write, message in (("too_few", "expected 2 values"), ("other_names", "was turned into tag, zeit by .* expected day, clock")):
        erp = erp_side({"columns": ["day", "clock"], "python": {"read": f"{here}:moment", "write": f"{here}:{write}"}}, crm="at")
        with pytest.raises(MappingError, match=message):
            erp.to_columns({"f": "2024-02-29T12:30:00.500000Z"})


def test_a_function_without_an_inverse_only_reads() -> None:
    side = {"columns": ["day", "clock"], "python": f"{__name__}:moment"}
    assert "has no inverse" in reason(side, crm="at")
    erp = erp_side({**side, "write": False}, crm="at", owner="erp")
    assert erp.to_canonical({"day": "2024-02-29", "clock": None}) == {"f": "2024-02-29T00:00:00.000000Z"}
    assert "erp.blank: does not go with a python function over several columns" in reason({**side, "blank": "x"}, crm="at")


# ── shortened ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


def a_short_one(kind: str = "character varying(10)", **side: Any) -> Binding:
    return a_mapping("text", kind, erp_side={"column": "b", **side})[1]


def test_a_text_is_cut_only_where_the_mapping_says_so() -> None:
    erp = a_short_one(shorten=True)
    assert erp.to_columns({"f": "Acme International"}) == {"b": "Acme Inter"}
    assert erp.same("f", "Acme International", "Acme Inter"), "the cut text that comes back is not news"
    assert not erp.same("f", "Acme International", "Acme")
    assert erp.to_columns({"f": "Acme      International"}) == {"b": "Acme"}
    assert a_short_one("text", shorten=4).to_columns({"f": "Acme International"}) == {"b": "Acme"}
    assert a_short_one(shorten=6, prefix="K-").to_columns({"f": "Acme International"}) == {"b": "K-Acme"}
    with pytest.raises(MappingError, match=r"has 18 characters, the column holds 10; `shorten: true` says"):
        a_short_one().to_columns({"f": "Acme International"})


@given(texts | st.text("ae\u0301\u0308👩\u200d👧🏽️ ", max_size=30), st.integers(1, 12))
def test_a_shortened_text_settles_after_one_write(text: str, length: int) -> None:
    erp = a_short_one("character varying(12)", shorten=length)
    once = str(erp.to_columns({"f": text})["b"])
    assert len(once) <= length
    assert text.startswith(once)
    assert erp.represent("f", text) == once
    assert erp.to_columns({"f": once}) == {"b": once}


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("abcde\u0301f", "abcd"),
        ("abcd👩\u200d👧", "abcd"),
        ("abc👩\u200d👧", "abc"),
        ("abcd👍🏽", "abcd"),
        ("e" + "\u0301" * 9, "e" + "\u0301" * 4),
    ],
)
def test_a_character_is_not_torn_from_its_accents(text: str, cut: str) -> None:
    assert a_short_one(shorten=5).to_columns({"f": text}) == {"b": cut}


def test_each_joined_column_is_shortened_to_its_own_length() -> None:
    party = a_table("party", first="character varying(4)", last="character varying(6)")
    fields = {"f": {"crm": "name", "erp": {"columns": ["first", "last"], "join": " ", "shorten": True}}}
    entities = {"e": {"crm": {"table": "account"}, "erp": {"table": "party"}, "fields": fields}}
    erp = compiled(entities, crm=[ACCOUNT], erp=[party]).entities["e"].bindings["erp"]
    assert erp.to_columns({"f": "Anna-Maria Schneider"}) == {"first": "Anna", "last": "Schnei"}
    assert erp.same("f", "Anna-Maria Schneider", "Anna Schnei")


def test_shortening_that_makes_no_sense_is_refused() -> None:
    def refused(kind: str, **side: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            a_short_one(kind, **side)
        return str(caught.value)

    assert "b of public.there holds texts of any length (say how many characters: shorten: 40)" in refused("text", shorten=True)
    assert "11 is more than b of public.there holds (at most 10, or true)" in refused("character varying(10)", shorten=11)
    assert "wants a text, but b of public.there is a enum" in refused("enum(a|b)", shorten=1)
    assert "erp.shorten: does not go with list" in refused("text", shorten=5, list=",")
    assert "erp.shorten: must be" in refused("text", shorten=0)
    assert "f is shortened in erp, so two different things could look the same" in reason(
        {"column": "name", "shorten": True}, entity={"match_on": "f"}
    )


def test_codes_and_defaults_are_held_by_their_columns() -> None:
    long = "'far too long for it' has 19 characters, the column holds 10"
    assert f"erp.default: {long}" in reason({"column": "name", "default": "far too long for it"})
    assert f"erp.values: {long}" in reason({"column": "name", "values": {"a": "far too long for it"}})
    with pytest.raises(ConfigError, match=r"erp\.where\.name: 'far too long for it' has 19 characters"):
        bindings({"f": {"crm": "name", "erp": "name"}}, erp={"table": "party", "where": {"name": "far too long for it"}})


# ── references ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reference_in_a_text_with_the_name_of_its_table() -> None:
    erp = erp_side({"column": "origin", "prefix": "sale.line,"}, crm="parent", ref="e")
    assert erp.to_canonical({"origin": "sale.line,12"}) == {"f": "erp:12"}
    for elsewhere in (None, "", "sale.line,", "purchase.line,3", "sale"):
        assert erp.to_canonical({"origin": elsewhere}) == {"f": None}
    assert erp.to_columns({"f": "erp:12"}, {"origin": "purchase.line,3"}) == {"origin": "sale.line,12"}
    assert erp.to_columns({"f": None}, {"origin": "sale.line,12"}) == {"origin": None}
    assert erp.to_columns({"f": None}, {"origin": "purchase.line,3"}) == {}, "it is not ours"
    assert erp.to_columns({"f": None}) == {"origin": None}
    with pytest.raises(MappingError, match="is not a number"):
        erp.to_canonical({"origin": "sale.line,x"})
    nobody = erp_side({"column": "origin", "prefix": "sale.line,", "blank": -1}, crm="parent", ref="e")
    assert nobody.to_canonical({"origin": "sale.line,-1"}) == {"f": None}
    assert nobody.to_columns({"f": None}) == {"origin": "sale.line,-1"}
    assert "origin is a text, the key id of public.party a integer" in reason("origin", crm="parent", ref="e")
    assert "number is a integer, the key" in reason({"column": "number", "prefix": "x,"}, crm="parent", ref="e")


def test_several_references_share_a_column() -> None:
    fields = {
        "sale": {"crm": "parent", "erp": {"column": "origin", "prefix": "sale.line,"}, "ref": "e"},
        "purchase": {"crm": "other", "erp": {"column": "origin", "prefix": "purchase.line,"}, "ref": "e"},
    }
    _, erp = bindings(fields)
    assert erp.to_canonical({"origin": "purchase.line,3"}) == {"sale": None, "purchase": "erp:3"}
    held = {"origin": "sale.line,12"}
    for change in ({"sale": None, "purchase": "erp:3"}, {"purchase": "erp:3", "sale": None}):  # in either order
        assert erp.to_columns(change, held) == {"origin": "purchase.line,3"}
    assert erp.to_columns({"purchase": None}, held) == {}
    for change in ({"purchase": "erp:3"}, {"purchase": "erp:3", "sale": "erp:4"}):
        with pytest.raises(MappingError, match=r"cannot be written to origin, which holds sale: only one of them can be there at a time"):
            erp.to_columns(change, held)
    assert erp.to_columns({"sale": "erp:4"}, held) == {"origin": "sale.line,4"}
    fields["purchase"]["erp"] = {"column": "origin", "prefix": "sale."}  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="origin is written by the field sale too"):
        bindings(fields)


def test_a_reference_that_another_column_names_the_table_of() -> None:
    side = {"column": "object_id", "when": {"type_id": 5}}
    erp = erp_side(side, crm="parent", ref="e")
    assert erp.to_canonical({"object_id": "12", "type_id": "5"}) == {"f": "erp:12"}
    assert erp.to_canonical({"object_id": "12", "type_id": "6"}) == erp.to_canonical({"object_id": "12", "type_id": None}) == {"f": None}
    assert erp.to_canonical({"object_id": "12"}) == {}
    assert (
        erp.to_columns({"f": "erp:3"})
        == erp.to_columns({"f": "erp:3"}, {"object_id": "9", "type_id": "6"})
        == {"object_id": "3", "type_id": "5"}
    )
    assert erp.to_columns({"f": None}, {"object_id": "12", "type_id": "5"}) == {"object_id": None, "type_id": None}
    assert erp.to_columns({"f": None}, {"object_id": "12", "type_id": "6"}) == {}
    assert erp.to_columns({"f": None}) == {}
    assert erp.columns["f"] == ("object_id", "type_id")
    kept = erp_side({"column": "object_id", "when": {"model": ["party", "customer"]}}, crm="parent", ref="e")
    assert kept.to_canonical({"object_id": "12", "model": "customer"}) == {"f": "erp:12"}
    assert kept.to_columns({"f": "erp:3"}) == {"object_id": "3", "model": "party"}
    assert kept.to_columns({"f": None}, {"object_id": "12", "model": "party"}) == {"object_id": None}, "NOT NULL: it stays"


def test_two_of_them_share_their_columns() -> None:
    fields = {
        "sale": {"crm": "parent", "erp": {"column": "object_id", "when": {"type_id": 5}}, "ref": "e"},
        "purchase": {"crm": "other", "erp": {"column": "object_id", "when": {"type_id": 6}}, "ref": "e"},
    }
    _, erp = bindings(fields)
    held = {"object_id": "12", "type_id": "5"}
    assert erp.to_canonical(held) == {"sale": "erp:12", "purchase": None}
    for change in ({"sale": None, "purchase": "erp:3"}, {"purchase": "erp:3", "sale": None}):
        assert erp.to_columns(change, held) == {"object_id": "3", "type_id": "6"}
    with pytest.raises(MappingError, match="only one of them can be there at a time"):
        erp.to_columns({"purchase": "erp:3"}, held)
    fields["purchase"]["erp"]["when"] = {"type_id": [5, 6]}  # type: ignore[index]
    with pytest.raises(ConfigError, match="object_id is written by the field sale too"):
        bindings(fields)


def test_a_value_that_is_there_only_beside_another() -> None:
    erp = erp_side({"column": "street", "when": {"type_id": 5}, "clean": "strip"})
    assert erp.to_canonical({"street": " Main ", "type_id": "5"}) == {"f": "Main"}
    assert erp.to_columns({"f": "Side"}) == {"street": "Side", "type_id": "5"}
    assert "erp.when.kind: public.party has no column 'kind'" in reason({"column": "street", "when": {"kind": 5}})
    assert "erp.when.type_id: 'x' is not a number" in reason({"column": "street", "when": {"type_id": "x"}})
    assert "erp.when.name: one of its values has 12 characters" in reason({"column": "street", "when": {"name": "twelve chars"}})
    assert "erp.default: does not go with when" in reason({"column": "street", "when": {"type_id": 5}, "default": "x"})


def test_a_reference_to_nothing_may_be_written_as_something() -> None:
    erp = erp_side({"column": "parent", "default": 1}, crm="parent", ref="e")
    assert erp.to_columns({"f": None}) == {"parent": "1"}
    assert erp.to_canonical({"parent": "1"}) == {"f": "erp:1"}
    assert erp.same("f", None, "erp:1")
    assert not erp.same("f", None, "erp:2")
    erp = erp_side({"column": "parent", "blank": 0}, crm="parent", ref="e")
    assert (erp.to_canonical({"parent": "0"}), erp.to_columns({"f": None})) == ({"f": None}, {"parent": "0"})
    assert "erp.default: 'x' is not a number" in reason({"column": "parent", "default": "x"}, crm="parent", ref="e")


def test_keys_of_several_columns_and_of_texts() -> None:
    party = replace(
        a_table("party", key="org,code", org="integer!", code="character(4)!", parent_org="integer", parent_code="character(4)")
    )
    fields = {"f": {"crm": "parent", "erp": {"columns": ["parent_org", "parent_code"]}, "ref": "e"}}
    entities: dict[str, Any] = {"e": {"born_in": "erp", "crm": {"table": "account"}, "erp": {"table": "party"}, "fields": fields}}
    erp = compiled(entities, crm=[ACCOUNT], erp=[party]).entities["e"].bindings["erp"]
    assert erp.to_canonical({"parent_org": "1", "parent_code": "ab  "}) == {"f": 'erp:["1","ab"]'}
    assert erp.to_canonical({"parent_org": "1", "parent_code": None}) == {"f": None}
    assert erp.to_columns({"f": 'erp:["1","ab"]'}) == {"parent_org": "1", "parent_code": "ab"}
    fields["f"]["erp"] = {"columns": ["parent_org", "parent_code"], "default": 5}
    with pytest.raises(ConfigError, match=r"erp\.default: names one value, but the key has several columns"):
        compiled(entities, crm=[ACCOUNT], erp=[party])
    fields["f"]["erp"] = {"columns": ["parent_code", "parent_code2"], "prefix": "x,"}
    texts = a_table("party", key="org,code", org="text!", code="text!", parent_code="text", parent_code2="text")
    with pytest.raises(ConfigError, match=r"erp\.prefix: goes before one key, but that of public\.party has 2 columns"):
        compiled(entities, crm=[ACCOUNT], erp=[texts])


# ── scope and expressions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def scoped(insert: dict[str, Any] | None = None, **where: Any) -> Binding:
    return bindings(
        {"f": {"crm": "name", "erp": "name"}}, erp={"table": "party", "where": where, "insert": {"zip": "", "model": "", **(insert or {})}}
    )[1]


def test_rows_that_do_not_count() -> None:
    erp = scoped({"street": "x"}, type_id={"not": [5, 6]}, street={"not": None}, amount=[1.5, None])
    row = {"type_id": "7", "street": "x", "amount": "1.50"}
    assert erp.in_scope(row)
    assert erp.in_scope({**row, "type_id": None}), "null is none of these"
    assert not erp.in_scope({**row, "type_id": "5"})
    assert not erp.in_scope({**row, "street": None})
    assert not erp.in_scope({**row, "amount": "2"})
    assert erp.needed == {"id", "type_id", "street", "amount"}
    assert "type_id" not in erp.insert
    assert erp.insert["amount"].params == ("1.5",)
    with pytest.raises(MappingError, match="without street, which decides"):
        erp.in_scope({"type_id": "7"})


def test_an_insert_must_count() -> None:
    entity = {"erp": {"table": "party", "where": {"type_id": {"not": 5}}, "insert": {"zip": "", "model": "", "type_id": 5}}}
    with pytest.raises(ConfigError, match="'5' would leave the row outside `where`"):
        bindings({"f": {"crm": "name", "erp": "name"}}, **entity)
    with pytest.raises(ConfigError, match="nothing gives street a value, so what is inserted would not count"):
        scoped(street={"not": None})
    with pytest.raises(ConfigError, match=r"must be a single value, a list of them, or \{not: …\}"):
        scoped(street={"is": None})


def test_a_column_may_be_given_the_value_of_another() -> None:
    insert = {"zip": "", "model": {"column": "name"}, "number": {"column": "id"}}
    _, erp = bindings({"f": {"crm": "name", "erp": "name"}}, erp={"table": "party", "insert": insert, "always": {"day": "now"}})
    assert (erp.insert["model"].column, erp.insert["number"].column, erp.insert["zip"].column) == ("name", "id", None)
    with pytest.raises(ConfigError, match=r"insert\.street: model is the value of another column itself"):
        bindings({"f": {"crm": "name", "erp": "name"}}, erp={"table": "party", "insert": {**insert, "street": {"column": "model"}}})
    for given_as, message in (("nme", "did you mean name?"), ("model", "is the same column")):
        with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
            bindings({"f": {"crm": "name", "erp": "name"}}, erp={"table": "party", "insert": {**insert, "model": {"column": given_as}}})
