UPDATE operations.partition_retention_config SET keep_if = 'status IN (1, 2, 3)' WHERE parent = 'orders.orders';
DROP INDEX orders.orders_live_by_id;
CREATE INDEX orders_live_by_id ON orders.orders (order_id) WHERE status IN (2, 3);
ALTER TABLE orders.orders DROP COLUMN release_due;
