-- Settlement: the tape of all settled trades, and those that could not be settled.
CREATE SCHEMA settlement;

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

CREATE TABLE settlement.dead_letters (
    message_id text NOT NULL,
    item       integer NOT NULL,
    reason     text NOT NULL,
    message    text NOT NULL,
    body       bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (message_id, item)
);

-- Where the embedded bus stands; empty with RabbitMQ.
CREATE TABLE settlement.bus_cursors (
    queue    text NOT NULL,
    shard    integer NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (queue, shard)
);
