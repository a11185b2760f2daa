"""Topics' names."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from schemas import topics


def test_a_tables_topic_is_named_as_debezium_names_it() -> None:
    assert topics.captured("erp", "public", "order line") == "erp.public.order_line"
    assert topics.captured("erp", "Öffentlich", 'a"b.c-d_e') == "erp._ffentlich.a_b.c-d_e"
    assert topics.links("erp", "public", "order line") == "links.erp.public.order_line"


@given(st.text(min_size=1, max_size=63), st.text(min_size=1, max_size=63))
def test_any_table_has_a_name_that_kafka_takes(schema: str, table: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topics.captured("erp", schema, table))


def test_tables_that_would_share_a_topic_are_found() -> None:
    places = [("public", "a b"), ("public", "a;b"), ("public", "ab"), ("public", "a b")]
    assert topics.clashes("erp", places) == {"erp.public.a_b": [("public", "a b"), ("public", "a;b")]}
    assert topics.clashes("erp", [("a.b", "c"), ("a", "b.c")]) == {"erp.a.b.c": [("a", "b.c"), ("a.b", "c")]}
