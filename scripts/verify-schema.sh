#!/usr/bin/env bash
# Is the schema of the engine that runs here whole? Migrations applied, partitions ahead, nothing in the default partitions.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
trade-engine migrate status > /dev/null || { echo "migrations are missing: trade-engine migrate up" >&2; exit 1; }
echo "migrations: all applied"
trade-engine db-shell -AtF ' ' -c "SELECT parent, ahead, rows_in_default FROM operations.check_partition_health()" |
  while read -r parent ahead stray; do
    echo "$parent: $ahead partitions ahead, $stray rows without one"
    [ "$ahead" -gt 0 ] && [ "$stray" -eq 0 ]
  done || { echo "partitions are missing: SELECT operations.maintain_partitions()" >&2; exit 1; }
trade-engine db-shell -c "SELECT table_name, partitions, pg_size_pretty(total_bytes) AS size, rows_estimated, dead_rows
  FROM operations.check_table_sizes() LIMIT 15"
