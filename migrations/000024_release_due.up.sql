-- What the matcher freed is told to the owner and recorded also while the wallet does not answer; that it is still to be
-- released is recorded with it, so that an order which is closed is looked after until its money is free.
ALTER TABLE orders.orders ADD COLUMN release_due boolean NOT NULL DEFAULT false;
DROP INDEX orders.orders_live_by_id;
CREATE INDEX orders_live_by_id ON orders.orders (order_id) WHERE status IN (2, 3) OR release_due;
UPDATE operations.partition_retention_config SET keep_if = 'status IN (1, 2, 3) OR release_due' WHERE parent = 'orders.orders';
