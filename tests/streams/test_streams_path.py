"""From captured events to golden records: the agents on a real broker, the crosswalk in real databases."""

from __future__ import annotations

from schemas import topics
from schemas.conflicts import Rule
from tests.streams.streams_world import StreamsWorld, a_party, an_account


async def test_a_new_account_claims_its_vat_number_and_becomes_a_golden_record(world: StreamsWorld) -> None:
    async with world.running() as app:
        world.event(world.crm, "account", "c", an_account(7, vat=" de1 "))
        world.event(world.crm, "account", "u", an_account(7, vat="de1", name="Acme Ltd"))
        await world.settled(app)
    link = f"{world.crm}:7"
    assert [(value, claim["op"], claim["key"]) for value, claim in world.claims()] == [("DE1", "claim", "7")]
    assert [(to, change.op.value, change.values and change.values["name"]) for to, change in world.changes()] == [
        (link, "c", "Acme"),
        (link, "u", "Acme Ltd"),
    ]
    first, second = world.golden()
    assert first.targets == second.targets == (world.erp,)
    assert second.values == {"tax_id": "DE1", "name": "Acme Ltd", "credit": "10"}
    assert second.versions["name"] > first.versions["name"]
    assert second.versions["tax_id"] == first.versions["tax_id"]
    assert second.keys == {world.crm: "7"}


async def test_two_births_of_one_customer_get_one_link(world: StreamsWorld) -> None:
    async with world.running() as app:
        world.event(world.crm, "account", "c", an_account(7, name="Acme"))
        world.event(world.erp, "party", "c", a_party(12, name="ACME GmbH"))
        await world.settled(app)
    links = {link for link, _ in world.changes()}
    assert len(links) == 1
    assert links <= {f"{world.crm}:7", f"{world.erp}:12"}
    last = world.golden()[-1]
    assert last.keys == {world.crm: "7", world.erp: "12"}
    assert last.targets == (world.crm,)  # the ERP was later
    [conflict] = world.conflicts()
    assert (conflict.field, conflict.won.value, conflict.lost.value, conflict.rule) == ("name", "ACME GmbH", "Acme", Rule.LATER)


async def test_a_second_row_with_the_value_waits_until_the_first_is_gone(world: StreamsWorld) -> None:
    async with world.running() as app:
        world.event(world.crm, "account", "c", an_account(7))
        await world.settled(app)
        world.event(world.crm, "account", "c", an_account(8, name="Acme again"))
        await world.settled(app)
        assert {change.key for _, change in world.changes()} == {"7"}
        [duplicate] = world.conflicts()
        assert (duplicate.rule, duplicate.lost.key, duplicate.won.key) == (Rule.DUPLICATE, "8", "7")
        world.event(world.crm, "account", "d", an_account(7))
        await world.settled(app)
    assert {(link, change.key) for link, change in world.changes()} == {(f"{world.crm}:7", "7"), (f"{world.crm}:7", "8")}


async def test_i5_an_echo_is_recognised_and_makes_no_news(world: StreamsWorld) -> None:
    link = f"{world.crm}:7"
    async with world.running() as app:
        world.event(world.crm, "account", "c", an_account(7))
        await world.settled(app)
        [record] = world.golden()
        world.linked(world.erp, world.customer, "12", link)
        world.event(world.erp, "party", "c", a_party(12), origin=record.hlc)
        await world.settled(app)
        world.event(world.crm, "account", "u", an_account(7, name="New"))
        await world.settled(app)
        world.event(world.erp, "party", "u", a_party(12, name="New"), origin=world.golden()[-1].hlc)
        await world.settled(app)
    known, registered, news = world.golden()
    assert known.targets == news.targets == (world.erp,)
    assert registered.targets == ()  # only to tell every sink that erp:12 is this thing
    assert registered.keys == {world.crm: "7", world.erp: "12"}
    assert registered.versions["name"] == known.versions["name"]
    assert [change.origin_hlc is not None for _, change in world.changes()] == [False, True, False, True]


async def test_kafkas_settings_are_the_readers_as_well(world: StreamsWorld) -> None:
    world.pipeline.config.kafka.settings["client.id"] = "told"
    app = world.app()
    assert (app.client_config, app.producer_config) == ({"client.id": "told"}, {})


async def test_i6_what_is_not_in_scope_is_counted_and_leaving_scope_is_a_delete(world: StreamsWorld) -> None:
    async with world.running() as app:
        world.event(world.crm, "account", "c", an_account(1, org=41))
        world.event(world.crm, "account", "c", an_account(2))
        await world.settled(app)
        world.event(world.crm, "account", "u", an_account(2, org=41))
        await world.settled(app)
        world.event(world.crm, "account", "u", an_account(2, org=42))
        world.event(world.erp, "order", "c", {"id": 5, "party": 1, "remark": "born on the wrong side"})
        await world.settled(app)
    assert [(change.key, change.op.value) for _, change in world.changes()] == [("2", "c"), ("2", "d"), ("2", "c")]
    assert [record.alive for record in world.golden()] == [True, False, True]
    assert world.changes(world.order) == []


async def test_references_are_compared_as_things_not_as_keys(world: StreamsWorld) -> None:
    world.linked(world.crm, world.customer, "7", f"{world.crm}:7")
    world.linked(world.erp, world.customer, "12", f"{world.crm}:7")
    world.linked(world.erp, world.order, "99", f"{world.crm}:5")
    async with world.running() as app:
        world.event(world.crm, "deal", "c", {"id": 5, "account": 7, "note": "x"})
        await world.settled(app)
        world.event(world.erp, "order", "c", {"id": 99, "party": 12, "remark": "x"}, origin=world.golden(world.order)[-1].hlc)
        await world.settled(app)
    last = world.golden(world.order)[-1]
    assert last.values["customer"] == f"{world.crm}:7"
    assert last.seen[world.erp] == {"customer": f"{world.erp}:12", "note": "x"}
    assert last.targets == ()


async def test_a_row_that_gets_another_key_stays_the_same_thing(world: StreamsWorld) -> None:
    async with world.running() as app:
        world.event(world.crm, "account", "c", an_account(7))
        await world.settled(app)
        world.event(world.crm, "account", "d", an_account(7), headers={"__debezium.newkey": b'{"id":8}'})
        world.send(topics.captured(world.crm, "public", "account"), world.encoded(world.crm, "account", "d", an_account(7), lsn=1)[0], None)
        world.event(world.crm, "account", "c", an_account(8, name="Acme II"), headers={"__debezium.oldkey": b'{"id":7}'})
        await world.settled(app)
    last = world.golden()[-1]
    assert (last.link, last.alive, last.keys[world.crm], last.values["name"]) == (f"{world.crm}:7", True, "8", "Acme II")
    assert all(record.alive for record in world.golden())


async def test_a_worker_that_comes_back_reads_what_it_is_to_read_now(world: StreamsWorld) -> None:
    """Kafka gives a member that comes back under its name what it had, and does not ask what it wants now."""
    whole = world.config, world.pipeline
    world.config = world.config.model_copy(update={"entities": {world.customer: world.config.entities[world.customer]}})
    world.pipeline = world._pipeline()
    async with world.running() as app:
        world.event(world.crm, "account", "c", an_account(7))
        await world.settled(app)
    world.config, world.pipeline = whole
    async with world.running() as app:
        world.event(world.crm, "deal", "c", {"id": 1, "account": 7, "note": "new here"})
        await world.settled(app)
    assert [record.values["note"] for record in world.golden(world.order)] == ["new here"]
