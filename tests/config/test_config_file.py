"""concord.yaml: what is read out of it, and what is said when it is wrong."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.config import Aggregate, Config, Dsn, Expression, Link, Order, Part, Side, json_schema, load, loads, parse
from schemas.errors import ConfigError, Problem

SOUND = """
kafka: {bootstrap: localhost:9092}
systems:
  crm: {dsn: ${CRM_DSN}, rank: 1}
  erp: {dsn: ${ERP_DSN:-postgresql://erp}, rank: 2, session: {app.tenant: 42}}
entities:
  customer:
    owner: crm
    crm: {table: public.account, where: {org: 42, country: [NO, null], deleted: false}}
    erp:
      table: public.party
      insert: {code: {sql: "nextval('s')"}, active: true, created: now, zone: {now: Asia/Shanghai}, word: {value: now},
               id: uuid, nothing: null}
      always: {write_date: now}
    match_on: tax_id
    delete: {soft: {active: false}}
    fields:
      name:    {crm: {columns: [first, last], join: " "}, erp: [legal_name, search_name]}
      tax_id:  {crm: vat, erp: tax_id, clean: [strip, upper]}
      active:  {crm: active, erp: {column: state, values: {true: 007, false: [1, x]}}}
      at:      {crm: at, erp: {column: at, timezone: Asia/Shanghai}, owner: erp}
      parent:  {crm: parent, erp: parent, ref: customer}
"""
ENVIRONMENT = {"CRM_DSN": "postgresql://u:p{a}, #:'\"s@h/db"}


def problems(text: str, environment: dict[str, str] | None = None) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        loads(text, ENVIRONMENT if environment is None else environment)
    return list(caught.value.problems)


def one_problem(old: str, new: str) -> str:
    assert old in SOUND
    found = problems(SOUND.replace(old, new, 1))
    assert len(found) == 1, found
    return str(found[0])


# ── what is read ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sound_file() -> None:
    config = loads(SOUND, ENVIRONMENT)
    assert (config.name, config.kafka.partitions, config.registry.url, config.metrics.sink) == ("concord", 4, None, 0)
    crm, erp = config.systems["crm"], config.systems["erp"]
    assert (crm.dsn, crm.rank, crm.slot, crm.publication) == (ENVIRONMENT["CRM_DSN"], 1, "concord_crm", "concord_crm")
    assert (erp.dsn, erp.session) == ("postgresql://erp", {"app.tenant": "42"})
    customer = config.entities["customer"]
    assert customer.bindings["crm"].where == {"org": ("42",), "country": ("NO", None), "deleted": (False,)}
    insert = customer.bindings["erp"].insert
    assert insert["code"] == Expression.model_validate({"sql": "nextval('s')"})
    assert (insert["active"].value, insert["created"].now, insert["zone"].now, insert["word"].value) == (True, True, "Asia/Shanghai", "now")
    assert (insert["id"].uuid, insert["nothing"].constant, insert["created"].constant) == (True, True, False)
    assert customer.match_on == ("tax_id",)
    assert customer.born_in is None
    assert (customer.delete.policy, customer.delete.soft) == ("soft", {"active": False})
    fields = customer.fields
    assert fields["name"].sides == {
        "crm": Side.model_validate({"columns": ["first", "last"], "join": " "}),
        "erp": Side(columns=("legal_name", "search_name")),
    }
    assert fields["active"].sides["erp"].values == {True: ("007",), False: ("1", "x")}
    assert (fields["at"].owner, fields["parent"].ref, fields["tax_id"].clean) == ("erp", "customer", ("strip", "upper"))


def test_slots_are_named_after_the_pipeline() -> None:
    config = loads("name: pilot\n" + SOUND.replace("rank: 1", "rank: 1, slot: mine"), ENVIRONMENT)
    assert (config.systems["crm"].slot, config.systems["erp"].slot, config.systems["crm"].publication) == ("mine", "pilot_erp", "pilot_crm")


def test_the_state_folder_is_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "concord.yaml").write_text(SOUND)
    assert load(tmp_path / "concord.yaml", ENVIRONMENT).state_dir == tmp_path / ".concord" / "run"
    (tmp_path / "concord.yaml").write_text(SOUND + "\nstate_dir: /var/lib/concord\n")
    assert load(tmp_path / "concord.yaml", ENVIRONMENT).state_dir == Path("/var/lib/concord")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("NO", "NO"),
        ("on", "on"),
        ("007", "007"),
        ("1.50", "1.50"),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("42", "42"),
        ("-3", "-3"),
    ],
)
def test_scalars_are_as_they_are_written(text: str, value: str) -> None:
    config = loads(SOUND.replace("org: 42", f"org: {text}"), ENVIRONMENT)
    assert config.entities["customer"].bindings["crm"].where["org"] == (value,)


def test_a_configuration_is_frozen() -> None:
    config = loads(SOUND, ENVIRONMENT)
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"


# ── the environment ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_a_variable_may_hold_anything(value: str) -> None:
    assert loads(SOUND, {"CRM_DSN": value}).systems["crm"].dsn == value


def test_a_missing_variable_is_named_where_it_is_used() -> None:
    found = problems(SOUND.replace("rank: 2", "rank: ${RANK}"), {})
    assert [(problem.where, problem.what) for problem in found] == [
        ("systems.crm.dsn", "the environment variable CRM_DSN is not set"),
        ("systems.erp.rank", "the environment variable RANK is not set"),
    ]
    assert "export CRM_DSN=…" in found[0].mend


def test_a_variable_has_a_default_may_be_empty_and_can_be_written_literally() -> None:
    text = SOUND.replace("org: 42", 'org: "${ORG:-}", a: "x${A:-1}y", b: "$${B}", c: "${C}"')
    where = loads(text, {**ENVIRONMENT, "A": "2", "C": ""}).entities["customer"].bindings["crm"].where
    assert (where["org"], where["a"], where["b"], where["c"]) == (("",), ("x2y",), ("${B}",), ("",))
    assert loads(SOUND.replace("rank: 2", "rank: ${RANK:-2}"), {**ENVIRONMENT, "RANK": "9"}).systems["erp"].rank == 9
    assert loads(SOUND + "\n# ${UNUSED}\n", ENVIRONMENT)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:s3cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u@h/db?password=s3cret&x=1", "postgresql://u@h/db?password=***&x=1"),
        ("host=h password=s3cret dbname=d", "host=h password=*** dbname=d"),
        ("host=h password = 's3cr et' dbname=d", "host=h password = *** dbname=d"),
        ("postgresql://u:s3c@ret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://h/db", "postgresql://h/db"),
    ],
)
def test_secrets_are_never_shown(dsn: str, shown: str) -> None:
    assert Dsn(dsn).shown == shown
    text = SOUND.replace("bootstrap: localhost:9092", "bootstrap: x, settings: {sasl.password: s3cret}, replication: s3cret2")
    config = loads(text.replace(", replication: s3cret2", ""), {"CRM_DSN": dsn})
    assert config.systems["crm"].dsn == dsn
    assert "s3c" not in repr(config)
    assert "s3c" not in str(config.systems)
    assert "s3cret@" not in str(problems(text.replace("rank: 1", "rank: x"), {"CRM_DSN": dsn}))


def test_a_wrong_address_is_not_shown() -> None:
    found = problems(SOUND.replace("dsn: ${CRM_DSN}", "dsn: [hunter2]"))
    assert [str(problem) for problem in found] == ["systems.crm.dsn: must be a connection string, like postgresql://user@host/database"]
    found = problems("registry: {url: {a: hunter2}}" + SOUND)
    assert "hunter2" not in str(found)


# ── what is wrong ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ten_mistakes_are_ten_problems() -> None:
    text = """
kafka: {bootstrap: localhost:9092, partitons: 8}
systems:
  crm: {dsn: ${NOT_SET}, rank: first}
  erp: {dsn: postgresql://erp, rank: 2, slot: My-Slot}
entities:
  customer:
    crm: {table: public.account, parts: {address: {table: x}}}
    erp: {tabel: public.party}
    owner: epr
    match_on: [taxid]
    fields:
      name:   {crm: name, erp: {column: legal_name, timezone: Europe/Berlinn}}
      tax_id: {crm: vat, erp: tax_id, clean: [strip, uper]}
"""
    found = problems(text, {})
    assert [str(problem) for problem in found] == [
        "systems.crm.dsn: the environment variable NOT_SET is not set (export NOT_SET=…, or write ${NOT_SET:-a default})",
        "kafka.partitons: unknown key 'partitons' (did you mean partitions?)",
        "systems.crm.rank: must be a whole number, not 'first'",
        "systems.erp.slot: must be lower case letters, digits and _, not 'My-Slot'",
        "entities.customer.crm.parts.address: says neither child nor parent, or both: {child: column that points at the root} "
        "or {parent: …}",
        "entities.customer.erp.tabel: unknown key 'tabel' (did you mean table?)",
        "entities.customer.fields.tax_id.clean.1: must be 'strip', 'squeeze', 'upper', 'lower', 'casefold', 'digits', 'alnum', 'nfc', "
        "'nfkc' or 'empty_is_null', not 'uper' (did you mean upper?)",
        "entities.customer.owner: 'epr' is no system of customer (did you mean erp?)",
        "entities.customer.match_on: there is no field 'taxid' (did you mean tax_id?)",
        "entities.customer.fields.name.erp.timezone: there is no time zone 'Europe/Berlinn' (a name like Europe/Berlin or Asia/Shanghai)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rank: 2", "rank: 1", "systems.erp.rank: is 1 as that of crm"),
        ("session: {app.tenant: 42}", "session: {timezone: x}", "systems.erp.session.timezone: is set by Concord"),
        ("session: {app.tenant: 42}", "session: {role: x}", "systems.erp.session.role: would hold while streaming the log too"),
        ("session: {app.tenant: 42}", "role: ''", "systems.erp.role: is empty"),
        ("owner: crm", "ownr: crm", "entities.customer.ownr: unknown key 'ownr' (did you mean owner?)"),
        ("owner: erp", "owner: warehouse", "entities.customer.fields.at.owner: 'warehouse' is no system of at"),
        ("ref: customer", "ref: custommer", "entities.customer.fields.parent.ref: there is no entity 'custommer' (did you mean customer?)"),
        ("erp: tax_id,", "epr: tax_id,", "entities.customer.fields.tax_id.epr: unknown key 'epr' (did you mean erp?)"),
        ("timezone:", "timezne:", "entities.customer.fields.at.erp.timezne: unknown key 'timezne' (did you mean timezone?)"),
        ("{active: false}", "{aktive: false}", "entities.customer.delete.soft.aktive: there is no field 'aktive' (did you mean active?)"),
        ("{soft: {active: false}}", "forget", "entities.customer.delete: must be propagate, ignore or {soft: {field: value}}"),
        ("match_on: tax_id", "match_on: {a: b}", "entities.customer.match_on: must be a list"),
        ("match_on: tax_id", "born_in: []", "entities.customer.born_in: is empty"),
        ("where: {org: 42,", "where: {org: [],", "entities.customer.crm.where.org: is an empty list: no row could ever match"),
        ("org: 42", "org: {a: 1}", "entities.customer.crm.where.org: must be a single value"),
        ("created: now", "created: {now: x, sql: y}", "entities.customer.erp.insert.created: must be one of: a constant, now, uuid"),
        ("created: now", "created: {then: x}", "entities.customer.erp.insert.created.then: unknown key 'then'"),
        ("{now: Asia/Shanghai}", "{now: Asia/Shanghigh}", "entities.customer.erp.insert.zone.now: there is no time zone 'Asia/Shanghigh'"),
        ("{write_date: now}", "{active: true}", "entities.customer.erp.insert.active: stands under always too"),
        ('join: " "', "join: ''", "entities.customer.fields.name.crm: join with nothing between"),
        ("crm: vat", "crm: {column: vat, join: x}", "entities.customer.fields.tax_id.crm: join needs at least two columns"),
        ("crm: vat", "crm: {column: vat, columns: vat}", "entities.customer.fields.tax_id.crm: has both column and columns, keep one"),
        ("crm: vat", "crm: {write: false}", "entities.customer.fields.tax_id.crm: names no column"),
        ("crm: vat", "crm: 5", "entities.customer.fields.tax_id.crm: must be a mapping"),
        (
            "erp: tax_id,",
            "erp: {column: tax_id, write: false},",
            "entities.customer.fields.tax_id.erp.write: is never written in erp",
        ),
        ("{crm: active, erp:", "{erp:", "entities.customer.delete.soft.active: active is not mapped in crm, so a delete elsewhere"),
        ("clean: [strip, upper]", "clean: [upper, lower]", "entities.customer.fields.tax_id.clean: upper and lower undo each other"),
        ("clean: [strip, upper]", "values: {a: {b: c}}", "entities.customer.fields.tax_id.values: must be a single value"),
        ("clean: [strip, upper]", "values: []", "entities.customer.fields.tax_id.values: must be a mapping of codes"),
        ("clean: [strip, upper]", "otherwise: {read: a}", "entities.customer.fields.tax_id.otherwise: goes with values"),
        ("clean: [strip, upper]", "kind: txt", "entities.customer.fields.tax_id.kind: must be 'text'"),
        ("ref: customer", "ref: customer, clean: strip", "entities.customer.fields.parent.clean: does not go with ref"),
        (
            "      tax_id: ",
            "      deleted: {crm: d, erp: d}\n      tax_id: ",
            "entities.customer.fields.deleted: the name 'deleted' is taken",
        ),
        ("      tax_id: ", "      a b: {crm: d, erp: d}\n      tax_id: ", "entities.customer.fields.a b: 'a b' cannot be a field's name"),
        ("      tax_id: ", "      none: {clean: strip}\n      tax_id: ", "entities.customer.fields.none: names no system"),
        ("kafka: {", "kafkaa: {}\nkafka: {", "kafkaa: unknown key 'kafkaa' (did you mean kafka?)"),
        ("kafka: {bootstrap: localhost:9092}", "", "kafka: is missing"),
        ("systems:", "metrics: {sink: 70000}\nsystems:", "metrics.sink: must be at most 65535, not 70000"),
        ("systems:", "name: Big Name\nsystems:", "name: must be lower case letters, digits and _, not 'Big Name'"),
        ("  crm: {dsn", "  golden: {dsn: x, rank: 7}\n  crm: {dsn", "systems.golden: the name 'golden' is taken by Concord itself"),
        ("  crm: {dsn", "  Crm2: {dsn: x, rank: 7}\n  crm: {dsn", "systems.Crm2: 'Crm2' cannot be a system's name"),
        ("crm: {dsn: ${CRM_DSN}, rank: 1}", "crm: {dsn: ${CRM_DSN}}", "systems.crm.rank: is missing"),
    ],
)
def test_each_mistake_is_one_problem_in_words(old: str, new: str, expected: str) -> None:
    assert one_problem(old, new).startswith(expected)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("{a: {table: t, child: x, parent: y}}", "parts.a: says neither child nor parent, or both"),
        ("{a: {table: t, parent: y, first_by: [z]}}", "parts.a: first_by, aggregate and empty go with child"),
        ("{a: {table: t, child: y, first_by: [z], aggregate: {n: count}}}", "parts.a: aggregate is only read"),
        ("{a: {table: t, child: y, of: b}}", "parts.a.of: there is no part 'b'"),
        ("{a: {table: t, child: y, of: b}, b: {table: t, child: y, of: a}}", "parts.a.of: goes round"),
        ("{a: {table: t, child: y, of: b}, b: {table: t, child: y, aggregate: {n: count}}}", "parts.a.of: b is drawn together"),
        ("{a: {table: t, child: y, aggregate: {n: total}}}", "parts.a.aggregate.n: must be"),
        ("{a: {table: t, child: y, aggregate: {n: {avg: x}}}}", "parts.a.aggregate.n: must be count, or one of"),
        ("{a: {table: t, child: y, aggregate: {n: {sum: x, by: z}}}}", "parts.a.aggregate.n.by: must be a list"),
        ("{a: {table: t, child: y, aggregate: {n: {sum: x, by: [z]}}}}", "parts.a.aggregate.n: by and separator go with list"),
        ("{a: {table: t, child: {column: y, columns: z}}}", "parts.a.child: has both column and columns"),
        ("{a: {table: t, child: {columns: [y, z], prefix: 'p,'}}}", "parts.a.child: prefix goes with one column"),
        ("{a: {tabel: t, child: y}}", "parts.a.tabel: unknown key 'tabel' (did you mean table?)"),
        ("{'a b': {table: t, child: y}}", "parts.a b: 'a b' cannot be a part's name"),
        ("{a: {table: t, child: y, insert: {c: {now: Nowhere}}}}", "parts.a.insert.c.now: there is no time zone"),
    ],
)
def test_each_mistake_in_a_part_is_told(parts: str, expected: str) -> None:
    found = problems(SOUND.replace("crm: {table: public.account,", f"crm: {{table: public.account, parts: {parts},"))
    assert any(str(problem).startswith(f"entities.customer.crm.{expected}") for problem in found), found


def test_shorthands_of_parts_mean_the_full_form() -> None:
    part = Part.model_validate({"table": "t", "child": "party", "first_by": ["sequence desc nulls first", "id"]})
    assert part.child == Link(columns=("party",))
    assert part.first_by == (Order(column="sequence", descending=True, nulls_first=True), Order(column="id"))
    drawn = Part.model_validate({"table": "t", "child": ["a", "b"], "aggregate": {"n": "count", "total": {"sum": "amount"}}})
    assert drawn.child == Link(columns=("a", "b"))
    assert drawn.aggregate == {"n": Aggregate(function="count"), "total": Aggregate(function="sum", column="amount")}


def test_what_is_drawn_together_is_only_read() -> None:
    parts = "parts: {o: {table: t, child: y, aggregate: {n: count}}}"
    found = problems(SOUND.replace("table: public.party\n", f"table: public.party\n      {parts}\n").replace("erp: tax_id,", "erp: o.n,"))
    assert [problem.where for problem in found] == ["entities.customer.fields.tax_id.erp.write"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2", "concord.yaml line 1, column 9: is not YAML"),
        ("a: b: c", "concord.yaml line 1, column 5: is not YAML"),
        ("\tx", "concord.yaml line 1, column 1: is not YAML"),
        ("a: 1\x00", "concord.yaml: is not text"),
        ("", "concord.yaml: must be a mapping with kafka, systems and entities"),
        ("- a", "concord.yaml: must be a mapping"),
        ("a: !!python/object:os.system x", "concord.yaml line 1, column 4: is not YAML"),
        ("[" * 5000, "concord.yaml: is nested too deeply to be read"),
        ("{a: 1, b: 2, a: 3}", "concord.yaml line 1: key 'a' stands twice in one mapping (keep one of them)"),
        ("{}", "kafka: is missing"),
        ("a: &a [*a]", "concord.yaml: has an alias inside what it stands for"),
        ("kafka: 1\nsystems: 2\nentities: 3", "kafka: must be a mapping"),
        ("1: x", "kafka: is missing"),
    ],
)
def test_what_is_no_configuration_at_all(text: str, expected: str) -> None:
    assert str(problems(text)[0]).startswith(expected)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "absent.yaml", "there is no such file"), (tmp_path, "cannot be read")):
        with pytest.raises(ConfigError, match=expected):
            load(path, {})
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 9"):
        load(tmp_path / "latin.yaml", {})


json_like: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["crm", "erp", "name", "now", "x.y"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["crm", "erp", "fields", "table", "sql", "column", "values", "zz"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.sampled_from(["kafka", "systems", "entities", "metrics", "registry", "name", "state_dir"]), json_like)
def test_nothing_but_problems_comes_of_rubbish(key: str, rubbish: Any) -> None:
    data: dict[str, Any] = {
        "kafka": {"bootstrap": "x"},
        "systems": {"crm": {"dsn": "x", "rank": 1}, "erp": {"dsn": "y", "rank": 2}},
        "entities": {"e": {"crm": {"table": "t"}, "erp": {"table": "t"}, "fields": {"f": {"crm": "a", "erp": "b"}}}},
    }
    with suppress(ConfigError):
        parse({**data, key: rubbish})
    if key == "entities":
        for at in ("crm", "fields", "match_on", "delete"):
            with suppress(ConfigError):
                parse({**data, "entities": {"e": {**data["entities"]["e"], at: rubbish}}})


# ── for editors ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_json_schema_is_of_the_file_as_people_write_it() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    models = schema["$defs"]
    assert "bindings" not in json.dumps(schema)
    assert "sides" not in json.dumps(schema)
    assert models["Entity"]["additionalProperties"] == {"$ref": "#/$defs/Binding"}
    assert models["Field"]["additionalProperties"] == {"$ref": "#/$defs/Side"}
    assert models["System"]["required"] == ["dsn", "rank"]
    assert set(schema["properties"]) == set(Config.model_fields)


def test_the_json_schema_takes_a_sound_file_and_refuses_a_wrong_one() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema to check the exported schema against real files")
    import yaml

    text = SOUND.replace("${CRM_DSN}", "x").replace("${ERP_DSN:-postgresql://erp}", "y")
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    validator.validate(yaml.safe_load(text))
    for old, new in (
        ("timezone:", "timezne:"),
        ("rank: 1", "rank: x"),
        ("clean: [strip", "clean: [stripp"),
        ("table: public.party", "tabel: a"),
    ):
        assert list(validator.iter_errors(yaml.safe_load(text.replace(old, new)))), new
