"""How a statement is really done: by the plan for any values, as the services' prepared statements are."""

from collections.abc import Sequence
from typing import Any


async def generic_plan(connection, statement: str, values: Sequence[Any]) -> list[str]:
    """The lines of EXPLAIN ANALYZE. (EXPLAIN of a statement with values would plan for these values.)"""
    await connection.execute(f"PREPARE explained AS {statement}")
    try:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        literals = ", ".join(_literal(value) for value in values)
        return [
            row[0] for row in await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF) EXECUTE explained ({literals})")
        ]
    finally:
        await connection.execute("DEALLOCATE explained")


def rows_passed_over(plan: Sequence[str]) -> int:
    """How many rows were read and not used."""
    return sum(int(line.split(":")[1]) for line in plan if "Rows Removed by Filter" in line)


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "'{" + ",".join(f'"{item}"' for item in value) + "}'"
    return f"'{value}'"
