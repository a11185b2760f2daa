"""Tryton's back office at work: customers with addresses, e-mail and phone, contacts, products with variants and prices, stock counts.

TRYTOND_DATABASE_URI=postgresql://… TRYTOND_CONFIG=trytond.conf .concord/tryton-venv/bin/python -m examples.tryton.office --people FILE

--load N      only enter N customers, and contacts, products and stock to go with them, and end
"""

from __future__ import annotations

import random
import sys
import time
from collections import deque
from decimal import Decimal
from typing import Any

from proteus import Wizard, config  # type: ignore[import-not-found]  # of Tryton's virtual environment

from examples.tryton import names
from examples.tryton.desk import EVERYTHING, Desk, at_work, connect, parser, people_of, say
from examples.tryton.vat import SHARED, TRYTON, TRYTON_LATER, TWIN, german_vat

CUSTOMERS = [("categories.name", "=", names.CUSTOMERS)]
CONTACTS = [("relations.type.name", "=", names.WORKS_FOR)]
SHARED_PART = 0.4  # of what is loaded: the CRM has it too
TWIN_SECONDS, CLASH_SECONDS, CLASHES = 5, 1, 25  # as in the CRM's workload
LOOK_AGAIN_SECONDS = 2.0  # what the other side entered in the same second is here by then
BULK = 100  # parties saved in one transaction


class Office(Desk):
    """Enters, corrects and tidies up."""

    name = "office"
    weights = {  # noqa: RUF012 - never changed
        "new_customer": 8,
        "new_supplier": 1,
        "win_supplier": 1,
        "rename_customer": 10,
        "correct_address": 10,
        "move_house": 4,
        "other_address_first": 3,
        "change_mechanism": 10,
        "drop_mechanism": 2,
        "change_terms": 4,
        "change_active": 2,
        "save_unchanged": 3,
        "import_customers": 1,
        "merge": 0.5,
        "new_contact": 6,
        "change_contact": 8,
        "change_employer": 1,
        "leave": 1,
        "new_product": 4,
        "new_variant": 2,
        "rename_template": 4,
        "reprice": 5,
        "describe": 3,
        "retire_product": 1,
        "count_stock": 3,
    }

    def __init__(self, rng: random.Random, people: Any) -> None:
        super().__init__(rng, people)
        self.made = 0
        self.me = config.get_config().user
        self.entered: deque[tuple[float, str]] = deque()  # twins: when to look again
        self.countries = {country.code: country for country in self.model("country.country").find([])}
        self.terms = [self.model("account.invoice.payment_term").find([("name", "=", name)])[0] for name in names.PAYMENT_TERMS.values()]
        self.customers = self.model("party.category").find([("name", "=", names.CUSTOMERS)])[0].id
        self.works_for = self.model("party.relation.type").find([("name", "=", names.WORKS_FOR)])[0]
        self.goods = self.model("product.category").find([("name", "=", names.GOODS)])[0]
        self.units = [self.model("product.uom").find([("name", "=", name)])[0] for name in names.UNITS.values()]
        self.storage = self.model("stock.location").find([("code", "=", "STO")])[0]
        wall = time.time()
        self.next_twin, self.next_clash = (wall // every + 1 for every in (TWIN_SECONDS, CLASH_SECONDS))

    # ---- what people type
    def number(self) -> int:
        self.made += 1
        return self.started + self.made

    def company_data(self) -> Any:
        return self.rng.choice(self.people["companies"])

    def person_name(self) -> str:
        person = self.rng.choice(self.people["persons"])
        return " ".join(filter(None, (person["first"], person["last"])))

    def mail(self, domain: str) -> str:
        return f"Office.{self.number()}@{domain}"

    # ---- customers
    def party(self, vat: str | None, customer: bool = True) -> Any:
        """A new one with all that belongs to it, not saved yet."""
        told = self.company_data()
        party = self.model("party.party")(name=self.text(told["name"]))
        self.fill_address(party.addresses[0] if party.addresses else party.addresses.new(), told)
        if self.rng.random() < 0.9:
            party.contact_mechanisms.new(type="email", value=self.mail(told["domain"]))
        if self.rng.random() < 0.8:
            party.contact_mechanisms.new(type="phone", value=told["phone"])
        if self.rng.random() < 0.3:
            party.contact_mechanisms.new(type="website", value=f"https://{told['domain']}/")
        if vat:
            party.identifiers.new(type="eu_vat", code=vat)
        party.customer_payment_term = self.rng.choice(self.terms)
        if customer:
            party.categories.append(self.model("party.category")(self.customers))
        return party

    def fill_address(self, address: Any, told: Any) -> None:
        address.street_unstructured = told["street"]
        address.postal_code, address.city = self.text(told["zip"]), self.text(told["city"])
        address.country = self.countries[told["country"]]

    def new_customer(self) -> None:
        self.party(german_vat(TRYTON_LATER, self.number()) if self.rng.random() < 0.8 else None).save()

    def import_customers(self) -> None:
        self.model("party.party").save([self.party(german_vat(TRYTON_LATER, self.number())) for _ in range(self.rng.randint(5, 25))])

    def new_supplier(self) -> None:
        """None of the CRM's business."""
        self.party(german_vat(TRYTON_LATER, self.number()), customer=False).save()

    def win_supplier(self) -> None:
        """A party that was there becomes a customer: it enters the scope of what is synchronised."""
        key = self.some("party.party", [("categories", "=", None), ("relations", "=", None), ("identifiers.type", "=", "eu_vat")])
        self.edit("party.party", key, lambda party: party.categories.append(self.model("party.category")(self.customers)))

    def some_customer(self) -> int | None:
        return self.some("party.party", CUSTOMERS)

    def rename_customer(self) -> None:
        name = None if self.rng.random() < 0.02 else self.text(f"{self.company_data()['name']} {self.rng.randint(2, 99)}")
        self.edit("party.party", self.some_customer(), lambda party: setattr(party, "name", name))

    def save_unchanged(self) -> None:
        """A form that is saved as it was opened, with its sub-forms."""

        def touch(party: Any) -> None:
            name, party.name = party.name, "?"
            party.name = name

        self.edit("party.party", self.some_customer(), touch)

    def correct_address(self) -> None:
        told = self.company_data()

        def correct(party: Any) -> None:
            address = party.addresses[0] if party.addresses else party.addresses.new()
            if self.rng.random() < 0.5:
                address.street_unstructured = told["street"]
            else:
                self.fill_address(address, told)

        self.edit("party.party", self.some_customer(), correct)

    def move_house(self) -> None:
        """A second address, most often for parcels only; now and then it is the first from now on."""
        told, first = self.company_data(), self.rng.random() < 0.4

        def move(party: Any) -> None:
            for place, address in enumerate(party.addresses):
                address.sequence = 10 * (place + 1)
            new = party.addresses.new()
            self.fill_address(new, told)
            new.delivery, new.sequence = True, 5 if first else 90

        self.edit("party.party", self.some_customer(), move)

    def other_address_first(self) -> None:
        """Two rows of a list change places."""

        def swap(party: Any) -> None:
            if len(party.addresses) > 1:
                for place, address in enumerate(reversed(list(party.addresses))):
                    address.sequence = 10 * (place + 1)

        self.edit("party.party", self.some_customer(), swap)

    def change_mechanism(self) -> None:
        told, kind = self.company_data(), self.rng.choice(["email", "phone", "phone", "website"])
        value = {"email": self.mail(told["domain"]), "phone": told["phone"], "website": f"https://www.{told['domain']}/"}[kind]

        def change(party: Any) -> None:
            there = [mechanism for mechanism in party.contact_mechanisms if mechanism.type == kind]
            if there and self.rng.random() < 0.8:
                there[0].value = value
            else:
                party.contact_mechanisms.new(type=kind, value=value)

        self.edit("party.party", self.some_customer(), change)

    def drop_mechanism(self) -> None:
        """Taken out of the list, or only marked as no longer in use."""

        def drop(party: Any) -> None:
            if party.contact_mechanisms:
                mechanism = self.rng.choice(list(party.contact_mechanisms))
                if self.rng.random() < 0.5:
                    party.contact_mechanisms.remove(mechanism)
                else:
                    mechanism.active = False

        self.edit("party.party", self.some_customer(), drop)

    def change_terms(self) -> None:
        term = self.rng.choice(self.terms)
        self.edit("party.party", self.some_customer(), lambda party: setattr(party, "customer_payment_term", term))

    def change_active(self) -> None:
        key = self.some("party.party", [*CUSTOMERS, *EVERYTHING, ("replaced_by", "=", None), ("identifiers", "=", None)])
        active = self.rng.random() < 0.5
        self.edit("party.party", key, lambda party: setattr(party, "active", active))

    def merge(self) -> None:
        """Somebody finds that two entries are one customer."""
        once = [*CUSTOMERS, ("identifiers", "=", None)]
        source, destination = self.some("party.party", once), self.some("party.party", once)
        if source is not None and destination is not None and source != destination:
            self.make_one(source, destination)

    def make_one(self, source: int, destination: int) -> None:
        """With Tryton's wizard: the source stays as a row that points at the other."""

        def replace() -> None:
            Party = self.model("party.party")
            one, other = Party(source), Party(destination)
            one.name = other.name  # else Tryton asks whether it is the same at all
            one.save()
            wizard = Wizard("party.replace", models=[one])
            wizard.form.destination = other
            wizard.execute("replace")

        self.retried(replace)

    # ---- contacts: persons who work for a customer, parties themselves
    def new_contact(self) -> None:
        customer = self.some_customer()
        if customer is not None:
            self.contact(self.model("party.party")(customer), self.mail("people.example")).save()

    def contact(self, employer: Any, mail: str) -> Any:
        person = self.model("party.party")(name=self.text(self.person_name()))
        if person.addresses:
            person.addresses.remove(person.addresses[0])
        person.contact_mechanisms.new(type="email", value=mail)
        if self.rng.random() < 0.7:
            person.contact_mechanisms.new(type="phone", value=self.rng.choice(self.people["persons"])["phone"])
        person.relations.new(type=self.works_for, to=employer)
        return person

    def change_contact(self) -> None:
        phone, name = self.rng.choice(self.people["persons"])["phone"], self.text(self.person_name())

        def change(person: Any) -> None:
            phones = [mechanism for mechanism in person.contact_mechanisms if mechanism.type == "phone"]
            if self.rng.random() < 0.3:
                person.name = name
            elif phones:
                phones[0].value = phone
            else:
                person.contact_mechanisms.new(type="phone", value=phone)

        self.edit("party.party", self.some("party.party", CONTACTS), change)

    def change_employer(self) -> None:
        customer = self.some_customer()

        def change(person: Any) -> None:
            if person.relations and customer is not None:
                person.relations[0].to = self.model("party.party")(customer)

        self.edit("party.party", self.some("party.party", CONTACTS), change)

    def leave(self) -> None:
        """Nobody's contact any more: out of the scope of what is synchronised."""
        self.edit("party.party", self.some("party.party", CONTACTS), lambda person: setattr(person, "active", False))

    # ---- products
    def template(self, code: str | None = None) -> Any:
        """A new template with one variant that has its own code; not saved yet."""
        good = self.rng.choice(self.people["goods"])
        template = self.model("product.template")(name=self.text(good["name"]), salable=True)
        template.default_uom = self.rng.choice(self.units)
        template.list_price = Decimal(good["price"]).quantize(Decimal("0.0001"))
        template.account_category = self.goods
        template.products[0].suffix_code = code or f"T-{self.number()}"
        template.products[0].description = good["text"]
        return template

    def new_product(self) -> None:
        self.template().save()

    def new_variant(self) -> None:
        """One more of the same: shares its template's name, unit and price."""

        def add(template: Any) -> None:
            template.products.new().suffix_code = f"V-{self.number()}"

        self.edit("product.template", self.some("product.template"), add)

    def rename_template(self) -> None:
        name = self.text(self.rng.choice(self.people["goods"])["name"])
        self.edit("product.template", self.some("product.template"), lambda template: setattr(template, "name", name))

    def reprice(self) -> None:
        price = Decimal(self.rng.randint(100, 999_999)) / 10_000
        self.edit("product.template", self.some("product.template"), lambda template: setattr(template, "list_price", price))

    def describe(self) -> None:
        text = self.rng.choice(self.people["goods"])["text"] if self.rng.random() < 0.9 else None
        self.edit("product.product", self.some("product.product"), lambda product: setattr(product, "description", text))

    def retire_product(self) -> None:
        """Made by us and sold by nobody yet; now and then it is taken back."""
        key, active = self.some("product.product", [("code", "like", "T-%"), *EVERYTHING]), self.rng.random() < 0.5
        if key is not None and not self.model("sale.line").find([("product", "=", key)], limit=1):
            self.edit("product.product", key, lambda product: setattr(product, "active", active))

    def count_stock(self) -> None:
        """An inventory: what differs becomes stock moves."""
        keys = {self.some("product.product") for _ in range(self.rng.randint(2, 6))} - {None}

        def count() -> None:
            inventory = self.model("stock.inventory")(location=self.storage, empty_quantity="keep")
            for key in keys:
                product = self.model("product.product")(key)
                line = inventory.lines.new(product=product)
                line.quantity = float(self.rng.randint(50, 500))
            inventory.click("confirm")

        self.retried(count)

    # ---- at the same instant as in the CRM
    def by_the_clock(self) -> None:
        wall = time.time()
        if wall >= self.next_twin * TWIN_SECONDS:
            self.twin(german_vat(TWIN, int(self.next_twin * TWIN_SECONDS)))
            self.next_twin = wall // TWIN_SECONDS + 1
        while self.entered and self.entered[0][0] < time.monotonic():
            self.look_again(self.entered.popleft()[1])
        if wall >= self.next_clash * CLASH_SECONDS:
            vat, name = german_vat(SHARED, int(self.next_clash) % CLASHES), self.text(f"{self.company_data()['name']} (Tryton)")
            for party in self.model("party.party").find([("identifiers.code", "=", vat)], limit=1):
                self.edit("party.party", party.id, lambda party: setattr(party, "name", name))
            self.actions["clash"] += 1
            self.next_clash = wall // CLASH_SECONDS + 1

    def twin(self, vat: str) -> None:
        """A customer that calls on both sides at once. Tryton lets one enter the same tax number twice, so people look before and after."""
        if not self.model("party.party").find([("identifiers.code", "=", vat)], limit=1):
            self.party(vat).save()
            self.actions["twin"] += 1
            self.entered.append((time.monotonic() + LOOK_AGAIN_SECONDS, vat))

    def look_again(self, vat: str) -> None:
        """Whether somebody else has entered it in the same second: then ours is merged into that."""
        found = self.model("party.party").find([("identifiers.code", "=", vat), ("replaced_by", "=", None)], order=[("id", "ASC")])
        ours = [party.id for party in found if party.create_uid and party.create_uid.id == self.me]
        others = [party.id for party in found if party.id not in ours]
        if ours and others:
            self.make_one(ours[0], others[0])
            self.actions["twin made one"] += 1

    def before_leaving(self) -> None:
        if self.entered:
            time.sleep(max(0.0, self.entered[-1][0] - time.monotonic()))
            self.by_the_clock()

    # ---- before anything is synchronised
    def load(self, customers: int) -> dict[str, int]:
        """Partly the same customers, contacts and products as in the CRM, by tax number, e-mail address and article number."""
        shared = int(customers * SHARED_PART)
        Party, Template = self.model("party.party"), self.model("product.template")
        parties = [self.party(german_vat(SHARED, n) if n < shared else german_vat(TRYTON, n)) for n in range(customers)]
        for start in range(0, customers, BULK):
            Party.save(parties[start : start + BULK])
        contacts = [
            self.contact(self.rng.choice(parties[:shared]), f"Person{n}@Shared.example" if n < shared // 2 else self.mail("people.example"))
            for n in range(customers // 4)
        ]
        Party.save(contacts)
        products = [self.template(f"ART-{n:05}") for n in range(customers // 4)]
        Template.save(products)
        inventory = self.model("stock.inventory")(location=self.storage, empty_quantity="keep")
        for template in products:
            inventory.lines.new(product=template.products[0]).quantity = float(self.rng.randint(100, 900))
        inventory.click("confirm")
        return {"parties": len(parties), "contacts": len(contacts), "products": len(products)}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--load", type=int, metavar="N")
    args = options.parse_args()
    connect()
    office = Office(random.Random(f"tryton office {args.seed}"), people_of(args))
    if args.load:
        say(**office.load(args.load))
        return 0
    return at_work(office, args)


if __name__ == "__main__":
    sys.exit(main())
