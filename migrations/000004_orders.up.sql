-- The order gateway: every order ever asked for, by its owner's id for it.
CREATE SCHEMA orders;

-- Numbers of side, type, time_in_force, status and reason are those of the protos.
CREATE TABLE orders.orders (
    order_id        uuid PRIMARY KEY,
    user_id         uuid NOT NULL,
    client_order_id text NOT NULL CHECK (length(client_order_id) BETWEEN 1 AND 100),
    symbol          text NOT NULL,
    side            smallint NOT NULL CHECK (side IN (1, 2)),
    type            smallint NOT NULL CHECK (type IN (1, 2)),
    time_in_force   smallint NOT NULL CHECK (time_in_force IN (1, 2)),
    price           numeric(20,8) NOT NULL,
    quantity        numeric(20,8) NOT NULL,
    quote_amount    numeric(20,8) NOT NULL,
    reserve_asset   text NOT NULL,
    reserve_amount  numeric(20,8) NOT NULL CHECK (reserve_amount > 0),
    status          smallint NOT NULL CHECK (status BETWEEN 1 AND 7),
    reason          smallint NOT NULL,
    open_quantity   numeric(20,8) NOT NULL, -- as amended
    filled_quantity numeric(20,8) NOT NULL,
    filled_notional numeric(20,8) NOT NULL,
    version         bigint NOT NULL,
    released        integer NOT NULL, -- how many of the matcher's releases the wallet has
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT one_order_per_client_id UNIQUE (user_id, client_order_id)
) WITH (fillfactor = 70);
CREATE INDEX orders_of_a_user ON orders.orders (user_id, order_id DESC);
CREATE INDEX orders_live ON orders.orders (user_id, order_id DESC) WHERE status IN (1, 2, 3);
CREATE INDEX orders_pending ON orders.orders (created_at) WHERE status = 1;

-- Where the embedded bus stands; empty with RabbitMQ.
CREATE TABLE orders.bus_cursors (
    queue    text NOT NULL,
    shard    integer NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (queue, shard)
);
