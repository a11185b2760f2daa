"""Dates and times as text: PostgreSQL's, ours, and counts since 1970.

    PostgreSQL, ISO, UTC           2024-02-29   2024-02-29 11:14:15.12+00           0044-03-15 12:00:00+00 BC         infinity
    canonical timestamp            –            2024-02-29T11:14:15.120000Z         0044-03-15T12:00:00.000000Z BC    infinity
    canonical datetime (naive)     –            2024-02-29T11:14:15.120000          0044-03-15T12:00:00.000000 BC     infinity

The usual years go through text and `datetime`; BC and the years after 9999 through integers: days and microseconds since 1970 of the
proleptic Gregorian calendar, year 0 being 1 BC. All functions raise ValueError on what is no such text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

DAY = 86_400_000_000  # µs
_EPOCH_ORDINAL = 719_163  # date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1)
_FIRST_DAY, _LAST_DAY = 1 - _EPOCH_ORDINAL, date.max.toordinal() - _EPOCH_ORDINAL
_LOWEST, _HIGHEST = (_FIRST_DAY + 2) * DAY, (_LAST_DAY - 2) * DAY  # what `datetime` can hold, with room for any zone
_CYCLE = 146_097 * DAY  # 400 years: after it the calendar and the rules of a zone repeat
_Y2K = 946_684_800_000_000  # PostgreSQL rounds away from its own epoch, 2000-01-01
INFINITE = frozenset({"infinity", "-infinity"})

_DATE = re.compile(r"([0-9]{4,7})-([0-9]{2})-([0-9]{2})( BC)?\Z")
_STAMP = re.compile(
    r"([0-9]{4,7})-([0-9]{2})-([0-9]{2})[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6})[0-9]*)?)?"
    r"(Z|[+-][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2})?)?)?( BC)?\Z"
)
_TIME = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6})[0-9]*)?)?(Z|[+-][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2})?)?)?\Z")


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01; `year` 0 is 1 BC. (Howard Hinnant's days_from_civil.)"""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _civil(days: int) -> tuple[int, int, int]:
    """Inverse of `_days`."""
    days += 719_468
    era = days // 146_097
    of_era = days - era * 146_097
    year_of_era = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * of_year + 2) // 153
    month = month_from_march + (3 if month_from_march < 10 else -9)
    return year_of_era + era * 400 + (month <= 2), month, of_year - (153 * month_from_march + 2) // 5 + 1


def _checked_days(year: int, month: int, day: int) -> int:
    days = _days(year, month, day)
    if not 1 <= month <= 12 or _civil(days) != (year, month, day):
        raise ValueError("is not a day of the calendar")
    return days


def _split(days: int) -> tuple[str, str]:
    """Days since 1970 → ("0044-03-15", " BC")."""
    if _FIRST_DAY <= days <= _LAST_DAY:
        return date.fromordinal(days + _EPOCH_ORDINAL).isoformat(), ""
    year, month, day = _civil(days)
    return (f"{year:04d}-{month:02d}-{day:02d}", "") if year > 0 else (f"{1 - year:04d}-{month:02d}-{day:02d}", " BC")


def date_text(days: int) -> str:
    """Days since 1970 → PostgreSQL's text."""
    day, era = _split(days)
    return day + era


def held_date(text: str) -> str:
    """`text`, a date in normal form, if PostgreSQL has it."""
    if len(text) > 10 and text not in INFINITE:
        match = _DATE.match(text)
        assert match is not None
        year = int(match[1])
        if not _FIRST_HELD <= _days(1 - year if match[4] else year, int(match[2]), int(match[3])) < _END_OF_DATES:
            raise ValueError("is out of range for a date, 4714-11-24 BC to 5874897-12-31")
    return text


def normal_date(text: str) -> str:
    if text in INFINITE:
        return text
    match = _DATE.match(text)
    if match is None:
        raise ValueError("is not a date")
    year = int(match[1])
    return date_text(_checked_days(1 - year if match[4] else year, int(match[2]), int(match[3])))


_FIRST_HELD = _days(-4713, 11, 24)  # PostgreSQL's first day
_END_OF_DATES = _days(5_874_898, 1, 1)
_END_OF_STAMPS = _days(294_277, 1, 1)


# ── timestamps ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def stamp_text(micros: int) -> str:
    """µs since 1970 → PostgreSQL's text without a zone."""
    if _LOWEST <= micros <= _HIGHEST:
        text = (_EPOCH + timedelta(microseconds=micros)).isoformat(" ")
        return text.rstrip("0") if len(text) > 19 else text
    days, rest = divmod(micros, DAY)
    day, era = _split(days)
    return f"{day} {clock_text(rest)}{era}"


def clock_text(micros: int) -> str:
    """µs since midnight → 11:14:15.12"""
    seconds, micros = divmod(micros, 1_000_000)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{micros:06d}".rstrip("0") if micros else text


def _stamp(micros: int, zone: str) -> str:
    days, rest = divmod(micros, DAY)
    day, era = _split(days)
    seconds, rest = divmod(rest, 1_000_000)
    return f"{day}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:06d}{zone}{era}"


def _offset(text: str) -> int:
    """+05:30 → µs"""
    if text == "Z":
        return 0
    digits = text[1:].replace(":", "")
    seconds = int(digits[:2]) * 3600 + int(digits[2:4] or 0) * 60 + int(digits[4:6] or 0)
    return (-seconds if text[0] == "-" else seconds) * 1_000_000


def micros_of(text: str) -> int:
    """Any of the texts above but the infinite ones → µs since 1970. A text without a zone counts as UTC."""
    match = _STAMP.match(text)
    if match is None:
        raise ValueError("is not a date and time")
    year, hour, minute, second = int(match[1]), int(match[4]), int(match[5]), int(match[6] or 0)
    if hour > 24 or minute > 59 or second > 60:
        raise ValueError("is not a time of day")
    days = _checked_days(1 - year if match[9] else year, int(match[2]), int(match[3]))
    micros = ((hour * 60 + minute) * 60 + second) * 1_000_000 + int((match[7] or "").ljust(6, "0"))
    return days * DAY + micros - (_offset(match[8]) if match[8] else 0)


def normal_timestamp(text: str) -> str:
    """An instant in PostgreSQL's text, or in another ISO one with a zone → canonical."""
    if text[10:11] == " " and text[-3:] == "+00":  # what a session in UTC prints for the years 1 to 9999
        length = len(text)
        if length == 22:
            return f"{text[:10]}T{text[11:19]}.000000Z"
        if 24 <= length <= 29 and text[19] == ".":
            return f"{text[:10]}T{text[11:-3]:0<15}Z"
    if text in INFINITE:
        return text
    if (match := _STAMP.match(text)) is not None and match[8] is None:
        raise ValueError("has no time zone")
    return _stamp(micros_of(text), "Z")


def normal_datetime(text: str) -> str:
    """A date and time without a zone → canonical."""
    if text[10:11] == " ":
        length = len(text)
        if length == 19:
            return f"{text[:10]}T{text[11:]}.000000"
        if 21 <= length <= 26 and text[19] == "." and text[-1] != "C":
            return f"{text[:10]}T{text[11:]:0<15}"
    if text in INFINITE:
        return text
    if (match := _STAMP.match(text)) is not None and match[8] is not None:
        raise ValueError("has a time zone")
    return _stamp(micros_of(text), "")


def postgres_timestamp(canonical: str) -> str:
    """Inverse of `normal_timestamp`: what PostgreSQL prints."""
    if len(canonical) == 27 and canonical[10] == "T":
        return f"{canonical[:10]} {canonical[11:26].rstrip('0').rstrip('.') if canonical[19:26] != '.000000' else canonical[11:19]}+00"
    if canonical in INFINITE:
        return canonical
    text = stamp_text(micros_of(canonical))
    return f"{text[:-3]}+00 BC" if text.endswith(" BC") else f"{text}+00"


def postgres_datetime(canonical: str) -> str:
    """Inverse of `normal_datetime`."""
    if len(canonical) == 26 and canonical[10] == "T":
        return f"{canonical[:10]} {canonical[11:].rstrip('0').rstrip('.') if canonical[19:] != '.000000' else canonical[11:19]}"
    return canonical if canonical in INFINITE else stamp_text(micros_of(canonical))


def rounded_stamp(canonical: str, digits: int) -> str:
    """A canonical timestamp or datetime with `digits` of the second's fraction, rounded as PostgreSQL does."""
    if canonical in INFINITE or digits >= 6:
        return canonical
    step: int = 10 ** (6 - digits)
    if canonical[4] == "-" and canonical[-1] != "C" and canonical[19] == ".":  # the years 1 to 9999
        fraction = int(canonical[20:26])
        if fraction % step == 0:
            return canonical
        near = (fraction + step // 2 - (canonical < "2000")) // step * step
        if near < 1_000_000:
            return f"{canonical[:20]}{near:06d}{canonical[26:]}"
    since = micros_of(canonical) - _Y2K
    since = (since + step // 2) // step * step if since >= 0 else -((-since + step // 2) // step * step)
    return _stamp(since + _Y2K, "Z" if "Z" in canonical else "")


def held_stamp(canonical: str) -> str:
    """`canonical`, a timestamp or datetime, if PostgreSQL has it."""
    if canonical[4] == "-" and canonical[-1] != "C":  # the years 1 to 9999
        return canonical
    if canonical not in INFINITE and not _FIRST_HELD * DAY <= micros_of(canonical) < _END_OF_STAMPS * DAY:
        raise ValueError("is out of range for a timestamp, 4714-11-24 BC to the end of 294276")
    return canonical


# ── times of day ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _clock(text: str) -> tuple[int, int]:
    match = _TIME.match(text)
    if match is None:
        raise ValueError("is not a time of day")
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    micros = ((hour * 60 + minute) * 60 + second) * 1_000_000 + int((match[4] or "").ljust(6, "0"))
    if minute > 59 or second > 60 or micros > DAY:
        raise ValueError("is not a time of day")
    return micros, _offset(match[5]) if match[5] else 0


def normal_time(text: str) -> str:
    return clock_text(_clock(text)[0])


def normal_timetz(text: str) -> str:
    """In UTC: it is what Debezium sends, the zone of the row being lost on the way."""
    micros, offset = _clock(text)
    return f"{clock_text((micros - offset) % DAY if offset or micros == DAY else micros)}+00"


def rounded_time(text: str, digits: int) -> str:
    zone = "+00" if text.endswith("+00") else ""
    step: int = 10 ** (6 - digits)
    return clock_text((_clock(text)[0] + step // 2) // step * step) + zone


# ── intervals ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def interval_text(months: int, days: int, micros: int) -> str:
    """The three parts of an interval → PostgreSQL's text: `1 year 2 mons -3 days +04:05:06.789`."""
    years, rest = divmod(abs(months), 12)
    sign = -1 if months < 0 else 1
    parts: list[str] = []
    negative = False  # the part before: what follows it then says that it is not
    for count, unit in ((sign * years, "year"), (sign * rest, "mon"), (days, "day")):
        if count:
            parts.append(f"{'+' if negative and count > 0 else ''}{count} {unit}{'s' * (count != 1)}")
            negative = count < 0
    if micros or not parts:
        parts.append(("-" if micros < 0 else "+" if negative else "") + clock_text(abs(micros)))
    return " ".join(parts)


# ── zones ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def zoned(name: str) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """(naive → instant, instant → naive) for canonical texts in a named zone.

    As PostgreSQL does: a time that the clocks went over twice is the later one, a time they skipped is read with the offset from before.
    So every naive time is one instant; of the instants, those of the hour before clocks go back come home an hour later.
    """
    zone = ZoneInfo(name)

    def offset_of_local(local: datetime) -> timedelta:
        first, second = local.replace(tzinfo=zone).utcoffset(), local.replace(tzinfo=zone, fold=1).utcoffset()
        assert first is not None
        assert second is not None
        return min(first, second)

    def instant(naive: str) -> str:
        if len(naive) == 26:
            try:
                local = datetime.fromisoformat(naive)
                return (local - offset_of_local(local)).isoformat(timespec="microseconds") + "Z"
            except OverflowError:
                pass
        if naive in INFINITE:
            return naive
        micros = micros_of(naive)
        return _stamp(micros - offset_of_local(_in_range(micros)) // timedelta(microseconds=1), "Z")

    def naive_of(instant: str) -> str:
        if len(instant) == 27:
            try:
                utc = datetime.fromisoformat(instant[:-1])
                return zone.fromutc(utc.replace(tzinfo=zone)).replace(tzinfo=None).isoformat(timespec="microseconds")
            except OverflowError:
                pass
        if instant in INFINITE:
            return instant
        micros = micros_of(instant)
        offset = zone.fromutc(_in_range(micros).replace(tzinfo=zone)).utcoffset()
        assert offset is not None
        return _stamp(micros + offset // timedelta(microseconds=1), "")

    return instant, naive_of


def _in_range(micros: int) -> datetime:
    """A moment with the same offset that `datetime` can hold: before year 1 local mean time, after 9999 the rules of the last cycle."""
    if micros > _HIGHEST:
        micros -= -((_HIGHEST - micros) // _CYCLE) * _CYCLE
    return _EPOCH + timedelta(microseconds=max(micros, _LOWEST))
