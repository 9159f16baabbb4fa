-- Keys that bots sign their requests with. The secret is derived from a secret of the installation and not kept; its hash is,
-- so that a key of another installation, or of an older secret, is told apart. Rows stay: a name is never used twice.
CREATE TABLE orders.api_keys (
    key_id      uuid PRIMARY KEY,
    user_id     uuid NOT NULL,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    scopes      text[] NOT NULL CHECK (scopes <@ ARRAY['read', 'trade'] AND cardinality(scopes) > 0),
    allowed_ips text[] NOT NULL CHECK (cardinality(allowed_ips) <= 20),
    secret_hash bytea NOT NULL CHECK (length(secret_hash) = 32),
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz,
    revoked_at  timestamptz,
    UNIQUE (user_id, name)
);
GRANT SELECT, INSERT, UPDATE (revoked_at) ON orders.api_keys TO trade_engine_order_gateway;
