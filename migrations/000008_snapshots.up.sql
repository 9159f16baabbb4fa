-- A shard's whole state after a command, so that a start replays only what came after. Made beside the leader, by a process
-- that replays the journal itself.
CREATE TABLE matcher.snapshots (
    shard      integer NOT NULL,
    sequence   bigint NOT NULL CHECK (sequence > 0),
    at_ns      bigint NOT NULL,
    event_hash bytea NOT NULL, -- of the journal up to here
    state_hash text NOT NULL,
    state      bytea NOT NULL, -- JSON, zlib
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, sequence)
);
GRANT SELECT, INSERT, DELETE ON matcher.snapshots TO trade_engine_matcher;
