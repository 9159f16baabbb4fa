-- What operators ask the database, ready made. Everything reads; services have no rights here. Numbers of side, type and status are
-- those of exchange/common/v1/order.proto.
DO $$
BEGIN
    CREATE ROLE trade_engine_operator NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of this server has made it
END $$;

CREATE VIEW operations.v_active_orders AS
SELECT order_id, user_id, client_order_id, symbol,
       CASE side WHEN 1 THEN 'BUY' ELSE 'SELL' END AS side,
       (ARRAY['LIMIT', 'MARKET', 'STOP', 'STOP_LIMIT', 'TRAILING_STOP', 'OCO'])[type] AS type,
       nullif(open_price, 0) AS price, open_quantity, filled_quantity, waiting,
       (ARRAY['PENDING', 'OPEN', 'PARTIALLY_FILLED'])[status] AS status, created_at, updated_at
FROM orders.orders WHERE status IN (1, 2, 3);

CREATE VIEW operations.v_order_status_distribution AS
SELECT symbol, (ARRAY['PENDING', 'OPEN', 'PARTIALLY_FILLED', 'FILLED', 'CANCELLED', 'REJECTED', 'EXPIRED'])[status] AS status,
       count(*) AS orders
FROM orders.orders WHERE order_id >= operations.uuid_from(now() - interval '24 hours') GROUP BY symbol, orders.status;

CREATE VIEW operations.v_trade_volume_24h AS
SELECT symbol, count(*) AS trades, sum(quantity) AS volume, sum(price * quantity) AS quote_volume,
       min(price) AS low, max(price) AS high, (array_agg(price ORDER BY sequence DESC))[1] AS last_price
FROM settlement.trades WHERE executed_at >= now() - interval '24 hours' GROUP BY symbol;

-- Stops, trailing stops and OCOs that wait for their price.
CREATE VIEW operations.stop_orders_watchlist AS
SELECT order_id, user_id, symbol, CASE side WHEN 1 THEN 'BUY' ELSE 'SELL' END AS side,
       (ARRAY['LIMIT', 'MARKET', 'STOP', 'STOP_LIMIT', 'TRAILING_STOP', 'OCO'])[type] AS type,
       nullif(open_stop_price, 0) AS stop_price, nullif(open_price, 0) AS limit_price, open_quantity, created_at
FROM orders.orders WHERE status IN (1, 2, 3) AND (waiting OR type IN (3, 4, 5, 6));

-- The matchers' snapshots: how far each goes, and how large it is.
CREATE VIEW operations.order_book_snapshots AS
SELECT shard, sequence, to_timestamp(at_ns / 1e9) AS at, state_hash, octet_length(state) AS bytes, created_at FROM matcher.snapshots;

-- The books as the orders table has them, level by level: for a look, not for trading. As of the last refresh.
CREATE MATERIALIZED VIEW operations.mv_order_book_snapshot AS
SELECT symbol, CASE side WHEN 1 THEN 'BUY' ELSE 'SELL' END AS side, open_price AS price,
       sum(open_quantity - filled_quantity) AS quantity, count(*) AS orders
FROM orders.orders WHERE status IN (2, 3) AND NOT waiting AND open_price > 0
GROUP BY symbol, orders.side, open_price;
CREATE UNIQUE INDEX mv_order_book_snapshot_level ON operations.mv_order_book_snapshot (symbol, side, price);

CREATE FUNCTION operations.refresh_order_book_snapshot() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    REFRESH MATERIALIZED VIEW CONCURRENTLY operations.mv_order_book_snapshot;
END $$;

-- Connections by service and state, beside what the server allows.
CREATE FUNCTION operations.check_db_connections()
RETURNS TABLE (application text, state text, connections bigint, longest interval, allowed integer)
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT coalesce(nullif(application_name, ''), '?'), coalesce(state, '?'), count(*), max(now() - xact_start),
           current_setting('max_connections')::integer
    FROM pg_stat_activity WHERE datname = current_database() GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
$$;

-- The largest tables with their indexes; a partitioned table's parts are added up.
CREATE FUNCTION operations.check_table_sizes()
RETURNS TABLE (table_name text, partitions bigint, total_bytes bigint, rows_estimated bigint, dead_rows bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT root.oid::regclass::text, count(*) FILTER (WHERE c.oid <> root.oid), sum(pg_total_relation_size(c.oid))::bigint,
           sum(greatest(c.reltuples, 0))::bigint, sum(coalesce(s.n_dead_tup, 0))::bigint
    FROM pg_class c
    JOIN pg_class root ON root.oid = coalesce(pg_partition_root(c.oid)::oid, c.oid)
    LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.relkind IN ('r', 'p', 'm')
      AND c.relnamespace::regnamespace::text IN ('wallet', 'matcher', 'settlement', 'orders', 'market_data', 'operations')
    GROUP BY root.oid ORDER BY 3 DESC
$$;

GRANT USAGE ON SCHEMA operations TO trade_engine_operator;
GRANT SELECT ON operations.v_active_orders, operations.v_order_status_distribution, operations.v_trade_volume_24h,
    operations.stop_orders_watchlist, operations.order_book_snapshots, operations.mv_order_book_snapshot TO trade_engine_operator;
