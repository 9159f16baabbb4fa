ALTER TABLE matcher.symbols DROP COLUMN price_band_bps, DROP COLUMN max_open_orders, DROP COLUMN status;
DROP TYPE matcher.symbol_status;
