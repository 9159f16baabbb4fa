-- The matcher: its journal is the truth about every book; the outbox is what the world still has to hear.
CREATE SCHEMA matcher;

CREATE TABLE matcher.symbols (
    symbol          text PRIMARY KEY,
    shard           integer NOT NULL DEFAULT 0,
    base_asset      text NOT NULL,
    quote_asset     text NOT NULL,
    tick_size       numeric(20,8) NOT NULL CHECK (tick_size > 0),
    lot_size        numeric(20,8) NOT NULL CHECK (lot_size > 0),
    min_quantity    numeric(20,8) NOT NULL CHECK (min_quantity > 0),
    max_quantity    numeric(20,8) NOT NULL CHECK (max_quantity >= min_quantity),
    min_notional    numeric(20,8) NOT NULL CHECK (min_notional >= 0),
    maker_fee_bps   integer NOT NULL CHECK (maker_fee_bps BETWEEN 0 AND 1000),
    taker_fee_bps   integer NOT NULL CHECK (taker_fee_bps BETWEEN 0 AND 1000),
    market_band_bps integer NOT NULL CHECK (market_band_bps BETWEEN 1 AND 10000),
    CONSTRAINT named_by_its_assets CHECK (symbol = base_asset || '/' || quote_asset),
    -- price x quantity is exact in 8 decimals
    CONSTRAINT exact_notional CHECK (tick_size * lot_size = round(tick_size * lot_size, 8))
);
INSERT INTO matcher.symbols VALUES
    ('BTC/USDT', 0, 'BTC', 'USDT', 0.01,    0.00001, 0.00001, 1000,     5,      10, 20, 500),
    ('ETH/USDT', 0, 'ETH', 'USDT', 0.01,    0.0001,  0.0001,  10000,    5,      10, 20, 500),
    ('BNB/USDT', 0, 'BNB', 'USDT', 0.01,    0.001,   0.001,   100000,   5,      10, 20, 500),
    ('SOL/USDT', 0, 'SOL', 'USDT', 0.01,    0.001,   0.001,   100000,   5,      10, 20, 500),
    ('XRP/USDT', 0, 'XRP', 'USDT', 0.0001,  0.1,     0.1,     10000000, 5,      10, 20, 500),
    ('ADA/USDT', 0, 'ADA', 'USDT', 0.0001,  0.1,     0.1,     10000000, 5,      10, 20, 500),
    ('DOGE/USDT', 0, 'DOGE', 'USDT', 0.00001, 1,     1,       90000000, 5,      10, 20, 500),
    ('ETH/BTC',  0, 'ETH', 'BTC',  0.00001, 0.001,   0.001,   10000,    0.0001, 10, 20, 500),
    ('BTC/EUR',  0, 'BTC', 'EUR',  0.01,    0.00001, 0.00001, 1000,     5,      10, 20, 500),
    ('AAPL/USD', 0, 'AAPL', 'USD', 0.01,    1,       1,       1000000,  1,      1,  2,  500);

-- Who owns a shard. Every commit begins by proving that the epoch is still its own (the fence).
CREATE TABLE matcher.shards (
    shard         integer PRIMARY KEY,
    epoch         bigint NOT NULL,
    owner         text NOT NULL,
    address       text NOT NULL,
    lease_until   timestamptz NOT NULL,
    last_sequence bigint NOT NULL,
    last_position bigint NOT NULL
) WITH (fillfactor = 50);

-- One row per commit: a protobuf JournalBatch. event_hash chains SHA-256 over every event made so far.
CREATE TABLE matcher.journal (
    shard          integer NOT NULL,
    first_sequence bigint NOT NULL,
    last_sequence  bigint NOT NULL CHECK (last_sequence >= first_sequence),
    epoch          bigint NOT NULL,
    batch          bytea NOT NULL,
    event_hash     bytea NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, first_sequence)
);

CREATE TABLE matcher.outbox (
    shard        integer NOT NULL,
    position     bigint NOT NULL,
    exchange     text NOT NULL,
    routing_key  text NOT NULL,
    message_type text NOT NULL,
    message_id   text NOT NULL,
    body         bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, position)
);

-- Up to where the bus has confirmed. Apart from the shard's row, so that publishing never waits for a commit.
CREATE TABLE matcher.outbox_published (
    shard    integer PRIMARY KEY,
    position bigint NOT NULL
);
