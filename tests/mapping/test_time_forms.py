"""Dates and times: text forms that go there and back, and zones as PostgreSQL understands them."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.mapping import times

# PostgreSQL's timestamps reach from 4713 BC to the year 294276
micros = st.one_of(
    st.integers(-210_866_803_200_000_000, 9_223_371_331_199_999_999),
    st.integers(-62_200_000_000_000_000, -62_100_000_000_000_000),  # around year 1
    st.integers(253_402_200_000_000_000, 253_402_400_000_000_000),  # around year 9999
    st.integers(1_700_000_000_000_000, 1_800_000_000_000_000),
)
ZONES = [
    "Europe/Berlin",
    "Asia/Shanghai",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "UTC",
    "Pacific/Apia",
    "Africa/Monrovia",
    "America/Sao_Paulo",
]


@given(micros)
@example(0)
@example(-62_135_596_800_000_000)
@example(-62_135_596_800_000_001)
@example(253_402_300_800_000_000)
def test_timestamps_survive_their_text(moment: int) -> None:
    text = times.stamp_text(moment)
    assert times.micros_of(text) == moment
    naive = times.normal_datetime(text)
    assert times.postgres_datetime(naive) == text
    assert times.normal_datetime(naive) == naive
    with_zone = f"{text[:-3]}+00 BC" if text.endswith(" BC") else f"{text}+00"
    instant = times.normal_timestamp(with_zone)
    assert times.postgres_timestamp(instant) == with_zone
    assert times.normal_timestamp(instant) == instant


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)))
def test_usual_years_are_those_of_datetime(moment: datetime) -> None:
    text = str(moment.replace(tzinfo=UTC))[:-3]  # as psycopg and PostgreSQL print it
    assert times.normal_timestamp(text) == moment.isoformat(timespec="microseconds") + "Z"


@given(st.integers(-2_000_000, 100_000_000))
def test_dates_survive_their_text(days: int) -> None:
    text = times.date_text(days)
    assert times.normal_date(text) == text


@pytest.mark.parametrize("text", ["infinity", "-infinity"])
def test_infinity_stays_infinity(text: str) -> None:
    there, back = times.zoned("Europe/Berlin")
    for function in (
        times.normal_timestamp,
        times.normal_datetime,
        times.postgres_timestamp,
        times.postgres_datetime,
        times.normal_date,
        there,
        back,
    ):
        assert function(text) == text
    assert times.rounded_stamp(text, 0) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024-02-30",
        "2024-13-01 00:00:00",
        "2023-02-29 00:00:00+00",
        "0000-01-01 00:00:00+00",
        "2024-01-01 25:00:00+00",
        "now",
        "24-1-1",
        "２０２４-01-01 00:00:00+00",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|has no"):
        times.normal_timestamp(text.replace(" ", "T") if len(text) < 22 else text + " ")
    with pytest.raises(ValueError, match="is not"):
        times.normal_date(text)


def test_an_instant_may_come_in_any_zone() -> None:
    assert times.normal_timestamp("2024-02-29T13:14:15+02:00") == "2024-02-29T11:14:15.000000Z"
    assert times.normal_timestamp("2024-02-29 13:14:15.5+05:30") == "2024-02-29T07:44:15.500000Z"
    assert times.normal_timetz("13:14:15.123456+05:30") == "07:44:15.123456+00"
    with pytest.raises(ValueError, match="has no time zone"):
        times.normal_timestamp("2024-02-29T13:14:15")
    with pytest.raises(ValueError, match="has a time zone"):
        times.normal_datetime("2024-02-29T13:14:15Z")


@given(micros, st.sampled_from(ZONES))
def test_a_naive_time_is_one_instant_and_comes_back_unless_it_was_skipped(moment: int, zone: str) -> None:
    instant, naive = times.zoned(zone)
    local = times.normal_datetime(times.stamp_text(moment))
    there = instant(local)
    back = naive(there)
    assert instant(back) == there  # what is written is read as what was written
    if back != local:  # the clocks skipped it
        assert back > local


@given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2100, 1, 1)), st.sampled_from(ZONES))
def test_an_instant_comes_back_but_for_the_hour_that_is_there_twice(moment: datetime, zone: str) -> None:
    instant, naive = times.zoned(zone)
    golden = moment.isoformat(timespec="microseconds") + "Z"
    held = instant(naive(golden))
    assert instant(naive(held)) == held
    assert naive(held) == naive(golden)
    assert held >= golden


def test_summer_time_is_read_as_postgres_reads_it(database: str) -> None:
    """Gaps, folds, half-hour changes, a skipped day, years far away."""
    cases = [
        ("Europe/Berlin", ["2024-03-31 01:59:59", "2024-03-31 02:00:00", "2024-03-31 02:30:00", "2024-03-31 03:00:00"]),
        (
            "Europe/Berlin",
            ["2024-10-27 01:59:59", "2024-10-27 02:00:00", "2024-10-27 02:30:00.5", "2024-10-27 02:59:59.999999", "2024-10-27 03:00:00"],
        ),
        ("Australia/Lord_Howe", ["2024-04-07 01:45:00", "2024-10-06 02:15:00"]),
        ("Pacific/Apia", ["2011-12-29 23:59:59", "2011-12-30 12:00:00", "2011-12-31 00:00:00"]),
        ("America/St_Johns", ["2006-10-29 00:00:30", "2006-04-02 00:00:30"]),
        ("Asia/Shanghai", ["2026-11-23 23:00:00", "1940-06-01 00:00:00", "0044-03-15 12:00:00 BC"]),
    ]
    with psycopg.connect(database) as conn:
        conn.execute("SET timezone = 'UTC'")
        for zone, texts in cases:
            instant, naive = times.zoned(zone)
            for text in texts:
                (printed,) = conn.execute("SELECT (%s::timestamp AT TIME ZONE %s)::text", [text, zone]).fetchone() or ("",)
                assert instant(times.normal_datetime(text)) == times.normal_timestamp(printed), (zone, text)
                (local,) = conn.execute("SELECT (%s::timestamptz AT TIME ZONE %s)::text", [printed, zone]).fetchone() or ("",)
                assert times.postgres_datetime(naive(times.normal_timestamp(printed))) == local, (zone, text)


def test_precision_is_rounded_as_postgres_rounds_it(database: str) -> None:
    texts = [
        "2024-02-29 13:14:15.1235",
        "1999-12-31 23:59:59.9995",
        "1970-01-01 00:00:00.0005",
        "1999-12-31 23:59:59.5",
        "2000-01-01 00:00:00.5",
        "0044-03-15 12:00:00.123456 BC",
    ]
    texts += [
        "1999-12-31 23:59:58.5",
        "1999-12-31 23:59:58.49",
        "2030-01-01 00:00:00.95",
        "0001-01-01 00:00:00.05",
        "20000-01-01 00:00:00.05",
    ]
    texts += ["2024-12-31 23:59:59.999999", "1969-12-31 23:59:59.999999", "9999-12-31 23:59:59.999999", "0099-01-01 01:02:03.25"]
    with psycopg.connect(database) as conn:
        for digits in (0, 1, 3, 5):
            for text in texts:
                (printed,) = conn.execute(f"SELECT (%s::timestamp({digits}))::text", [text]).fetchone() or ("",)
                assert times.postgres_datetime(times.rounded_stamp(times.normal_datetime(text), digits)) == printed, (text, digits)
            (printed,) = conn.execute(f"SELECT (%s::time({digits}))::text", ["13:14:15.999995"]).fetchone() or ("",)
            assert times.rounded_time("13:14:15.999995", digits) == printed
