-- Stops, icebergs and the like. What only they have is in `terms`; a plain limit or market order has none.
ALTER TABLE orders.orders
    DROP CONSTRAINT orders_type_check,
    DROP CONSTRAINT orders_time_in_force_check,
    ADD CONSTRAINT orders_type_check CHECK (type BETWEEN 1 AND 6),
    ADD CONSTRAINT orders_time_in_force_check CHECK (time_in_force BETWEEN 1 AND 5),
    ADD COLUMN terms jsonb,
    ADD COLUMN open_price numeric(20,8) NOT NULL DEFAULT 0, -- as amended or moved; 0: any price
    ADD COLUMN waiting boolean NOT NULL DEFAULT false;
UPDATE orders.orders SET open_price = price;
