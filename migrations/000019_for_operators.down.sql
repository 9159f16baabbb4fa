DROP FUNCTION operations.check_table_sizes(), operations.check_db_connections(), operations.refresh_order_book_snapshot();
DROP MATERIALIZED VIEW operations.mv_order_book_snapshot;
DROP VIEW operations.order_book_snapshots, operations.stop_orders_watchlist, operations.v_trade_volume_24h,
    operations.v_order_status_distribution, operations.v_active_orders;
REVOKE USAGE ON SCHEMA operations FROM trade_engine_operator;
