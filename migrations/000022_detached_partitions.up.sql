-- What is older than the retention is not there to be compared: audits and reconciliations begin at what is kept.
ALTER TABLE operations.partition_retention_config ADD COLUMN detached_until timestamptz NOT NULL DEFAULT '-infinity';

-- From when on a table's rows are kept, and the smallest id that can be of that time.
CREATE FUNCTION operations.kept_from(of_parent text) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT detached_until FROM operations.partition_retention_config WHERE parent = of_parent
$$;
CREATE FUNCTION operations.kept_from_id(of_parent text) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT CASE WHEN isfinite(detached_until) THEN operations.uuid_from(detached_until)
                ELSE '00000000-0000-0000-0000-000000000000' END
    FROM operations.partition_retention_config WHERE parent = of_parent
$$;

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
            UPDATE operations.partition_retention_config c SET detached_until = greatest(c.detached_until, child.ends)
            WHERE c.parent = config.parent;
            action := 'detached';
            partition := child.name;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END $$;
