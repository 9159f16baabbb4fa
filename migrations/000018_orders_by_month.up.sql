-- Ids are UUIDv7 (RFC 9562): 48 bits of milliseconds first, so that a table of orders is cut by its key, and an id alone says in
-- which partition its row is.
CREATE FUNCTION operations.uuid_from(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
$$;
CREATE FUNCTION operations.time_of(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT to_timestamp(('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0)
$$;

-- From when, or up to when, a partition reaches; NULL for the default partition.
CREATE FUNCTION operations.bound_of(child oid, side text) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog SET timezone = 'UTC' AS $$
DECLARE
    bound text := substring(pg_get_expr(c.relpartbound, c.oid) FROM side || $re$ \('([^']+)'\)$re$) FROM pg_class c WHERE c.oid = child;
BEGIN
    IF bound ~ '^[0-9a-f]{8}-' THEN
        RETURN operations.time_of(bound::uuid);
    END IF;
    RETURN bound::timestamptz;
END $$;

ALTER TABLE operations.partition_retention_config
    ADD COLUMN keep_if text NOT NULL DEFAULT 'false', -- rows that keep their partition from being detached
    ADD COLUMN fillfactor integer NOT NULL DEFAULT 100 CHECK (fillfactor BETWEEN 10 AND 100);

-- Makes what is missing from the current period on, and detaches what is older than the retention: a detached partition
-- stays as a table of its own until somebody archives or drops it. Rows that had fallen into the default partition move. What
-- still lives (keep_if) stays, however old.
CREATE OR REPLACE FUNCTION operations.maintain_partitions() RETURNS TABLE (action text, partition text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET timezone = 'UTC' AS $$
DECLARE
    config record;
    child record;
    starts timestamptz;
    ends timestamptz;
    name text;
    key text;
    by_id boolean;
    first text;
    last text;
    lives boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(7226, 2);
    FOR config IN SELECT * FROM operations.partition_retention_config ORDER BY parent LOOP
        SELECT a.attname, a.atttypid = 'uuid'::regtype INTO STRICT key, by_id
        FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
        WHERE p.partrelid = config.parent::regclass;
        FOR step IN 0 .. config.ahead LOOP
            starts := date_trunc(config.period, now()) + step * ('1 ' || config.period)::interval;
            ends := starts + ('1 ' || config.period)::interval;
            name := config.parent || '_' || to_char(starts, CASE config.period WHEN 'day' THEN 'YYYYMMDD' ELSE 'YYYYMM' END);
            CONTINUE WHEN to_regclass(name) IS NOT NULL;
            first := CASE WHEN by_id THEN operations.uuid_from(starts)::text ELSE starts::text END;
            last := CASE WHEN by_id THEN operations.uuid_from(ends)::text ELSE ends::text END;
            EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (fillfactor = %s)',
                           name, config.parent, config.fillfactor);
            EXECUTE format('WITH moved AS (DELETE FROM %s_default WHERE %I >= %L AND %I < %L RETURNING *)
                            INSERT INTO %s SELECT * FROM moved', config.parent, key, first, key, last, name);
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
                           config.parent, name, first, last);
            action := 'made';
            partition := name;
            RETURN NEXT;
        END LOOP;
        FOR child IN
            SELECT c.oid::regclass::text AS name, operations.bound_of(c.oid, 'TO') AS ends
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = config.parent::regclass
        LOOP
            CONTINUE WHEN child.ends IS NULL OR child.ends > now() - config.retention_months * interval '1 month';
            EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s WHERE %s)', child.name, config.keep_if) INTO lives;
            CONTINUE WHEN lives;
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
          AND operations.bound_of(c.oid, 'FROM') > now();
        EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM %s_default LIMIT 10000) AS counted', config.parent)
            INTO rows_in_default;
        RETURN NEXT;
    END LOOP;
END $$;

-- Orders by months of their ids. That a client's id for an order is unique for good is a table of its own: no index over a
-- partitioned table could promise it.
ALTER TABLE orders.orders RENAME TO orders_before;
ALTER TABLE orders.orders_before DROP CONSTRAINT orders_pkey, DROP CONSTRAINT one_order_per_client_id;
DROP INDEX orders.orders_of_a_user, orders.orders_live, orders.orders_pending, orders.orders_live_by_id, orders.orders_amending;
CREATE TABLE orders.orders (LIKE orders.orders_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS, PRIMARY KEY (order_id))
    PARTITION BY RANGE (order_id);
CREATE TABLE orders.orders_default PARTITION OF orders.orders DEFAULT WITH (fillfactor = 70);
CREATE INDEX orders_of_a_user ON orders.orders (user_id, order_id DESC);
CREATE INDEX orders_live ON orders.orders (user_id, order_id DESC) WHERE status IN (1, 2, 3);
CREATE INDEX orders_pending ON orders.orders (created_at) WHERE status = 1;
CREATE INDEX orders_live_by_id ON orders.orders (order_id) WHERE status IN (2, 3);
CREATE INDEX orders_amending ON orders.orders (amend_at) WHERE amend IS NOT NULL;
CREATE TABLE orders.client_ids (
    user_id         uuid NOT NULL,
    client_order_id text NOT NULL,
    order_id        uuid NOT NULL,
    PRIMARY KEY (user_id, client_order_id)
);
INSERT INTO operations.partition_retention_config (parent, period, ahead, keep_if, fillfactor)
    VALUES ('orders.orders', 'month', 3, 'status IN (1, 2, 3)', 70);
SELECT operations.maintain_partitions();
DO $$
DECLARE
    month timestamptz;
BEGIN
    SET LOCAL timezone = 'UTC';
    FOR month IN SELECT DISTINCT date_trunc('month', operations.time_of(order_id)) FROM orders.orders_before LOOP
        CONTINUE WHEN to_regclass('orders.orders_' || to_char(month, 'YYYYMM')) IS NOT NULL;
        EXECUTE format('CREATE TABLE orders.orders_%s PARTITION OF orders.orders FOR VALUES FROM (%L) TO (%L) WITH (fillfactor = 70)',
                       to_char(month, 'YYYYMM'), operations.uuid_from(month), operations.uuid_from(month + interval '1 month'));
    END LOOP;
END $$;
INSERT INTO orders.orders SELECT * FROM orders.orders_before;
INSERT INTO orders.client_ids SELECT user_id, client_order_id, order_id FROM orders.orders_before;
DROP TABLE orders.orders_before;
GRANT SELECT, INSERT, UPDATE ON orders.orders TO trade_engine_order_gateway;
GRANT SELECT, INSERT ON orders.client_ids TO trade_engine_order_gateway;
