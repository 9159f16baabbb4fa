-- Amends that need more money: the intent is recorded before the wallet is asked, so that a crash leaves nothing held that
-- nobody knows of. reserved_extra is all that increases were ever asked for; amends numbers them.
ALTER TABLE orders.orders
    ADD COLUMN open_stop_price numeric(20,8) NOT NULL DEFAULT 0,
    ADD COLUMN reserved_extra numeric(20,8) NOT NULL DEFAULT 0 CHECK (reserved_extra >= 0),
    ADD COLUMN amends integer NOT NULL DEFAULT 0,
    ADD COLUMN amend jsonb,
    ADD COLUMN amend_at timestamptz;
UPDATE orders.orders SET open_stop_price = coalesce((terms ->> 'stop_price')::numeric, 0) WHERE terms IS NOT NULL;
CREATE INDEX orders_amending ON orders.orders (amend_at) WHERE amend IS NOT NULL;
