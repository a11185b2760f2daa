"""Whom a golden record is for, by a look at its bytes; and what is refused as none."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.sink.golden import GoldenDecoder, is_for
from schemas.errors import SchemaError
from schemas.golden import Cause, GoldenRecord, Version, golden_schema
from schemas.registry import MemoryRegistry
from schemas.serde import Codec

VERSION = Version(1, 1, 0, 1, 1, 1)
CODEC = Codec(MemoryRegistry())
ENCODE = CODEC.encoder("golden.customer-value", golden_schema("customer", {"name": "text", "targets": "text"}))


def a_record(targets: tuple[str, ...], field: str = "name", value: str = "Acme", **more: Any) -> bytes:
    cause = Cause("crm", 1, "u", "1", "0" * 32)
    seen = {"crm": {field: value}, "erp": None}
    record = GoldenRecord("customer", "crm:1", {field: value}, True, VERSION, {field: VERSION}, targets, {"crm": "1"}, seen, cause, **more)
    return ENCODE(record.to_avro())


@pytest.mark.parametrize("value", ["Acme", '"targets":["erp"]', 'a \\"targets":["erp"] b', "]", '"erp"'])
def test_a_record_is_for_its_targets_whatever_its_values_are(value: str) -> None:
    for targets in ((), ("crm",), ("erp",), ("crm", "erp")):
        raw = a_record(targets, value=value)
        assert {system for system in ("crm", "erp", "er") if is_for(system, raw)} == set(targets)


def test_what_is_no_golden_record_is_for_everybody() -> None:
    assert all(is_for("erp", raw) for raw in (None, b"", b"garbage", b"\0\0\0\0\1"))


def test_a_field_of_that_name_only_makes_a_record_wait() -> None:
    assert not is_for("crm", a_record((), field="targets"))
    assert not is_for("erp", a_record(("crm",), field="targets"))


@pytest.mark.parametrize("heard", [5, [1], {"erp": 5}, {"erp": {"": "1"}}, {"erp": {"": None}}, {"erp": {"": 1.5}}])
def test_what_is_heard_is_looked_at_before_anybody_relies_on_it(heard: Any) -> None:
    decode = GoldenDecoder(CODEC)
    assert decode("customer", a_record(("erp",), heard={"erp": {"": 1}})).heard == {"erp": {"": 1}}
    with pytest.raises(SchemaError, match="heard"):
        decode("customer", a_record(("erp",), heard=heard))
