DROP TABLE orders.api_keys;
