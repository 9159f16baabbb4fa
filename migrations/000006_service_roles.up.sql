-- One role per service with the least it needs. Services log in as they are told to and take their role for the session
-- (setting database.role_prefix), so that a fault in one of them cannot reach another's tables, and none can change what
-- is append-only. Roles belong to the server, not to one database: they are made where missing and never dropped.
DO $$
DECLARE
    service text;
    role text;
BEGIN
    FOREACH service IN ARRAY ARRAY['wallet', 'matcher', 'settlement', 'order_gateway'] LOOP
        role := 'trade_engine_' || service;
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database of this server has made it
        END;
        IF NOT pg_has_role(current_user, role, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', role);
        END IF;
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA wallet TO trade_engine_wallet;
GRANT SELECT ON ALL TABLES IN SCHEMA wallet TO trade_engine_wallet;
GRANT INSERT ON wallet.operations, wallet.entries TO trade_engine_wallet;
GRANT INSERT, UPDATE ON wallet.balances, wallet.reservations TO trade_engine_wallet;

GRANT USAGE ON SCHEMA matcher TO trade_engine_matcher, trade_engine_settlement, trade_engine_order_gateway;
GRANT SELECT ON ALL TABLES IN SCHEMA matcher TO trade_engine_matcher;
GRANT INSERT ON matcher.journal TO trade_engine_matcher;
GRANT INSERT, UPDATE ON matcher.shards, matcher.outbox_published TO trade_engine_matcher;
GRANT INSERT, DELETE ON matcher.outbox TO trade_engine_matcher;
-- The embedded bus is read from the outbox; the leader's address from its lease.
GRANT SELECT ON matcher.outbox TO trade_engine_settlement, trade_engine_order_gateway;
GRANT SELECT ON matcher.shards TO trade_engine_order_gateway;

GRANT USAGE ON SCHEMA settlement TO trade_engine_settlement;
GRANT SELECT ON ALL TABLES IN SCHEMA settlement TO trade_engine_settlement;
GRANT INSERT ON settlement.trades, settlement.dead_letters TO trade_engine_settlement;
GRANT INSERT, UPDATE ON settlement.bus_cursors TO trade_engine_settlement;

GRANT USAGE ON SCHEMA orders TO trade_engine_order_gateway;
GRANT SELECT ON ALL TABLES IN SCHEMA orders TO trade_engine_order_gateway;
GRANT INSERT, UPDATE ON orders.orders, orders.bus_cursors TO trade_engine_order_gateway;
