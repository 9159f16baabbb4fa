UPDATE matcher.symbols SET max_open_orders = 0 WHERE max_open_orders = 20000;
ALTER TABLE matcher.symbols ALTER COLUMN max_open_orders SET DEFAULT 0;
