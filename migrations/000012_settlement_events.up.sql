-- The tape by days; counters instead of counts; dead letters that can be looked at and tried again.
ALTER TABLE settlement.trades RENAME TO trades_before;
ALTER TABLE settlement.trades_before DROP CONSTRAINT trades_pkey, DROP CONSTRAINT one_trade_per_number;

-- A trade's time is part of its contents (its id is made from it), so that id and time together are as unique as the id.
CREATE TABLE settlement.trades (
    trade_id        uuid NOT NULL,
    symbol          text NOT NULL,
    sequence        bigint NOT NULL,
    base_asset      text NOT NULL,
    quote_asset     text NOT NULL,
    price           numeric(20,8) NOT NULL,
    quantity        numeric(20,8) NOT NULL,
    buyer_user_id   uuid NOT NULL,
    buyer_order_id  uuid NOT NULL,
    seller_user_id  uuid NOT NULL,
    seller_order_id uuid NOT NULL,
    maker_side      smallint NOT NULL CHECK (maker_side IN (1, 2)),
    buyer_fee       numeric(20,8) NOT NULL,
    seller_fee      numeric(20,8) NOT NULL,
    executed_at     timestamptz NOT NULL,
    settled_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (trade_id, executed_at),
    CONSTRAINT one_trade_per_number UNIQUE (symbol, executed_at, sequence)
) PARTITION BY RANGE (executed_at);
CREATE TABLE settlement.trades_default PARTITION OF settlement.trades DEFAULT;
CREATE INDEX fills_of_a_buyer ON settlement.trades (buyer_user_id, executed_at, trade_id);
CREATE INDEX fills_of_a_seller ON settlement.trades (seller_user_id, executed_at, trade_id);
INSERT INTO operations.partition_retention_config (parent, period, ahead) VALUES ('settlement.trades', 'day', 7);
SELECT operations.maintain_partitions();
INSERT INTO settlement.trades SELECT * FROM settlement.trades_before;
DROP TABLE settlement.trades_before;

-- Per symbol: how many trades are settled, and up to which of them none is missing.
CREATE TABLE settlement.tapes (
    symbol       text PRIMARY KEY,
    settled      bigint NOT NULL,
    last_settled timestamptz NOT NULL,
    whole_until  bigint NOT NULL DEFAULT 0,
    whole_time   timestamptz NOT NULL DEFAULT '-infinity' -- of that trade
) WITH (fillfactor = 50);
INSERT INTO settlement.tapes (symbol, settled, last_settled)
    SELECT symbol, count(*), max(settled_at) FROM settlement.trades GROUP BY symbol;

-- A letter is one trade, or one message that nobody can read.
ALTER TABLE settlement.dead_letters RENAME TO dead_letters_before;
ALTER TABLE settlement.dead_letters_before DROP CONSTRAINT dead_letters_pkey;
CREATE TABLE settlement.dead_letters (
    letter_id   text PRIMARY KEY, -- the trade's id, or 'message/' and the message's id
    is_trade    boolean NOT NULL,
    symbol      text NOT NULL,
    reason      text NOT NULL,
    message     text NOT NULL,
    body        bytea NOT NULL,   -- Trade, or what the message was
    attempts    integer NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    failed_at   timestamptz NOT NULL DEFAULT now(), -- the last time
    resolved_at timestamptz       -- settled after all, or given up by an operator
);
CREATE INDEX dead_letters_open ON settlement.dead_letters (created_at, letter_id) WHERE resolved_at IS NULL;
CREATE INDEX dead_letters_all ON settlement.dead_letters (created_at, letter_id);
INSERT INTO settlement.dead_letters (letter_id, is_trade, symbol, reason, message, body, created_at)
    SELECT 'message/' || message_id || '/' || item, item >= 0, '', reason, message, body, created_at
    FROM settlement.dead_letters_before;
DROP TABLE settlement.dead_letters_before;

-- Readers of the outbox keep their place beside it, so that what one of them still needs is not pruned.
CREATE TABLE matcher.outbox_cursors (
    queue    text NOT NULL,
    shard    integer NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (queue, shard)
);
INSERT INTO matcher.outbox_cursors SELECT * FROM settlement.bus_cursors UNION ALL SELECT * FROM orders.bus_cursors;
DROP TABLE settlement.bus_cursors, orders.bus_cursors;

GRANT USAGE ON SCHEMA operations TO trade_engine_settlement;
GRANT SELECT ON settlement.trades, settlement.tapes, settlement.dead_letters TO trade_engine_settlement;
GRANT INSERT ON settlement.trades TO trade_engine_settlement;
GRANT INSERT, UPDATE ON settlement.tapes, settlement.dead_letters TO trade_engine_settlement;
GRANT SELECT ON matcher.outbox_cursors TO trade_engine_matcher;
GRANT SELECT, INSERT, UPDATE ON matcher.outbox_cursors TO trade_engine_settlement, trade_engine_order_gateway;
GRANT SELECT ON matcher.shards TO trade_engine_settlement;
