-- Market data: candles, each a function of the trades in it, and per symbol up to which trade they go. A candle that has seen
-- more trades replaces one that has seen fewer, so that any number of processes may write the same.
CREATE SCHEMA market_data;
DO $$
BEGIN
    CREATE ROLE trade_engine_market_data NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of this server has made it
END $$;
DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'trade_engine_market_data', 'MEMBER') THEN
        GRANT trade_engine_market_data TO CURRENT_USER;
    END IF;
END $$;

CREATE TYPE market_data.candle_interval AS ENUM ('1m', '5m', '1h', '1d');
CREATE TABLE market_data.candles (
    symbol        text NOT NULL,
    interval      market_data.candle_interval NOT NULL,
    opened_at     timestamptz NOT NULL,
    open          numeric(20,8) NOT NULL,
    high          numeric(20,8) NOT NULL,
    low           numeric(20,8) NOT NULL,
    close         numeric(20,8) NOT NULL,
    volume        numeric(38,8) NOT NULL,
    quote_volume  numeric(38,8) NOT NULL,
    trades        bigint NOT NULL,
    last_sequence bigint NOT NULL,
    PRIMARY KEY (symbol, interval, opened_at)
) WITH (fillfactor = 80);
CREATE TABLE market_data.charts (
    symbol        text PRIMARY KEY,
    last_sequence bigint NOT NULL,
    last_price    numeric(20,8) NOT NULL,
    last_at_ns    bigint NOT NULL
) WITH (fillfactor = 50);

GRANT USAGE ON SCHEMA market_data TO trade_engine_market_data;
GRANT SELECT, INSERT, UPDATE ON market_data.candles, market_data.charts TO trade_engine_market_data;
-- The leaders' addresses, from their leases.
GRANT USAGE ON SCHEMA matcher TO trade_engine_market_data;
GRANT SELECT ON matcher.shards TO trade_engine_market_data;
