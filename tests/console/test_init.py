"""`concord init`: what it proposes of two databases, that the file can be started from, and what it never does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from console.check import check_databases
from console.check.findings import Checked
from console.cli import cli
from console.init import init
from console.init.assign import assigned
from console.init.codes import code_table
from console.init.names import likeness, words
from console.init.proposal import EntityProposal, Proposal
from console.init.survey import listed_texts
from console.init.write import flow, remark
from examples.reference import load
from schemas.config import Config, loads
from schemas.config import load as load_file
from schemas.config.document import read_document
from tests.services import a_database, a_reader

REFERENCE = Path(__file__).resolve().parents[2] / "examples" / "reference" / "concord.yaml"


@dataclass
class Proposed:
    """What was proposed of two databases, and the file."""

    crm: str
    erp: str
    proposal: Proposal
    text: str

    @property
    def config(self) -> Config:
        return loads(self.text, {"CRM_DSN": self.crm, "ERP_DSN": self.erp})

    def entity(self, crm: str, erp: str) -> EntityProposal:
        """The one of these two tables."""
        tables = {"crm": f"public.{crm}", "erp": f"public.{erp}"}
        (found,) = [one for one in self.proposal.entities if {name: b.table for name, b in one.bindings.items()} == tables]
        return found

    def problems(self) -> list[str]:
        found = Checked()
        check_databases(self.config, found)
        return [str(one.problem) for one in (*found.problems, *found.unanswered)]


def propose(crm: str, erp: str) -> Proposed:
    proposal, text = init({"crm": a_reader(crm), "erp": a_reader(erp)}, {}, lambda _: None)
    return Proposed(crm, erp, proposal, text)


@pytest.fixture(scope="module")
def loaded(postgres: str, postgres_2: str) -> Iterator[Proposed]:
    """The reference's two databases as if they had been in use for years."""
    with ExitStack() as stack:
        crm, erp = stack.enter_context(a_database(postgres)), stack.enter_context(a_database(postgres_2))
        with psycopg.connect(crm) as one, psycopg.connect(erp) as other:
            load.create(one, other)
            load.load(one, other, seed=1, share=0.3)
        yield propose(crm, erp)


@pytest.fixture(scope="module")
def empty(postgres: str, postgres_2: str) -> Iterator[Proposed]:
    """The same without a row."""
    with ExitStack() as stack:
        crm, erp = stack.enter_context(a_database(postgres)), stack.enter_context(a_database(postgres_2))
        with psycopg.connect(crm) as one, psycopg.connect(erp) as other:
            load.create(one, other)
        yield propose(crm, erp)


def pairs_of(entity: EntityProposal) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    return {(one.columns("crm"), one.columns("erp")) for one in entity.actives}


def real_pairs() -> dict[tuple[str, str], set[tuple[tuple[str, ...], tuple[str, ...]]]]:
    """(table, table) → the columns that examples/reference/concord.yaml pairs."""
    config = load_file(REFERENCE, {"CRM_DSN": "a", "ERP_DSN": "b", "KAFKA_BOOTSTRAP": "c"})
    return {
        (entity.bindings["crm"].table.partition(".")[2], entity.bindings["erp"].table.partition(".")[2]): {
            (field.sides["crm"].columns, field.sides["erp"].columns) for field in entity.fields.values()
        }
        for entity in config.entities.values()
    }


# --- the reference ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tables", list(real_pairs()), ids=" ".join)
def test_each_entity_of_the_reference_is_found_with_most_of_its_fields(loaded: Proposed, tables: tuple[str, str]) -> None:
    found, real = pairs_of(loaded.entity(*tables)), real_pairs()[tables]
    assert not found - real, "a pair that is none"
    assert len(found) >= 0.7 * len(real), f"not found: {real - found}"


@pytest.mark.parametrize("tables", list(real_pairs()), ids=" ".join)
def test_each_entity_is_found_from_the_catalogs_alone(empty: Proposed, tables: tuple[str, str]) -> None:
    found, real = pairs_of(empty.entity(*tables)), real_pairs()[tables]
    assert len(found & real) >= 0.6 * len(real), f"not found: {real - found}"


def test_what_matters_most_is_found(loaded: Proposed) -> None:
    customer = loaded.entity("account", "business_partner")
    assert [one.columns("erp") for one in customer.actives if one.name in customer.match_on] == [("tax_id",)]
    plain = {one.columns("erp"): one.to_plain() for one in customer.actives}
    assert plain["tax_id",]["clean"] == ["strip", "upper"]
    assert plain["number",]["owner"] == "erp"
    assert plain["country",]["values"]["DE"] == "DEU"
    assert plain["payment_days",]["values"] == {"net14": 14, "net30": 30, "net60": 60, "prepaid": 0}
    assert customer.delete == {"soft": {"active": False}}
    contact = loaded.entity("contact", "partner_contact")
    assert [one.sides["crm"] for one in contact.actives if one.columns("erp") == ("name",)] == [
        {"columns": ["last_name", "first_name"], "join": ", ", "split": "first"}
    ]
    assert [one.rules["ref"] for one in contact.actives if one.columns("erp") == ("partner",)] == [customer.name]
    product = loaded.entity("product", "item")
    assert (("name",), ("description",)) in pairs_of(product), "the values say so, though there is a column of the same name"
    order = loaded.entity("sales_order", "order")
    assert {one.columns("erp"): one.rules.get("owner") for one in order.actives}["untaxed",] == "erp"


def test_what_an_insert_needs_is_proposed_with_its_reason(loaded: Proposed) -> None:
    erp = loaded.entity("account", "business_partner").bindings["erp"]
    given = {one.column: one for one in erp.insert}
    assert "nextval('partner_number_seq')" in given["number"].value["sql"]
    assert given["number"].value["sql"].startswith("'K' ||")
    assert (given["kind"].value, given["currency"].value, given["company"].value) == ("customer", "EUR", 1)
    assert "supplier (" in given["kind"].why
    assert given["create_date"].value == {"now": "UTC"}
    assert [one.column for one in erp.always] == ["write_date"]
    assert {"kind": ["customer", "both"]} in [where for where, _ in erp.where]
    crm = {one.column: one.value for one in loaded.entity("account", "business_partner").bindings["crm"].insert}
    assert (crm["id"], crm["created_at"]) == ("uuid", "now")
    contact = {one.column: one.value for one in loaded.entity("contact", "partner_contact").bindings["erp"].insert}
    assert contact["active"] is True, "its default is false, and the application would not show the row"


def test_codes_that_nothing_connects_stand_side_by_side_and_are_not_taken(loaded: Proposed) -> None:
    customer = loaded.entity("account", "business_partner")
    (segment,) = [one for one in customer.fields if one.columns("crm") == ("segment",)]
    assert not segment.active
    assert "gold (" in segment.remark
    assert "A (" in segment.remark
    assert "# segment:" in loaded.text


@pytest.mark.parametrize("state", ["loaded", "empty"])
def test_the_file_passes_check_as_it_is(state: str, request: pytest.FixtureRequest) -> None:
    proposed: Proposed = request.getfixturevalue(state)
    assert proposed.problems() == []


def test_the_file_says_how_it_was_made_and_what_to_do_and_holds_no_address(loaded: Proposed) -> None:
    head = loaded.text[: loaded.text.index("kafka:")]
    for word in ("concord init", "concord check", "concord match", "concord up", "CRM_DSN", "owner", "insert"):
        assert word in head
    assert 'crm: {dsn: "${CRM_DSN}", rank: 1}' in loaded.text
    assert "postgresql://" not in loaded.text
    assert all(len(line) <= 180 for line in loaded.text.splitlines())


def test_every_column_is_mapped_given_or_accounted_for(loaded: Proposed) -> None:
    for entity in loaded.proposal.entities:
        for system, dsn in (("crm", loaded.crm), ("erp", loaded.erp)):
            binding = entity.bindings[system]
            accounted = {column for one in entity.fields for column in one.columns(system)}
            accounted |= {one.column for one in (*binding.insert, *binding.always)} | {column for column, _ in binding.not_mapped}
            with psycopg.connect(dsn) as connection:
                query = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
                there = connection.execute(query, [f'"{binding.source.partition(".")[2]}"']).fetchall()
            assert {name for (name,) in there} - accounted == set()


# --- other shapes -----------------------------------------------------------------------------------------------------------------


PARTY = """
CREATE TABLE party (
  id serial PRIMARY KEY, code text NOT NULL UNIQUE, name text NOT NULL, active boolean NOT NULL DEFAULT false, "tax code" text UNIQUE,
  category integer, meta jsonb NOT NULL, tags text[] NOT NULL, odd money, born interval NOT NULL, raw bytea NOT NULL, opens time NOT NULL,
  uid uuid NOT NULL, serial_no integer NOT NULL UNIQUE, "Mixed Case" text, write_date timestamp);
CREATE SEQUENCE party_code_seq;
CREATE TABLE party_address (
  id serial PRIMARY KEY, party integer NOT NULL REFERENCES party, sequence integer, street text, city text, postal_code text);
CREATE TABLE party_category (id serial PRIMARY KEY, label text);
ALTER TABLE party ADD FOREIGN KEY (category) REFERENCES party_category;
CREATE TABLE keyless (line text);
CREATE TABLE "strange.name" (id integer PRIMARY KEY, weather text);
"""
CLIENT = """
CREATE TABLE client (
  id uuid PRIMARY KEY, vat_number text UNIQUE, name text NOT NULL, street text, city text, zip text, share_pct numeric, is_active boolean);
"""


@pytest.fixture
def party(database: str, database_2: str) -> Proposed:
    with psycopg.connect(database) as crm, psycopg.connect(database_2) as erp:
        crm.execute(CLIENT)
        erp.execute(PARTY)
        crm.execute(
            "INSERT INTO client SELECT gen_random_uuid(), 'DE' || n, 'Client ' || n % 7, 'Street ' || n, 'City', '0' || n, n * 7 % 11, true"
            " "
            "FROM generate_series(1, 60) n"
        )
        erp.execute(
            "INSERT INTO party (code, name, \"tax code\", meta, tags, born, raw, opens, uid, serial_no) SELECT lpad(n::text, 5, '0'), "
            "'Client ' || n, 'de' || n, '{}', '{}', '1 day', '', '08:00', gen_random_uuid(), n FROM generate_series(40, 90) n"
        )
    return propose(database, database_2)


def test_rows_beside_are_thought_of_as_parts(party: Proposed) -> None:
    entity = party.entity("client", "party")
    (address,) = entity.bindings["erp"].parts
    assert address.part == {"table": "public.party_address", "child": "party", "first_by": ["sequence", "id"]}
    assert {tuple(one.sides.values()) for one in address.fields} == {
        ("street", "address.street"),
        ("city", "address.city"),
        ("zip", "address.postal_code"),
    }
    assert "#   erp: {parts: {address: {table: public.party_address, child: party, first_by: [sequence, id]}}}" in party.text


def test_a_table_with_every_kind_of_column_gets_a_file_that_passes(party: Proposed) -> None:
    assert party.problems() == []
    given = {one.column: one.value for one in party.entity("client", "party").bindings["erp"].insert}
    assert given["code"] == {"sql": "regexp_replace('0000' || nextval('party_code_seq'), '^0+(?=[0-9]{5})', '')"}
    assert given["uid"] == "uuid"
    assert "max(" in given["serial_no"]["sql"]
    with psycopg.connect(party.erp, autocommit=True) as erp:  # and PostgreSQL takes it
        for number in (7, 12345, 123456):
            erp.execute("SELECT setval('party_code_seq', %s, false)", [number])
            (code,) = erp.execute(f"SELECT {given['code']['sql']}".encode()).fetchone() or ("",)
            assert code == f"{number:05}"


def test_what_has_no_counterpart_is_listed_with_the_reason(party: Proposed) -> None:
    alone = dict(party.proposal.alone["erp"])
    assert alone["public.keyless"] == "it has no primary key"
    assert "public.strange.name" in alone
    reasons = dict(party.entity("client", "party").bindings["erp"].not_mapped)
    assert "cannot be kept in agreement" in reasons["odd"]
    assert reasons["category"] == "refers to public.party_category, which is no entity here"


def test_values_that_are_spelled_differently_meet_and_are_cleaned(party: Proposed) -> None:
    entity = party.entity("client", "party")
    (name,) = entity.match_on
    field = entity.field(name)
    assert field is not None
    assert (field.columns("erp"), field.rules["clean"]) == (("tax code",), ["upper"])


def test_nothing_in_common_is_no_proposal(database: str, database_2: str, tmp_path: Path) -> None:
    with psycopg.connect(database) as crm, psycopg.connect(database_2) as erp:
        crm.execute("CREATE TABLE account (id uuid PRIMARY KEY, name text)")
        erp.execute("CREATE TABLE weather (id integer PRIMARY KEY, wind real, rain real)")
    done = run(tmp_path, f"crm={database}", f"erp={database_2}")
    assert done.exit_code == 1
    assert "nothing was written" in done.stdout
    assert list(tmp_path.iterdir()) == []


# --- the command ------------------------------------------------------------------------------------------------------------------


def run(folder: Path, *args: str, env: dict[str, str | None] | None = None) -> Any:
    return CliRunner().invoke(cli, ["init", *args, "-c", str(folder / "concord.yaml")], catch_exceptions=False, env=env)


def test_a_file_that_is_there_is_not_written_over(party: Proposed, tmp_path: Path) -> None:
    file = tmp_path / "concord.yaml"
    file.write_text("mine")
    addresses = f"crm={party.crm}", f"erp={party.erp}"
    done = run(tmp_path, *addresses)
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert file.read_text() == "mine"
    assert run(tmp_path, *addresses, "--force").exit_code == 0
    assert file.read_text() == party.text


def test_addresses_come_from_the_environment_and_the_file_goes_where_it_is_told(party: Proposed, tmp_path: Path) -> None:
    env: dict[str, str | None] = {"CRM_DSN": party.crm, "ERP_DSN": party.erp}
    other = tmp_path / "first.yaml"
    done = run(tmp_path, "crm", "erp", "-o", str(other), env=env)
    assert done.exit_code == 0
    assert "public.client" in done.stdout
    assert other.read_text() == party.text == run(tmp_path, "crm", "erp", "-o", "-", env=env).stdout
    assert not (tmp_path / "concord.yaml").exists()


def test_json_has_the_same_facts(party: Proposed, tmp_path: Path) -> None:
    done = run(tmp_path, f"crm={party.crm}", f"erp={party.erp}", "--json")
    told = json.loads(done.stdout)
    assert told["file"] == str(tmp_path / "concord.yaml")
    (entity,) = told["entities"]
    assert entity["bindings"]["erp"]["table"] == "public.party"
    assert {"name", "active", "score", "why", "sides"} <= entity["fields"][0].keys()
    assert entity["bindings"]["erp"]["parts"][0]["name"] == "address"


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (["crm=x"], "it takes two"),
        (["crm=x", "golden=y"], "cannot be a system's name"),
        (["crm=x", "crm=y"], "named twice"),
        (["crm=x", "erp"], "ERP_DSN"),
        (["crm=x", "erp=y", "--schema", "sap=z"], "expected one of"),
    ],
)
def test_what_cannot_be_asked_is_2_with_the_reason(tmp_path: Path, given_: list[str], said: str) -> None:
    done = run(tmp_path, *given_, env={"ERP_DSN": None, "CRM_DSN": None})
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_database_that_does_not_answer_is_2_without_its_password(tmp_path: Path) -> None:
    done = run(tmp_path, "crm=postgresql://u:s3cret@127.0.0.1:1/x", "erp=postgresql://u:s3cret@127.0.0.1:1/x")
    assert done.exit_code == 2
    assert "system crm" in done.stderr
    assert "s3cret" not in done.output


# --- pieces -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "least", "most"),
    [
        ("account", "business_partner", 0.8, 1),
        ("sales_order", "order", 0.9, 1),
        ("sales_order", "order_line", 0, 0.6),
        ("contact", "partner_contact", 0.6, 0.9),
        ("vat_number", "tax_id", 0.85, 1),
        ("billing_zip", "postal_code", 0.8, 1),
        ("FirstName", "first_name", 1, 1),
        ("quantity", "price", 0, 0.1),
        ("2", "x", 0, 0),
    ],
)
def test_names_that_mean_the_same_are_alike(one: str, other: str, least: float, most: float) -> None:
    found = likeness(one, other, of_tables="order" in one or "contact" in one)
    assert least <= found <= most
    assert found == pytest.approx(likeness(other, one, of_tables="order" in one or "contact" in one))


@given(st.text(max_size=12), st.text(max_size=12))
def test_any_two_names_can_be_compared(one: str, other: str) -> None:
    assert 0 <= likeness(one, other) <= 1
    assert likeness(one, one) in (0, 1)
    assert all(words(one)) or not words(one)


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=0, max_size=3), st.floats(0.1, 0.9))
def test_nobody_is_assigned_twice_and_no_other_way_is_worth_more(worth: list[list[float]], least: float) -> None:
    ones, others = [f"a{n}" for n in range(len(worth))], ["b0", "b1", "b2", "b3"]

    def score(a: str, b: str) -> float:
        return worth[int(a[1:])][int(b[1:])]

    found = assigned(ones, others, score, least)
    assert len({a for a, _, _ in found}) == len({b for _, b, _ in found}) == len(found)
    assert all(score(a, b) == value >= least for a, b, value in found)
    places = [*others, *([None] * len(ones))]
    best = max(
        sum(value for a, b in zip(ones, way, strict=True) if b is not None and (value := score(a, b)) >= least)
        for way in permutations(places, len(ones))
    )
    assert sum(value for _, _, value in found) == pytest.approx(best)


@pytest.mark.parametrize(
    ("mine", "theirs", "met", "codes", "sure"),
    [
        ("DE AT", "DEU AUT", (), {"DE": "DEU", "AT": "AUT"}, True),
        ("piece metre", "MTR PCE", (), {"piece": "PCE", "metre": "MTR"}, True),
        ("gold silver", "A B", (), {}, False),
        ("gold silver", "A B", [("gold", "B")] * 5 + [("silver", "A")] * 5, {"gold": "B", "silver": "A"}, True),
        ("gold silver", "A B", [("gold", "A")] * 5 + [("silver", "A")] * 5, {}, False),  # it says nothing: all are A
        ("new done", "draft done void", (), {"new": "draft", "done": "done"}, False),  # one of theirs has no counterpart
    ],
)
def test_codes_find_each_other(mine: str, theirs: str, met: Any, codes: dict[str, str], sure: bool) -> None:
    table = code_table(mine.split(), theirs.split(), list(met))
    assert (dict(table.codes), table.sure) == (codes, sure)


@pytest.mark.parametrize(
    ("definition", "texts"),
    [
        ("CHECK ((kind = ANY (ARRAY['a'::text, 'b''c'::text])))", ("a", "b'c")),
        ("CHECK ((state = ANY (ARRAY['D'::bpchar, 'P'::bpchar])))", ("D", "P")),
        ("CHECK (((kind)::text = ANY ((ARRAY['x'::character varying, 'y'::character varying])::text[])))", ("x", "y")),
        ("CHECK ((length(name) > 3))", ()),
        ("CHECK (((kind = ANY (ARRAY['a'::text])) OR (name IS NULL)))", ()),
    ],
)
def test_a_list_of_codes_is_read_from_its_check(definition: str, texts: tuple[str, ...]) -> None:
    assert listed_texts(definition) == texts


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.one_of(st.text(max_size=20), st.booleans(), st.integers(-999, 999)), max_size=4))
def test_what_is_written_in_one_line_is_read_back(value: dict[str, Any]) -> None:
    printable = {key: one for key, one in value.items() if _can_stand(key) and (not isinstance(one, str) or _can_stand(one))}
    line = flow(printable)
    assert "\n" not in line
    data, problems = read_document(f"a: {line}", {})
    assert (data, problems) == ({"a": printable}, [])


def _can_stand(text: str) -> bool:
    """YAML has no way to say half a surrogate pair; the reader keeps two private-use characters for itself."""
    return not any("\ud800" <= c <= "\udfff" or c in "\ue000\ue001" for c in text)


@given(st.text(max_size=40))
def test_a_remark_stays_on_its_line(text: str) -> None:
    assert len(remark(text).splitlines()) <= 1
