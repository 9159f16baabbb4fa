-- The roles stay: other databases of the server may know them.
REVOKE ALL ON ALL TABLES IN SCHEMA wallet, matcher, settlement, orders
    FROM trade_engine_wallet, trade_engine_matcher, trade_engine_settlement, trade_engine_order_gateway;
REVOKE ALL ON SCHEMA wallet, matcher, settlement, orders
    FROM trade_engine_wallet, trade_engine_matcher, trade_engine_settlement, trade_engine_order_gateway;
