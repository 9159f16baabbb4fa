-- Tables that grow with time are cut into partitions. What is cut, how finely, how far ahead and how long it is kept stands
-- in a table; one function does it, with the rights of the tables' owner, so that services need none.
CREATE SCHEMA operations;

CREATE TABLE operations.partition_retention_config (
    parent           text PRIMARY KEY,
    period           text NOT NULL CHECK (period IN ('day', 'month')),
    ahead            integer NOT NULL CHECK (ahead BETWEEN 1 AND 100), -- partitions after the current one
    retention_months integer NOT NULL DEFAULT 60 CHECK (retention_months > 0)
);

-- Makes what is missing from the current period on, and detaches what is older than the retention: a detached partition
-- stays as a table of its own until somebody archives or drops it. Rows that had fallen into the default partition move.
CREATE FUNCTION operations.maintain_partitions() RETURNS TABLE (action text, partition text)
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
CREATE FUNCTION operations.check_partition_health() RETURNS TABLE (parent text, ahead integer, rows_in_default integer)
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
