-- The CRM. Its traits (real ones have them all):
--   * keys are UUIDs that the application makes: no default, an insert without one fails
--   * instants are timestamptz, money is numeric(12,2), codes are text under CHECK, a person's name is in parts
--   * e-mail addresses are unique whatever their case: an expression index, not a constraint
--   * foreign keys are not deferrable: a parent must be there before its child, statement by statement
--   * created_at, updated_at and owner_login are NOT NULL without a default: the application fills them

CREATE TABLE account (
    id              uuid PRIMARY KEY,
    type            text NOT NULL CHECK (type IN ('customer', 'prospect', 'competitor')), -- only customers are the ERP's business
    name            text NOT NULL,
    vat_number      text UNIQUE,                          -- walk-in customers have none
    customer_no     text,                                 -- the ERP's number, once there is one
    email           text,
    phone           text,
    website         text,
    billing_street  text,
    billing_zip     text,
    billing_city    text,
    billing_country char(2) NOT NULL,                     -- ISO 3166-1, two letters
    segment         text NOT NULL CHECK (segment IN ('gold', 'silver', 'bronze')),
    payment_terms   text NOT NULL CHECK (payment_terms IN ('prepaid', 'net14', 'net30', 'net60')),
    credit_limit    numeric(12,2),
    is_active       boolean NOT NULL,
    owner_login     text NOT NULL,
    note            text,                                 -- ours alone
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);
CREATE UNIQUE INDEX account_email_key ON account (lower(email));

CREATE TABLE contact (
    id          uuid PRIMARY KEY,
    account_id  uuid NOT NULL REFERENCES account,
    salutation  text CHECK (salutation IN ('mr', 'ms', 'dr')),
    first_name  text,
    last_name   text NOT NULL,
    email       text,
    phone       text,
    role        text NOT NULL CHECK (role IN ('decider', 'technical', 'billing', 'other')),
    birthday    date,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL
);
CREATE UNIQUE INDEX contact_email_key ON contact (lower(email));
CREATE INDEX contact_account ON contact (account_id);

CREATE TABLE product (
    id           uuid PRIMARY KEY,
    sku          text NOT NULL UNIQUE,
    name         text NOT NULL,
    description  text,
    unit         text NOT NULL CHECK (unit IN ('piece', 'kilogram', 'metre', 'litre')),
    list_price   numeric(12,2) NOT NULL,
    weight_kg    numeric(10,3),
    is_active    boolean NOT NULL,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);

CREATE TABLE stock_level (
    id          uuid PRIMARY KEY,
    product_id  uuid NOT NULL REFERENCES product,
    warehouse   text NOT NULL,
    on_hand     numeric(12,3) NOT NULL,
    reserved    numeric(12,3) NOT NULL,
    counted_at  timestamptz,
    updated_at  timestamptz NOT NULL
);
CREATE INDEX stock_level_product ON stock_level (product_id);

CREATE TABLE sales_order (
    id             uuid PRIMARY KEY,
    account_id     uuid NOT NULL REFERENCES account,
    order_no       text,                                  -- the ERP's number, once there is one
    status         text NOT NULL CHECK (status IN ('new', 'confirmed', 'shipped', 'invoiced', 'cancelled')),
    ordered_at     timestamptz NOT NULL,
    wanted_on      date,
    currency       char(3) NOT NULL,
    customer_ref   text,
    estimate       numeric(12,2) NOT NULL,                -- the salesman's; ours alone
    net_total      numeric(12,2),                         -- the ERP's
    tax_total      numeric(12,2),
    gross_total    numeric(12,2),
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL
);
CREATE INDEX sales_order_account ON sales_order (account_id);

CREATE TABLE order_line (
    id             uuid PRIMARY KEY,
    order_id       uuid NOT NULL REFERENCES sales_order,
    line_no        integer NOT NULL,
    product_id     uuid NOT NULL REFERENCES product,
    text           text,
    quantity       numeric(12,3) NOT NULL CHECK (quantity > 0),
    unit_price     numeric(12,2) NOT NULL,
    discount_pct   numeric(5,2) NOT NULL,
    delivered      numeric(12,3),                         -- the ERP's
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    UNIQUE (order_id, line_no)
);

CREATE TABLE invoice (
    id           uuid PRIMARY KEY,
    invoice_no   text,                                    -- a draft has none
    account_id   uuid NOT NULL REFERENCES account,
    order_id     uuid REFERENCES sales_order,
    status       text NOT NULL CHECK (status IN ('draft', 'open', 'paid', 'void')),
    issued_on    date NOT NULL,
    due_on       date,
    net_total    numeric(12,2) NOT NULL,
    tax_total    numeric(12,2) NOT NULL,
    gross_total  numeric(12,2) NOT NULL,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);
CREATE INDEX invoice_account ON invoice (account_id);
