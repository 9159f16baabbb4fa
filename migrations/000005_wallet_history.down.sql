ALTER TABLE wallet.reservations ADD CONSTRAINT reservations_asset_fkey FOREIGN KEY (asset) REFERENCES wallet.assets;
DROP INDEX wallet.open_reservations;
ALTER TABLE wallet.reservations DROP COLUMN open;
DROP FUNCTION wallet.first_sequence_at;
CREATE INDEX entries_by_time ON wallet.entries (account_id, asset, entry_id);
