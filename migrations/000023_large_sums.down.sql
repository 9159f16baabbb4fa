ALTER TABLE orders.orders ALTER COLUMN filled_notional TYPE numeric(20,8), ALTER COLUMN reserved_extra TYPE numeric(20,8);
