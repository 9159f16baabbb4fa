REVOKE INSERT, UPDATE ON matcher.symbols FROM trade_engine_matcher;
