"""The examples' `concord.yaml`s fit their databases, and the second opinion of the demo sees what is wrong."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from connectors import concord_schema
from connectors.catalog import read_tables
from examples.reference import load
from examples.reference.agree import ENTITIES, Agreement, compare
from schemas.config import Config
from schemas.config import load as load_config
from schemas.mapping import Pipeline, compile_config, table_names

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ACCOUNT, CONTACT = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"


def compiled(example: str, **environment: str) -> Pipeline:
    config: Config = load_config(EXAMPLES / example / "concord.yaml", {"KAFKA_BOOTSTRAP": "127.0.0.1:9", **environment})
    catalogs = {}
    for system, told in config.systems.items():
        with psycopg.connect(told.dsn) as conn:
            catalogs[system] = read_tables(conn, table_names(config, system))
    return compile_config(config, catalogs)


@pytest.fixture
def reference(database: str, database_2: str) -> Pipeline:
    with psycopg.connect(database) as crm, psycopg.connect(database_2) as erp:
        load.create(crm, erp)
    return compiled("reference", CRM_DSN=database, ERP_DSN=database_2)


def test_the_reference_configuration_fits_its_databases(reference: Pipeline) -> None:
    assert set(reference.entities) == set(ENTITIES)
    assert reference.entities["sales_order"].born_in == {"crm"}
    assert reference.entities["sales_order"].bindings["erp"].generated == {"number", "net_total", "tax_total", "gross_total"}
    assert reference.entities["invoice"].exists_owner == "erp"


def test_every_column_an_insert_needs_is_given(reference: Pipeline) -> None:
    for entity in reference.entities.values():
        for binding in entity.bindings.values():
            given = {*binding.insert, *binding.always, *(column for columns in binding.columns.values() for column in columns)}
            lacking = [
                column.name for column in binding.table.columns if column.not_null and not column.has_default and column.name not in given
            ]
            assert not lacking, f"{entity.name} in {binding.system}"


def test_a_person_s_name_makes_the_round_trip(reference: Pipeline) -> None:
    crm = reference.entities["contact"].bindings["crm"]
    for row, name in (
        ({"last_name": "von der Leyen", "first_name": "Anna Maria"}, "von der Leyen, Anna Maria"),
        ({"last_name": "Madonna", "first_name": None}, "Madonna"),
    ):
        assert crm.to_canonical({"id": "1", **row})["name"] == name
        assert crm.to_columns({"name": name}) == row


@pytest.fixture
def agreed(database: str, database_2: str) -> tuple[str, str]:
    """One customer with a contact on both sides, written as either side writes it, and linked."""
    with psycopg.connect(database) as crm, psycopg.connect(database_2) as erp:
        load.create(crm, erp)
        for conn in (crm, erp):
            concord_schema.ensure(conn)
            conn.execute(
                "INSERT INTO concord.key (entity, system, key, link) VALUES ('customer', 'erp', '1', 'L1'), ('contact', 'erp', '1', 'L2'),"
                " ('customer', 'crm', %s, 'L1'), ('contact', 'crm', %s, 'L2')",
                (ACCOUNT, CONTACT),
            )
        crm.execute(
            "INSERT INTO account VALUES (%s, 'customer', 'Müller', 'DE1', 'K1', NULL, '1', NULL, 'a', 'b', 'c', 'DE', 'gold', 'net30',"
            " 12.35, true, 'x', NULL, now(), now())",
            (ACCOUNT,),
        )
        crm.execute(
            "INSERT INTO contact VALUES (%s, %s, 'ms', 'Anna', 'Ott', 'A@x.de', NULL, 'decider', NULL, now(), now())",
            (CONTACT, ACCOUNT),
        )
        erp.execute(
            "INSERT INTO business_partner (number, kind, legal_name, tax_id, telephone, street, zip, city, country, class, payment_days,"
            " credit_limit, dunning_level, currency, language, company, active, create_uid, create_date, write_date)"
            " VALUES ('K1', 'customer', 'Müller', ' de1', '1', 'a', 'b', 'c', 'DEU', 'A', 30, 12.345, 0, 'EUR', 'de', 1, true, 1, now(),"
            " now())"
        )
        erp.execute(
            'INSERT INTO partner_contact (partner, name, title, mail, "function", sequence, active, create_date, write_date)'
            " VALUES (1, 'Ott, Anna', 'Frau', 'a@x.de', 1, 1, true, now(), now())"
        )
    return database, database_2


def second_opinion(pair: tuple[str, str]) -> dict[str, Agreement]:
    with psycopg.connect(pair[0]) as crm, psycopg.connect(pair[1]) as erp:
        return compare(crm, erp)


def test_the_second_opinion_agrees_with_what_is_equal_in_the_narrower_form(agreed: tuple[str, str]) -> None:
    found = second_opinion(agreed)
    assert all(agreement.complete for agreement in found.values())
    assert (found["customer"].equal, found["contact"].equal) == (1, 1)


@pytest.mark.parametrize(
    ("side", "change", "entity", "what"),
    [
        (0, "UPDATE account SET credit_limit = 12.34", "customer", "credit"),
        (1, "UPDATE partner_contact SET name = 'Ott, Anne'", "contact", "name"),
        (1, "UPDATE partner_contact SET \"function\" = 9", "contact", "role"),
        (1, "DELETE FROM partner_contact", "contact", "no partner"),
        (0, "UPDATE concord.key SET link = 'L9' WHERE system = 'crm' AND entity = 'customer'", "contact", "customer"),
        (0, "INSERT INTO contact (id, account_id, last_name, role, created_at, updated_at)"
            " SELECT gen_random_uuid(), account_id, 'New', 'other', now(), now() FROM contact", "contact", "unknown"),
    ],
)  # fmt: skip
def test_the_second_opinion_sees_it(agreed: tuple[str, str], side: int, change: str, entity: str, what: str) -> None:
    with psycopg.connect(agreed[side]) as conn:
        conn.execute(change.encode())
    found = second_opinion(agreed)[entity]
    assert not found.complete
    assert what in " ".join(found.differing + found.missing)


def test_a_soft_delete_is_no_difference(agreed: tuple[str, str]) -> None:
    with psycopg.connect(agreed[0]) as crm, psycopg.connect(agreed[1]) as erp:
        crm.execute("DELETE FROM contact")
        crm.execute("DELETE FROM account")
        erp.execute("DELETE FROM partner_contact")
        erp.execute("UPDATE business_partner SET active = false")
    found = second_opinion(agreed)
    assert found["customer"].complete
    assert found["customer"].deleted == 1
