-- What may be done in a market, and how far from the last trade a limit price may be.
CREATE TYPE matcher.symbol_status AS ENUM ('ACTIVE', 'HALTED', 'MAINTENANCE', 'DELISTED');

ALTER TABLE matcher.symbols
    ADD COLUMN price_band_bps integer NOT NULL DEFAULT 0 CHECK (price_band_bps BETWEEN 0 AND 100000),
    ADD COLUMN max_open_orders integer NOT NULL DEFAULT 0 CHECK (max_open_orders >= 0),
    ADD COLUMN status matcher.symbol_status NOT NULL DEFAULT 'ACTIVE';
