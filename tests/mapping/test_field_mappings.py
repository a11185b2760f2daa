"""Fields from column to canonical value and back, one transform at a time, on nasty values.

The round trip that matters: what a system holds after a write is what `represent` said, writing that again changes nothing, and a value
that came from a system goes back to it unchanged.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from schemas.change import Canonical
from schemas.errors import ConfigError, MappingError
from schemas.mapping import Binding
from tests.mapping.mapping_builders import a_mapping, a_table, compiled

# what PostgreSQL can hold: no NUL, no half surrogate pairs
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
nasty = st.one_of(
    texts,
    st.sampled_from(
        [
            "",
            " ",
            "e\u0301",
            "é",
            "ﬁ",
            "ß",
            "İ",
            "ǆ",
            "ΐ",
            "Å",
            "\u200b",
            "\ufeff",
            "名前",
            "👩‍👩‍👧",
            "a\tb",
            "\\N",
            "{}",
            "NULL",
            "'; --",
            "%s",
            "x" * 5000,
        ]
    ),
)


def goes_there_and_back(binding: Binding, value: Canonical) -> None:
    """Writing `value`, reading it, writing what was read: settled after the first."""
    represented = binding.represent("f", value)
    written = binding.to_columns({"f": value})
    assert binding.to_canonical(written) == {"f": represented}
    assert binding.same("f", value, represented)
    assert binding.represent("f", represented) == represented
    assert binding.to_canonical(binding.to_columns({"f": represented})) == {"f": represented}


def read(binding: Binding, text: str | None) -> Canonical:
    return binding.to_canonical({binding.columns["f"][0]: text})["f"]


def written(binding: Binding, value: Canonical) -> str | None:
    return binding.to_columns({"f": value})[binding.columns["f"][0]]


# ── kinds ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(nasty)
def test_text_goes_through_untouched(text: str) -> None:
    crm, erp = a_mapping("text", "text")
    assert written(erp, read(crm, text)) == text
    goes_there_and_back(erp, text)


@given(nasty, st.sampled_from(["character varying(5)", "character(5)"]))
def test_a_text_that_is_too_long_is_refused_and_never_cut(text: str, kind: str) -> None:
    crm, erp = a_mapping("text", kind)
    value = read(crm, text)
    if len(text.rstrip(" ")) <= 5:
        goes_there_and_back(erp, value)
        return
    with pytest.raises(MappingError, match=r"has \d+ characters, the column holds 5"):
        erp.to_columns({"f": value})
    assert erp.represent("f", value) == value
    assert not erp.same("f", value, str(value)[:5])


def test_char_is_compared_without_its_padding() -> None:
    crm, erp = a_mapping("text", "character(5)")
    goes_there_and_back(erp, "ab")
    assert erp.represent("f", "ab  ") == "ab"
    assert crm.same("f", "ab", "ab")
    assert erp.same("f", "ab   ", "ab")


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x\udfff"])
def test_a_text_that_no_column_can_hold_is_refused_before_it_is_sent(text: str) -> None:
    _, erp = a_mapping("text", "text")
    with pytest.raises(MappingError, match=r"e\.f in erp\.public\.there"):
        erp.to_columns({"f": text})
    assert erp.represent("f", text) == text


numbers = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False).filter(lambda d: abs(d.adjusted()) < 300).map(str),
    st.integers().map(str),
    st.sampled_from(["0.005", "-0.005", "1e30", "0.1", "1e-20", "99999999.995", "-0"]),
)


@given(numbers, st.sampled_from(["numeric", "numeric(12,2)", "numeric(5,-2)", "integer", "double precision", "real"]))
def test_numbers_are_compared_as_the_target_holds_them(text: str, kind: str) -> None:
    crm, erp = a_mapping("numeric", kind)
    value = read(crm, text)
    try:
        goes_there_and_back(erp, value)
    except MappingError:
        assert kind != "numeric"  # a fraction in an integer, or out of range
        assert erp.represent("f", value) == value
        assert not erp.same("f", value, "123456789")


def test_money_and_quantities() -> None:
    crm, erp = a_mapping("numeric(12,2)", "double precision")
    assert read(crm, "10.50") == read(erp, "10.5") == "10.5"
    assert crm.same("f", "10.505", "10.51")
    assert not crm.same("f", "10.505", "10.5")
    assert read(erp, "1e+20") == "100000000000000000000"
    assert written(crm, "NaN") == "NaN"


def test_a_fraction_goes_into_an_integer_only_with_a_scale() -> None:
    _, erp = a_mapping("numeric", "integer")
    with pytest.raises(MappingError, match="whole number"):
        erp.to_columns({"f": "1.5"})
    _, erp = a_mapping("numeric", "integer", erp_side={"column": "b", "scale": 0})
    assert written(erp, "1.5") == "2"
    assert erp.same("f", "1.5", "2")


@pytest.mark.parametrize("text", ["t", "true"])
def test_booleans_come_in_both_of_postgres_texts(text: str) -> None:
    crm, erp = a_mapping("boolean", "boolean")
    assert read(crm, text) is True
    assert read(crm, {"t": "f", "true": "false"}[text]) is False
    assert written(erp, True) == "t"
    goes_there_and_back(erp, False)


@given(st.datetimes(), st.integers(0, 6))
def test_timestamps_are_compared_in_the_targets_precision(moment: Any, digits: int) -> None:
    crm, erp = a_mapping("timestamp with time zone", f"timestamp with time zone({digits})")
    value = moment.isoformat(timespec="microseconds") + "Z"
    assume(moment.year < 9999)
    assert crm.represent("f", value) == value
    goes_there_and_back(erp, value)


@given(st.datetimes(), st.sampled_from(["Europe/Berlin", "Asia/Shanghai", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia"]))
def test_a_naive_time_in_a_named_zone(moment: Any, zone: str) -> None:
    _, erp = a_mapping("timestamp with time zone", "timestamp without time zone(3)", erp_side={"column": "b", "timezone": zone})
    goes_there_and_back(erp, moment.isoformat(timespec="microseconds") + "Z")


@pytest.mark.parametrize(
    "text", ["infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "20000-01-01 00:00:00.000001+00", "0001-01-01 00:00:00+00"]
)
def test_odd_times_go_through(text: str) -> None:
    crm, erp = a_mapping("timestamp with time zone", "timestamp without time zone", erp_side={"column": "b", "timezone": "Europe/Berlin"})
    value = read(crm, text)
    assert written(crm, value) == text
    goes_there_and_back(erp, value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_json_is_compared_by_meaning(value: Any) -> None:
    import json

    crm, erp = a_mapping("json", "jsonb")
    compact = read(crm, json.dumps(value, ensure_ascii=False))
    assert read(erp, json.dumps(value, indent=2)) == compact
    assert json.loads(str(compact)) == value
    goes_there_and_back(erp, compact)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"b": 1.50, "a": [1e2, -0]}', '{"a":[100,0],"b":1.5}'),
        ('"\\ud800"', '"\\ud800"'),
        ("12345678901234567890.10", "12345678901234567890.1"),
        ('{"a":1,"a":2}', '{"a":2}'),
    ],
)
def test_json_numbers_keep_their_digits(text: str, expected: str) -> None:
    crm, _ = a_mapping("json", "jsonb")
    assert read(crm, text) == expected
    assert orjson.dumps(read(crm, text))  # what travels is UTF-8


@pytest.mark.parametrize("text", ["{", "NaN", "[" * 100_000, '{"a": Infinity}', "1e999999999"])
def test_bad_json_is_refused(text: str) -> None:
    crm, _ = a_mapping("json", "jsonb")
    with pytest.raises(MappingError):
        read(crm, text)


@given(st.dictionaries(texts, st.none() | texts, max_size=5))
def test_hstore_is_an_object_of_texts(pairs: dict[str, str | None]) -> None:
    crm, erp = a_mapping("jsonb", "hstore")
    value = read(crm, orjson.dumps(pairs).decode())
    goes_there_and_back(erp, value)
    assert read(erp, str(value)) == value


@given(st.uuids(), st.binary(max_size=30))
def test_uuids_and_bytes(key: Any, data: bytes) -> None:
    crm, erp = a_mapping("uuid", "text")
    assert written(crm, str(key).upper()) == str(key)
    assert crm.same("f", str(key).upper(), str(key))
    goes_there_and_back(crm, str(key))
    goes_there_and_back(erp, str(key))
    crm, erp = a_mapping("bytea", "bytea")
    assert read(crm, f"\\x{data.hex()}") == data.hex()
    goes_there_and_back(erp, data.hex())


def test_a_number_here_and_a_text_there_are_compared_as_text() -> None:
    crm, erp = a_mapping("text", "integer")
    assert read(erp, "123") == "123"
    assert written(erp, "00123") == "123"
    assert erp.same("f", "00123", "123")
    assert crm.represent("f", "00123") == "00123"
    with pytest.raises(MappingError, match="is not a number"):
        erp.to_columns({"f": "K-123"})
    crm, erp = a_mapping("text", "integer", kind="number")
    assert read(crm, "00123") == "123"
    with pytest.raises(MappingError, match=r"'K-123' is not a number"):
        read(crm, "K-123")


# ── transforms ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

CLEANINGS = ["strip", "squeeze", "upper", "lower", "casefold", "digits", "alnum", "nfc", "nfkc", "empty_is_null"]


@given(nasty, st.lists(st.sampled_from(CLEANINGS), min_size=1, max_size=4, unique=True))
@example("ŉ", ["upper", "nfc"])
@example("\u0390", ["nfc", "upper"])
@example("\ufdfa", ["nfkc", "squeeze"])
def test_cleaning_twice_is_cleaning_once(text: str, names: list[str]) -> None:
    assume(not ("upper" in names and {"lower", "casefold"} & set(names)))
    crm, erp = a_mapping("text", "text", clean=names)
    once = read(crm, text)
    assert once is None or read(crm, str(once)) == once
    goes_there_and_back(erp, once)


def test_what_cleaning_does() -> None:
    def clean(text: str, *names: str) -> Canonical:
        return read(a_mapping("text", "text", clean=list(names))[0], text)

    assert clean(" de 12 ", "strip", "upper") == "DE 12"
    assert clean("a \t b\n", "squeeze") == "a b"
    assert clean("+49 (30) 12-34", "digits") == "49301234"
    assert clean("ＡＢ１２", "nfkc", "digits") == "12"
    assert clean("D-12 E", "alnum") == "D12E"
    assert clean("e\u0301", "nfc") == "é"
    assert clean("STRASSE", "casefold") == clean("Straße", "casefold")
    assert clean("  ", "strip", "empty_is_null") is None
    assert unicodedata.is_normalized("NFC", str(clean("A\u030a", "nfc", "lower")))


def test_codes_stand_for_each_other() -> None:
    crm, erp = a_mapping("text", "character(1)", values={"gold": "A", "silver": "B", "none": None})
    assert [read(erp, code) for code in ("A", "B", None)] == ["gold", "silver", "none"]
    assert [written(erp, value) for value in ("gold", "silver", "none", None)] == ["A", "B", None, None]
    assert read(crm, "gold") == "gold"
    with pytest.raises(MappingError, match="'C' is no code of the mapping, which has 'A', 'B', None"):
        read(erp, "C")
    with pytest.raises(MappingError, match="'bronze' is no value of the mapping"):
        erp.to_columns({"f": "bronze"})
    for value in ("gold", "silver", "none"):
        goes_there_and_back(erp, value)


def test_codes_of_other_kinds_in_any_spelling() -> None:
    _, erp = a_mapping("boolean", "text", values={True: "Y", False: "N"})
    assert (read(erp, "Y"), written(erp, False)) == (True, "N")
    _, erp = a_mapping("text", "numeric(4,1)", values={"net30": 30, "net14": "14.0"})
    assert (read(erp, "30.0"), read(erp, "14.0"), written(erp, "net14")) == ("net30", "net14", "14")


def test_other_codes_are_what_otherwise_says() -> None:
    _, erp = a_mapping("text", "text", values={"gold": ["A", "X"], "silver": "B"}, otherwise={"read": "silver", "write": "Z"})
    assert [read(erp, code) for code in ("A", "X", "B", "?")] == ["gold", "gold", "silver", "silver"]
    assert [written(erp, value) for value in ("gold", "silver", "bronze")] == ["A", "B", "Z"]
    for value in ("gold", "silver", "bronze"):
        goes_there_and_back(erp, value)


def test_codes_that_cannot_be_read_back_are_refused_at_start() -> None:
    with pytest.raises(ConfigError, match="'gold' and 'silver' both become 'A', which could not be read back"):
        a_mapping("text", "text", values={"gold": "A", "silver": "A"})
    _, erp = a_mapping("text", "text", values={"gold": "A", "silver": "A"}, otherwise={"read": "gold"})
    assert read(erp, "A") == "gold"
    goes_there_and_back(erp, "silver")


@given(nasty)
def test_a_prefix_is_put_before_and_taken_off(text: str) -> None:
    _, erp = a_mapping("text", "text", erp_side={"column": "b", "prefix": "C-"})
    assert written(erp, text) == f"C-{text}"
    goes_there_and_back(erp, text)
    with pytest.raises(MappingError, match="does not begin with 'C-'"):
        read(erp, "D-1")


@given(numbers, st.sampled_from(["100", "0.001", "-2.5"]))
def test_units(text: str, factor: str) -> None:
    crm, erp = a_mapping("numeric", "numeric", erp_side={"column": "b", "unit": factor})
    goes_there_and_back(erp, read(crm, text))


def test_a_unit_that_cannot_be_undone_is_refused_at_start() -> None:
    for factor in ("3", "0", "NaN", "x"):
        with pytest.raises(ConfigError, match=r"unit: "):
            a_mapping("numeric", "numeric", erp_side={"column": "b", "unit": factor})


def test_null_may_be_written_as_something() -> None:
    _, erp = a_mapping("text", "text!", erp_side={"column": "b", "default": ""})
    assert (written(erp, None), read(erp, "")) == ("", "")
    assert erp.same("f", None, "")
    goes_there_and_back(erp, None)
    _, erp = a_mapping("numeric", "integer!", erp_side={"column": "b", "blank": -1})
    assert (written(erp, None), read(erp, "-1"), read(erp, "5")) == ("-1", None, "5")
    goes_there_and_back(erp, None)


NAME = {"columns": ["first", "last"], "join": " "}


def two_columns(side: dict[str, Any] | None = None, kind: str = "text") -> Binding:
    entities = {"e": {"crm": {"table": "here"}, "erp": {"table": "there"}, "fields": {"f": {"crm": side or NAME, "erp": "b"}}}}
    return (
        compiled(entities, crm=[a_table("here", first=kind, last=kind, middle="text")], erp=[a_table("there", b="text")])
        .entities["e"]
        .bindings["crm"]
    )


@pytest.mark.parametrize(
    ("first", "last", "name"),
    [
        ("Anna Maria", "Li", "Anna Maria Li"),
        (None, "Madonna", "Madonna"),
        ("", "Madonna", "Madonna"),
        (None, None, None),
        ("", "", None),
        (" Ann ", "Li", "Ann Li"),
    ],
)
def test_two_columns_are_one_text(first: str | None, last: str | None, name: str | None) -> None:
    crm = two_columns()
    assert crm.to_canonical({"first": first, "last": last}) == {"f": name}
    assert crm.to_canonical({"first": first}) == {}  # the other was not sent: an unchanged TOAST value


def test_one_text_is_two_columns() -> None:
    assert two_columns().to_columns({"f": "Anna Maria Li"}) == {"first": "Anna Maria", "last": "Li"}
    assert two_columns().to_columns({"f": "Madonna"}) == {"first": None, "last": "Madonna"}
    assert two_columns({**NAME, "split": "first"}).to_columns({"f": "Anna Maria Li"}) == {"first": "Anna", "last": "Maria Li"}
    assert two_columns({**NAME, "split": "first"}).to_columns({"f": "Madonna"}) == {"first": "Madonna", "last": None}
    assert two_columns(kind="text!").to_columns({"f": "Madonna"}) == {"first": "", "last": "Madonna"}
    assert two_columns().to_columns({"f": None}) == {"first": None, "last": None}


@given(
    st.one_of(nasty, st.text("a -", max_size=8), st.none()),
    st.sampled_from([" ", "-", ", ", "--"]),
    st.sampled_from(["last", "first"]),
    st.booleans(),
)
@example("--", "-", "last", False)
@example("a  ", " ", "last", True)
def test_a_joined_text_settles_after_one_write(text: str | None, separator: str, split: str, three: bool) -> None:
    columns = ["first", "last", "middle"][: 3 if three else 2]
    crm = two_columns({"columns": columns, "join": separator, "split": split})
    goes_there_and_back(crm, text)


@given(nasty, nasty, st.sampled_from([" ", ", "]))
def test_a_joined_text_that_was_read_is_not_written_again(first: str, last: str, separator: str) -> None:
    crm = two_columns({"columns": ["first", "last"], "join": separator})
    held = crm.to_canonical({"first": first, "last": last})["f"]
    assert crm.same("f", held, held)


def doubled(value: Canonical) -> str:
    return f"{value}{value}"


def halved(value: Canonical) -> str:
    text = str(value)
    if text[: len(text) // 2] * 2 != text:
        raise ValueError("is not twice the same")
    return text[: len(text) // 2]


halved.inverse = doubled  # type: ignore[attr-defined]


def of_no_use(value: Canonical) -> object:
    return 1.5


def test_a_python_function_with_its_inverse() -> None:
    here = __name__
    for given_as in (f"{here}:halved", {"read": f"{here}:halved", "write": f"{here}:doubled"}):
        _, erp = a_mapping("text", "text", erp_side={"column": "b", "python": given_as})
        assert (read(erp, "abab"), written(erp, "ab")) == ("ab", "abab")
        with pytest.raises(MappingError, match="'abc' is not twice the same"):
            read(erp, "abc")
    _, erp = a_mapping("text", "text", erp_side={"column": "b", "python": f"{here}:of_no_use", "write": False}, owner="erp")
    with pytest.raises(MappingError, match="float"):
        read(erp, "x")


def test_a_python_function_without_an_inverse_is_refused_unless_it_only_reads() -> None:
    with pytest.raises(ConfigError, match="has no inverse"):
        a_mapping("text", "text", erp_side={"column": "b", "python": f"{__name__}:doubled"})
    _, erp = a_mapping("text", "text", erp_side={"column": "b", "python": f"{__name__}:doubled", "write": False}, owner="erp")
    assert erp.writable == frozenset()
    assert erp.to_columns({"f": "x"}) == {}
    for path in ("nowhere:f", f"{__name__}:nothing", "json", f"{__name__}:NAME"):
        with pytest.raises(ConfigError, match="python"):
            a_mapping("text", "text", erp_side={"column": "b", "python": path, "write": False}, owner="erp")


def test_a_value_is_read_from_the_first_column_and_written_to_all() -> None:
    entities = {"e": {"crm": {"table": "here"}, "erp": {"table": "there"}, "fields": {"f": {"crm": "a", "erp": ["b", "c"]}}}}
    erp = (
        compiled(entities, crm=[a_table("here", a="text")], erp=[a_table("there", b="text", c="character(9)")])
        .entities["e"]
        .bindings["erp"]
    )
    assert erp.to_canonical({"b": "x", "c": "y"}) == {"f": "x"}
    assert erp.to_columns({"f": "x"}) == {"b": "x", "c": "x"}
    assert erp.columns == {"f": ("b", "c")}


def test_an_error_names_the_field_and_shortens_the_value() -> None:
    crm, _ = a_mapping("numeric", "numeric")
    with pytest.raises(MappingError) as caught:
        read(crm, "x" * 1000)
    assert str(caught.value).startswith("e.f in crm.public.here: 'xxx")
    assert len(str(caught.value)) < 140


# ── kinds that do not fit ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("crm", "erp", "mend"),
    [
        ("timestamp with time zone", "timestamp without time zone", "timezone: Europe/Berlin"),
        ("numeric", "boolean", "values or a python function"),
        ("date", "timestamp with time zone", "kind: text"),
        ("text", "bytea", "values or a python function"),
    ],
)
def test_columns_that_cannot_hold_each_others_values_are_refused(crm: str, erp: str, mend: str) -> None:
    with pytest.raises(ConfigError, match="cannot hold each other's values") as caught:
        a_mapping(crm, erp)
    assert mend in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "side"),
    [
        ("timestamp with time zone", {"timezone": "Europe/Berlin"}),
        ("numeric", {"prefix": "x"}),
        ("boolean", {"scale": 1}),
        ("text", {"values": {"a": "b"}, "blank": "x", "default": "y"}),
        ("boolean", {"default": "perhaps"}),
        ("enum(A|B)", {"values": {"a": "C"}}),
        ("money", {}),
        ("box", {}),
        ("bit varying", {}),
    ],
)
def test_a_transform_on_the_wrong_kind_is_refused(kind: str, side: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        a_mapping(kind, kind, erp_side={"column": "b", **side})
