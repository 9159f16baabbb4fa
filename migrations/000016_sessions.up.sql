-- Trading sessions whose orders end with them. A gateway says that its sessions are alive; those of one that died are ended by
-- any other.
CREATE TABLE orders.sessions (
    session_id  uuid PRIMARY KEY,
    user_id     uuid NOT NULL,
    alive_until timestamptz NOT NULL
);
CREATE INDEX sessions_by_life ON orders.sessions (alive_until);
GRANT SELECT, INSERT, UPDATE, DELETE ON orders.sessions TO trade_engine_order_gateway;
