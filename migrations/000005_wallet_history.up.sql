-- Histories are paged by the sequence alone, so that each entry costs one index less.
DROP INDEX wallet.entries_by_time;

-- The first entry of a balance at or after a time: a binary search, as sequence and time grow together. Entries that two
-- wallets booked in the same instant may lie on either side of it.
CREATE FUNCTION wallet.first_sequence_at(account uuid, of_asset text, moment timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 1;
    high bigint;
    middle bigint;
    at timestamptz;
BEGIN
    SELECT sequence + 1 INTO high FROM wallet.balances WHERE account_id = account AND asset = of_asset;
    WHILE low < high LOOP
        middle := (low + high) / 2;
        SELECT created_at INTO at FROM wallet.entries
        WHERE account_id = account AND asset = of_asset AND sequence = middle;
        IF at < moment THEN low := middle + 1; ELSE high := middle; END IF;
    END LOOP;
    RETURN low;
END $$;

-- Open reservations by age. The index rests on a column that changes once in a reservation's life, so that taking a part
-- of one touches no index.
ALTER TABLE wallet.reservations ADD COLUMN open boolean NOT NULL GENERATED ALWAYS AS (remaining > 0) STORED;
CREATE INDEX open_reservations ON wallet.reservations (created_at, order_id) WHERE open;

-- A reservation is of an asset that its owner's balance has, and that has the reference; checking it again for each row
-- costs more than the row.
ALTER TABLE wallet.reservations DROP CONSTRAINT reservations_asset_fkey;
