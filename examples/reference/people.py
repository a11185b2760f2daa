"""Companies, people and goods out of many countries, made once per seed by Faker and kept in a file: Faker is slow, a workload must not be.

The same seed gives the same pool on both sides, so a CRM and an ERP that never talked have customers in common.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

COMPANIES, PERSONS, GOODS = 2500, 3000, 600
_VERSION = 1  # of the file's contents: raise it when what is made here changes
CACHE = Path(__file__).resolve().parents[2] / ".concord" / "cache"

LOCALES = {"de_DE": 30, "zh_CN": 20, "fr_FR": 14, "en_US": 14, "ja_JP": 10, "es_ES": 6, "pl_PL": 6}
# What no generator gives and every database has.
ODD_NAMES = (
    'L\'Étoile "du Nord" & Fils',
    "Ma\u0308ller Söhne (a\u0308 as two code points)",
    "O'Brien \\ Partners",
    "☕ Kaffeerösterei 雲",
    "𠮷野家 Handel",
    "Null",
    "  two leading blanks",
    "Tab\tand line\nbreak Ltd.",
)


@dataclass(frozen=True, slots=True)
class Company:
    name: str
    street: str
    zip: str
    city: str
    country: str  # two letters
    phone: str
    domain: str


@dataclass(frozen=True, slots=True)
class Person:
    first: str | None
    last: str
    phone: str
    birthday: str  # ISO
    salutation: str  # mr, ms, dr


@dataclass(frozen=True, slots=True)
class Good:
    name: str
    text: str
    price: str


@dataclass(frozen=True, slots=True)
class Pool:
    companies: tuple[Company, ...]
    persons: tuple[Person, ...]
    goods: tuple[Good, ...]


def file_of(seed: int, cache: Path = CACHE) -> Path:
    """Where the pool of a seed is kept, once `pool` has made it."""
    return cache / f"people-{_VERSION}-{seed}.json"


def pool(seed: int, cache: Path = CACHE) -> Pool:
    """The pool of a seed, from the file if it is there."""
    file = file_of(seed, cache)
    try:
        told = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        made = _make(seed)
        cache.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{random.SystemRandom().getrandbits(32):x}")  # two applications may start at once
        part.write_text(json.dumps({name: [asdict(x) for x in getattr(made, name)] for name in ("companies", "persons", "goods")}), "utf-8")
        part.rename(file)
        return made
    return Pool(
        tuple(Company(**x) for x in told["companies"]),
        tuple(Person(**x) for x in told["persons"]),
        tuple(Good(**x) for x in told["goods"]),
    )


def _make(seed: int) -> Pool:
    from faker import Faker  # slow to import, and only needed without the file

    rng = random.Random(f"people {seed}")
    fakers = {}
    for locale in LOCALES:
        fakers[locale] = Faker(locale, use_weighting=False)
        fakers[locale].seed_instance(f"{seed} {locale}")
    names, weights = list(LOCALES), list(LOCALES.values())

    def company(n: int) -> Company:
        fake = fakers[locale := rng.choices(names, weights)[0]]
        name = ODD_NAMES[n % len(ODD_NAMES)] if n % 97 == 96 else fake.company()
        return Company(
            name,
            fake.street_address(),
            fake.postcode(),
            fake.city(),
            locale[-2:],
            fake.phone_number()[:40],
            f"{fake.domain_word()}.example",
        )

    def person() -> Person:
        fake = fakers[rng.choices(names, weights)[0]]
        first = None if rng.random() < 0.02 else fake.first_name()
        return Person(
            first,
            fake.last_name(),
            fake.phone_number()[:40],
            f"{rng.randint(1945, 2004)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
            rng.choice(["mr", "ms", "mr", "ms", "dr"]),
        )

    def good() -> Good:
        fake = fakers[rng.choice(["de_DE", "zh_CN", "en_US", "fr_FR"])]
        name = f"{fake.word().capitalize()} {fake.color_name()} {rng.randint(10, 999)}"
        return Good(name, fake.sentence(nb_words=rng.randint(4, 40)), f"{rng.lognormvariate(3.5, 1.1):.4f}")

    return Pool(
        tuple(company(n) for n in range(COMPANIES)),
        tuple(person() for _ in range(PERSONS)),
        tuple(good() for _ in range(GOODS)),
    )
