"""A changed configuration: what is said, and what is read again."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

from connectors.source.snapshot import SnapshotStore
from console import ownership, remembered
from console.remembered import Change, difference, mapped
from schemas.config import Config, loads
from schemas.errors import ConfigError
from tests.console.console_fixtures import World, world

__all__ = ["world"]

FILE: dict[str, Any] = {
    "kafka": {"bootstrap": "k:1"},
    "systems": {"crm": {"dsn": "postgresql://c", "rank": 1}, "erp": {"dsn": "postgresql://e", "rank": 2}},
    "entities": {
        "customer": {
            "match_on": ["tax_id"],
            "crm": {"table": "public.account"},
            "erp": {
                "table": "public.partner",
                "insert": {"active": True},
                "parts": {"address": {"table": "public.address", "child": "partner", "first_by": ["id"]}},
            },
            "fields": {
                "name": {"crm": "name", "erp": "legal_name"},
                "tax_id": {"crm": "vat", "erp": "tax_id"},
                "city": {"crm": "city", "erp": "address.city"},
            },
        },
        "product": {"crm": {"table": "product"}, "erp": {"table": "item"}, "fields": {"name": {"crm": "name", "erp": "name"}}},
    },
}
PARTNER = (("public", "address"), ("public", "partner"))


def a_config(file: dict[str, Any]) -> Config:
    return loads(yaml.safe_dump(file), {})


def changed(path: str, value: Any) -> list[Change]:
    """What is found in the ERP after this change to the file; a value of None takes it out."""
    before, file = a_config(FILE), copy.deepcopy(FILE)
    *way, last = path.split("/")
    at = file["entities"]
    for key in way:
        at = at[key]
    if value is None:
        del at[last]
    else:
        at[last] = value
    known = {entity: mapped(before, entity, "erp") for entity in before.entities}
    return difference(a_config(file), "erp", known)


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("customer/fields/email", {"crm": "email", "erp": "mail"}, Change("erp", "customer", PARTNER, added=("email",))),
        ("customer/fields/city", {"crm": "city", "erp": "address.town"}, Change("erp", "customer", PARTNER, changed=("city",))),
        ("customer/fields/name/clean", ["strip"], Change("erp", "customer", PARTNER, changed=("name",))),
        ("customer/fields/city", None, Change("erp", "customer", PARTNER, gone=("city",))),
        ("customer/erp/where", {"kind": "customer"}, Change("erp", "customer", PARTNER, rows=True)),
        ("customer/match_on", ["name"], Change("erp", "customer", PARTNER, rows=True)),
        ("customer/erp/parts/address/first_by", ["id desc"], Change("erp", "customer", PARTNER, rows=True)),
        ("order", {**FILE["entities"]["product"]}, Change("erp", "order", (("public", "item"),), new=True)),
        ("product", None, None),
        ("customer/erp/insert", {"active": False}, None),
        ("customer/erp/always", {"written": "now"}, None),
        ("customer/fields/name/owner", "erp", None),
        ("customer/delete", "ignore", None),
        ("customer/crm/where", {"org": 1}, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_change_means_for_rows_that_were_read(path: str, value: Any, found: Change | None) -> None:
    assert changed(path, value) == ([] if found is None else [found])


def test_nothing_is_read_again_by_itself_that_could_delete_rows() -> None:
    (widened,) = changed("customer/erp/where", {"kind": "customer"})
    assert not widened.read_again
    assert "concord snapshot --changed" in remembered.sentences([widened])[0]
    (added,) = changed("customer/fields/email", {"crm": "email", "erp": "mail"})
    assert remembered.sentences([added]) == [
        "erp: entity customer: field email added; public.address, public.partner is read again"
    ]  # parts before their root
    assert "tell Debezium so" in remembered.sentences([added], debezium=True)[0]


def asked(world: World, system: str) -> list[str]:
    slot = world.config.systems[system].slot
    store = SnapshotStore(world.db[system], slot)
    tables = [("public", name) for name in ("account", "contact", "partner", "user")]
    return sorted(one.name for one in store.pending(tables))


def all_read(world: World) -> None:
    for system, tables in ((world.crm, ("account", "contact")), (world.erp, ("partner", "user"))):
        for table in tables:
            world.do(
                system,
                "INSERT INTO concord.snapshot (pipeline, table_name, done) VALUES (%s, %s, true) "
                "ON CONFLICT (pipeline, table_name, predicate) DO UPDATE SET done = true",
                world.config.systems[system].slot,
                f"public.{table}",
            )


def test_a_change_is_said_asked_for_and_remembered(world: World) -> None:
    world.prepare()
    all_read(world)
    assert remembered.settle_all(world.config) == [], "what was read before anything was remembered is taken as it is"
    assert world.concord("snapshot", "--changed") == (0, {"changes": []})
    text = world.file.read_text()
    world.file.write_text(re.sub(r"^ +email: .*\n", "", text, flags=re.MULTILINE))
    remembered.settle_all(world.config)
    assert asked(world, world.crm) == asked(world, world.erp) == [], "a field that is taken out needs nothing"
    world.file.write_text(text)
    notes = [note for note in world.concord("check")[1]["notes"] if "email" in note["what"] and note["about"] == "configuration"]
    assert {note["where"] for note in notes} == {world.crm, world.erp}
    assert all("concord snapshot --changed" in note["mend"] for note in notes)
    assert len(remembered.warnings(world.config, world.db)) == 2
    assert asked(world, world.crm) == [], "to ask changes nothing"
    status, told = world.concord("snapshot", "--changed")
    assert status == 0
    assert {(one["system"], one["entity"]) for one in told["changes"]} == {(world.crm, world.contact), (world.erp, world.contact)}
    assert (asked(world, world.crm), asked(world, world.erp)) == (["public.contact"], ["public.user"])
    assert remembered.warnings(world.config, world.db) == []


def test_rows_that_would_count_no_more_are_not_read_again_because_a_field_is_new_as_well(world: World) -> None:
    world.prepare()
    all_read(world)
    text = world.file.read_text()
    world.file.write_text(re.sub(r"^ +email: .*\n", "", text, flags=re.MULTILINE))
    remembered.settle_all(world.config)
    narrower = text.replace("table: public.contact", "table: public.contact, where: {email: kept}")
    assert narrower != text
    world.file.write_text(narrower)
    found = remembered.settle_all(world.config)
    assert [(change.added, change.rows) for change in found if change.system == world.crm] == [(("email",), True)]
    assert asked(world, world.crm) == []
    assert asked(world, world.erp) == ["public.user"], "there only a field is new"
    (said,) = [line for line in remembered.sentences(found) if line.startswith(world.crm)]
    assert "nothing is read again for that by itself" in said
    again = [change for change in remembered.settle_all(world.config) if change.system == world.crm]
    assert [(change.added, change.rows) for change in again] == [(("email",), True)], "it is said until somebody has meant it"
    assert remembered.settle_all(world.config, everything=True)
    assert asked(world, world.crm) == ["public.contact"]
    assert remembered.settle_all(world.config) == []


def test_a_second_pipeline_on_the_same_topics_is_refused_and_changes_nothing(world: World) -> None:
    cluster, config = world.cluster(), world.config
    ownership.claim(config, {world.crm: "1", world.erp: "2"}, cluster)
    ownership.claim(config, {world.crm: "another"}, cluster)  # its topics are not there: the mark holds nobody up
    ownership.claim(config, {world.crm: "1", world.erp: "2"}, cluster)
    world.prepare()
    ownership.claim(config, {world.crm: "1"}, cluster)
    ownership.claim(config, {}, cluster)  # a streams worker, which knows no database
    before = ownership.owners(cluster)
    with pytest.raises(ConfigError) as refused:
        ownership.claim(config, {world.crm: "1", world.erp: "3"}, cluster)
    assert {one.where for one in refused.value.problems} == {
        f"systems.{world.erp}",
        f"entities.{world.customer}",
        f"entities.{world.contact}",
    }
    assert f"with another database as {world.erp}" in refused.value.problems[0].what
    world.file.write_text(world.file.read_text().replace(f"name: {world.name}", "name: another"))
    with pytest.raises(ConfigError, match=f"belong to pipeline '{world.name}'"):
        ownership.claim(world.config, {}, cluster)
    problems = [one for one in world.concord("check", "--no-rows")[1]["problems"] if one["about"] == "Kafka"]
    assert {one["where"] for one in problems} >= {f"systems.{world.crm}", f"entities.{world.customer}"}
    assert ownership.owners(cluster) == before
