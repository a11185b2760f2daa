"""The golden record survives Avro, and versions compare as the protocol says."""

import io

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import SchemaError
from schemas.golden import NEVER, Cause, GoldenRecord, Version, golden_from_avro, golden_schema

KINDS = {"name": "text", "credit_limit": "number", "active": "boolean"}
SCHEMA = fastavro.parse_schema(golden_schema("customer", KINDS))
texts = st.text(st.characters(exclude_categories=["Cs"]))
hlcs = st.integers(0, 2**53)
versions = st.builds(Version, hlcs, st.integers(0, 9), st.integers(0, 1), hlcs, st.integers(0, 9), st.integers(0, 10**6))
held = {"name": st.none() | texts, "credit_limit": st.none() | texts, "active": st.none() | st.booleans()}


@st.composite
def records(draw: st.DrawFn) -> GoldenRecord:
    given_fields = draw(st.lists(st.sampled_from(sorted(KINDS)), unique=True))
    return GoldenRecord(
        entity="customer",
        link=draw(texts),
        values={name: draw(held[name]) for name in given_fields},
        alive=draw(st.booleans()),
        exists=draw(versions),
        versions={name: draw(versions) for name in given_fields},
        targets=tuple(draw(st.lists(texts, max_size=3))),
        keys=draw(st.dictionaries(texts, texts, max_size=3)),
        seen=draw(st.dictionaries(texts, st.none() | st.dictionaries(texts, st.none() | texts | st.booleans(), max_size=3), max_size=3)),
        cause=Cause(draw(texts), draw(hlcs), "u", draw(texts), draw(texts)),
        heard=draw(st.dictionaries(texts, st.dictionaries(texts, hlcs, min_size=1, max_size=2), max_size=2)),
    )


@given(records())
def test_golden_record_survives_avro(record: GoldenRecord) -> None:
    data = io.BytesIO()
    fastavro.schemaless_writer(data, SCHEMA, record.to_avro())
    data.seek(0)
    assert golden_from_avro("customer", fastavro.schemaless_reader(data, SCHEMA)) == record


@given(versions)
def test_never_is_older_than_any_version(version: Version) -> None:
    assert version >= NEVER


@given(records())
def test_hlc_of_a_record_is_its_latest_write(record: GoldenRecord) -> None:
    assert record.hlc == max(version.hlc for version in [record.exists, *record.versions.values()])


@pytest.mark.parametrize("rubbish", [{}, {"concord": "no json"}, {"concord": "[]"}, {"concord": "{}"}, {"concord": None}])
def test_rubbish_is_no_golden_record(rubbish: dict[str, object]) -> None:
    with pytest.raises(SchemaError, match="not a golden record of customer"):
        golden_from_avro("customer", rubbish)
