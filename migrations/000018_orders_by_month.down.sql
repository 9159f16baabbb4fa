ALTER TABLE orders.orders RENAME TO orders_by_month;
ALTER TABLE orders.orders_by_month DROP CONSTRAINT orders_pkey;
DROP INDEX orders.orders_of_a_user, orders.orders_live, orders.orders_pending, orders.orders_live_by_id, orders.orders_amending;
CREATE TABLE orders.orders (LIKE orders.orders_by_month INCLUDING DEFAULTS INCLUDING CONSTRAINTS, CONSTRAINT orders_pkey PRIMARY KEY (order_id))
    WITH (fillfactor = 70);
INSERT INTO orders.orders SELECT * FROM orders.orders_by_month;
ALTER TABLE orders.orders ADD CONSTRAINT one_order_per_client_id UNIQUE (user_id, client_order_id);
DROP TABLE orders.orders_by_month, orders.client_ids;
CREATE INDEX orders_of_a_user ON orders.orders (user_id, order_id DESC);
CREATE INDEX orders_live ON orders.orders (user_id, order_id DESC) WHERE status IN (1, 2, 3);
CREATE INDEX orders_pending ON orders.orders (created_at) WHERE status = 1;
CREATE INDEX orders_live_by_id ON orders.orders (order_id) WHERE status IN (2, 3);
CREATE INDEX orders_amending ON orders.orders (amend_at) WHERE amend IS NOT NULL;
GRANT SELECT, INSERT, UPDATE ON orders.orders TO trade_engine_order_gateway;
DELETE FROM operations.partition_retention_config WHERE parent = 'orders.orders';
ALTER TABLE operations.partition_retention_config DROP COLUMN keep_if, DROP COLUMN fillfactor;
-- Makes what is missing from the current period on, and detaches what is older than the retention: a detached partition
-- stays as a table of its own until somebody archives or drops it. Rows that had fallen into the default partition move.
CREATE OR REPLACE FUNCTION operations.maintain_partitions() RETURNS TABLE (action text, partition text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET timezone = 'UTC' AS $$
DECLARE
    config record;
    child record;
    starts timestamptz;
    ends timestamptz;
    name text;
    key text;
BEGIN
    PERFORM pg_advisory_xact_lock(7226, 2);
    FOR config IN SELECT * FROM operations.partition_retention_config ORDER BY parent LOOP
        SELECT a.attname INTO STRICT key
        FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
        WHERE p.partrelid = config.parent::regclass;
        FOR step IN 0 .. config.ahead LOOP
            starts := date_trunc(config.period, now()) + step * ('1 ' || config.period)::interval;
            ends := starts + ('1 ' || config.period)::interval;
            name := config.parent || '_' || to_char(starts, CASE config.period WHEN 'day' THEN 'YYYYMMDD' ELSE 'YYYYMM' END);
            CONTINUE WHEN to_regclass(name) IS NOT NULL;
            EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name, config.parent);
            EXECUTE format('WITH moved AS (DELETE FROM %s_default WHERE %I >= %L AND %I < %L RETURNING *)
                            INSERT INTO %s SELECT * FROM moved', config.parent, key, starts, key, ends, name);
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
                           config.parent, name, starts, ends);
            action := 'made';
            partition := name;
            RETURN NEXT;
        END LOOP;
        FOR child IN
            SELECT c.oid::regclass::text AS name,
                   substring(pg_get_expr(c.relpartbound, c.oid) FROM $re$TO \('([^']+)'\)$re$)::timestamptz AS ends
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = config.parent::regclass
        LOOP
            CONTINUE WHEN child.ends IS NULL OR child.ends > now() - config.retention_months * interval '1 month';
            EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', config.parent, child.name);
            action := 'detached';
            partition := child.name;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END $$;

-- How many partitions lie ahead, and how many rows had no partition to go to (counted to 10,000).
CREATE OR REPLACE FUNCTION operations.check_partition_health() RETURNS TABLE (parent text, ahead integer, rows_in_default integer)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog SET timezone = 'UTC' AS $$
DECLARE
    config record;
BEGIN
    FOR config IN SELECT * FROM operations.partition_retention_config c ORDER BY c.parent LOOP
        parent := config.parent;
        SELECT count(*) INTO ahead
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = config.parent::regclass
          AND substring(pg_get_expr(c.relpartbound, c.oid) FROM $re$FROM \('([^']+)'\)$re$)::timestamptz > now();
        EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM %s_default LIMIT 10000) AS counted', config.parent)
            INTO rows_in_default;
        RETURN NEXT;
    END LOOP;
END $$;
DROP FUNCTION operations.bound_of(oid, text), operations.time_of(uuid), operations.uuid_from(timestamptz);
