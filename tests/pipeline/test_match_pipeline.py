"""What was on both sides, matched and accepted before going live, is one thing from the first event on; and just what was foretold is
overwritten."""

from __future__ import annotations

import csv
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.pipeline_fixtures import RunningPipeline, running
from tests.services import a_database

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.slow]

ACCOUNTS = {  # vat, name, city, segment, credit_limit
    "exact": ("DE100", "Acme GmbH", "Kiel", "gold", 5),
    "typo": ("DE200", "Bolt & Sohn GmbH", "Flensburg", "silver", 0),
    "without": (None, "Ginger Instruments AG", "Wismar", "bronze", 0),
    "rejected": ("DE400", "Old Owner KG", "Hagen", "silver", 0),
    "twice": ("DE500", "Twice GmbH", "Essen", "silver", 0),
    "twice again": ("de500", "Twice GmbH", "Essen", "silver", 0),
    "alone": ("DE700", "Only in the CRM", None, "silver", 0),
    "blank": ("DE800", "Left to the pipeline", None, "silver", 0),
}
PARTNERS = {  # tax_id, legal_name, town, class, credit_limit
    "exact": (" de100", "Acme Ltd", "Kiel", "A", 700.5),
    "typo": ("DE2OO", "Bolt und Sohn", None, "B", 0),
    "without": ("DE300", "Ginger Instruments", "Wismar", "C", 0),
    "rejected": ("DE400", "New Owner SE", "Bonn", "B", 0),
    "twice": ("DE500", "Twice", "Essen", "B", 0),
    "only there": ("DE900", "Only in the ERP", None, "B", 0),
    "blank": ("DE800", "Left to the pipeline", "Hull", "B", 0),
}
PAIRED = {"exact": "exact", "typo": "typo", "without": "without", "twice again": "twice", "blank": "blank"}
FIELDS = ("name", "tax_id", "city", "segment", "credit_limit", "number", "since")
COLUMNS = {  # per system: its table, and the columns of the fields
    "crm": ("account", dict(zip(FIELDS, ("name", "vat", "city", "segment", "credit_limit", "number", "created_at"), strict=True))),
    "erp": ("partner", dict(zip(FIELDS, ("legal_name", "tax_id", "town", "class", "credit_limit", "number", "since"), strict=True))),
}


@pytest.fixture
def pipeline(tmp_path: Path, kafka: str, postgres: str, postgres_2: str) -> Iterator[RunningPipeline]:
    name = "t" + uuid.uuid4().hex[:8]
    with a_database(postgres) as crm, a_database(postgres_2) as erp, running(tmp_path, name, kafka, crm, erp) as pipeline:
        yield pipeline


def filled(pipeline: RunningPipeline) -> tuple[dict[str, str], dict[str, str]]:
    """Rows on both sides; name → row name."""
    accounts, partners = {}, {}
    for name, row in ACCOUNTS.items():
        key = uuid.uuid4()
        insert = (
            "INSERT INTO account (id, vat, name, city, segment, credit_limit, created_at) VALUES (%s, %s, %s, %s, %s, %s, '2020-01-01')"
        )
        pipeline.do("crm", insert, key, *row)
        accounts[name] = f"crm:{key}"
    for name, row in PARTNERS.items():
        insert = (
            "INSERT INTO partner (tax_id, legal_name, town, class, credit_limit, since, write_date, active) "
            "VALUES (%s, %s, %s, %s, %s, '2021-01-01', now(), true) RETURNING id"
        )
        partners[name] = f"erp:{pipeline.one('erp', insert, *row)}"
    return accounts, partners


def decided(file: Path, accounts: dict[str, str], partners: dict[str, str]) -> dict[tuple[str, str], set[str]]:
    """A person has been at the file. What it foretells of each pair: `system.field` of what is overwritten."""
    with file.open(encoding="utf-8-sig", newline="") as text:
        lines = list(csv.DictReader(text))
    decisions = {(accounts[crm], partners[erp]): "accept" for crm, erp in PAIRED.items()}
    decisions |= {
        (accounts["rejected"], partners["rejected"]): "reject",
        (accounts["twice"], partners["twice"]): "reject",
        (accounts["blank"], partners["blank"]): "",
    }
    foretold = {}
    for line in lines:
        pair = line["crm"], line["erp"]
        line["decision"] = decisions.pop(pair, "")
        foretold[pair] = set(re.findall(r"(\w+\.\w+) ←", line["overwrites"]))
    assert not decisions
    with file.open("w", encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return foretold


def held(pipeline: RunningPipeline) -> dict[str, dict[str, Any]]:
    """Row name → the mapped columns as `system.field`."""
    found = {}
    for system, (table, columns) in COLUMNS.items():
        names = [f"{system}.{name}" for name in columns]
        for key, *row in pipeline.rows(system, f"SELECT id, {', '.join(columns.values())} FROM {table}"):
            found[f"{system}:{key}"] = dict(zip(names, row, strict=True))
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_accepted_pairs_are_one_thing_and_exactly_what_was_foretold_is_overwritten(pipeline: RunningPipeline) -> None:
    accounts, partners = filled(pipeline)
    file = pipeline.folder / "matches.csv"
    pipeline.concord("match", "-o", str(file), expect=1)
    foretold = decided(file, accounts, partners)
    pipeline.concord("match", "--accept", str(file), expect=1)  # a line was left open
    before = held(pipeline)

    pipeline.up()
    pipeline.settle(90)

    known = {
        (system, f"{of}:{key}"): link
        for system in ("crm", "erp")
        for of, key, link in pipeline.rows(system, "SELECT system, key, link FROM concord.key WHERE entity = 'customer' AND NOT gone")
    }
    for system in ("crm", "erp"):
        for crm, erp in PAIRED.items():
            assert known[system, accounts[crm]] == known[system, partners[erp]]
        assert known[system, accounts["rejected"]] != known[system, partners["rejected"]]
        assert known[system, accounts["twice"]] != known[system, partners["twice"]]

    # nothing was inserted for what was paired, rejected or quarantined; what was alone has got its other row
    assert pipeline.one("crm", "SELECT count(*) FROM account") == len(ACCOUNTS) + 1
    assert pipeline.one("erp", "SELECT count(*) FROM partner") == len(PARTNERS) + 1
    assert pipeline.one("crm", "SELECT name FROM account WHERE vat = 'DE900'") == "Only in the ERP"
    assert pipeline.one("erp", "SELECT legal_name FROM partner WHERE tax_id = 'DE700'") == "Only in the CRM"

    after = held(pipeline)
    for crm, erp in PAIRED.items():
        pair = accounts[crm], partners[erp]
        assert changes(before[pair[0]], after[pair[0]]) | changes(before[pair[1]], after[pair[1]]) == foretold[pair], crm
    for row in (accounts["rejected"], partners["rejected"], accounts["twice"]):
        assert after[row] == before[row]
    assert after[partners["typo"]]["erp.city"] == "Flensburg"  # a value beats none
    assert after[accounts["typo"]]["crm.tax_id"] == "DE2OO"  # the higher rank decides
    assert pipeline.concord("verify", "--entity", "customer", expect=None)["entities"]["customer"]["differing"] == 0
