CREATE TABLE settlement.bus_cursors (queue text NOT NULL, shard integer NOT NULL, position bigint NOT NULL, PRIMARY KEY (queue, shard));
CREATE TABLE orders.bus_cursors (queue text NOT NULL, shard integer NOT NULL, position bigint NOT NULL, PRIMARY KEY (queue, shard));
INSERT INTO settlement.bus_cursors SELECT * FROM matcher.outbox_cursors WHERE queue LIKE 'wallet.%';
INSERT INTO orders.bus_cursors SELECT * FROM matcher.outbox_cursors WHERE queue LIKE 'gateway.%';
DROP TABLE matcher.outbox_cursors;
GRANT SELECT, INSERT, UPDATE ON settlement.bus_cursors TO trade_engine_settlement;
GRANT SELECT, INSERT, UPDATE ON orders.bus_cursors TO trade_engine_order_gateway;
REVOKE SELECT ON matcher.shards FROM trade_engine_settlement;
REVOKE USAGE ON SCHEMA operations FROM trade_engine_settlement;

ALTER TABLE settlement.dead_letters RENAME TO dead_letters_after;
ALTER TABLE settlement.dead_letters_after DROP CONSTRAINT dead_letters_pkey;
CREATE TABLE settlement.dead_letters (
    message_id text NOT NULL,
    item       integer NOT NULL,
    reason     text NOT NULL,
    message    text NOT NULL,
    body       bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (message_id, item)
);
INSERT INTO settlement.dead_letters SELECT letter_id, 0, reason, message, body, created_at
    FROM settlement.dead_letters_after WHERE resolved_at IS NULL;
DROP TABLE settlement.dead_letters_after, settlement.tapes;

DELETE FROM operations.partition_retention_config WHERE parent = 'settlement.trades';
ALTER TABLE settlement.trades RENAME TO trades_after;
ALTER TABLE settlement.trades_after DROP CONSTRAINT trades_pkey, DROP CONSTRAINT one_trade_per_number;
CREATE TABLE settlement.trades (
    trade_id        uuid PRIMARY KEY,
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
    settled_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT one_trade_per_number UNIQUE (symbol, sequence)
);
INSERT INTO settlement.trades SELECT * FROM settlement.trades_after;
DROP TABLE settlement.trades_after;
GRANT SELECT, INSERT ON settlement.trades, settlement.dead_letters TO trade_engine_settlement;
