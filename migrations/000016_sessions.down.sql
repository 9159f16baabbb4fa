DROP TABLE orders.sessions;
