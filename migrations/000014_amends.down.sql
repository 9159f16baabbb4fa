DROP INDEX orders.orders_amending;
ALTER TABLE orders.orders DROP COLUMN open_stop_price, DROP COLUMN reserved_extra, DROP COLUMN amends, DROP COLUMN amend,
    DROP COLUMN amend_at;
