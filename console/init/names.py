"""How alike two names of tables or columns are. Pure.

A name is words; a word has a stem; stems that people use for the same thing are in one group. What says little (`main`, `is`, `billing`)
and what the table's own name says already (`customer_no` of customer) counts little.

    vat_number   vat + number            ↔   tax_id   tax + id                each word has its counterpart in a group: 0.9
    line_no      (line) + no             ↔   position                         0.5: a weaker kinship
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from rapidfuzz import fuzz

# People call these the same. A word may be in several groups.
_SAME = """
customer account client party partner debtor buyer company firm organisation organization org kunde firma
contact person people kontakt ansprechpartner
product item article good artikel material produkt variant
order sale auftrag bestellung
line position row detail pos zeile
invoice bill rechnung facture
stock inventory lager bestand quant
quantity qty menge count
warehouse depot store location
number no nr num code id nummer key sku
ref reference
email mail
phone telephone tel mobile fon telefon
website url web homepage site www
street strasse road
zip postcode postal plz postalcode
city town ort place municipality locality
country land nation
region state province county
status state stage phase
tax vat mwst ust gst duty
net untaxed subtotal netto
gross brutto
total sum amount betrag
price preis
create creation entry enter insert
update write change modify modification modified edit
birth born geburt
first given fore vorname
last family sur nachname
salutation title anrede courtesy
role function job funktion
segment class category group rating grade
type kind art
unit uom measure einheit
weight gewicht
discount rebate rabatt
deliver ship delivery shipment
description text note memo comment remark beschreibung
currency curr waehrung
active enable
language lang locale sprache
payment pay
term day condition
due deadline
issue invoice posting document
user owner login
parent super
count counted
"""

# Akin, but one is not the other.
_AKIN = """
name description title label text
name legal
total gross
position number line sequence
date day time at on
quantity stock hand level
status active
amount quantity
address street
balance saldo credit
price amount total
"""

_COMPOUND = {
    "birthday": ("birth", "date"),
    "birthdate": ("birth", "date"),
    "dob": ("birth", "date"),
    "firstname": ("first", "name"),
    "forename": ("first", "name"),
    "vorname": ("first", "name"),
    "lastname": ("last", "name"),
    "surname": ("last", "name"),
    "nachname": ("last", "name"),
    "zipcode": ("zip",),
    "postalcode": ("zip",),
    "onhand": ("quantity",),
    "taxid": ("tax", "id"),
    "vatno": ("vat", "number"),
    "orderdate": ("order", "date"),
    "duedate": ("due", "date"),
}
_PHRASES = (
    (("on", "hand"), ("quantity",)),
    (("e", "mail"), ("email",)),
    (("long", "text"), ("description",)),
    (("postal", "code"), ("zip",)),
)

# Words that narrow a name down but hardly change what it means.
_SLIGHT = """
is has the of a an to main default primary base billing list full legal business res tbl table app public data custom x pct percent
percentage kg internal own our at on std standard display
"""


@cache
def stem(word: str) -> str:
    """`lines`, `ordered`, `counted` → what they have in common with `line`, `order`, `count`."""
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if len(word) > 4 and word.endswith("ed"):
        word = word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def _groups(text: str) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {}
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines()))):
        for word in line.split():
            found.setdefault(stem(word), set()).add(number)
    return {word: frozenset(numbers) for word, numbers in found.items()}


_SAME_AS, _AKIN_TO = _groups(_SAME), _groups(_AKIN)
_SLIGHT_STEMS = {stem(word) for word in _SLIGHT.split()}


@cache
def words(name: str) -> tuple[str, ...]:
    """The stems of a name: `billing_country`, `BillingCountry`, `countryName2`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    found = [word for word in re.split(r"[^a-zA-Z]+", spaced.lower()) if word]
    for phrase, meaning in _PHRASES:
        for at in range(len(found) - len(phrase) + 1):
            if tuple(found[at : at + len(phrase)]) == phrase:
                found[at : at + len(phrase)] = list(meaning)
                break
    stems = [stem(part) for word in found for part in _COMPOUND.get(word, (word,))]
    return tuple(word for at, word in enumerate(stems) if not any(word_likeness(word, later) >= 0.9 for later in stems[at + 1 :]))


@cache
def word_likeness(one: str, other: str) -> float:
    if one == other:
        return 1.0
    if _SAME_AS.get(one, frozenset()) & _SAME_AS.get(other, frozenset()):
        return 0.9
    if _AKIN_TO.get(one, frozenset()) & _AKIN_TO.get(other, frozenset()):
        return 0.5
    if min(len(one), len(other)) >= 3 and (one.startswith(other) or other.startswith(one)):
        return 0.7  # addr, address
    close = fuzz.ratio(one, other) / 100
    return 0.8 * close if close >= 0.8 and min(len(one), len(other)) >= 4 else 0.0  # a letter more or less


def likeness(one: str, other: str, context: Iterable[str] = (), *, of_tables: bool = False) -> float:
    """0 … 1. `context`: stems that both names are seen in anyhow, those of their tables. `of_tables`: the last word says what it is."""
    mine, theirs = words(one), words(other)
    if not mine or not theirs:
        return 0.0
    if mine == theirs:
        return 1.0
    known = frozenset(context)
    my_weights, their_weights = _weights(mine, known, of_tables), _weights(theirs, known, of_tables)
    pairs = sorted(
        ((word_likeness(a, b), i, j) for i, a in enumerate(mine) for j, b in enumerate(theirs)),
        key=lambda pair: (-pair[0] * (my_weights[pair[1]] + their_weights[pair[2]]), pair[1], pair[2]),
    )
    used_mine: set[int] = set()
    used_theirs: set[int] = set()
    alike = 0.0
    for score, i, j in pairs:
        if score > 0 and i not in used_mine and j not in used_theirs:
            used_mine.add(i)
            used_theirs.add(j)
            alike += score * (my_weights[i] + their_weights[j])
    return alike / (sum(my_weights) + sum(their_weights))


def _weights(found: tuple[str, ...], context: frozenset[str], of_table: bool) -> list[float]:
    weights = [1.0] * len(found)
    for at, word in enumerate(found):
        if word in _SLIGHT_STEMS:
            weights[at] = 0.15
        elif len(found) > 1 and (word in context or any(word_likeness(word, other) >= 0.9 for other in context)):
            weights[at] = 0.3
    if of_table and len(found) > 1:
        weights[-1] *= 2
    return weights


def shared_name(one: str, other: str, context: Iterable[str] = ()) -> str:
    """A name for what two names mean: the first, unless it says more than it must: `billing_street`, `order_no` of order."""
    known = frozenset(context)
    says_more = [word for word in words(one) if _weights(words(one), known, False)[words(one).index(word)] < 1]
    return other if says_more and len(words(other)) < len(words(one)) else one


def is_stamp(name: str, of: str) -> bool:
    """Whether a column says when (or by whom) a row was created or updated."""
    groups = _SAME_AS[stem(of)]
    return any(_SAME_AS.get(word, frozenset()) & groups for word in words(name))


@cache
def canonical(word: str) -> str:
    """One stem for all that are in its first group."""
    groups = _SAME_AS.get(word)
    return word if not groups else min(other for other, numbers in _SAME_AS.items() if min(groups) in numbers)


def plain_words(name: str) -> list[str]:
    """The words of a name as they are written, in lower case."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return [word for word in re.split(r"[^a-zA-Z0-9]+", spaced.lower()) if word]


# What an entity is called whose tables have other names for it.
_THINGS = ("customer", "contact", "product", "order", "line", "invoice", "stock", "warehouse", "payment", "price", "country", "currency")


def thing(one: str, other: str) -> str:
    """A name for what two tables are: their common one, or what people call it."""
    if one == other:
        return one
    mine, theirs = words(one), words(other)
    common = [word for word in mine if any(word_likeness(word, their) >= 0.9 for their in theirs)]
    if len(common) == 1:
        for known in _THINGS:
            if word_likeness(common[0], stem(known)) >= 0.9:
                return known
    return shared_name(one, other)


def a(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"
