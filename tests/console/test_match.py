"""`concord match` against real tables: what it pairs, lists, foretells, and what accepting writes."""

from __future__ import annotations

import csv
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors import concord_schema
from tests.console.console_fixtures import World

A, B, C, D = (str(uuid.UUID(int=number)) for number in range(1, 5))

Row = dict[str, str]


@pytest.fixture
def world(tmp_path: Path, database: str, database_2: str) -> Iterator[World]:
    """Two databases with rows that nobody has linked. Nothing here asks Kafka."""
    os.environ.pop("CONCORD_CONFIG", None)
    made = World(tmp_path, "m", "127.0.0.1:1", database, database_2)
    yield made
    made.close()


def accounts(world: World, *rows: tuple[str, str, str | None]) -> None:
    """(key, name, vat)"""
    for row in rows:
        world.do(world.crm, "INSERT INTO account (id, name, vat) VALUES (%s, %s, %s)", *row)


def partners(world: World, *rows: tuple[int, str, str | None]) -> None:
    for row in rows:
        world.do(world.erp, "INSERT INTO partner (id, legal_name, tax_id) VALUES (%s, %s, %s)", *row)


def matched(world: World, *options: str, status: int = 0) -> dict[str, Any]:
    ended, told = world.concord("match", *options)
    assert ended == status, told
    found: dict[str, Any] = told
    return found


def of_customers(world: World, *options: str, status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = matched(world, *options, status=status)["entities"][world.customer]
    return found


def written(world: World) -> tuple[Path, list[Row]]:
    """The file that `concord match -o` writes."""
    file = world.folder / "matches.csv"
    world.concord("match", "--entity", world.customer, "-o", str(file))
    return file, lines_of(file)


def lines_of(file: Path) -> list[Row]:
    with file.open(encoding="utf-8-sig", newline="") as text:
        return list(csv.DictReader(text))


def rewritten(file: Path, rows: list[Row], **dialect: Any) -> None:
    with file.open("w", encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, rows[0], **dialect)
        writer.writeheader()
        writer.writerows(rows)


def links(world: World, system: str) -> dict[tuple[str, str], str]:
    """concord.key of a database, without the systems' prefix."""
    rows = world.db[system].execute("SELECT system, key, link FROM concord.key").fetchall()
    return {(of.removeprefix("m_"), key): link.removeprefix("m_") for of, key, link in rows}


# --- finding ----------------------------------------------------------------------------------------------------------------------


def test_one_match_value_in_each_system_is_a_pair_however_it_is_written(world: World) -> None:
    accounts(world, (A, "Acme", " de1 "), (B, "Bolt", None), (C, "Nowhere else", "DE3"))
    partners(world, (1, "Acme", "DE1"), (2, "Screw", ""), (3, "Just there", "DE4"))
    told = of_customers(world)
    assert told["exact"] == 1
    assert told["rows"] == {world.crm: 3, world.erp: 3}
    assert told["without_match_value"] == {world.crm: 1, world.erp: 1}
    assert told["duplicates"]["clusters"] == 0


def test_rows_that_do_not_count_pair_with_nobody(world: World) -> None:
    accounts(world, (A, "Acme", "DE1"))
    partners(world, (1, "Acme", "DE1"))
    world.do(world.erp, "UPDATE partner SET kind = 'supplier'")
    told = of_customers(world)
    assert told["exact"] == 0
    assert told["alone"] == {world.crm: 1, world.erp: 0}


def test_two_rows_of_one_system_with_one_value_are_never_paired_and_it_says_which_would_be_taken(world: World) -> None:
    accounts(world, (B, "Acme again", "de1"), (A, "Acme", "DE1"))
    partners(world, (1, "Acme", "DE1"), (2, "Twice", "DE2"), (3, "Twice", " DE2"))
    told = of_customers(world, status=1)
    assert told["exact"] == 0
    assert told["duplicates"] == {"clusters": 2, "open": 2, "rows": {world.crm: 2, world.erp: 3}}
    of_one, of_two = sorted(told["examples"]["duplicates"], key=lambda one: str(one["match_value"]))
    assert of_one["would_be_taken"] == {world.crm: A, world.erp: "1"}
    assert of_two["rows"] == {world.erp: ["2", "3"]}
    shown = world.run("match").stdout
    assert f"left alone, m_c:{A} and m_e:1 would be taken and the others wait" in shown


def test_what_going_live_would_overwrite_is_counted_by_field_direction_and_rule(world: World) -> None:
    accounts(world, (A, "Acme", "DE1"), (B, "Bolt", "DE2"))
    world.do(world.crm, "UPDATE account SET city = 'Kiel', credit_limit = 5")
    partners(world, (1, "Acme Ltd", "DE1"), (2, "Bolt", "DE2"), (3, "Screw", "DE3"))
    accounts(world, (C, "Screw", "DE3"))
    world.do(world.erp, "UPDATE partner SET town = 'Hull', credit_limit = 5.001 WHERE id = 2")
    world.do(world.erp, "UPDATE partner SET town = '', credit_limit = 7 WHERE id = 1")
    world.do(world.erp, "UPDATE partner SET town = 'Far too long a name' WHERE id = 3")
    told = of_customers(world)["overwrites"]["exact"]
    assert (told["pairs"], told["agreeing"]) == (3, 0)
    nothing = {"replaced": 0, "filled": 0, "emptied": 0, "refused": 0}
    from_erp = {"in": world.crm, "from": world.erp}
    assert told["fields"] == [
        {"field": "city", **from_erp, "rule": "rank", **nothing, "replaced": 1, "emptied": 1},
        {"field": "city", **from_erp, "rule": "value", **nothing, "refused": 1},
        {"field": "credit_limit", **from_erp, "rule": "owner", **nothing, "replaced": 1},
        {"field": "name", **from_erp, "rule": "rank", **nothing, "replaced": 1},
    ]
    assert "1 emptied by an empty text" in world.run("match").stdout


def test_references_to_paired_rows_are_the_same(world: World) -> None:
    accounts(world, (A, "Acme", "DE1"))
    partners(world, (1, "Acme", "DE1"))
    world.do(world.crm, "INSERT INTO contact VALUES (%s, %s, 'a@b.c')", C, A)
    world.do(world.erp, "INSERT INTO \"user\" VALUES (7, 1, 'a@b.c')")
    world.file.write_text(world.file.read_text().replace(f"born_in: [{world.crm}]", "match_on: [email]"))
    told = matched(world, "--entity", world.contact)["entities"]
    assert list(told) == [world.contact]
    assert told[world.contact]["overwrites"]["exact"] == {"pairs": 1, "agreeing": 1, "fields": []}


def test_a_row_that_the_mapping_cannot_read_is_named(world: World) -> None:
    world.file.write_text(world.file.read_text().replace("name: {m_c: name,", "name: {m_c: name, values: {Acme: Acme Ltd},"))
    partners(world, (1, "Acme Ltd", "DE1"), (2, "Bolt", "DE2"))
    told = of_customers(world)
    assert (told["unreadable"], told["rows"]) == ({world.crm: 0, world.erp: 1}, {world.crm: 0, world.erp: 1})
    assert told["examples"]["unreadable"][0]["row"] == f"{world.erp}:2"


def test_linked_rows_are_decided_and_a_further_row_of_their_value_is_a_duplicate(world: World) -> None:
    world.prepare(topics=False)
    accounts(world, (A, "Acme", "DE1"), (B, "Acme again", "de1"))
    partners(world, (1, "Acme", "DE1"))
    world.key(world.customer, f"{world.crm}:{A}", crm=A, erp="1")
    told = of_customers(world, status=1)
    assert told["linked"] == {world.crm: 1, world.erp: 1}
    assert told["duplicates"]["clusters"] == 1


def test_nothing_is_written_by_looking(world: World) -> None:
    accounts(world, (A, "Acme", "DE1"))
    partners(world, (1, "Acme", "DE1"))
    written(world)
    assert [concord_schema.version(connection) for connection in world.db.values()] == [0, 0]


def test_an_unknown_entity_is_a_usage_error(world: World) -> None:
    assert world.run("match", "--entity", "nobody").exit_code == 2


def test_rows_that_are_alike_are_candidates_with_a_score_and_reasons(world: World) -> None:
    accounts(world, (A, "Müller & Söhne Metallbau GmbH", "DE1"), (B, "Ginger Instruments", None), (C, "Quite another", None))
    partners(world, (1, "Mueller und Soehne Metallbau", "DE8"), (2, "GINGER INSTRUMENTS AG", "DE9"), (3, "Of somebody else", None))
    world.do(world.crm, "UPDATE account SET city = 'Kiel'")
    world.do(world.erp, "UPDATE partner SET town = 'Kiel' WHERE id = 2")
    told = of_customers(world, status=1)
    assert told["candidates"] == {"pairs": 2, "groups": 2, "proposed": 2, "open": 2, "rows": {world.crm: 2, world.erp: 2}}
    assert told["alone"] == {world.crm: 1, world.erp: 1}
    first = next(one for one in told["examples"]["candidates"] if one["rows"][world.crm] == B)
    assert (first["rows"], first["proposed"]) == ({world.crm: B, world.erp: "2"}, True)
    assert first["score"] >= 50
    assert "name equal" in first["reason"]
    assert {(one["field"], one["in"]) for one in first["overwrites"]} == {("name", world.crm), ("tax_id", world.crm)}
    assert told["overwrites"]["proposed"]["pairs"] == 2
    assert of_customers(world, "--min-score", "100")["candidates"]["pairs"] == 0


def test_a_candidate_is_decided_by_accepting_it_or_another_of_its_row(world: World) -> None:
    accounts(world, (A, "Ginger Instruments", None))
    partners(
        world, (1, "Ginger Instruments AG", None), (2, "Ginger Instrument", None), *((n, f"Some{n} Body{n}", None) for n in range(3, 60))
    )
    file, lines = written(world)
    assert [(line["kind"], line["group"], line["proposed"]) for line in lines] == [("candidate", "c1", "yes"), ("candidate", "c1", "")]
    lines[0]["decision"] = "accept"
    rewritten(file, lines)
    assert of_customers(world, "-o", str(file))["candidates"]["open"] == 0
    assert world.concord("match", "--accept", str(file))[0] == 0
    assert links(world, world.erp) == {("c", A): f"c:{A}", ("e", "1"): f"c:{A}"}
    assert of_customers(world)["candidates"]["pairs"] == 0


# --- the file ---------------------------------------------------------------------------------------------------------------------


def test_the_file_has_a_line_for_each_pair_with_what_differs_side_by_side(world: World) -> None:
    accounts(world, (A, "=1+1\nAcme", "DE1"), (B, "Bolt", "DE2"), (C, "Bolt", "de2"))
    partners(world, (1, "Acme Ltd", "DE1"), (2, "Bolt", "DE2"))
    _, lines = written(world)
    exact = lines[-1]
    assert [exact[name] for name in ("decision", "kind", "entity", world.crm, world.erp)] == [
        "accept",
        "exact",
        world.customer,
        f"{world.crm}:{A}",
        f"{world.erp}:1",
    ]
    assert exact[f"name: {world.crm}"] == "'=1+1 ⏎ Acme"  # no formula, and one line
    assert exact[f"name: {world.erp}"] == "Acme Ltd"
    assert exact[f"city: {world.crm}"] == ""
    assert exact["overwrites"] == f"{world.crm}.name ← {world.erp}"
    assert [(line["decision"], line["kind"], line[world.crm], line[world.erp]) for line in lines[:2]] == [
        ("", "duplicate", f"{world.crm}:{B}", f"{world.erp}:2"),
        ("", "duplicate", f"{world.crm}:{C}", f"{world.erp}:2"),
    ]


def test_written_again_the_file_keeps_what_was_decided(world: World) -> None:
    accounts(world, (A, "Acme", "DE1"), (B, "Bolt", "DE2"), (C, "Bolt", "de2"))
    partners(world, (1, "Acme", "DE1"), (2, "Bolt", "DE2"))
    file, lines = written(world)
    lines[0]["decision"], lines[1]["decision"], lines[2]["decision"] = "Accept", "reject", "reject"
    rewritten(file, lines, delimiter=";")  # as a spreadsheet may
    told = of_customers(world, "-o", str(file))
    assert told["duplicates"]["open"] == 0
    assert [line["decision"] for line in lines_of(file)] == ["accept", "reject", "reject"]


def test_a_file_of_another_kind_is_not_written_over(world: World) -> None:
    file = world.folder / "matches.csv"
    file.write_text("my,own,table\n1,2,3\n")
    status, told = world.concord("match", "-o", str(file))
    assert status == 2
    assert told["problems"][0]["where"] == f"{file}:1"
    assert file.read_text() == "my,own,table\n1,2,3\n"


# --- accepting --------------------------------------------------------------------------------------------------------------------


def test_accepted_pairs_are_linked_in_both_databases_and_again_changes_nothing(world: World) -> None:
    accounts(world, (A, "Acme", "DE1"))
    partners(world, (1, "Acme", "DE1"))
    file, _ = written(world)
    status, told = world.concord("match", "--accept", str(file))
    assert (status, told["entities"][world.customer]) == (0, {"accepted": 1, "linked": 1, "kept_apart": 0, "open": 0})
    expected = {("c", A): f"c:{A}", ("e", "1"): f"c:{A}"}
    assert links(world, world.crm) == links(world, world.erp) == expected
    status, told = world.concord("match", "--accept", str(file))
    assert (status, told["entities"][world.customer]["linked"]) == (0, 0)
    assert links(world, world.crm) == links(world, world.erp) == expected
    assert of_customers(world)["linked"] == {world.crm: 1, world.erp: 1}


def test_a_run_that_ended_between_the_two_databases_is_finished_by_the_next(world: World) -> None:
    accounts(world, (A, "Acme", "DE1"))
    partners(world, (1, "Acme", "DE1"))
    file, _ = written(world)
    world.concord("match", "--accept", str(file))
    world.do(world.erp, "DELETE FROM concord.key")
    status, told = world.concord("match", "--accept", str(file))
    assert (status, told["entities"][world.customer]["linked"]) == (0, 1)
    assert links(world, world.crm) == links(world, world.erp)


def test_rows_that_are_alike_in_nothing_can_be_accepted_by_a_person(world: World) -> None:
    accounts(world, (A, "Acme", "DE1"), (B, "Bolt", "DE2"))
    partners(world, (1, "Acme", "DE1"), (2, "Screw", "XY9"))
    file, lines = written(world)
    assert len(lines) == 1
    rewritten(file, [*lines, {**lines[0], world.crm: f"{world.crm}:{B}", world.erp: f"{world.erp}:2"}])
    assert world.concord("match", "--accept", str(file))[0] == 0
    assert links(world, world.erp)["e", "2"] == f"c:{B}"


def test_a_rejected_pair_of_one_value_becomes_two_things(world: World) -> None:
    accounts(world, (A, "Acme", "DE1"), (B, "Bolt", "DE2"), (C, "Bolt", "de2"))
    partners(world, (1, "Other", "DE1"), (2, "Bolt", "DE2"))
    file, lines = written(world)
    for line, decision in zip(lines, ("accept", "reject", "reject"), strict=True):
        line["decision"] = decision
    rewritten(file, lines)
    status, told = world.concord("match", "--accept", str(file))
    assert (status, told["entities"][world.customer]) == (0, {"accepted": 1, "linked": 1, "kept_apart": 3, "open": 0})
    expected = {("c", A): f"c:{A}", ("e", "1"): "e:1", ("c", B): f"c:{B}", ("e", "2"): f"c:{B}", ("c", C): f"c:{C}"}
    assert links(world, world.crm) == links(world, world.erp) == expected
    assert of_customers(world)["exact"] == 0


def test_open_lines_are_said_and_nothing_is_done_with_them(world: World) -> None:
    accounts(world, (A, "Acme", "DE1"), (B, "Bolt", "DE2"), (C, "Bolt", "de2"))
    partners(world, (1, "Acme", "DE1"), (2, "Bolt", "DE2"))
    file, _ = written(world)
    status, told = world.concord("match", "--accept", str(file))
    assert (status, told["entities"][world.customer]["open"]) == (1, 2)
    assert links(world, world.crm).keys() == {("c", A), ("e", "1")}


def test_every_problem_is_named_with_its_line_and_nothing_is_written(world: World) -> None:
    accounts(world, (A, "Acme", "DE1"), (B, "Bolt", "DE2"))
    partners(world, (1, "Acme", "DE1"), (2, "Bolt", "DE2"))
    file, lines = written(world)
    crm, erp = world.crm, world.erp
    bad = [
        {"decision": "yes"},
        {"entity": "custumer"},
        {crm: "4711"},
        {crm: f"{erp}:1"},
        {erp: ""},
        {crm: "", erp: ""},
    ]
    rewritten(file, [*lines, *({**lines[0], **one} for one in bad)])
    status, told = world.concord("match", "--accept", str(file))
    assert status == 2
    assert [problem["where"] for problem in told["problems"]] == [f"{file}:{number}" for number in range(4, 10)]

    gone = [{erp: f"{erp}:99"}, {erp: f"{erp}:many"}, {crm: f"{crm}:{D}"}]  # line 2 has lines[0]: another partner for its row
    rewritten(file, [*lines, {**lines[1], **gone[0]}, {**lines[1], **gone[1]}, {**lines[1], **gone[2]}, {**lines[0], "decision": "reject"}])
    status, told = world.concord("match", "--accept", str(file))
    assert status == 2
    said = [(problem["where"].rpartition(":")[2], problem["what"]) for problem in told["problems"]]
    assert ("4", f"{erp}:99 is not there, does not count or cannot be read") in said
    assert ("5", f"{erp}:many is not there, does not count or cannot be read") in said
    assert ("6", f"{crm}:{D} is not there, does not count or cannot be read") in said
    assert ("7", "rejects what is accepted in line 2") in said
    assert any(number == "3" and "lines 3, 4, 5, 6 make one" in what for number, what in said)
    assert concord_schema.version(world.db[crm]) == 0
    assert "problems" in world.run("match", "--accept", str(file)).stderr


def test_rows_that_the_pipeline_has_made_different_things_are_refused_by_name(world: World) -> None:
    world.prepare(topics=False)
    accounts(world, (A, "Acme", "DE1"), (B, "Bolt", "DE2"))
    partners(world, (1, "Acme", "DE1"), (2, "Bolt", "DE2"), (3, "Bolt too", "DE3"))
    file, _ = written(world)
    world.key(world.customer, f"{world.crm}:{A}", crm=A)
    world.key(world.customer, f"{world.erp}:1", erp="1")
    world.key(world.customer, f"{world.crm}:{B}", crm=B, erp="3")
    status, told = world.concord("match", "--accept", str(file))
    assert status == 2
    first, second = (problem["what"] for problem in told["problems"])
    assert f"{world.crm}:{A} is {world.crm}:{A}, {world.erp}:1 is {world.erp}:1" in first
    assert second == f"{world.erp}:2 cannot be {world.crm}:{B}: by concord.key that {world.customer} has the row {world.erp}:3"
    assert ("e", "2") not in links(world, world.crm)


def test_a_row_that_is_never_born_cannot_be_kept_apart_and_it_says_so(world: World) -> None:
    world.file.write_text(world.file.read_text().replace("    match_on: [tax_id]", f"    match_on: [tax_id]\n    born_in: [{world.crm}]"))
    accounts(world, (A, "Acme", "DE1"))
    partners(world, (1, "Other", "DE1"))
    file, lines = written(world)
    rewritten(file, [{**lines[0], "decision": "reject"}])
    status, told = world.concord("match", "--accept", str(file))
    assert status == 2
    assert "cannot be kept apart" in told["problems"][0]["what"]
