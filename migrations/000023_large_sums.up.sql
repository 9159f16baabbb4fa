-- Sums over an order's life may have more digits than an amount: what it was paid in all, what all its changes asked for.
ALTER TABLE orders.orders ALTER COLUMN filled_notional TYPE numeric(38,8), ALTER COLUMN reserved_extra TYPE numeric(38,8);
