-- The ledger. Amounts are NUMERIC(20,8); inside the services they are integers in units of 10^-8.
CREATE SCHEMA wallet;

CREATE TYPE wallet.account_kind AS ENUM ('USER', 'FEES', 'EXTERNAL');
CREATE TYPE wallet.operation_kind AS ENUM (
    'DEPOSIT', 'RESERVE', 'INCREASE', 'RELEASE', 'SETTLE', 'TRANSFER', 'WITHDRAWAL_REQUEST', 'WITHDRAWAL_CONFIRM',
    'WITHDRAWAL_CANCEL'
);
-- What a reservation is for. A withdrawal's is keyed by the withdrawal's id.
CREATE TYPE wallet.purpose AS ENUM ('ORDER', 'WITHDRAWAL');

CREATE TABLE wallet.assets (
    asset text PRIMARY KEY CHECK (asset ~ '^[A-Z0-9]{2,12}$')
);
INSERT INTO wallet.assets VALUES
    ('AAPL'), ('ADA'), ('BNB'), ('BTC'), ('DOGE'), ('ETH'), ('EUR'), ('SOL'), ('USD'), ('USDT'), ('XRP');

-- One row per account and asset. The sequence is the number of its last entry: a write names the sequence it read, so
-- two writers can never both win.
CREATE TABLE wallet.balances (
    account_id uuid NOT NULL,
    asset      text NOT NULL REFERENCES wallet.assets,
    kind       wallet.account_kind NOT NULL,
    available  numeric(20,8) NOT NULL,
    reserved   numeric(20,8) NOT NULL,
    sequence   bigint NOT NULL CHECK (sequence > 0),
    PRIMARY KEY (account_id, asset),
    CONSTRAINT available_not_negative CHECK (available >= 0 OR kind = 'EXTERNAL'),
    CONSTRAINT reserved_not_negative CHECK (reserved >= 0)
) WITH (fillfactor = 70);

-- Every operation ever done, by its caller's key: a repeat is answered from here.
CREATE TABLE wallet.operations (
    kind         wallet.operation_kind NOT NULL,
    key          text NOT NULL,
    operation_id uuid NOT NULL,
    contents     jsonb NOT NULL,
    answer       jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, key)
);

-- The books: what each operation did to each balance, and the balance after it. Append only.
CREATE TABLE wallet.entries (
    account_id      uuid NOT NULL,
    asset           text NOT NULL,
    sequence        bigint NOT NULL,
    entry_id        uuid NOT NULL,
    operation_id    uuid NOT NULL,
    kind            wallet.operation_kind NOT NULL,
    reference       text NOT NULL, -- the operation's key
    available_delta numeric(20,8) NOT NULL,
    reserved_delta  numeric(20,8) NOT NULL,
    available_after numeric(20,8) NOT NULL,
    reserved_after  numeric(20,8) NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, asset, sequence)
);
-- Entry ids sort by time; histories are paged and cut by them.
CREATE INDEX entries_by_time ON wallet.entries (account_id, asset, entry_id);

CREATE TABLE wallet.reservations (
    order_id       uuid PRIMARY KEY,
    reservation_id uuid NOT NULL,
    user_id        uuid NOT NULL,
    asset          text NOT NULL REFERENCES wallet.assets,
    purpose        wallet.purpose NOT NULL,
    amount         numeric(20,8) NOT NULL CHECK (amount >= 0),
    remaining      numeric(20,8) NOT NULL CHECK (remaining >= 0 AND remaining <= amount),
    closed         boolean NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

CREATE FUNCTION wallet.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON wallet.entries
    FOR EACH STATEMENT EXECUTE FUNCTION wallet.refuse_change();
CREATE TRIGGER operations_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON wallet.operations
    FOR EACH STATEMENT EXECUTE FUNCTION wallet.refuse_change();

-- Undoes the whole statement unless every balance still had the sequence that was read.
CREATE FUNCTION wallet.all_or_nothing(done bigint, wanted bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF done <> wanted THEN
        RAISE EXCEPTION 'a balance has moved since it was read' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN true;
END $$;
