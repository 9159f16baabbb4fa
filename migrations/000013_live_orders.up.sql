-- Live orders by id, so that all of them can be walked through, a page at a time, and compared with the matcher's.
CREATE INDEX orders_live_by_id ON orders.orders (order_id) WHERE status IN (2, 3);
