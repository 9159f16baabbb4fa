REVOKE SELECT ON matcher.shards FROM trade_engine_market_data;
REVOKE USAGE ON SCHEMA matcher FROM trade_engine_market_data;
DROP SCHEMA market_data CASCADE;
