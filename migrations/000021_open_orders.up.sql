-- A hundredth of what a book holds, so that nobody fills one alone. Zero still means any number, for who asks for that.
ALTER TABLE matcher.symbols ALTER COLUMN max_open_orders SET DEFAULT 20000;
UPDATE matcher.symbols SET max_open_orders = 20000 WHERE max_open_orders = 0;
