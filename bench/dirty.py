"""Two systems' customers as they are before anybody has kept them in agreement, and which of them are the same. Seeded, no I/O.

    things ──▶ known to both (80 %), to one (10 % each) ──▶ a row in each system that knows it, sometimes two (duplicates)
                                                            every row gets its own dirt

Dirt: tax ids missing, mistyped, with blanks; legal forms in other forms or left out; capitals; umlauts transcribed; words moved, dropped,
mistyped; `Str.` for `Straße`; e-mails and phones missing, of somebody else, written in another way; customers that moved. What makes it
hard on purpose: few surnames have most of the people, one company has branches in several towns, a household has one address and phone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

FIELDS = ("name", "street", "zip", "city", "country", "email", "phone", "tax_id")


def _words(text: str) -> list[str]:
    return text.split()


_SURNAMES = _words("""
    Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Schäfer Koch Bauer Richter Klein Wolf Schröder Neumann
    Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange Schmitt Werner Schmitz Krause Meier Lehmann Schmid Schulze Maier Köhler
    Herrmann König Walter Mayer Huber Kaiser Fuchs Peters Lang Scholz Möller Weiß Jung Hahn Schubert Vogel Friedrich Keller Günther
    Frank Berger Winkler Roth Beck Lorenz Baumann Franke Albrecht Schuster Simon Ludwig Böhm Winter Kraus Martin Schumacher Krämer Vogt
    Stein Jäger Otto Sommer Groß Seidel Heinrich Brandt Haas Schreiber Graf Dietrich Ziegler Kuhn Kühn Pohl Engel Horn Busch Bergmann
    Thomas Voigt Sauer Arnold Wolff Pfeiffer Dubois Lefèvre Moreau Núñez García Fernández Rossi Bianchi Øverland Sørensen Kowalski Nowak
    Dvořák Novák O'Brien MacLeod Smith Jones Taylor Brown
""")
_FIRST = _words("""
    Anna Peter Maria Thomas Ursula Michael Monika Andreas Petra Stefan Sabine Klaus Renate Jürgen Helga Hans Karin Günter Brigitte Jörg
    Ingrid Uwe Birgit Dieter Gisela Frank Susanne Bernd Heike Ralf Jens Silke Björn Zoë Françoise José Søren Małgorzata Li Wei Aylin
""")
_TRADES = _words("""
    Bau Haustechnik Logistik Metallbau Elektro Sanitär Software Consulting Druck Möbel Textil Maschinenbau Werkzeuge Transporte Garten
    Immobilien Verlag Brauerei Bäckerei Apotheke Optik Medizintechnik Verpackung Kunststoffe Solar Energie Reisen Events Catering
    Fenster Dachdeckerei Malerbetrieb Spedition Autohaus Fahrzeugteile Stahlhandel Agrar Saatgut Tiernahrung Sensorik Antriebe Pumpen
    Ventile
""")
_FORMS = (
    ("GmbH", "gmbh", "G.m.b.H.", "Gesellschaft mbH", ""),
    ("GmbH & Co. KG", "GmbH u. Co. KG", "GmbH + Co KG", "KG", ""),
    ("AG", "A.G.", "Aktiengesellschaft", ""),
    ("KG", "K.G.", ""),
    ("e.K.", "eK", ""),
    ("Ltd.", "Ltd", "Limited", ""),
    ("Inc.", "Inc", "Incorporated", ""),
    ("S.A.", "SA", ""),
    ("S.r.l.", "SRL", ""),
)
_CITIES = _words("""
    Berlin Hamburg München Köln Frankfurt Stuttgart Düsseldorf Leipzig Dortmund Essen Bremen Dresden Hannover Nürnberg Duisburg Bochum
    Wuppertal Bielefeld Bonn Münster Mannheim Karlsruhe Augsburg Wiesbaden Gelsenkirchen Aachen Braunschweig Kiel Chemnitz Magdeburg
    Freiburg Krefeld Halle Lübeck Mainz Erfurt Oberhausen Rostock Kassel Hagen Potsdam Saarbrücken Hamm Ludwigshafen Oldenburg Mülheim
    Osnabrück Leverkusen Heidelberg Solingen Darmstadt Herne Regensburg Neuss Paderborn Ingolstadt Offenbach Fürth Würzburg Ulm
    Heilbronn Pforzheim Wolfsburg Göttingen Bottrop Reutlingen Koblenz Erlangen Bremerhaven Remscheid Bergisch Trier Recklinghausen Jena
    Moers Salzgitter Siegen Gütersloh Hildesheim Cottbus
""")
_STREETS = _words("""
    Haupt Bahnhof Garten Schul Dorf Berg Birken Linden Kirch Wald Ring Wiesen Amsel Goethe Schiller Mozart Beethoven Industrie Mühlen
    Rosen Markt Friedhof Park Burg Feld Sonnen Eichen Buchen Tannen Fichten Ahorn Lessing Bismarck Wilhelm Luisen Hafen Kanal Ufer
    Brücken Post
""")
_MAILBOXES = ("info", "kontakt", "office", "mail", "einkauf", "buchhaltung", "vertrieb")
_HOSTS = ("gmx.example", "web.example", "mail.example", "t-online.example")
_SYLLABLES = _words("al be cor da el fa gen ha in ka lo mer no or pa qui ra se tec um va wo xi zen bra dun fel gal hol kry lum mor")
_KEYS = {"a": "sq", "e": "wr", "i": "uo", "n": "mb", "r": "et", "s": "ad", "t": "rz", "h": "gj", "l": "kö", "m": "n", "0": "9", "1": "2"}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of one system, and what it really is."""

    thing: int
    values: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Dirty:
    crm: list[Row]
    erp: list[Row]

    @property
    def shared(self) -> int:
        """Things that both know."""
        return len({row.thing for row in self.crm} & {row.thing for row in self.erp})


def dirty(rows: int, seed: int = 1) -> Dirty:
    """About so many rows in each system."""
    chance = random.Random(seed)
    makers = _Makers(chance)
    crm: list[Row] = []
    erp: list[Row] = []
    things = round(rows / 0.91)
    for thing in range(things):
        values = makers.thing()
        known = chance.random()
        if known < 0.9:
            crm += _rows(chance, thing, values, makers, missing_tax=0.25, twice=0.015)
        if known < 0.8 or known >= 0.9:
            erp += _rows(chance, thing, values, makers, missing_tax=0.1, twice=0.008)
    chance.shuffle(crm)
    chance.shuffle(erp)
    return Dirty(crm, erp)


def _rows(chance: random.Random, thing: int, values: dict[str, str], makers: _Makers, missing_tax: float, twice: float) -> list[Row]:
    return [Row(thing, makers.soiled(values, missing_tax)) for _ in range(2 if chance.random() < twice else 1)]


class _Makers:
    """Things, and the dirt on them."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self._last: dict[str, str] | None = None  # for branches and households
        self._surnames = [1 / (rank + 3) for rank in range(len(_SURNAMES))]
        self._cities = [1 / (rank + 2) for rank in range(len(_CITIES))]

    # what they are

    def thing(self) -> dict[str, str]:
        chance = self.chance
        last = self._last
        if last is not None and chance.random() < 0.06:
            return self._beside(last)
        person = chance.random() < 0.25
        surname = chance.choices(_SURNAMES, self._surnames)[0]
        coined = "".join(chance.choices(_SYLLABLES, k=chance.choice((2, 3, 3, 4))))
        if person:
            name, form = f"{chance.choice(_FIRST)} {surname}", ""
            host = chance.choice(_HOSTS)
            email = f"{_ascii(name).lower().replace(' ', chance.choice('._'))}{chance.choice(['', str(chance.randrange(50, 99))])}@{host}"
        else:
            owner = surname if chance.random() < 0.45 else coined.capitalize()
            name, form = f"{owner} {chance.choice(_TRADES)}", chance.choice(_FORMS)[0]
            email = f"{chance.choice(_MAILBOXES)}@{_ascii(owner).lower()}-{_ascii(name.split()[-1]).lower()}.example"
        self._last = {
            "name": f"{name} {form}".strip(),
            **self._place(),
            "email": email,
            "phone": self._phone(),
            "tax_id": f"DE{chance.randrange(10**8, 10**9)}",
        }
        return self._last

    def _beside(self, last: dict[str, str]) -> dict[str, str]:
        """A branch of the company before, or somebody of the same household: nearly the same, and another."""
        chance = self.chance
        other = {**last, "tax_id": f"DE{chance.randrange(10**8, 10**9)}"}
        if any(last["name"].endswith(forms[0]) for forms in _FORMS):
            other |= {**self._place(), "phone": self._phone()}
        else:
            other["name"] = f"{chance.choice(_FIRST)} {last['name'].split()[-1]}"
            other["email"] = f"{_ascii(other['name']).lower().replace(' ', '.')}@{chance.choice(_HOSTS)}"
        return other

    def _place(self) -> dict[str, str]:
        chance = self.chance
        place = chance.choices(range(len(_CITIES)), self._cities)[0]
        street = f"{chance.choice(_STREETS)}{chance.choice(['straße', 'straße', 'weg', 'platz', 'allee'])} {chance.randrange(1, 140)}"
        return {"street": street, "zip": f"{10000 + place * 977 + chance.randrange(60)}", "city": _CITIES[place], "country": "DE"}

    def _phone(self) -> str:
        return f"+49 {self.chance.randrange(30, 999)} {self.chance.randrange(10**5, 10**8)}"

    # what becomes of them

    def soiled(self, values: dict[str, str], missing_tax: float) -> dict[str, str | None]:
        chance = self.chance
        row: dict[str, str | None] = dict(values)
        if chance.random() < missing_tax:
            row["tax_id"] = None
        elif chance.random() < 0.03:
            row["tax_id"] = self._mistyped(values["tax_id"])
        elif chance.random() < 0.3:
            row["tax_id"] = chance.choice(
                [values["tax_id"].lower(), f" {values['tax_id']} ", values["tax_id"][:5].lower() + values["tax_id"][5:]]
            )
        row["name"] = self._name(values["name"])
        if chance.random() < 0.07:  # moved, and only one of them knows
            row |= self._place()
        row["street"] = self._street(str(row["street"]))
        for name, missing, mistyped in (("street", 0.08, 0.05), ("zip", 0.05, 0.02), ("city", 0.04, 0.03), ("country", 0.3, 0)):
            row[name] = None if chance.random() < missing else self._mistyped(str(row[name])) if chance.random() < mistyped else row[name]
        row["city"] = self._spelled(row["city"]) if row["city"] else None
        row["email"] = self._email(values["email"])
        row["phone"] = self._dialled(values["phone"])
        return row

    def _name(self, name: str) -> str:
        chance = self.chance
        forms = next((forms for forms in _FORMS if name.endswith(" " + forms[0])), None)
        words = (name.removesuffix(forms[0]) if forms else name).split()
        form = chance.choice(forms) if forms and chance.random() < 0.4 else (forms[0] if forms else "")
        if chance.random() < 0.08:
            place = chance.randrange(len(words))
            words[place] = self._mistyped(words[place])
        if chance.random() < 0.05:
            words.reverse()
            if not forms:
                words[0] += ","
        elif chance.random() < 0.04 and len(words) > 1:
            words.pop()
        text = self._spelled(" ".join([*words, form]).strip())
        draw = chance.random()
        return text.upper() if draw < 0.08 else text.lower() if draw < 0.11 else text.replace(" ", "  ", 1) if draw < 0.13 else text

    def _spelled(self, text: str) -> str:
        """Umlauts and accents as the typist's keyboard had them."""
        draw = self.chance.random()
        if text.isascii() or draw < 0.6:
            return text
        return _transcribed(text) if draw < 0.85 else _ascii(text)

    def _street(self, street: str) -> str:
        draw = self.chance.random()
        if draw < 0.3:
            return street.replace("straße", "str.")
        if draw < 0.5:
            return street.replace("straße", "strasse")
        return street.replace("straße", "-Straße") if draw < 0.53 else street

    def _email(self, email: str) -> str | None:
        draw, (box, host) = self.chance.random(), email.split("@")
        if draw < 0.3:
            return None
        if draw < 0.42:
            return f"{self.chance.choice(_MAILBOXES)}@{host}"
        return f"{box.capitalize()}@{host}" if draw < 0.5 else self._mistyped(email) if draw < 0.52 else email

    def _dialled(self, phone: str) -> str | None:
        draw, (_, area, number) = self.chance.random(), phone.split()
        if draw < 0.25:
            return None
        if draw < 0.35:
            return self._phone()
        written = (
            f"0{area}/{number}",
            f"+49{area}{number}",
            f"0049 {area} {number}",
            f"0{area} {number[:3]} {number[3:]}",
            f"(0{area}) {number}",
            phone,
        )
        return self.chance.choice(written)

    def _mistyped(self, text: str) -> str:
        """One slip of the finger."""
        chance = self.chance
        if len(text) < 3:
            return text
        at = chance.randrange(len(text) - 1)
        match chance.randrange(4):
            case 0:
                return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
            case 1:
                return text[:at] + text[at + 1 :]
            case 2:
                return text[:at] + text[at] + text[at:]
            case _:
                return text[:at] + chance.choice(_KEYS.get(text[at].lower(), "xe")) + text[at + 1 :]


_TRANSCRIBED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ø": "oe", "Ø": "Oe"})
_ASCII = str.maketrans("äöüßéèøØñíáóřáłçëÄÖÜ", "aousee" + "oOniaoralceAOU")


def _transcribed(text: str) -> str:
    return _ascii(text.translate(_TRANSCRIBED))


def _ascii(text: str) -> str:
    return text.translate(_ASCII)


def pairs_of(crm: Sequence[Row], erp: Sequence[Row]) -> set[tuple[int, int]]:
    """Row numbers of each true pair."""
    there: dict[int, list[int]] = {}
    for number, row in enumerate(erp):
        there.setdefault(row.thing, []).append(number)
    return {(number, other) for number, row in enumerate(crm) for other in there.get(row.thing, ())}
