ALTER TABLE orders.orders
    DROP COLUMN terms,
    DROP COLUMN open_price,
    DROP COLUMN waiting,
    DROP CONSTRAINT orders_type_check,
    DROP CONSTRAINT orders_time_in_force_check,
    ADD CONSTRAINT orders_type_check CHECK (type IN (1, 2)),
    ADD CONSTRAINT orders_time_in_force_check CHECK (time_in_force IN (1, 2));
