"""A proposal as the text of `concord.yaml`: what is proposed as YAML, what is thought of as comments, each with its reason. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

import yaml

from console.init.proposal import BindingProposal, EntityProposal, FieldProposal, Given, Plain, Proposal, variable

WIDTH = 140

_HEAD = """\
A first configuration, proposed by `concord init`. It is a start to read and to change, not an answer.

How it was made: from the catalogs of {one} and {other} (names, types, keys, foreign keys, CHECKs, sequences), up to {sample} rows of each
table, and rows of the one that hold a value of the other. Nothing was changed in either. The number before a reason says how sure it is,
1 at most. What is commented out was thought of and not taken; a question mark in it is yours to answer.

What to do next:
  1. Take out the entities that are none of each other's business, and see which rows count (`where`).
  2. Decide who decides: `owner`, of an entity or of a field. Without it the later edit wins, on either side. `born_in: [{one}]` if new ones
     come from one side only.
  3. Look at `insert`: what a row needs that is made here. A constant that is only the most frequent one may be wrong.
  4. export {variables} KAFKA_BOOTSTRAP=…
     concord check    every problem of this file and the databases, each with its mend
     concord match    pairs what is on both sides already, before anything is written
     concord up       when both are as they should be
"""


class _Dumper(yaml.SafeDumper):
    """Safe, with SQL that reads as SQL: a text with single quotes stands in double ones."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    quoted = "'" in text or not text or not text.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, '"' if quoted else None)


_Dumper.add_representer(str, _text)


def flow(value: Plain) -> str:
    """A value in one line of YAML."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.removesuffix("...\n").strip().replace("${", "$${")


def remark(text: str) -> str:
    """What may stand behind a `#`."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def written(proposal: Proposal, sample: int) -> str:
    """The whole file."""
    one, other = proposal.systems
    variables = " ".join(f"{variable(system)}=…" for system in proposal.systems)
    head = _HEAD.format(one=one, other=other, sample=sample, variables=variables)
    lines = [*(f"# {line}".rstrip() for line in head.splitlines()), ""]
    lines += ['kafka: {bootstrap: "${KAFKA_BOOTSTRAP:-localhost:9092}"}', "", "systems:"]
    lines += [f'  {flow(system)}: {{dsn: "${{{variable(system)}}}", rank: {rank}}}' for rank, system in enumerate(proposal.systems, 1)]
    lines[-1] += "  # the higher rank wins when two edits have the same time"
    lines += ["", "entities:"]
    for entity in proposal.entities:
        lines += ["", *_entity(entity)]
    lines += ["", *_alone(proposal)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _wrapped(text: str, indent: str) -> Iterator[str]:
    """A comment over as many lines as it needs."""
    yield from textwrap.wrap(
        remark(text), WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ", break_long_words=False, break_on_hyphens=False
    )


def _beside(line: str, why: str) -> str:
    return f"{line}  # {remark(why)}" if why else line


def _with_reason(line: str, why: str) -> Iterator[str]:
    """A line and its reason: behind it, or above it where that is too long."""
    if len(line) + len(why) + 4 <= WIDTH:
        yield _beside(line, why)
        return
    indent = " " * (len(line) - len(line.lstrip()))
    yield from _wrapped(why, indent)
    yield line.rstrip()


def _entity(entity: EntityProposal) -> Iterator[str]:
    yield from _wrapped(f"{entity.score:.2f}: {entity.why}", "  ")
    lines = [f"  {flow(entity.name)}:"]
    for system, binding in entity.bindings.items():
        lines += _binding(system, binding)
    if entity.match_on:
        lines += _with_reason(f"    match_on: {flow(entity.match_on)}", f"the same value, the same {entity.name}: {entity.match_why}")
    else:
        lines.append("    # match_on: [?]  # nothing tells rows apart that are on both sides: those that are there already are not paired")
    lines.append(
        f"    # owner: {' or '.join(entity.bindings)}  # decides on every field that names no owner; without it the later edit wins"
    )
    lines += _with_reason(f"    delete: {flow(entity.delete)}", entity.delete_why)
    lines.append("    fields:")
    lines += _fields([one for one in entity.fields if one.active], "      ")
    lines += _fields([one for one in entity.fields if not one.active], "      ")
    for system, binding in entity.bindings.items():
        lines += _parts(system, binding)
    for system, binding in entity.bindings.items():
        if binding.not_mapped:
            told = ", ".join(f"{column} ({why})" for column, why in binding.not_mapped)
            lines += _wrapped(f"not mapped, {system}: {told}", "    ")
    if entity.active:
        yield from lines
    else:
        yield from _wrapped(f"left out: {entity.remark}", "  ")
        yield from (f"  # {line[2:]}" for line in lines)


def _binding(system: str, binding: BindingProposal) -> Iterator[str]:
    yield f"    {flow(system)}:"
    yield f"      table: {flow(binding.table)}"
    for where, why in binding.where:
        yield from _with_reason(f"      # where: {flow(where)}", f"rows that count: {why}")
    yield from _given("insert", binding.insert)
    yield from _given("always", binding.always)


def _given(key: str, values: Sequence[Given]) -> Iterator[str]:
    """In one line what needs no reason, else one line each."""
    if not values:
        return
    if not any(one.why for one in values) and len(values) <= 4:
        yield f"      {key}: {flow({one.column: one.value for one in values})}"
        return
    yield f"      {key}:"
    for one in values:
        yield from _with_reason(f"        {flow(one.column)}: {flow(one.value)}", one.why)


def _fields(fields: Sequence[FieldProposal], indent: str) -> Iterator[str]:
    width = max((len(flow(one.name)) for one in fields), default=0) + 1
    shown = [f"{f'{flow(one.name)}:':<{width}} {flow(one.to_plain())}" for one in fields]
    right = min(max(map(len, shown), default=0), 64)
    for one, text in zip(fields, shown, strict=True):
        told = f"{one.score:.2f} {one.why}" + (f"; {one.remark}" if one.remark else "")
        yield from _with_reason(f"{indent}{'' if one.active else '# '}{text:<{right}}", told)


def _parts(system: str, binding: BindingProposal) -> Iterator[str]:
    for part in binding.parts:
        yield from _wrapped(f"perhaps a part in {system}: {part.why}", "    ")
        yield f"    #   {flow(system)}: {{parts: {flow({part.name: part.part})}}}"
        for line in _fields(part.fields, ""):
            yield f"    #   {line.removeprefix('# ')}"


def _alone(proposal: Proposal) -> Iterator[str]:
    for system, tables in proposal.alone.items():
        if tables:
            yield f"# Tables of {system} without a counterpart:"
            yield from _listed(f"{table} ({why})" for table, why in tables)


def _listed(items: Iterable[str]) -> Iterator[str]:
    for item in items:
        yield f"#   {remark(item)}"
