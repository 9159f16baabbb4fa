DROP INDEX orders.orders_live_by_id;
