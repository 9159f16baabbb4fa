-- Operators change symbols through the matcher.
GRANT INSERT, UPDATE ON matcher.symbols TO trade_engine_matcher;
