"""A row's `seq` is found in every form in which the log tells a row, by a real server's own bytes."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest

from bench import load
from bench.listener import Seen, _second


def a_tuple(*values: str | None) -> bytes:
    columns = b"".join(b"n" if value is None else b"t" + len(value).to_bytes(4, "big") + value.encode() for value in values)
    return len(values).to_bytes(2, "big") + columns


@pytest.mark.parametrize("before", [b"", b"K" + a_tuple("7", None), b"O" + a_tuple("7", "41")])
def test_the_new_rows_seq_is_read_whatever_stands_before_it(before: bytes) -> None:
    message = b"\0" * 30 + before + b"N" + a_tuple("7", "4200000000")
    assert _second(memoryview(message), 30) == 4_200_000_000


def test_a_listener_sees_each_change_with_its_commit(database: str, tmp_path: Path) -> None:
    load.create(database, "item")
    load.fill(database, "item", 10)
    with psycopg.connect(database, autocommit=True) as connection:
        if connection.info.server_version < 150000:
            pytest.skip("a publication of some columns needs PostgreSQL 15, and the bench takes 16")
        connection.execute("UPDATE item SET seq = 5 WHERE id = 3")  # before anybody listens
        seen = Seen(database, tmp_path / "seen")
        try:
            began = time.time() * 1e6
            load.update_each(database, load.Stretch(1, 2, 5), 1000)
            connection.execute("UPDATE item SET id = 77, seq = 2000 WHERE id = 2")
            deadline = time.monotonic() + 30
            while seen.count < 6:
                assert time.monotonic() < deadline, "not all changes are seen"
                time.sleep(0.02)
            rows = seen.rows()
            assert rows["seq"].tolist() == [1000, 1001, 1002, 1003, 1004, 2000]
            assert (rows["committed"] >= began).all()
            assert (rows["seen"] >= rows["committed"]).all()
            assert seen.rows(5)["seq"].tolist() == [2000]
        finally:
            seen.close()
        assert connection.execute("SELECT array_agg(id ORDER BY id) FROM item WHERE seq >= 1000").fetchone() == ([1, 3, 5, 7, 9, 77],)
